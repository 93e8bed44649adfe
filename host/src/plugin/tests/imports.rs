//! Each import called by a guest that lies: sizes that are absurd, bytes that are no text, handles that
//! nobody gave out, calls in the middle of a call. The hook fails, or is told no; the next one works.
//!
//! What floods leave behind is tested where it is kept (`state`), and end to end (`tests/e2e/state.rs`).

use super::*;
use crate::config::CacheSize;

/// Everything that a plugin can be granted but callouts, which have a file of their own.
fn granted() -> Arc<Allow> {
    let cache = CacheSize { bytes_max: 1 << 20, object_bytes_max: 1 << 18 };
    Arc::new(Allow {
        counters: Some(1 << 20),
        kv: Some(1 << 20),
        cache: Some(cache),
        ..Allow::default()
    })
}

/// How a call ended.
#[derive(Debug, PartialEq)]
pub(super) enum Ended {
    Well,
    Badly(FailureKind, Arc<str>),
}

/// Calls a hook of a guest, and then sees whether a good plugin beside it works, and whether this one does
/// once more as it did.
pub(super) fn called(guest: &Guest) -> Ended {
    on_worker(|| {
        let limits = PluginLimits { memory_bytes_max: 32 << 20, ..LIMITS };
        let loaded = ENGINE.load("liar", &guest.build(), &limits, &granted());
        let plugin = loaded.unwrap_or_else(|error| panic!("{error}\n{}", guest.text()));
        let liar =
            LinkPlan { plugin: PlanSource::Wasm(plugin), ..link(&Guest::noop(), OnError::Open) };
        let neighbour = link(&setter("x-neighbour", "well"), OnError::Closed);
        let plan = ChainPlan { links: vec![neighbour, liar.clone()] };
        let mut instances = Instances::new();
        let chain = instances.chain(&plan).unwrap();
        let alone = LinkPlan { on_error: OnError::Closed, ..liar };
        let alone = instances.chain(&ChainPlan { links: vec![alone] }).unwrap();
        let once = |chain: &Chain, links| {
            let (mut exchange, passed) = down(chain, request(&[("x-own", "1")]));
            exchange.response.assign(200);
            let (exchange, back) = up(chain, exchange, links);
            let failed = passed.outcome.err().or_else(|| back.err().map(|broken| broken.failure));
            (exchange, failed)
        };
        let (exchange, _) = once(&chain, 2);
        assert!(text(&exchange.request.fields).contains("x-neighbour: well"), "{exchange:?}");
        match once(&alone, 1).1 {
            None => Ended::Well,
            Some(failed) => {
                // An edit of a hook that failed is nowhere.
                assert_eq!(text(&exchange.request.fields), "x-own: 1; x-neighbour: well; ");
                Ended::Badly(failed.kind, failed.message)
            }
        }
    })
}

/// A guest that makes one call with these arguments, in `on-request` or, of `response`, in `on-response`.
pub(super) fn calling(
    import: (&str, &str),
    kind: &str,
    core: &'static str,
    arguments: &str,
) -> Guest {
    let (interface, function) = import;
    // Leaked, as literals are: there are some dozens.
    let target: &'static str = format!("${interface} \"{function}\"").leak();
    // What comes back does not matter.
    let drops = if core.contains("result") { "(drop" } else { "(block" };
    let instructions = format!("{drops} (call $it {arguments})) (i32.const 0)");
    let guest = match interface {
        "response" => Guest::on_response(&instructions),
        _ => Guest::on_request(&instructions),
    };
    guest.import(interface, &[("it", target, kind, core)])
}

const NAME: &str = "(param \"name\" string)";
const NAME_VALUE: &str = "(param \"name\" string) (param \"value\" (list u8))";

/// As core values: from address 0, and with the length that each test names.
const HUGE: &str = "(i32.const 0) (i32.const 200000)";
pub(super) const BEYOND: &str = "(i32.const 65536) (i32.const 0x7fffffff)";
pub(super) const WRAPPED: &str = "(i32.const -1) (i32.const -1)";
const NO_TEXT: &str = "(i32.const 16) (i32.const 2)";
/// Beyond what is read as a name.
pub(super) const OUT: &str = "(i32.const 250000)";
pub(super) const BAD_OUT: &str = "(i32.const 0x7ffffff0)";
pub(super) const ODD_OUT: &str = "(i32.const 250001)";

