//! Response heads: never a panic, and what is written is read back as the same response.

#![no_main]

use libfuzzer_sys::fuzz_target;
use zproxy_fuzz::http::parse::{self, HeadLimits};
use zproxy_fuzz::http::write::{self, ConnectionField};
use zproxy_fuzz::http::{Method, ResponseHead};

const LIMITS: HeadLimits = HeadLimits { bytes_max: 65_536, fields_max: 100, target_bytes_max: 8192 };

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let method = if choice & 1 == 0 { Method::Get } else { Method::Head };
    let Ok(Some(end)) = parse::find_end(bytes, 0) else { return };
    let mut head = ResponseHead::default();
    let Ok(facts) = parse::response(&bytes[..end], &mut head, method, &LIMITS) else { return };
    assert!((100..600).contains(&head.status));
    let mut written = Vec::new();
    write::response(&mut written, &mut head, facts.framing, ConnectionField::Absent);
    let mut again = ResponseHead::default();
    let facts_again = parse::response(&written, &mut again, method, &LIMITS)
        .expect("what was written can be read");
    assert_eq!(again.status, head.status);
    if method != Method::Head && !head.is_bodiless() {
        assert_eq!(facts_again.framing, facts.framing);
    }
});
