//! Request heads: never a panic, and what is written is read back as the same request.

#![no_main]

use libfuzzer_sys::fuzz_target;
use zproxy_fuzz::http::parse::{self, Framing, HeadLimits};
use zproxy_fuzz::http::{RequestHead, write};

const LIMITS: HeadLimits = HeadLimits { bytes_max: 65_536, fields_max: 100, target_bytes_max: 8192 };

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(end)) = parse::find_end(bytes, 0) else { return };
    // However the bytes arrive, the end is found at the same place.
    for searched in [end / 3, end / 2, end.saturating_sub(1)] {
        if let Ok(found) = parse::find_end(bytes, searched) {
            assert_eq!(found, Some(end));
        }
    }
    let mut head = RequestHead::default();
    let Ok(facts) = parse::request(&bytes[..end], &mut head, &LIMITS) else { return };
    assert!(head.target().starts_with('/') || head.target() == "*");
    let mut written = Vec::new();
    write::request(&mut written, &mut head, facts.framing, None);
    assert_eq!(parse::find_end(&written, 0).ok().flatten(), Some(written.len()));
    let mut again = RequestHead::default();
    let facts_again = parse::request(&written, &mut again, &LIMITS);
    // What is sent on must never be read differently from what was received.
    match facts_again {
        Ok(facts_again) => {
            assert_eq!(facts_again.framing, facts.framing);
            assert_eq!(again.method_name(), head.method_name());
            assert_eq!(again.target(), head.target());
            let fields: Vec<_> = head.fields.iter().collect();
            let fields_again: Vec<_> = again.fields.iter().collect();
            assert_eq!(fields, fields_again);
        }
        // A 1.0 request may come without Host; the header rules add one before it is sent.
        Err(_) => assert!(head.authority().is_none(), "refused what we wrote ourselves"),
    }
    assert!(!matches!(facts.framing, Framing::UntilClose), "a request never ends at close");
});