/// Addresses, lengths and bytes that are not as the ABI has them never reach the host: they trap.
#[test]
fn what_is_outside_of_the_memory_or_no_text_traps() {
    let get = "(param \"name\" string) (result (option (list u8)))";
    let all = "(param \"name\" string) (result (list (list u8)))";
    let three = "(param i32 i32 i32)";
    let four = "(param i32 i32 i32 i32)";
    let reply = "(param \"status\" u16) (param \"headers\" (list (tuple string (list u8)))) \
                 (param \"body\" (list u8))";
    let five = "(param i32 i32 i32 i32 i32)";
    let fields = "(param \"key\" (list u8)) (param \"fields\" (list (tuple string (list u8)))) (result bool)";
    let tags = "(param \"key\" (list u8)) (param \"note\" (list u8)) (param \"ttl-ms\" u32) \
                (param \"tags\" (list string))";
    let bounds = "(param \"name\" string) (param \"help\" string) (param \"bounds\" (list f64)) \
                  (result (result u32 (error string)))";
    let mut cases = Vec::new();
    for bad in [BEYOND, WRAPPED, NO_TEXT] {
        for interface in ["request", "response"] {
            cases.push((interface, "get", get, three, format!("{bad} {OUT}")));
            cases.push((interface, "get-all", all, three, format!("{bad} {OUT}")));
            cases.push((interface, "set", NAME_VALUE, four, format!("{bad} {HUGE}")));
            cases.push((interface, "append", NAME_VALUE, four, format!("{bad} {HUGE}")));
            cases.push((interface, "remove", NAME, "(param i32 i32)", bad.to_owned()));
        }
        let path = "(param \"path-and-query\" string)";
        cases.push(("request", "set-path", path, "(param i32 i32)", bad.to_owned()));
        cases.push(("request", "param", get, three, format!("{bad} {OUT}")));
        let chosen = "(param \"name\" string) (result bool)";
        let core = "(param i32 i32) (result i32)";
        cases.push(("request", "set-upstream", chosen, core, bad.to_owned()));
        cases.push((
            "context",
            "get",
            "(param \"key\" string) (result (option (list u8)))",
            three,
            format!("{bad} {OUT}"),
        ));
        cases.push((
            "context",
            "set",
            "(param \"key\" string) (param \"value\" (list u8))",
            four,
            format!("{bad} {HUGE}"),
        ));
        cases.push((
            "metrics",
            "histogram",
            bounds,
            "(param i32 i32 i32 i32 i32 i32 i32)",
            format!("{bad} {HUGE} (i32.const 0) (i32.const 1) {OUT}"),
        ));
    }
    for bad in [BEYOND, WRAPPED] {
        for interface in ["request", "response"] {
            cases.push((interface, "set", NAME_VALUE, four, format!("{HUGE} {bad}")));
        }
        cases.push(("reply", "send", reply, five, format!("(i32.const 200) {bad} {HUGE}")));
        cases.push((
            "reply",
            "send",
            reply,
            five,
            format!("(i32.const 200) (i32.const 0) (i32.const 0) {bad}"),
        ));
        cases.push((
            "body",
            "replace",
            "(param \"bytes\" (list u8))",
            "(param i32 i32)",
            bad.to_owned(),
        ));
        cases.push((
            "counters",
            "add",
            "(param \"key\" (list u8)) (param \"delta\" s64) \
            (param \"window-ms\" u32) (result s64)",
            "(param i32 i32 i64 i32) (result i64)",
            format!("{bad} (i64.const 1) (i32.const 0)"),
        ));
        cases.push((
            "cache",
            "serve",
            fields,
            "(param i32 i32 i32 i32) (result i32)",
            format!("{HUGE} {bad}"),
        ));
        cases.push((
            "cache",
            "store",
            tags,
            "(param i32 i32 i32 i32 i32 i32 i32)",
            format!("{HUGE} {HUGE} (i32.const 1) {bad}"),
        ));
        cases.push((
            "crypto",
            "equal",
            "(param \"a\" (list u8)) (param \"b\" (list u8)) (result bool)",
            "(param i32 i32 i32 i32) (result i32)",
            format!("{HUGE} {bad}"),
        ));
        let ttl = "(param \"key\" (list u8)) (result bool)";
        cases.push(("kv", "delete", ttl, "(param i32 i32) (result i32)", bad.to_owned()));
        cases.push(("cache", "remove", ttl, "(param i32 i32) (result i32)", bad.to_owned()));
    }
    // Where the host is to put what it gives.
    for bad in [BAD_OUT, ODD_OUT, "(i32.const -4)"] {
        for interface in ["request", "response"] {
            cases.push((
                interface,
                "get",
                get,
                three,
                format!("(i32.const 0) (i32.const 1) {bad}"),
            ));
            cases.push((interface, "packed", "(result (list u8))", "(param i32)", bad.to_owned()));
        }
        cases.push((
            "random",
            "bytes",
            "(param \"count\" u32) (result (list u8))",
            "(param i32 i32)",
            format!("(i32.const 8) {bad}"),
        ));
    }

    for (interface, function, kind, core, arguments) in cases {
        let guest = calling((interface, function), kind, core, &arguments).data(16, "\\ff\\fe");
        let ended = called(&guest);
        let trapped = matches!(ended, Ended::Badly(FailureKind::Trap, _));
        assert!(trapped, "{interface}.{function} {arguments}: {ended:?}");
    }
}

