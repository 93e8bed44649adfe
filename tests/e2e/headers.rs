//! What the gateway adds to messages, and what it takes off.
//!
//! Not here: framing (`framing`), plugins' edits (`plugins`).

use serde_json::json;

use crate::harness::{Gateway, Message, Upstream};

/// Sends these field lines through the gateway: the request that the upstream got.
fn request_upstream(fields: &str, more: serde_json::Value) -> Message {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(&upstream, more);
    let answer = gateway.ask("GET", "/a?b", fields);
    assert_eq!(answer.status(), 200, "{answer:?}");
    upstream.last_request()
}

/// Sends these field lines from an upstream: the answer that the client got.
fn answer_from(fields: &str) -> Message {
    let upstream =
        Upstream::sending(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"));
    let gateway = Gateway::to(&upstream);
    gateway.get("/")
}

/// RFC 9110 §7.6.1: fields about one connection stay on it.
#[test]
fn hop_by_hop_fields_of_a_request_are_not_passed_on() {
    let request = request_upstream(
        "Connection: x-mine, keep-alive\r\nConnection: X-Other\r\nX-Mine: 1\r\nx-other: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers, deflate\r\n\
         Proxy-Authorization: Basic eA==\r\nUpgrade: foo/2\r\nHTTP2-Settings: AAMAAABk\r\nX-Kept: 3\r\n",
        json!({}),
    );

    for name in [
        "x-mine",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
    ] {
        assert_eq!(request.all(name), [""; 0], "{name}");
    }
    assert_eq!(request.field("x-kept"), Some("3"));
    assert!(!request.all("connection").concat().to_ascii_lowercase().contains("x-"), "{request:?}");
    assert!(!request.all("te").concat().contains("deflate"), "{request:?}");
}

#[test]
fn hop_by_hop_fields_of_an_answer_are_not_passed_on() {
    let answer = answer_from(
        "Connection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
         Upgrade: h2,h2c\r\nProxy-Authenticate: Basic\r\nX-Kept: 3\r\n",
    );

    for name in ["x-mine", "keep-alive", "proxy-connection", "upgrade", "proxy-authenticate"] {
        assert_eq!(answer.all(name), [""; 0], "{name}");
    }
    assert_eq!(answer.field("x-kept"), Some("3"));
}

/// A client must not be able to have the gateway's own fields, or those that frame the message,
/// taken off by naming them in Connection.
#[test]
fn connection_cannot_name_away_what_matters() {
    let request = request_upstream(
        "Connection: host, x-forwarded-for, x-forwarded-proto, via, x-request-id, traceparent\r\n",
        json!({}),
    );

    for name in
        ["host", "x-forwarded-for", "x-forwarded-proto", "via", "x-request-id", "traceparent"]
    {
        assert!(request.field(name).is_some(), "{name} is gone: {request:?}");
    }

    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\nhi",
    );
    // Refusing it is as good as ignoring it.
    let answer = client.response();
    if answer.status() == 200 {
        assert_eq!(answer.text(), "hi");
    } else {
        assert_eq!(answer.status(), 400);
    }
}

/// Interface §4: who asked, how, for what; a trace; a name of the request.
#[test]
fn a_request_goes_upstream_with_forwarding_fields() {
    let request = request_upstream("X-Order: 1\r\nAccept: a\r\nAccept: b\r\n", json!({}));

    assert_eq!(request.target(), "/a?b");
    assert_eq!(request.field("host"), Some("gateway.test"));
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("x-forwarded-host"), Some("gateway.test"));
    assert_eq!(request.field("via"), Some("1.1 zproxy"));
    assert_eq!(request.all("accept"), ["a", "b"]);
    assert_is_uuid_v7(request.field("x-request-id").unwrap());
    assert_is_traceparent(request.field("traceparent").unwrap());
    // Nothing else was invented.
    assert_eq!(request.field("forwarded"), None);
    assert_eq!(request.field("content-length"), None);
    assert_eq!(request.field("transfer-encoding"), None);
}

/// RFC 9110 §7.6.3: the protocol is that of the message received.
#[test]
fn via_names_the_version_received_and_keeps_those_before() {
    let upstream =
        Upstream::sending("HTTP/1.1 200 OK\r\nVia: 1.1 inner\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::to(&upstream);

    let answer = gateway.connect().exchange("GET / HTTP/1.0\r\nHost: a\r\nVia: 1.0 outer\r\n\r\n");

    assert_eq!(answer.all("via").join(", "), "1.1 inner, 1.1 zproxy");
    let via = upstream.last_request().all("via").join(", ");
    assert!(["1.0 outer, 1.0 zproxy", "1.0 outer, 1.1 zproxy"].contains(&via.as_str()), "{via}");
}

/// From just anybody these are claims; passed on they would be believed.
#[test]
fn forwarding_fields_of_untrusted_clients_are_replaced() {
    let request = request_upstream(
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil.example\r\nForwarded: for=6.6.6.6\r\nX-Request-Id: mine\r\n",
        json!({}),
    );

    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("x-forwarded-host"), Some("gateway.test"));
    assert!(!request.all("forwarded").concat().contains("6.6.6.6"), "{request:?}");
    assert_is_uuid_v7(request.field("x-request-id").unwrap());
}

