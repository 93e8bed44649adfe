//! Whole plugins: from bytes to what a request and its response look like afterwards.

mod guest;

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;

use guest::Guest;

use super::*;
use crate::config::OnError;
use crate::config::PluginLimits;
use crate::http::Version;

static ENGINE: LazyLock<Arc<PluginEngine>> = LazyLock::new(|| PluginEngine::new().unwrap());

const LIMITS: PluginLimits =
    PluginLimits { memory_bytes_max: 2 * 1024 * 1024, time_max: Duration::from_millis(20) };

fn load(guest: &Guest) -> Arc<Plugin> {
    ENGINE.load("guest", &guest.build(), &LIMITS).unwrap_or_else(|error| panic!("{error}"))
}

fn link(guest: &Guest, on_error: OnError) -> LinkPlan {
    LinkPlan {
        plugin: PlanSource::Wasm(load(guest)),
        name: "guest".into(),
        config: "{}".into(),
        on_error,
    }
}

fn plan<'a>(guests: impl IntoIterator<Item = &'a Guest>) -> ChainPlan {
    ChainPlan { links: guests.into_iter().map(|guest| link(guest, OnError::Closed)).collect() }
}

fn open(guest: &Guest) -> ChainPlan {
    ChainPlan { links: vec![link(guest, OnError::Open)] }
}

/// Made on a worker, whose runtime must not mind what plugins do.
fn on_worker<R>(work: impl FnOnce() -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work() })
}

fn request(fields: &[(&str, &str)]) -> Box<Exchange> {
    let mut exchange = Box::new(Exchange::default());
    exchange.request.assign("GET", "/", Version::Http11);
    for (name, value) in fields {
        exchange.request.fields.push(name, value.as_bytes());
    }
    exchange
}

fn response(status: u16, fields: &[(&str, &str)]) -> Box<Exchange> {
    let mut exchange = request(&[]);
    exchange.response.assign(status);
    for (name, value) in fields {
        exchange.response.fields.push(name, value.as_bytes());
    }
    exchange
}

fn text(fields: &crate::http::Fields) -> String {
    let mut out = Vec::new();
    fields.write(&mut out);
    String::from_utf8(out).unwrap().replace("\r\n", "; ")
}

fn down(chain: &Chain, exchange: Box<Exchange>) -> (Box<Exchange>, Passed) {
    chain.on_request(exchange, Instant::now())
}

fn up(
    chain: &Chain,
    exchange: Box<Exchange>,
    entered: usize,
) -> (Box<Exchange>, Result<Flow, Broken>) {
    chain.on_response(exchange, entered, Instant::now())
}

fn failure(passed: Passed) -> HookFailure {
    *passed.outcome.unwrap_err()
}

/// Sets the field `name` to `value`; both are put at an address of their own.
fn setting(mut guest: Guest, at: usize, function: &str, name: &str, value: &str) -> Guest {
    guest = guest.data(at, &format!("{name}{value}"));
    let call = format!(
        "(call ${function} (i32.const {at}) (i32.const {}) (i32.const {}) (i32.const {}))",
        name.len(),
        at + name.len(),
        value.len()
    );
    let body = guest.on_request.take().unwrap_or_default();
    guest.on_request = Some(format!("{call} {body}"));
    guest
}

fn setter(name: &str, value: &str) -> Guest {
    setting(Guest::on_request("(i32.const 0)").edits_requests(), 64, "request-set", name, value)
}

/// Traps when the request has a field `x-bad`, else does nothing.
fn fragile() -> Guest {
    Guest {
        request_fields: vec!["x-bad".to_owned()],
        ..Guest::on_request(
            "(if (i32.load8_u (local.get $fields)) (then (unreachable))) (i32.const 0)",
        )
    }
}

/// Calls `reply.send` with status, one field `x-by: guest` and the body `gone`.
fn replying(status: u16, answer: &str) -> Guest {
    let send = "(param \"status\" u16) (param \"headers\" (list (tuple string (list u8)))) \
                (param \"body\" (list u8))";
    let body = format!(
        "(i32.store (i32.const 128) (i32.const 64)) (i32.store (i32.const 132) (i32.const 4))
         (i32.store (i32.const 136) (i32.const 68)) (i32.store (i32.const 140) (i32.const 5))
         (call $send (i32.const {status}) (i32.const 128) (i32.const 1) (i32.const 73) (i32.const 4))
         {answer}"
    );
    let guest =
        Guest { on_request: Some(body.clone()), on_response: Some(body), ..Guest::default() };
    guest
        .import("reply", &[("send", "$reply \"send\"", send, "(param i32 i32 i32 i32 i32)")])
        .data(64, "x-byguestgone")
}