/// Interface and function, its type, its core type, arguments, and how the message of a broken rule begins.
type Case<'a> = (&'a str, &'a str, &'a str, &'static str, String, Option<&'a str>);

/// What reaches the host and breaks a rule fails the hook by name, or is answered no.
#[test]
fn absurd_arguments_break_a_rule_or_are_told_no() {
    let get = "(param \"name\" string) (result (option (list u8)))";
    let window =
        "(param \"key\" (list u8)) (param \"delta\" s64) (param \"window-ms\" u32) (result s64)";
    let counter =
        "(param \"name\" string) (param \"help\" string) (result (result u32 (error string)))";
    let verify = "(param \"key\" u32) (param \"data\" (list u8)) (param \"signature\" (list u8)) (result bool)";
    let key = "(param \"algorithm\" string) (param \"format\" string) (param \"material\" (list u8)) \
               (result (result u32 (error string)))";
    let tagged = "(param \"tag\" string) (result u32)";
    let delete = "(param \"key\" (list u8)) (result bool)";
    let note = "(param \"key\" string) (param \"value\" (list u8))";
    let cases: [Case<'_>; 30] = [
        ("request", "get", get, "(param i32 i32 i32)", format!("{HUGE} {OUT}"), None),
        ("request", "param", get, "(param i32 i32 i32)", format!("{HUGE} {OUT}"), None),
        (
            "request",
            "set",
            NAME_VALUE,
            "(param i32 i32 i32 i32)",
            format!("{HUGE} {HUGE}"),
            Some("request.set"),
        ),
        (
            "request",
            "append",
            NAME_VALUE,
            "(param i32 i32 i32 i32)",
            "(i32.const 16) (i32.const 1) (i32.const 16) (i32.const 65600)".into(),
            Some("request.append"),
        ),
        ("request", "remove", NAME, "(param i32 i32)", HUGE.into(), Some("request.remove")),
        (
            "request",
            "set-path",
            "(param \"path-and-query\" string)",
            "(param i32 i32)",
            HUGE.into(),
            Some("request.set-path"),
        ),
        (
            "request",
            "set-upstream",
            "(param \"name\" string) (result bool)",
            "(param i32 i32) (result i32)",
            HUGE.into(),
            None,
        ),
        (
            "response",
            "set-status",
            "(param \"status\" u16)",
            "(param i32)",
            "(i32.const 0)".into(),
            Some("response.set-status(0)"),
        ),
        (
            "response",
            "set-status",
            "(param \"status\" u16)",
            "(param i32)",
            "(i32.const 199)".into(),
            Some("response.set-status(199)"),
        ),
        (
            "response",
            "set-status",
            "(param \"status\" u16)",
            "(param i32)",
            "(i32.const 65535)".into(),
            Some("response.set-status(65535)"),
        ),
        (
            "response",
            "set",
            NAME_VALUE,
            "(param i32 i32 i32 i32)",
            format!("{HUGE} {HUGE}"),
            Some("response.set"),
        ),
        (
            "response",
            "append",
            NAME_VALUE,
            "(param i32 i32 i32 i32)",
            format!("{HUGE} {HUGE}"),
            Some("response.append"),
        ),
        ("response", "remove", NAME, "(param i32 i32)", HUGE.into(), Some("response.remove")),
        (
            "body",
            "hold",
            "(param \"bytes-max\" u32)",
            "(param i32)",
            "(i32.const -1)".into(),
            Some("body.hold"),
        ),
        (
            "body",
            "replace",
            "(param \"bytes\" (list u8))",
            "(param i32 i32)",
            "(i32.const 0) (i32.const 0)".into(),
            None,
        ),
        (
            "context",
            "set",
            note,
            "(param i32 i32 i32 i32)",
            format!("{HUGE} {HUGE}"),
            Some("context.set"),
        ),
        (
            "context",
            "get",
            "(param \"key\" string) (result (option (list u8)))",
            "(param i32 i32 i32)",
            format!("{HUGE} {OUT}"),
            None,
        ),
        (
            "random",
            "bytes",
            "(param \"count\" u32) (result (list u8))",
            "(param i32 i32)",
            format!("(i32.const -1) {OUT}"),
            Some("random.bytes(4294967295)"),
        ),
        (
            "metrics",
            "add",
            "(param \"id\" u32) (param \"count\" u64)",
            "(param i32 i64)",
            "(i32.const 7) (i64.const 1)".into(),
            Some("metrics.add(7)"),
        ),
        (
            "metrics",
            "set",
            "(param \"id\" u32) (param \"value\" f64)",
            "(param i32 f64)",
            "(i32.const -1) (f64.const nan)".into(),
            Some("metrics.set(4294967295)"),
        ),
        (
            "metrics",
            "observe",
            "(param \"id\" u32) (param \"value\" f64)",
            "(param i32 f64)",
            "(i32.const 0) (f64.const inf)".into(),
            Some("metrics.observe(0)"),
        ),
        (
            "metrics",
            "counter",
            counter,
            "(param i32 i32 i32 i32 i32)",
            format!("{HUGE} {HUGE} {OUT}"),
            None,
        ),
        (
            "crypto",
            "verify",
            verify,
            "(param i32 i32 i32 i32 i32) (result i32)",
            format!("(i32.const -1) {HUGE} {HUGE}"),
            None,
        ),
        ("crypto", "forget", "(param \"key\" u32)", "(param i32)", "(i32.const -1)".into(), None),
        (
            "crypto",
            "key",
            key,
            "(param i32 i32 i32 i32 i32 i32 i32)",
            format!("{HUGE} {HUGE} {HUGE} {OUT}"),
            None,
        ),
        (
            "counters",
            "add",
            window,
            "(param i32 i32 i64 i32) (result i64)",
            format!("{HUGE} (i64.const 1) (i32.const 0)"),
            Some("counters.add: a key has at most 256 bytes"),
        ),
        (
            "counters",
            "add",
            window,
            "(param i32 i32 i64 i32) (result i64)",
            "(i32.const 16) (i32.const 1) (i64.const 0x7fffffffffffffff) (i32.const 0)".into(),
            None,
        ),
        ("kv", "delete", delete, "(param i32 i32) (result i32)", HUGE.into(), Some("kv.delete")),
        (
            "cache",
            "remove",
            delete,
            "(param i32 i32) (result i32)",
            HUGE.into(),
            Some("cache.remove"),
        ),
        ("cache", "remove-tagged", tagged, "(param i32 i32) (result i32)", HUGE.into(), None),
    ];

    for (interface, function, kind, core, arguments, rule) in cases {
        let guest = calling((interface, function), kind, core, &arguments).data(16, "a");
        match (called(&guest), rule) {
            (Ended::Well, None) => {}
            (Ended::Badly(FailureKind::Violation, message), Some(rule)) => {
                assert!(message.starts_with(rule), "{message}, not {rule}");
                assert!(message.len() < 1024, "{}", message.len());
            }
            (ended, rule) => panic!("{interface}.{function} {arguments}: {ended:?}, not {rule:?}"),
        }
    }
}

