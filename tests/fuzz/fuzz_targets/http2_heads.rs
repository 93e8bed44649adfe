//! Heads of HTTP/1 to HTTP/2 and back: never a panic, and the same message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use zproxy_fuzz::http::fields::Fields;
use zproxy_fuzz::http::parse::{self, Framing, HeadLimits};
use zproxy_fuzz::http::{Method, RequestHead, ResponseHead, h2};

const LIMITS: HeadLimits =
    HeadLimits { bytes_max: 65_536, fields_max: 100, target_bytes_max: 8192 };

/// Fields have 32 bytes more than they have here.
const WIDE: HeadLimits = HeadLimits { bytes_max: 1 << 20, fields_max: 200, target_bytes_max: 8192 };

/// The fields that are passed on as they are, in order of their names: the rest is about the connection, or said
/// otherwise. Crumbs of a cookie are put together.
fn fields(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    let apart = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "te",
        "host",
        "cookie",
        "expect",
        "content-length",
    ];
    let lower = fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
    let mut all: Vec<_> =
        lower.filter(|(name, _)| !apart.iter().any(|it| it.as_bytes() == name)).collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

fn request(bytes: &[u8], end: usize) {
    let mut head = RequestHead::default();
    let Ok(facts) = parse::request(&bytes[..end], &mut head, &LIMITS) else { return };
    let Ok(message) = h2::write_request(&head, "http", "server") else { return };
    let (parts, ()) = message.into_parts();
    let mut again = RequestHead::default();
    let ended = facts.framing == Framing::None;
    if h2::request(&parts, ended, &mut again, &WIDE).is_err() {
        // A length is wrong where nothing follows, and an empty one is nothing.
        assert!(
            ended || matches!(head.method, Method::Connect),
            "refused what we wrote ourselves: {parts:?}"
        );
        return;
    }
    assert_eq!(again.method_name(), head.method_name());
    assert_eq!(again.target(), head.target());
    let authority = head.authority().filter(|it| !it.is_empty()).unwrap_or("server");
    assert_eq!(again.authority(), Some(authority));
    assert_eq!(fields(&again.fields), fields(&head.fields));
}

fn response(bytes: &[u8], end: usize) {
    let mut head = ResponseHead::default();
    let Ok(facts) = parse::response(&bytes[..end], &mut head, Method::Get, &LIMITS) else { return };
    if head.status == 101 {
        return;
    }
    let (parts, ()) = h2::write_response(&head).into_parts();
    let mut again = ResponseHead::default();
    let ended = facts.framing == Framing::None;
    h2::response(&parts, ended, &mut again, Method::Get, &WIDE)
        .expect("what was written can be read");
    assert_eq!(again.status, head.status);
    assert_eq!(fields(&again.fields), fields(&head.fields));
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(end)) = parse::find_end(bytes, 0) {
        request(bytes, end);
        response(bytes, end);
    }
});
