//! `on-message` of guests that lie, and what they ask of `websocket`.
//!
//! What becomes of a WebSocket is tested end to end (`tests/e2e/websocket_hooks.rs`).

use bytes::Bytes;

use super::*;

const REPLACE: &str = "(call $replace (i32.const 0) (i32.const 64) (i32.const 4))";
const CLOSE: &str = "(call $close (i32.const 4000) (i32.const 64) (i32.const 4))";

/// A hook for messages with both functions of `websocket`, and a text at 64.
fn telling(instructions: &str) -> Guest {
    importing(Guest::on_message(instructions))
}

fn importing(guest: Guest) -> Guest {
    let mut guest = guest
        .import(
            "websocket",
            &[
                (
                    "replace",
                    "$websocket \"replace\"",
                    "(param \"kind\" $kind) (param \"data\" (list u8))",
                    "(param i32 i32 i32)",
                ),
                (
                    "close",
                    "$websocket \"close\"",
                    "(param \"code\" u16) (param \"reason\" string)",
                    "(param i32 i32 i32)",
                ),
            ],
        )
        .data(64, "told\\ff\\fe");
    guest.imports = guest.imports.replace(
        "(instance $websocket",
        "(instance $websocket (type $k (enum \"text\" \"binary\")) \
         (export \"message-kind\" (type $kind (eq $k)))",
    );
    guest
}

/// What becomes of three messages, the same each time.
fn told(guest: &Guest) -> Result<MessagePassed, HookFailure> {
    on_worker(|| {
        let limits = PluginLimits { body_bytes_max: 100_000, ..LIMITS };
        let loaded = ENGINE.load("guest", &guest.build(), &limits, &Arc::default());
        let plugin = loaded.unwrap_or_else(|error| panic!("{error}\n{}", guest.text()));
        let link = LinkPlan { plugin: PlanSource::Wasm(plugin), ..link(guest, OnError::Closed) };
        let chain = Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap();
        let mut place = Some(request(&[("x-own", "1")]));
        let data = Bytes::from_static(b"hello");
        let message = SocketMessage { is_text: true, data };
        let mut tell = |from| {
            let passed = chain.on_message(&mut place, from, message.clone());
            let exchange = place.as_ref().expect("it is put back");
            assert_eq!(text(&exchange.request.fields), "x-own: 1; ", "edits are lost");
            passed.map_err(|failure| *failure)
        };
        let first = tell(Peer::Client);
        for from in [Peer::Server, Peer::Client] {
            assert_eq!(format!("{first:?}"), format!("{:?}", tell(from)));
        }
        first
    })
}

fn failed(guest: &Guest) -> (FailureKind, Arc<str>) {
    match told(guest) {
        Err(failure) => (failure.kind, failure.message),
        Ok(passed) => panic!("{passed:?}"),
    }
}

#[test]
fn a_message_becomes_what_was_asked_for_last() {
    let passed = told(&telling(&format!("{CLOSE} {REPLACE} {REPLACE} (i32.const 1)"))).unwrap();
    let MessagePassed::On(message) = passed else { panic!("{passed:?}") };
    assert_eq!((message.is_text, &message.data[..]), (true, &b"told"[..]));

    let passed = told(&telling(&format!("{REPLACE} {CLOSE} (i32.const 3)"))).unwrap();
    assert!(matches!(passed, MessagePassed::Closed(4000, reason) if reason == "told"));

    // What was asked for without being said is nothing.
    let passed = told(&telling(&format!("{REPLACE} {CLOSE} (i32.const 0)"))).unwrap();
    assert!(matches!(passed, MessagePassed::On(message) if &message.data[..] == b"hello"));
    let passed = told(&telling(&format!("{REPLACE} {CLOSE} (i32.const 2)"))).unwrap();
    assert!(matches!(passed, MessagePassed::Dropped));
}