/// A case of an enum that there is not.
#[test]
fn a_level_that_there_is_not_traps() {
    let mut guest = calling(
        ("log", "write"),
        "(param \"level\" $level) (param \"message\" string)",
        "(param i32 i32 i32)",
        "(i32.const 77) (i32.const 0) (i32.const 1)",
    );
    guest.imports = guest.imports.replace(
        "(instance $log",
        "(instance $log (type $l (enum \"debug\" \"info\" \"warn\" \"error\")) (export \"level\" (type $level (eq $l)))",
    );

    assert!(matches!(called(&guest), Ended::Badly(FailureKind::Trap, _)));
}

/// The host calls `realloc` while it hands something over: no call of the host may begin there.
#[test]
fn a_call_in_the_middle_of_a_call_traps() {
    let mut guest = calling(
        ("request", "set"),
        NAME_VALUE,
        "(param i32 i32 i32 i32)",
        "(i32.const 16) (i32.const 1) (i32.const 16) (i32.const 1)",
    )
    .data(16, "a");
    guest.request_fields = vec!["x-own".to_owned()];
    guest.on_realloc = "(call_indirect $table (i32.const 0))";
    guest.core.push_str(
        "(elem (table $table) (i32.const 0) func $again)
         (func $again (call $it (i32.const 16) (i32.const 1) (i32.const 16) (i32.const 1)))",
    );

    let ended = called_before_init(&guest);

    assert!(ended.contains("cannot leave component instance"), "{ended}");
}

