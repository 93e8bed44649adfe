//! What a failing plugin costs, and what it leaves behind.

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

/// Which function failed is the question; who called it is the next one.
#[test]
fn a_failure_names_the_functions_that_it_came_through() {
    let core = "(func $inner (unreachable)) (func $outer (call $inner))";

    let failed = survives(&when_bad("(call $outer)", core));

    assert!(failed.message.contains(", in `inner` < `outer`"), "{}", failed.message);
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
        let body = guest
            .on_request
            .unwrap()
            .replace("(i32.const 73) (i32.const 4)", &format!("(i32.const 0) (i32.const {bytes})"));
        let body = format!("(drop (memory.grow (i32.const 96))) {body}");
        let guest = Guest { on_request: Some(body), on_response: None, ..guest };
        let limits = PluginLimits { memory_bytes_max: 16 * 1024 * 1024, ..LIMITS };
        let plugin = ENGINE.load("guest", &guest.build(), &limits, &Arc::default()).unwrap();
        let plan =
            LinkPlan { plugin: PlanSource::Wasm(plugin), ..link(&fragile(), OnError::Closed) };
        let chain = Instances::new().chain(&ChainPlan { links: vec![plan] }).unwrap();
        let (exchange, passed) = down(&chain, request(&[]));
        (exchange.body.map(|body| body.len()), passed.outcome.map_err(|failed| failed.kind))
    };
    const MIB: usize = 1024 * 1024;

    assert_eq!(sending(MIB), (Some(MIB), Ok(Flow::Respond)));
    assert_eq!(sending(MIB + 1), (None, Err(FailureKind::Violation)));
    assert_eq!(sending(4 * MIB), (None, Err(FailureKind::Violation)));
    assert_eq!(sending(5 * MIB), (None, Err(FailureKind::Trap)));
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
    let seen = Guest { response_fields: vec!["x-by".to_owned()], ..replying(299, "(i32.const 1)") };
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

/// A chain of a guest alone, with these limits.
fn chain_of(guest: &Guest, limits: &PluginLimits) -> Chain {
    let plugin = ENGINE.load("guest", &guest.build(), limits, &Arc::default()).unwrap();
    let link = LinkPlan { plugin: PlanSource::Wasm(plugin), ..link(&fragile(), OnError::Closed) };
    Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap()
}

/// So much later that everything is forgiven.
const LATER: Duration = Duration::from_secs(3600);

/// A request that makes a plugin fail, at this time.
fn fail_at(chain: &Chain, now: Instant) -> HookFailure {
    failure(chain.on_request(request(&[("x-bad", "")]), now).1)
}

/// Requests that make a plugin fail, among others that do not. The time is the test's: a busy machine
/// changes nothing.
#[test]
fn a_plugin_that_keeps_failing_backs_off_and_comes_back() {
    let limits = PluginLimits { time_max: Duration::from_millis(1), ..LIMITS };
    let chain = chain_of(&when_bad("(loop (br 0))", ""), &limits);
    let works = |now| chain.on_request(request(&[]), now).1.outcome.is_ok();
    let mut now = Instant::now();

    for _ in 0..3 {
        now += LATER;
        assert_eq!(fail_at(&chain, now).kind, FailureKind::Timeout, "by a new instance");
        assert!(works(now + LATER));
    }
    let now = Instant::now();
    let waiting = (0..1000).map(|_| fail_at(&chain, now));
    let waiting = waiting.into_iter().find(|failed| failed.kind == FailureKind::Unavailable);

    let text = "it fails so much that it has to wait, the last time so: it ran longer than 1ms";
    assert_eq!(&*waiting.expect("no back-off").message, text);
    assert!(!works(now), "whoever asks");
    assert!(works(Instant::now() + LATER), "it never came back");
}

/// What is broken costs nothing: requests are refused without a call.
#[test]
fn a_plugin_that_has_to_wait_is_not_called() {
    let limits = PluginLimits { time_max: Duration::from_millis(1), ..LIMITS };
    let chain = chain_of(&when_bad("(loop (br 0))", ""), &limits);
    let now = Instant::now();
    while fail_at(&chain, now).kind != FailureKind::Unavailable {}
    let began = crate::sys::thread_cpu_time();

    for _ in 0..1000 {
        assert_eq!(fail_at(&chain, now).kind, FailureKind::Unavailable);
    }

    // A call of each would take a second at least.
    let used = crate::sys::thread_cpu_time() - began;
    assert!(used < Duration::from_millis(900), "{used:?}");
}