#[test]
fn forwarding_fields_of_trusted_proxies_are_believed_and_continued() {
    let request = request_upstream(
        "X-Forwarded-For: 6.6.6.6, 10.0.0.9\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: real.example\r\nX-Request-Id: mine\r\n",
        json!({ "trusted_proxies": ["127.0.0.0/8"] }),
    );

    assert_eq!(request.all("x-forwarded-for").join(", "), "6.6.6.6, 10.0.0.9, 127.0.0.1");
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    assert_eq!(request.field("x-forwarded-host"), Some("real.example"));
    assert_eq!(request.field("x-request-id"), Some("mine"));
}

#[test]
fn a_peer_outside_of_the_trusted_blocks_is_not_believed() {
    let request = request_upstream(
        "X-Forwarded-For: 6.6.6.6\r\n",
        json!({ "trusted_proxies": ["10.0.0.0/8", "127.0.0.2/32", "::1"] }),
    );

    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
}

/// W3C Trace Context §2, §4: the trace goes on, with a new parent.
#[test]
fn a_trace_is_continued_and_a_broken_one_replaced() {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = request_upstream(
        &format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n"),
        json!({}),
    );
    let parent = request.field("traceparent").unwrap();
    assert_is_traceparent(parent);
    assert_eq!(&parent[3..35], trace);
    assert_eq!(&parent[53..], "01", "the sampling decision is the client's");
    assert_eq!(request.field("tracestate"), Some("a=b"));

    for broken in ["00-0-1-01", "ff-x", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
        let request = request_upstream(&format!("traceparent: {broken}\r\n"), json!({}));
        let parent = request.field("traceparent").unwrap();
        assert_is_traceparent(parent);
        assert!(!parent.contains("00000000000000000000000000000000"), "{parent}");
    }
}

/// RFC 9110 §6.6.1: a Date is added where there is none; nothing tells what runs here.
#[test]
fn an_answer_gets_a_date_and_a_via_and_no_server() {
    let answer = answer_from("");

    assert_is_date(answer.field("date").unwrap());
    assert_eq!(answer.field("via"), Some("1.1 zproxy"));
    assert_eq!(answer.field("server"), None);
}

#[test]
fn fields_of_the_upstream_are_kept_as_they_are() {
    let answer = answer_from(
        "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: theirs\r\nSet-Cookie: a=1\r\nSET-COOKIE: b=2\r\n",
    );

    assert_eq!(answer.field("date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(answer.field("server"), Some("theirs"));
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    assert!(answer.fields.iter().any(|(name, _)| name == "SET-COOKIE"), "names as received");
}

/// Interface §4 and RFC 9457: JSON for programs, a line for people, the cause for operators.
#[test]
fn the_gateways_own_answers_suit_their_reader() {
    let gateway =
        Gateway::start(json!({ "routes": [{ "path": "/here", "respond": { "status": 200 } }] }));

    for accept in ["application/json", "text/html, application/problem+json;q=0.9", "application/*"]
    {
        let answer = gateway.ask("GET", "/gone", &format!("Accept: {accept}\r\n"));
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{accept}");
        let problem = answer.json();
        assert_eq!(problem["status"], 404, "{problem}");
        assert!(problem["title"].is_string(), "{problem}");
    }
    for fields in ["", "Accept: text/html\r\n", "Accept: application/json;q=0\r\n"] {
        let answer = gateway.ask("GET", "/gone", fields);
        assert_eq!(answer.status(), 404);
        assert!(answer.field("content-type").unwrap().starts_with("text/plain"), "{answer:?}");
        assert!(answer.text().trim_end().lines().count() == 1, "{answer:?}");
    }
    let answer = gateway.get("/gone");
    assert!(answer.field("proxy-status").unwrap().starts_with("zproxy"), "{answer:?}");
    assert_eq!(answer.field("server"), None);
    assert_is_date(answer.field("date").unwrap());
    // RFC 9110 §9.3.2: as for GET, without the body.
    let head = gateway.ask("HEAD", "/gone", "");
    assert_eq!((head.status(), head.body.len()), (404, 0));
}

fn assert_is_uuid_v7(text: &str) {
    let hex = text.replace('-', "");
    let dashes: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
    let good = hex.len() == 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        && dashes == [8, 13, 18, 23]
        && text.as_bytes()[14] == b'7'
        && b"89ab".contains(&text.as_bytes()[19]);
    assert!(good, "{text:?} is no UUIDv7");
}

fn assert_is_traceparent(text: &str) {
    let parts: Vec<&str> = text.split('-').collect();
    let good = parts.iter().map(|part| part.len()).eq([2, 32, 16, 2])
        && parts.concat().bytes().all(|byte| b"0123456789abcdef".contains(&byte))
        && parts[1].bytes().any(|byte| byte != b'0')
        && parts[2].bytes().any(|byte| byte != b'0');
    assert!(good, "{text:?} is no traceparent");
}

/// RFC 9110 §5.6.7, IMF-fixdate.
fn assert_is_date(text: &str) {
    let shape: String = text
        .chars()
        .map(|letter| match letter {
            'a'..='z' | 'A'..='Z' => 'a',
            '0'..='9' => '0',
            other => other,
        })
        .collect();
    assert!(
        shape == "aaa, 00 aaa 0000 00:00:00 aaa" && text.ends_with(" GMT"),
        "{text:?} is no date"
    );
}