/// `init` itself fails when `realloc` does something that it must not: the configuration is handed over.
fn called_before_init(guest: &Guest) -> String {
    let loaded = ENGINE.load("liar", &guest.build(), &LIMITS, &granted()).unwrap();
    joined(&loaded.probe("{}").unwrap_err())
}

fn chain_of(guest: &Guest, limits: &PluginLimits) -> Chain {
    let plugin = ENGINE.load("liar", &guest.build(), limits, &granted()).unwrap();
    let link =
        LinkPlan { plugin: PlanSource::Wasm(plugin), ..link(&Guest::noop(), OnError::Closed) };
    Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap()
}

/// A million edits, notes and lines in one call: what is kept of them is bounded, and the call by its time.
#[test]
fn a_million_calls_keep_nothing_that_grows() {
    let million = |call: &str| {
        format!(
            "(local $left i32) (local.set $left (i32.const 1000000))
             (loop $again {call}
               (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
             (i32.const 0)"
        )
    };
    let limits = PluginLimits { time_max: Duration::from_secs(60), ..LIMITS };
    let run = |guest: Guest| {
        let chain = chain_of(&guest, &limits);
        let (exchange, passed) = down(&chain, request(&[]));
        (text(&exchange.request.fields).len(), exchange.notes().count(), passed.outcome)
    };

    let append = "(call $it (i32.const 16) (i32.const 1) (i32.const 16) (i32.const 100))";
    let append = Guest::on_request(&million(append)).data(16, &"a".repeat(100));
    let import = ("it", "$request \"append\"", NAME_VALUE, "(param i32 i32 i32 i32)");
    let (edits, _, failed) = run(append.import("request", &[import]));
    // Nothing, over and over: that is no field, and takes no place.
    let import =
        ("it", "$response \"append-later\"", "(param \"packed\" (list u8))", "(param i32 i32)");
    let later = Guest::on_request(&million("(call $it (i32.const 16) (i32.const 0))"));
    let later = chain_of(&later.import("response", &[import]), &limits);
    let (exchange, passed) = down(&later, request(&[]));
    assert_eq!((passed.outcome.unwrap(), exchange.later.capacity()), (Flow::Next, 0));
    // One note for each key of four digits.
    let note = "(i32.store (i32.const 16) (i32.add (i32.rem_u (local.get $left) (i32.const 9999)) (i32.const 0x01010101)))
                (call $it (i32.const 16) (i32.const 4) (i32.const 16) (i32.const 4))";
    let import = (
        "it",
        "$context \"set\"",
        "(param \"key\" string) (param \"value\" (list u8))",
        "(param i32 i32 i32 i32)",
    );
    let (_, notes, _) = run(Guest::on_request(&million(note)).import("context", &[import]));

    assert_eq!(failed.unwrap_err().kind, FailureKind::Violation);
    assert_eq!(edits, 0, "all are undone");
    assert!(notes <= crate::plugin::exchange::NOTES_MAX, "{notes}");
}