mod loading {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        ENGINE.load("guest", bytes, &LIMITS).unwrap_err().to_string()
    }

    fn refused(guest: &Guest) -> String {
        refusal(&guest.build())
    }

    fn edited(guest: &Guest, from: &str, to: &str) -> Vec<u8> {
        let text = guest.text();
        assert!(text.contains(from), "{text}");
        wat::parse_str(text.replace(from, to)).unwrap()
    }

    #[test]
    fn other_files_are_refused() {
        assert!(refusal(b"").starts_with("not a WebAssembly component"));
        assert!(refusal(b"#!/bin/sh\necho").starts_with("not a WebAssembly component"));
        assert!(refusal(b"\0asm\x0d\0\x01").starts_with("not a WebAssembly component"), "cut off");
        assert!(refusal(b"\0asm\x0d\0\x01\0\xff\xff\xff").starts_with("does not compile: "));
        assert!(refusal(&vec![0; 64 * 1024 * 1024 + 1]).contains("64 MiB"));
        let module = wat::parse_str("(module)").unwrap();
        assert!(refusal(&module).contains("cargo build --target wasm32-wasip2"), "a core module");
    }

    /// A file can be half-written, or damaged anywhere.
    #[test]
    fn damaged_components_are_refused_or_work() {
        let goods = [fragile().build(), replying(403, "(i32.const 1)").build()];
        let mut seed = 7_u64;
        for round in 0..300 {
            let good = &goods[round % goods.len()];
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut bytes = good.clone();
            let at = usize::try_from(seed >> 33).unwrap() % bytes.len();
            bytes[at] ^= u8::try_from(seed >> 24 & 0xff).unwrap() | 1;
            if seed & 3 == 0 {
                bytes.truncate(at);
            }
            if let Ok(plugin) = ENGINE.load("guest", &bytes, &LIMITS) {
                let _ = plugin.probe("{}");
                let plan = LinkPlan {
                    plugin: PlanSource::Wasm(plugin),
                    ..link(&fragile(), OnError::Open)
                };
                let chain = Instances::new().chain(&ChainPlan { links: vec![plan] }).unwrap();
                let (mut exchange, passed) = down(&chain, request(&[]));
                exchange.response.assign(200);
                let _ = up(&chain, exchange, passed.entered);
            }
        }
    }

    #[test]
    fn what_is_no_plugin_is_refused_by_what_it_lacks() {
        let nothing = wat::parse_str("(component)").unwrap();
        assert!(refusal(&nothing).ends_with("must export; it exports nothing"));

        let other = wat::parse_str(
            "(component (core module $m (func (export \"f\"))) (core instance $i (instantiate $m))
             (func $f (canon lift (core func $i \"f\")))
             (instance $run (export \"run\" (func $f)))
             (export \"wasi:cli/run@0.2.0\" (instance $run)))",
        );
        assert!(refusal(&other.unwrap()).ends_with("it exports `wasi:cli/run@0.2.0`"));

        assert!(refused(&Guest::default()).starts_with("exports no hook"));
        let later = edited(&Guest::noop(), "lifecycle@0.1.0", "lifecycle@0.2.0");
        assert!(refusal(&later).starts_with("exports `zproxy:gateway/lifecycle@0.2.0`; this"));
        let misspelt = edited(&Guest::noop(), "/request-filter@", "/request-filer@");
        assert!(refusal(&misspelt).contains("`zproxy:gateway/request-filer@0.1.0`, which this"));
    }

    #[test]
    fn a_hook_with_another_signature_is_refused_by_both() {
        let other = edited(
            &Guest::on_request("(i32.const 0)"),
            "(param \"fields\" (list (option (list u8))))",
            "(param \"fields\" (list u8))",
        );

        assert_eq!(
            refusal(&other),
            "`zproxy:gateway/request-filter@0.1.0#on-request` is func(list<u8>) -> enum { next, \
             respond }, it must be func(list<option<list<u8>>>) -> enum { next, respond }; build \
             it against wit/ of this version"
        );
    }

    #[test]
    fn imports_that_are_not_offered_are_refused_by_name() {
        let with = |import: &str| {
            let mut guest = Guest::noop();
            guest.imports = format!("(import \"{import}\" (instance (export \"f\" (func))))");
            refused(&guest)
        };

        for import in [
            "zproxy:gateway/telepathy@0.1.0",
            "zproxy:gateway/request@0.2.0",
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:cli/environment@0.3.0",
            "my:own/thing",
        ] {
            let refusal = with(import);
            assert!(refusal.starts_with(&format!("imports `{import}`, which this")), "{refusal}");
        }
        let unknown_function = with("zproxy:gateway/request@0.1.0");
        assert!(unknown_function.starts_with("cannot be linked: "), "{unknown_function}");
        assert!(unknown_function.contains("zproxy:gateway/request"), "{unknown_function}");
    }

    #[test]
    fn the_same_file_is_the_same_plugin() {
        let bytes = setter("x-same", "1").build();
        let first = ENGINE.load("same", &bytes, &LIMITS).unwrap();

        let again = ENGINE.load("same", &bytes, &LIMITS).unwrap();
        let renamed = ENGINE.load("other", &bytes, &LIMITS).unwrap();

        assert!(Arc::ptr_eq(&first, &again));
        assert!(renamed.generation() > first.generation());
        assert_eq!(renamed.digest(), first.digest());
        assert_eq!(first.digest().len(), 64);
        assert_eq!(first.hooks(), Hooks { on_request: true, on_response: false });
    }
}

mod probing {
    use super::*;

    #[test]
    fn the_words_of_init_are_handed_on() {
        let refusing = Guest {
            init: "(i32.store (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) \
                   (i32.const 64)) (i32.store (i32.const 520) (i32.const 16)) \
                   (return (i32.const 512))",
            ..Guest::noop()
        };

        let refusal = load(&refusing.data(64, "`name` is needed")).probe("{}").unwrap_err();

        assert_eq!(refusal, "`name` is needed");
        assert_eq!(load(&Guest::noop()).probe("{}"), Ok(()));
    }

    #[test]
    fn a_failing_init_is_described() {
        let trapping = Guest { init: "(unreachable)", ..Guest::noop() };
        let endless = Guest { init: "(loop (br 0))", ..Guest::noop() };
        let greedy = Guest { request_fields: vec!["a".to_owned(); 65], ..Guest::noop() };
        let large = PluginLimits { memory_bytes_max: 64 * 1024, ..LIMITS };

        let trap = load(&trapping).probe("{}").unwrap_err();
        let began = Instant::now();
        let time = load(&endless).probe("{}").unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5));
        let fields = load(&greedy).probe("{}").unwrap_err();
        let memory = ENGINE.load("guest", &Guest::noop().build(), &large).unwrap();
        let memory = memory.probe("{}").unwrap_err();

        assert!(trap.contains("unreachable"), "{trap}");
        assert!(time.starts_with("it ran longer than 1s"), "{time}");
        assert_eq!(fields, "`request-fields` has 65 names, at most 64 are allowed");
        assert!(memory.starts_with("it was refused memory"), "{memory}");
    }
}

mod chains {
    use super::*;

    #[test]
    fn requests_go_down_and_responses_back_up() {
        const SET: &str = "(param \"name\" string) (param \"value\" (list u8))";
        let marker = |mark: &str| {
            Guest {
            on_request: Some(
                "(call $in (i32.const 64) (i32.const 1) (i32.const 65) (i32.const 1)) (i32.const 0)"
                    .to_owned(),
            ),
            on_response: Some(
                "(call $out (i32.const 64) (i32.const 1) (i32.const 65) (i32.const 1)) \
                 (i32.const 0)"
                    .to_owned(),
            ),
            ..Guest::default()
        }
        .import("request", &[("in", "$request \"append\"", SET, "(param i32 i32 i32 i32)")])
        .import("response", &[("out", "$response \"append\"", SET, "(param i32 i32 i32 i32)")])
        .data(64, &format!("m{mark}"))
        };
        let guests = [marker("1"), marker("2"), marker("3")];
        let chain = Instances::new().chain(&plan(&guests)).unwrap();

        let (mut exchange, passed) = down(&chain, request(&[]));
        assert_eq!(passed.outcome.unwrap(), Flow::Next);
        exchange.response.assign(200);
        let (exchange, flow) = up(&chain, exchange, passed.entered);

        assert_eq!(flow.unwrap(), Flow::Next);
        assert_eq!(text(&exchange.request.fields), "m: 1; m: 2; m: 3; ");
        assert_eq!(text(&exchange.response.fields), "m: 3; m: 2; m: 1; ");
    }

    #[test]
    fn declared_fields_arrive_by_value() {
        // Copies the value of the second field, which has 5 bytes, to `x-copy`.
        let guest = Guest {
            request_fields: vec!["x-none".to_owned(), "X-Some".to_owned()],
            ..Guest::on_request(
                "(if (i32.load8_u (local.get $fields)) (then (unreachable)))
                 (call $request-set (i32.const 64) (i32.const 6)
                   (i32.load offset=16 (local.get $fields)) (i32.load offset=20 (local.get $fields)))
                 (i32.const 0)",
            )
        };
        let guest = guest.edits_requests().data(64, "x-copy");
        let chain = Instances::new().chain(&plan([&guest])).unwrap();

        let (exchange, passed) = down(&chain, request(&[("x-some", "a"), ("X-SOME", "b")]));

        assert_eq!(passed.outcome.unwrap(), Flow::Next);
        assert_eq!(exchange.request.fields.get("x-copy"), Some(b"a, b".as_slice()));
    }

    #[test]
    fn an_early_answer_goes_back_through_those_entered_only() {
        let stop = replying(403, "(i32.const 1)");
        let chain =
            Instances::new().chain(&plan([&setter("x-a", "1"), &stop, &fragile()])).unwrap();

        let (exchange, passed) = down(&chain, request(&[("x-bad", "not seen")]));

        assert_eq!(passed.outcome.unwrap(), Flow::Respond);
        assert_eq!(passed.entered, 1, "not its maker");
        assert_eq!(exchange.response.status, 403);
        assert_eq!(text(&exchange.response.fields), "x-by: guest; ");
        assert_eq!(exchange.body.as_deref(), Some(b"gone".as_slice()));
    }

    #[test]
    fn a_response_can_be_replaced() {
        let chain = Instances::new().chain(&plan([&replying(410, "(i32.const 1)")])).unwrap();

        let (exchange, flow) = up(&chain, response(200, &[("x-old", "1")]), 1);

        assert_eq!(flow.unwrap(), Flow::Respond);
        assert_eq!(exchange.response.status, 410);
        assert_eq!(text(&exchange.response.fields), "x-by: guest; ");
        assert_eq!(exchange.body.as_deref(), Some(b"gone".as_slice()));
    }

    #[test]
    fn a_link_without_the_hook_is_skipped() {
        let mut instances = Instances::new();
        let chain = instances.chain(&plan([&Guest::on_response("(i32.const 0)")])).unwrap();

        let (_, passed) = down(&chain, request(&[]));

        assert_eq!((passed.outcome.unwrap(), passed.entered), (Flow::Next, 1));
        assert_eq!(instances.stats()[0].on_request.calls.iter().sum::<u64>(), 0);
    }

    #[test]
    fn native_middleware_stands_in_the_same_chain() {
        struct Stamp(String);
        impl Middleware for Stamp {
            fn on_request(&self, exchange: &mut Exchange) -> Flow {
                assert!(exchange.request.fields.get("x-bad").is_none(), "that was bad");
                exchange.request.fields.set("x-stamp", self.0.as_bytes()).unwrap();
                Flow::Next
            }
        }
        let factory: Arc<NativeFactory> = Arc::new(|config| {
            let name = config["name"].as_str().ok_or("`name` is missing")?;
            Ok(Box::new(Stamp(name.to_owned())))
        });
        let native = |config: &str, on_error| LinkPlan {
            plugin: PlanSource::Native(Arc::clone(&factory)),
            name: "stamp".into(),
            config: config.into(),
            on_error,
        };
        let mut instances = Instances::new();
        let plan = |on_error| ChainPlan {
            links: vec![
                link(&setter("x-wasm", "1"), OnError::Closed),
                native(r#"{"name":"n"}"#, on_error),
            ],
        };
        let chain = instances.chain(&plan(OnError::Open)).unwrap();
        let closed = instances.chain(&plan(OnError::Closed)).unwrap();

        let (good, _) = down(&chain, request(&[]));
        let (bad, passed) = down(&chain, request(&[("x-bad", "")]));
        let (_, refused) = down(&closed, request(&[("x-bad", "")]));

        assert_eq!(text(&good.request.fields), "x-wasm: 1; x-stamp: n; ");
        assert_eq!(text(&bad.request.fields), "x-bad: ; x-wasm: 1; ");
        assert_eq!(passed.outcome.unwrap(), Flow::Next, "open");
        assert_eq!(refused.entered, 1);
        assert_eq!(&*failure(refused).message, "it panicked: that was bad");
        let bad = ChainPlan { links: vec![native("{}", OnError::Closed)] };
        let error = instances.chain(&bad).err().unwrap();
        assert_eq!(error.to_string(), "plugin `stamp`: `name` is missing");
    }
}

/// Native middleware whose answers are no answers.
mod native {
    use super::*;

    struct Careless(u16, bool);
    impl Careless {
        fn answer(&self, exchange: &mut Exchange) -> Flow {
            match exchange.reply(self.0, [("x-by", b"native".as_slice())], "no") {
                Ok(()) | Err(_) => Flow::Respond,
            }
        }
    }
    impl Middleware for Careless {
        fn on_request(&self, exchange: &mut Exchange) -> Flow {
            if self.1 { Flow::Respond } else { self.answer(exchange) }
        }
        fn on_response(&self, exchange: &mut Exchange) -> Flow {
            self.on_request(exchange)
        }
    }

    fn chain(status: u16, silent: bool, on_error: OnError) -> Chain {
        let factory: Arc<NativeFactory> = Arc::new(move |_| Ok(Box::new(Careless(status, silent))));
        let link = LinkPlan {
            plugin: PlanSource::Native(factory),
            name: "careless".into(),
            config: "{}".into(),
            on_error,
        };
        Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap()
    }

    #[test]
    fn an_answer_must_have_been_made() {
        for chain in [chain(200, true, OnError::Closed), chain(700, false, OnError::Closed)] {
            let passed = failure(down(&chain, request(&[])).1);
            let back = up(&chain, response(200, &[]), 1).1.unwrap_err().failure;

            for failed in [passed, *back] {
                assert_eq!(failed.kind, FailureKind::Violation);
                let why = "it answered `Respond` without an answer made by `Exchange::reply`";
                assert_eq!(&*failed.message, why);
            }
        }
    }

    #[test]
    fn a_refused_answer_leaves_the_response_as_it_was() {
        let chain = chain(700, false, OnError::Open);

        let (exchange, flow) = up(&chain, response(404, &[("x-old", "1")]), 1);

        assert_eq!(flow.unwrap(), Flow::Next);
        assert_eq!(exchange.response.status, 404);
        assert_eq!(text(&exchange.response.fields), "x-old: 1; ");
        assert_eq!(exchange.body, None);
    }

    #[test]
    fn an_answer_that_was_made_is_sent() {
        let chain = chain(403, false, OnError::Closed);

        let (exchange, passed) = down(&chain, request(&[]));

        assert_eq!(passed.outcome.unwrap(), Flow::Respond);
        assert_eq!(exchange.response.status, 403);
        assert_eq!(text(&exchange.response.fields), "x-by: native; ");
        assert_eq!(exchange.body.as_deref(), Some(b"no".as_slice()));
    }

    #[test]
    fn a_factory_that_panics_refuses() {
        let link = LinkPlan {
            plugin: PlanSource::Native(Arc::new(|config| panic!("what is {config}?"))),
            name: "careless".into(),
            config: "{}".into(),
            on_error: OnError::Open,
        };

        let error = Instances::new().chain(&ChainPlan { links: vec![link] }).err().unwrap();

        assert_eq!(error.to_string(), "plugin `careless`: it panicked: what is {}?");
    }

    /// What it has replaced cannot be brought back.
    #[test]
    fn an_answer_and_then_a_panic_close_even_an_open_link() {
        struct Both;
        impl Middleware for Both {
            fn on_response(&self, exchange: &mut Exchange) -> Flow {
                exchange.reply(200, [], "").unwrap();
                panic!("after all");
            }
        }
        let link = LinkPlan {
            plugin: PlanSource::Native(Arc::new(|_| Ok(Box::new(Both)))),
            name: "both".into(),
            config: "{}".into(),
            on_error: OnError::Open,
        };
        let chain = Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap();
        let mut exchange = response(200, &[("a", "1")]);
        exchange.body = Some(Vec::new());

        let (_, flow) = up(&chain, exchange, 1);

        assert_eq!(&*flow.unwrap_err().failure.message, "it panicked: after all");
    }
}

mod failing {
    use super::*;

    /// The failure of one request, and then a good request on the same chain.
    fn survives(guest: &Guest) -> HookFailure {
        on_worker(|| {
            let chain = Instances::new().chain(&plan([guest])).unwrap();
            let (_, passed) = down(&chain, request(&[("x-bad", "")]));
            assert_eq!(passed.entered, 0);
            let failed = failure(passed);
            let (_, good) = down(&chain, request(&[]));
            assert_eq!(good.outcome.unwrap(), Flow::Next, "a new instance serves the next");
            failed
        })
    }

    fn when_bad(instructions: &str, core: &str) -> Guest {
        Guest {
            on_request: Some(format!(
                "(if (i32.load8_u (local.get $fields)) (then {instructions})) (i32.const 0)"
            )),
            core: core.to_owned(),
            ..fragile()
        }
    }

    #[test]
    fn a_trap_costs_one_request() {
        let failed = survives(&fragile());

        assert_eq!((failed.kind, failed.hook), (FailureKind::Trap, Hook::Request));
        assert!(failed.message.contains("unreachable"), "{}", failed.message);
        assert!(
            failed.to_string().starts_with("plugin `guest` failed in on-request (trap): "),
            "{failed}"
        );
    }

    #[test]
    fn a_loop_costs_one_request_and_little_more_than_its_limit() {
        let began = Instant::now();

        let failed = survives(&when_bad("(loop (br 0))", ""));

        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(failed.kind, FailureKind::Timeout);
        assert!(failed.message.starts_with("it ran longer than 20ms"), "{}", failed.message);
    }

    #[test]
    fn a_memory_bomb_costs_one_request() {
        let bomb = "(loop (br_if 0 (i32.ge_s (memory.grow (i32.const 4)) (i32.const 0)))) \
                    (unreachable)";

        let failed = survives(&when_bad(bomb, ""));

        assert_eq!(failed.kind, FailureKind::Memory);
        assert!(
            failed.message.starts_with("it was refused memory beyond the 2048 KiB"),
            "{}",
            failed.message
        );
    }

    /// The guest's stack must end long before the thread's: a test thread has 2 MiB.
    #[test]
    fn a_stack_overflow_costs_one_request() {
        let core = "(func $down (param i32) (result i32) \
                    (i32.add (call $down (i32.add (local.get 0) (i32.const 1))) (local.get 0)))";

        let failed = survives(&when_bad("(drop (call $down (i32.const 0)))", core));

        assert_eq!(failed.kind, FailureKind::Trap);
        assert!(failed.message.starts_with("it overflowed its stack"), "{}", failed.message);
    }

    #[test]
    fn a_broken_rule_fails_the_hook_and_undoes_its_edits() {
        for (name, value, why) in [
            ("content-length", "1", "a field that frames the message cannot be changed"),
            ("x y", "1", "a field name must be a token"),
            ("x-y", "a\\0d\\0ab: c", "a field value must not hold control characters"),
            ("host", "a/b", "this is no host"),
            ("host", "a:b:c", "this is no host"),
            ("host", "%zz", "this is no host"),
        ] {
            let at_last = value.replace("\\0d\\0a", "\r\n");
            let guest = Guest::on_request("(i32.const 0)").edits_requests();
            let mut guest = setting(guest, 64, "request-set", name, &at_last);
            guest.core = guest.core.replace("\r\n", "\\0d\\0a");
            let guest = setting(guest, 256, "request-set", "x-a", "1");
            let closed = Instances::new().chain(&plan([&guest])).unwrap();
            let open = Instances::new().chain(&open(&guest)).unwrap();

            let failed = failure(down(&closed, request(&[])).1);
            let (exchange, passed) = down(&open, request(&[("x-a", "0"), ("Host", "h")]));

            assert_eq!(failed.kind, FailureKind::Violation);
            assert_eq!(*failed.message, format!("request.set(\"{name}\"): {why}"));
            assert_eq!(passed.outcome.unwrap(), Flow::Next);
            assert_eq!(text(&exchange.request.fields), "x-a: 0; Host: h; ", "nothing half-done");
        }
    }

    #[test]
    fn replies_that_cannot_be_sent_fail() {
        let failed = |guest: &Guest| {
            let chain = Instances::new().chain(&plan([guest])).unwrap();
            failure(down(&chain, request(&[])).1)
        };

        let silent = failed(&Guest::on_request("(i32.const 1)"));
        let status = failed(&replying(700, "(i32.const 1)"));

        assert_eq!(&*silent.message, "it answered `respond` without a call of `reply.send`");
        assert_eq!(silent.kind, FailureKind::Violation);
        assert_eq!(&*status.message, "reply.send(700): a status must be 200 to 599");
    }

    /// What one call of the host may carry is bounded, whatever memory a guest has.
    #[test]
    fn bodies_beyond_the_limit_fail_whatever_their_size() {
        let sending = |bytes: usize| {
            let guest = replying(200, "(i32.const 1)");
            let body = guest.on_request.unwrap().replace(
                "(i32.const 73) (i32.const 4)",
                &format!("(i32.const 0) (i32.const {bytes})"),
            );
            let body = format!("(drop (memory.grow (i32.const 32))) {body}");
            let guest = Guest { on_request: Some(body), on_response: None, ..guest };
            let limits = PluginLimits { memory_bytes_max: 16 * 1024 * 1024, ..LIMITS };
            let plugin = ENGINE.load("guest", &guest.build(), &limits).unwrap();
            let plan =
                LinkPlan { plugin: PlanSource::Wasm(plugin), ..link(&fragile(), OnError::Closed) };
            let chain = Instances::new().chain(&ChainPlan { links: vec![plan] }).unwrap();
            let (exchange, passed) = down(&chain, request(&[]));
            (exchange.body.map(|body| body.len()), passed.outcome.map_err(|failed| failed.kind))
        };
        const MIB: usize = 1024 * 1024;

        assert_eq!(sending(MIB), (Some(MIB), Ok(Flow::Respond)));
        assert_eq!(sending(MIB + 1), (None, Err(FailureKind::Violation)));
        assert_eq!(sending(2 * MIB), (None, Err(FailureKind::Trap)));
    }

    /// A hook that fails after `reply.send` was shown a response that others may still want.
    #[test]
    fn a_failing_response_hook_leaves_the_response_as_it_was() {
        let guest = replying(410, "(unreachable)");
        let open = Instances::new().chain(&open(&guest)).unwrap();

        let (exchange, flow) = up(&open, response(200, &[("x-old", "1")]), 1);

        assert_eq!(flow.unwrap(), Flow::Next);
        assert_eq!(exchange.response.status, 200);
        assert_eq!(text(&exchange.response.fields), "x-old: 1; ");
        assert_eq!(exchange.body, None);
    }

    #[test]
    fn links_further_out_see_what_takes_the_place_of_a_failed_response() {
        let seen =
            Guest { response_fields: vec!["x-by".to_owned()], ..replying(299, "(i32.const 1)") };
        let guests = [seen, Guest::on_response("(unreachable)"), Guest::noop()];
        let chain = Instances::new().chain(&plan(&guests)).unwrap();

        let (mut exchange, flow) = up(&chain, response(200, &[]), 3);
        let broken = flow.unwrap_err();
        exchange.response.assign(503);
        let (exchange, flow) = up(&chain, exchange, broken.entered);

        assert_eq!((broken.entered, broken.failure.hook), (1, Hook::Response));
        assert_eq!(flow.unwrap(), Flow::Respond);
        assert_eq!(exchange.response.status, 299);
    }

    /// Requests that make a plugin fail, among others that do not.
    #[test]
    fn a_plugin_that_keeps_failing_backs_off_and_comes_back() {
        let limits = PluginLimits { time_max: Duration::from_millis(1), ..LIMITS };
        let bytes = when_bad("(loop (br 0))", "").build();
        let plugin = ENGINE.load("guest", &bytes, &limits).unwrap();
        let plan = ChainPlan {
            links: vec![LinkPlan {
                plugin: PlanSource::Wasm(plugin),
                ..link(&fragile(), OnError::Closed)
            }],
        };
        let chain = Instances::new().chain(&plan).unwrap();
        let fail = || failure(down(&chain, request(&[("x-bad", "")])).1);
        let works = || down(&chain, request(&[])).1.outcome.is_ok();
        let deadline = Instant::now() + Duration::from_secs(60);

        for _ in 0..3 {
            assert_eq!(fail().kind, FailureKind::Timeout, "answered by a new instance at once");
            assert!(works());
        }
        let waiting = loop {
            let failed = fail();
            if failed.kind == FailureKind::Unavailable {
                break failed;
            }
            works();
            assert!(Instant::now() < deadline, "no back-off");
        };
        while !works() {
            assert!(Instant::now() < deadline, "it never came back");
        }

        let text = "it fails so much that it has to wait, the last time so: it ran longer than 1ms";
        assert_eq!(&*waiting.message, text);
    }

    #[test]
    fn a_plugin_that_keeps_failing_does_not_grow_the_process() {
        let mut instances = Instances::new();
        let chain = instances.chain(&plan([&fragile()])).unwrap();
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        // A plugin that has to wait is asked again.
        let fail = |times: usize| {
            for _ in 0..times {
                while failure(down(&chain, request(&[("x-bad", "")])).1).kind != FailureKind::Trap {
                }
            }
        };
        fail(100);
        let before = resident();

        fail(1000);

        // Other tests run in the same process; a leaked instance would be 1000 times 256 KiB.
        let grown = resident().saturating_sub(before);
        assert!(grown < 128 * 1024 * 1024, "{grown} bytes");
        while down(&chain, request(&[])).1.outcome.is_err() {}
        let stats = &instances.stats()[0];
        assert_eq!((stats.traps, stats.instances), (1100, 1));
        assert_eq!(stats.memory_bytes, 4 * 65_536);
    }

    /// Memory that was refused and done without is not what a later call fails of.
    #[test]
    fn a_trap_is_no_memory_failure_because_of_an_earlier_refusal() {
        let guest = Guest {
            request_fields: vec!["x-bad".to_owned()],
            ..Guest::on_request(
                "(if (i32.load8_u (local.get $fields)) (then (unreachable)))
                 (drop (memory.grow (i32.const 1000))) (i32.const 0)",
            )
        };
        let chain = Instances::new().chain(&plan([&guest])).unwrap();

        let survived = down(&chain, request(&[])).1.outcome.unwrap();
        let failed = failure(down(&chain, request(&[("x-bad", "")])).1);

        assert_eq!(survived, Flow::Next);
        assert_eq!(failed.kind, FailureKind::Trap);
    }

    /// Whatever the limit is, a loop ends soon after it, for a worker stands still as long.
    #[test]
    fn a_loop_is_not_given_more_time_where_the_limit_is_high() {
        let limits = PluginLimits { time_max: Duration::from_millis(500), ..LIMITS };
        let bytes = when_bad("(loop (br 0))", "").build();
        let plugin = ENGINE.load("guest", &bytes, &limits).unwrap();
        let plan = ChainPlan {
            links: vec![LinkPlan {
                plugin: PlanSource::Wasm(plugin),
                ..link(&fragile(), OnError::Closed)
            }],
        };
        let chain = Instances::new().chain(&plan).unwrap();
        let began = crate::sys::thread_cpu_time();

        let failed = failure(down(&chain, request(&[("x-bad", "")])).1);

        assert_eq!(failed.kind, FailureKind::Timeout);
        let used = crate::sys::thread_cpu_time() - began;
        assert!(used < Duration::from_millis(600), "{used:?}");
    }

    /// `memory.grow` beyond what a memory's own type allows must not talk the count down.
    #[test]
    fn failed_growth_does_not_lift_the_memory_limit() {
        let own = "(memory $own 1 2)";
        let bomb = "(local.set $count (i32.const 1000)) (loop \
                    (drop (memory.grow $own (i32.const 100))) \
                    (br_if 0 (i32.ge_s (memory.grow 0 (i32.const 1)) (i32.const 0)))) \
                    (unreachable)";

        let failed = survives(&when_bad(bomb, own));

        assert_eq!(failed.kind, FailureKind::Memory);
        assert!(failed.message.contains("2048 KiB"), "{}", failed.message);
    }
}

mod sharing {
    use super::*;

    #[test]
    fn chains_share_an_instance_per_plugin_and_configuration() {
        let mut instances = Instances::new();
        let plugin = plan([&fragile()]);
        let mut other = plugin.clone();
        other.links[0].config = r#"{"a":1}"#.into();

        let chains = [&plugin, &plugin, &other].map(|plan| instances.chain(plan).unwrap());
        assert_eq!(instances.stats()[0].instances, 2);
        drop(chains);

        let stats = &instances.stats()[0];
        assert_eq!((stats.instances, stats.memory_bytes), (0, 0), "memory goes back");
    }

    #[test]
    fn calls_are_counted_over_generations() {
        let mut instances = Instances::new();
        let old = instances.chain(&plan([&fragile()])).unwrap();
        down(&old, request(&[]));
        let new = instances.chain(&plan([&setter("x-new", "1")])).unwrap();
        drop(old);

        down(&new, request(&[]));

        let stats = instances.stats();
        assert_eq!(stats.len(), 1);
        assert_eq!(stats[0].on_request.calls[0], 2);
        assert_eq!(stats[0].instances, 1);
        assert!(stats[0].on_request.duration_ns_sum > 0);
    }
}

/// What a guest may try to do with the system, each on a worker's runtime, where waiting panics.
mod system {
    use super::*;

    fn failed(guest: &Guest) -> HookFailure {
        on_worker(|| {
            let chain = Instances::new().chain(&plan([guest])).unwrap();
            failure(down(&chain, request(&[])).1)
        })
    }

    /// As a panic of a Rust guest does it.
    fn printing(then: &str) -> Guest {
        let mut guest = Guest::on_request(&format!(
            "(call $write (call $get-stderr) (i32.const 64) (i32.const 13) (i32.const 512)) {then}"
        ));
        guest.imports = "
            (import \"wasi:io/error@0.2.0\" (instance $io-error
              (export \"error\" (type (sub resource)))))
            (alias export $io-error \"error\" (type $error))
            (import \"wasi:io/streams@0.2.0\" (instance $streams
              (export \"output-stream\" (type $output (sub resource)))
              (alias outer 1 $error (type $e))
              (export \"error\" (type $error (eq $e)))
              (type $v (variant (case \"last-operation-failed\" (own $error)) (case \"closed\")))
              (export \"stream-error\" (type $stream-error (eq $v)))
              (export \"[method]output-stream.blocking-write-and-flush\" (func
                (param \"self\" (borrow $output)) (param \"contents\" (list u8))
                (result (result (error $stream-error)))))))
            (alias export $streams \"output-stream\" (type $output))
            (import \"wasi:cli/stderr@0.2.0\" (instance $stderr
              (alias outer 1 $output (type $o))
              (export \"output-stream\" (type $output (eq $o)))
              (export \"get-stderr\" (func (result (own $output))))))"
            .to_owned();
        guest.lowers = vec![
            ("get-stderr", "$stderr \"get-stderr\"", "(result i32)"),
            (
                "write",
                "$streams \"[method]output-stream.blocking-write-and-flush\"",
                "(param i32 i32 i32 i32)",
            ),
        ];
        guest.data(64, "panicked: \\22no\\0a")
    }

    #[test]
    fn printing_is_no_reason_to_fail() {
        on_worker(|| {
            let chain = Instances::new().chain(&plan([&printing("(i32.const 0)")])).unwrap();
            assert_eq!(down(&chain, request(&[])).1.outcome.unwrap(), Flow::Next);
        });
    }

    #[test]
    fn the_message_of_a_panic_is_in_the_failure() {
        let failed = failed(&printing("(unreachable)"));

        assert_eq!(failed.kind, FailureKind::Trap);
        assert!(failed.message.ends_with("; it wrote: panicked: \"no"), "{}", failed.message);
    }

    fn sleeping() -> Guest {
        let mut guest = Guest::on_request(
            "(call $block (call $subscribe (i64.const 1000000000000))) (i32.const 0)",
        );
        guest.imports = "
            (import \"wasi:io/poll@0.2.0\" (instance $poll
              (export \"pollable\" (type $pollable (sub resource)))
              (export \"[method]pollable.block\" (func (param \"self\" (borrow $pollable))))))
            (alias export $poll \"pollable\" (type $pollable))
            (import \"wasi:clocks/monotonic-clock@0.2.0\" (instance $monotonic
              (alias outer 1 $pollable (type $p))
              (export \"pollable\" (type $pollable (eq $p)))
              (export \"subscribe-duration\" (func (param \"when\" u64)
                (result (own $pollable))))))"
            .to_owned();
        guest.lowers = vec![
            ("block", "$poll \"[method]pollable.block\"", "(param i32)"),
            ("subscribe", "$monotonic \"subscribe-duration\"", "(param i64) (result i32)"),
        ];
        guest
    }

    #[test]
    fn sleeping_is_a_failure_at_once() {
        let began = Instant::now();

        let failed = failed(&sleeping());

        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!(failed.kind, FailureKind::Trap);
        assert!(
            failed.message.starts_with("it tried to wait, and a plugin may not wait"),
            "{}",
            failed.message
        );
    }

    #[test]
    fn exit_is_a_failure_that_says_so() {
        let mut guest = Guest::on_request("(call $exit (i32.const 1)) (i32.const 0)");
        guest.imports = "(import \"wasi:cli/exit@0.2.0\" (instance $cli-exit
            (export \"exit\" (func (param \"status\" (result))))))"
            .to_owned();
        guest.lowers = vec![("exit", "$cli-exit \"exit\"", "(param i32)")];

        assert!(failed(&guest).message.starts_with("it called exit(1)"));
    }

    /// std turns these answers into ordinary I/O errors.
    #[test]
    fn files_and_sockets_answer_no() {
        // Traps unless there are no directories, and creating a socket is an error of case 1.
        let mut guest = Guest::on_request(
            "(call $directories (i32.const 512))
             (if (i32.load offset=4 (i32.const 512)) (then (unreachable)))
             (call $socket (i32.const 0) (i32.const 512))
             (if (i32.ne (i32.load8_u (i32.const 512)) (i32.const 1)) (then (unreachable)))
             (if (i32.ne (i32.load8_u offset=4 (i32.const 512)) (i32.const 1)) (then (unreachable)))
             (drop (call $network))
             (i32.const 0)",
        );
        guest.imports = "
            (import \"wasi:filesystem/types@0.2.0\" (instance $files
              (export \"descriptor\" (type (sub resource)))))
            (alias export $files \"descriptor\" (type $descriptor))
            (import \"wasi:filesystem/preopens@0.2.0\" (instance $preopens
              (alias outer 1 $descriptor (type $d))
              (export \"descriptor\" (type $descriptor (eq $d)))
              (export \"get-directories\" (func
                (result (list (tuple (own $descriptor) string)))))))
            (import \"wasi:sockets/network@0.2.0\" (instance $net
              (export \"network\" (type (sub resource)))
              (type $c (enum \"unknown\" \"access-denied\"))
              (export \"error-code\" (type (eq $c)))
              (type $f (enum \"ipv4\" \"ipv6\"))
              (export \"ip-address-family\" (type (eq $f)))))
            (alias export $net \"network\" (type $network))
            (alias export $net \"error-code\" (type $error-code))
            (alias export $net \"ip-address-family\" (type $family))
            (import \"wasi:sockets/instance-network@0.2.0\" (instance $instance-network
              (alias outer 1 $network (type $n))
              (export \"network\" (type $network (eq $n)))
              (export \"instance-network\" (func (result (own $network))))))
            (import \"wasi:sockets/tcp@0.2.0\" (instance $tcp
              (export \"tcp-socket\" (type (sub resource)))))
            (alias export $tcp \"tcp-socket\" (type $tcp-socket))
            (import \"wasi:sockets/tcp-create-socket@0.2.0\" (instance $create
              (alias outer 1 $tcp-socket (type $s)) (export \"tcp-socket\" (type $socket (eq $s)))
              (alias outer 1 $error-code (type $c)) (export \"error-code\" (type $code (eq $c)))
              (alias outer 1 $family (type $f))
              (export \"ip-address-family\" (type $family (eq $f)))
              (export \"create-tcp-socket\" (func (param \"address-family\" $family)
                (result (result (own $socket) (error $code)))))))"
            .to_owned();
        guest.lowers = vec![
            ("directories", "$preopens \"get-directories\"", "(param i32)"),
            ("socket", "$create \"create-tcp-socket\"", "(param i32 i32)"),
            ("network", "$instance-network \"instance-network\"", "(result i32)"),
        ];
        on_worker(|| {
            let chain = Instances::new().chain(&plan([&guest])).unwrap();

            let (_, passed) = down(&chain, request(&[]));

            assert_eq!(passed.outcome.map_err(|failure| failure.message), Ok(Flow::Next));
        });
    }
}