#[test]
fn a_rule_that_is_broken_fails_the_hook_by_name() {
    for (instructions, rule) in [
        ("(i32.const 1)", "it answered `replaced` without a call of `websocket.replace`"),
        ("(i32.const 3)", "it answered `close` without a call of `websocket.close`"),
        (
            "(call $replace (i32.const 0) (i32.const 64) (i32.const 6)) (i32.const 1)",
            "websocket.replace: the text is not UTF-8",
        ),
        (
            "(call $replace (i32.const 1) (i32.const 0) (i32.const 200000)) (i32.const 1)",
            "websocket.replace",
        ),
        (
            "(call $close (i32.const 0) (i32.const 64) (i32.const 4)) (i32.const 3)",
            "websocket.close",
        ),
        (
            "(call $close (i32.const 1005) (i32.const 64) (i32.const 4)) (i32.const 3)",
            "websocket.close",
        ),
        (
            "(call $close (i32.const 65535) (i32.const 64) (i32.const 4)) (i32.const 3)",
            "websocket.close",
        ),
        (
            "(call $close (i32.const 4000) (i32.const 200) (i32.const 124)) (i32.const 3)",
            "websocket.close",
        ),
        // It is found out when the hook returns, whatever it then says.
        (
            "(call $close (i32.const 0) (i32.const 64) (i32.const 4)) (i32.const 0)",
            "websocket.close",
        ),
    ] {
        let (kind, message) = failed(&telling(instructions));
        assert_eq!(kind, FailureKind::Violation, "{instructions}: {message}");
        assert!(message.starts_with(rule), "{instructions}: {message}");
    }
    let bytes = "(call $replace (i32.const 1) (i32.const 64) (i32.const 6)) (i32.const 1)";
    assert!(told(&telling(bytes)).is_ok(), "bytes are any");
}

/// Addresses, lengths, texts and cases of enums that are not as the ABI has them.
#[test]
fn what_is_no_value_traps() {
    for instructions in [
        "(i32.const 4)",
        "(i32.const -1)",
        "(call $replace (i32.const 2) (i32.const 64) (i32.const 4)) (i32.const 1)",
        "(call $replace (i32.const 0) (i32.const 65536) (i32.const 0x7fffffff)) (i32.const 1)",
        "(call $replace (i32.const 0) (i32.const -1) (i32.const -1)) (i32.const 1)",
        "(call $close (i32.const 4000) (i32.const 68) (i32.const 2)) (i32.const 3)",
        "(call $close (i32.const 4000) (i32.const -1) (i32.const 2)) (i32.const 3)",
        "(unreachable)",
    ] {
        let (kind, message) = failed(&telling(instructions));
        assert_eq!(kind, FailureKind::Trap, "{instructions}: {message}");
    }
}

/// The message is handed over by `realloc`: no call of the host may begin there.
#[test]
fn a_call_while_a_message_is_handed_over_traps() {
    let mut guest = telling("(i32.const 0)");
    // Not while `init` is handed its configuration.
    guest.on_realloc = "(if (i32.load (i32.const 80)) (then (call_indirect $table (i32.const 0))))";
    guest.init = "(i32.store (i32.const 80) (i32.const 1))";
    guest.core.push_str(&format!(
        "(elem (table $table) (i32.const 0) func $again) (func $again {REPLACE})"
    ));

    let (kind, message) = failed(&guest);

    assert_eq!(kind, FailureKind::Trap, "{message}");
    assert!(message.contains("cannot leave component instance"), "{message}");
}

#[test]
fn messages_are_replaced_in_their_hook_only() {
    let guest = importing(Guest::on_request(&format!("{REPLACE} (i32.const 0)")));
    let chain = Instances::new().chain(&plan([&guest])).unwrap();

    let (_, passed) = down(&chain, request(&[]));

    let failure = failure(passed);
    assert_eq!(failure.kind, FailureKind::Violation);
    assert!(failure.message.contains("it is for `on-message`"), "{failure}");
}

/// A hundred thousand replacements of one message are one.
#[test]
fn a_flood_of_replacements_leaves_the_last() {
    let flood = format!(
        "(local $left i32) (local.set $left (i32.const 100000))
         (loop $again {REPLACE}
           (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         (i32.const 1)"
    );
    let guest = telling(&flood);
    let limits = PluginLimits { time_max: Duration::from_secs(60), ..LIMITS };
    let plugin = ENGINE.load("guest", &guest.build(), &limits, &Arc::default()).unwrap();
    let link = LinkPlan { plugin: PlanSource::Wasm(plugin), ..link(&guest, OnError::Closed) };
    let chain = Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap();
    let message = SocketMessage { is_text: false, data: Bytes::from_static(b"x") };

    let passed = chain.on_message(&mut Some(request(&[])), Peer::Server, message).unwrap();

    assert!(matches!(passed, MessagePassed::On(message) if &message.data[..] == b"told"));
}
