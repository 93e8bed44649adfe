//! The same for imports that take lists of records, or fields in one buffer.

use super::imports::{BAD_OUT, BEYOND, Ended, ODD_OUT, OUT, WRAPPED, called, calling};
use super::*;

/// A guest that calls `counters.take-all` with so many quotas at 16, the first of which has a key of this length.
fn taking(wanted: &str, out: &str, key_bytes: u8) -> Guest {
    let mut guest = calling(
        ("counters", "take-all"),
        "(param \"wanted\" (list $wanted)) (result (result (list $decision) (error $shortage)))",
        "(param i32 i32 i32)",
        &format!("{wanted} {out}"),
    )
    .data(16, &format!("\\00\\00\\00\\00\\{key_bytes:02x}\\01\\00\\00"));
    guest.imports = guest.imports.replace(
        "(instance $counters",
        "(instance $counters
          (type $q (record (field \"count\" u32) (field \"period-ms\" u32) (field \"burst\" u32)))
          (export \"quota\" (type $quota (eq $q)))
          (type $d (record (field \"allowed\" bool) (field \"remaining\" u32)
            (field \"retry-after-ms\" u32) (field \"reset-after-ms\" u32)))
          (export \"decision\" (type $decision (eq $d)))
          (type $w (record (field \"key\" (list u8)) (field \"quota\" $quota) (field \"cost\" u32)))
          (export \"wanted\" (type $wanted (eq $w)))
          (type $s (record (field \"index\" u32) (field \"decision\" $decision)))
          (export \"shortage\" (type $shortage (eq $s)))",
    );
    guest
}

#[test]
fn absurd_quotas_break_a_rule_or_trap() {
    let rule = |guest: &Guest| match called(guest) {
        Ended::Badly(FailureKind::Violation, message) => message,
        other => panic!("{other:?}"),
    };
    for many in [65, 10_000] {
        let message = rule(&taking(&format!("(i32.const 16) (i32.const {many})"), OUT, 0));
        assert_eq!(&*message, "counters.take-all: at most 64 quotas at once");
    }
    let message = rule(&taking("(i32.const 16) (i32.const 1)", OUT, 1));
    assert_eq!(&*message, "counters.take-all: a key has at most 256 bytes");
    for good in [0, 1, 64] {
        let many = format!("(i32.const 16384) (i32.const {good})");
        assert_eq!(called(&taking(&many, OUT, 0)), Ended::Well, "{good}, with nothing to take");
    }
    for (wanted, out) in [
        (BEYOND, OUT),
        (WRAPPED, OUT),
        // Not where a record may begin.
        ("(i32.const 17) (i32.const 1)", OUT),
        ("(i32.const 16) (i32.const 1)", BAD_OUT),
        ("(i32.const 16) (i32.const 1)", ODD_OUT),
    ] {
        let ended = called(&taking(wanted, out, 0));
        assert!(matches!(ended, Ended::Badly(FailureKind::Trap, _)), "{wanted} {out}: {ended:?}");
    }
}

/// What is left for the response is looked at when it is left.
#[test]
fn absurd_fields_for_later_break_a_rule_or_trap() {
    let leaving = |arguments: &str, data: &str| {
        let guest = calling(
            ("response", "append-later"),
            "(param \"packed\" (list u8))",
            "(param i32 i32)",
            arguments,
        );
        // In `on-request`, where it is for.
        let body = guest.on_response.clone();
        called(&Guest { on_request: body, on_response: None, ..guest }.data(16, data))
    };
    let at = |length: usize| format!("(i32.const 16) (i32.const {length})");
    assert_eq!(leaving(&at(0), ""), Ended::Well);
    assert_eq!(leaving(&at(6), "\\01\\00\\01\\00xy"), Ended::Well);
    for (length, data, why) in [
        (3, "\\01\\00\\01", "cut short"),
        (5, "\\01\\00\\01\\00x", "cut short"),
        (8, "\\ff\\ff\\ff\\ffxxxx", "cut short"),
        (5, "\\00\\00\\01\\00x", "\"\""),
        (6, "\\01\\00\\01\\00\\ffy", ""),
        (6, "\\01\\00\\01\\00x\\0a", "\"x\""),
        (18, "\\0e\\00\\00\\00content-length", "\"content-length\""),
        (70_000, "", "more than 64 KiB"),
    ] {
        match leaving(&at(length), data) {
            Ended::Badly(FailureKind::Violation, message) => {
                assert!(message.starts_with("response.append-later"), "{data}: {message}");
                assert!(message.contains(why), "{data}: {message}");
            }
            other => panic!("{data}: {other:?}"),
        }
    }
    for bad in [BEYOND, WRAPPED] {
        let ended = leaving(bad, "");
        assert!(matches!(ended, Ended::Badly(FailureKind::Trap, _)), "{bad}: {ended:?}");
    }
}