/// Each call may be short, and a body have any number of chunks.
#[test]
fn what_all_hooks_of_a_request_take_together_can_be_limited() {
    let guest = Guest { request_fields: vec!["x-bad".to_owned()], ..Guest::noop() };
    let run = |request_time_max| {
        let limits = PluginLimits { request_time_max, ..LIMITS };
        let chain = chain_of(&guest, &limits);
        let once = || {
            let (mut exchange, passed) = down(&chain, request(&[]));
            passed.outcome.unwrap();
            exchange.response.assign(200);
            up(&chain, exchange, 1).1.map_err(|broken| *broken.failure)
        };
        (once(), once())
    };

    let (first, second) = run(Some(Duration::from_nanos(1)));
    for failure in [first.unwrap_err(), second.unwrap_err()] {
        // The first hook has taken longer than that; a request begins anew.
        assert_eq!((failure.kind, failure.hook), (FailureKind::Unavailable, Hook::Response));
        assert_eq!(
            &*failure.message,
            "its hooks have taken all of the 1ns that they have for a request"
        );
    }
    for enough in [None, Some(Duration::from_secs(60))] {
        let (first, second) = run(enough);
        assert_eq!((first.unwrap(), second.unwrap()), (Flow::Next, Flow::Next));
    }
}

/// The same number of instructions wherever and whenever it runs.
#[test]
fn a_limit_of_fuel_ends_a_loop_at_the_same_instruction() {
    let time_max = Duration::from_secs(60);
    let limits = PluginLimits { time_max, fuel_max: Some(10_000), ..LIMITS };
    let guest = when_bad("(loop (br 0))", "");
    let mut instances = Instances::new();
    let plugin = ENGINE.load("guest", &guest.build(), &limits, &Arc::default()).unwrap();
    let link = LinkPlan { plugin: PlanSource::Wasm(plugin), ..link(&fragile(), OnError::Closed) };
    let chain = instances.chain(&ChainPlan { links: vec![link] }).unwrap();
    let good = || {
        assert_eq!(down(&chain, request(&[])).1.outcome.unwrap(), Flow::Next);
        instances.fuel_used().unwrap()
    };

    let used = good();
    let failed = fail_at(&chain, Instant::now());

    assert_eq!((failed.kind, failed.kind.as_str()), (FailureKind::Fuel, "fuel"));
    assert!(failed.message.starts_with("it used more fuel than its 10000"), "{}", failed.message);
    assert!((1..1000).contains(&used), "{used}");
    assert_eq!(good(), used, "each call has all of it");
}

/// Only those pay for counting whose fuel is limited: they are compiled for an engine of their own.
#[test]
fn fuel_is_counted_for_those_that_ask_for_it() {
    let bytes = Guest::noop().build();
    let load = |fuel_max| {
        let limits = PluginLimits { fuel_max, ..LIMITS };
        ENGINE.load("metered", &bytes, &limits, &Arc::default()).unwrap()
    };

    let (plain, metered) = (load(None), load(Some(5_000)));

    assert!(Arc::ptr_eq(&plain, &load(None)) && Arc::ptr_eq(&metered, &load(Some(5_000))));
    let more = PluginLimits { fuel_max: Some(6_000), ..LIMITS };
    assert!(metered.under(&more, &Arc::default()).is_ok());
    let refused = metered.under(&LIMITS, &Arc::default()).unwrap_err().to_string();
    assert!(refused.contains("`limits.fuel_max` or Redis has come or gone"), "{refused}");
}

#[test]
fn a_plugin_that_keeps_failing_does_not_grow_the_process() {
    let mut instances = Instances::new();
    let chain = instances.chain(&plan([&fragile()])).unwrap();
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    // Each time everything is forgiven: nothing here waits.
    let fail = |times: u32| {
        for _ in 0..times {
            assert_eq!(fail_at(&chain, Instant::now() + LATER).kind, FailureKind::Trap);
        }
    };
    fail(100);
    let before = resident();

    fail(2000);

    // Other tests run in the same process, and take up to 170 MB; a leaked instance would be 2000 times 256 KiB.
    let grown = resident().saturating_sub(before);
    assert!(grown < 384 * 1024 * 1024, "{grown} bytes");
    chain.on_request(request(&[]), Instant::now() + LATER).1.outcome.unwrap();
    let stats = &instances.stats()[0];
    assert_eq!((stats.traps, stats.instances), (2100, 1));
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
    let chain = chain_of(&when_bad("(loop (br 0))", ""), &limits);
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

/// Strings are UTF-8 by the ABI: no function of the host ever sees other bytes.
#[test]
fn a_name_that_is_no_text_traps_before_the_host_sees_it() {
    let call = "(call $request-get (i32.const 16) (i32.const 2) (i32.const 256)) (i32.const 0)";
    let guest = Guest::on_request(call).edits_requests().data(16, "\\ff\\fe");
    let chain = Instances::new().chain(&plan([&guest])).unwrap();

    let failed = failure(down(&chain, request(&[])).1);

    assert_eq!(failed.kind, FailureKind::Trap);
    assert!(failed.message.contains("utf-8"), "{}", failed.message);
}
