//! Requests that two parsers could read differently, or that no parser should read: refused, the
//! connection closed, and nothing of what hides behind them reaches the upstream.
//!
//! Each row is followed on the wire by a second request for `/hidden`.
//!
//! Not here: the same from upstreams (`bad_upstream`), and sizes (`limits`).

use std::time::Duration;

use serde_json::json;

use crate::harness::{Body, Gateway, Upstream, Wire, WireError, eventually};

/// What the upstream may have seen of a refused request.
#[derive(Clone, Copy, PartialEq)]
enum Seen {
    /// The head was wrong: nothing.
    Nothing,
    /// The body was wrong: a head and a part of the body, never the end of it.
    Part,
}

/// Sends each row on a connection of its own and says what is wrong with the answers.
///
/// A row is complete in itself; statuses other than 400 are named with the row.
fn refused(rows: &[(&[u8], &[u16])], seen: Seen) {
    let upstream = Upstream::answering("reached");
    let gateway = Gateway::to(&upstream);
    let mut problems = Vec::new();

    for (row, statuses) in rows {
        let connections = upstream.connections();
        let requests = upstream.requests().len();
        let mut client = gateway.connect();
        // Refused in the middle, the rest may find a closed connection.
        let _ = client.try_send(row);
        let _ = client.try_send("GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.try_response();
        let mut say = |what: String| problems.push(format!("{}: {what}", show(row)));
        match &answer {
            Ok(answer) if !(answer.status() == 400 || statuses.contains(&answer.status())) => {
                say(format!("answered {}", answer.start));
            }
            Ok(answer) if !answer.says_close() => say("without `Connection: close`".into()),
            Ok(_) => {
                if let Some(rest) = remains_open(&mut client) {
                    say(format!("then {rest}"));
                }
            }
            Err(error) => say(format!("no answer: {error:?}")),
        }
        if upstream.requests().len() != requests {
            say(format!("reached the upstream as {:?}", upstream.last_request()));
        }
        if seen == Seen::Nothing && upstream.connections() != connections {
            say("opened a connection to the upstream".into());
        }
    }

    assert!(problems.is_empty(), "{} rows:\n{}", problems.len(), problems.join("\n"));
    assert!(!upstream.received_text().contains("/hidden"), "{}", upstream.received_text());
    // The gateway is none the worse for it.
    assert_eq!(gateway.get("/").text(), "reached");
}

fn remains_open(client: &mut Wire) -> Option<String> {
    match client.take_rest() {
        Ok(rest) if rest.is_empty() => None,
        Err(WireError::Reset) => None,
        other => Some(format!("{other:?}")),
    }
}

fn show(row: &[u8]) -> String {
    row[..row.len().min(120)].escape_ascii().to_string()
}

/// RFC 9112 §6.1, §6.3; RFC 9110 §8.6: the length of a body must be one thing.
#[test]
fn a_body_length_that_can_be_read_in_two_ways_is_refused() {
    let heads: &[(&str, &[u16])] = &[
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", &[]),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", &[]),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", &[]),
        ("Content-Length: 5\r\nContent-Length: 6", &[]),
        ("Content-Length: 0\r\nContent-Length: 5", &[]),
        ("Content-Length: 5, 6", &[]),
        ("Content-Length: 5,", &[]),
        ("Content-Length: +5", &[]),
        ("Content-Length: -5", &[]),
        ("Content-Length: 5 5", &[]),
        ("Content-Length: 0x5", &[]),
        ("Content-Length: 5a", &[]),
        ("Content-Length: 5.0", &[]),
        ("Content-Length: \"5\"", &[]),
        ("Content-Length:", &[]),
        ("Content-Length: \x0b5", &[]),
        ("Content-Length: 18446744073709551616", &[413]),
        ("Content-Length: 18446744073709551621", &[413]),
        ("Content-Length: 99999999999999999999999999", &[413]),
        ("Content-Length: \u{ff15}", &[]),
        ("Content-Length : 5", &[]),
        ("Content-Length\t: 5", &[]),
        ("Transfer-Encoding: gzip", &[501]),
        ("Transfer-Encoding: identity", &[501]),
        ("Transfer-Encoding: chunked, identity", &[501]),
        ("Transfer-Encoding: identity, chunked", &[501]),
        ("Transfer-Encoding: gzip, chunked", &[501]),
        ("Transfer-Encoding: chunked, gzip", &[501]),
        ("Transfer-Encoding: chunked, chunked", &[501]),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", &[501]),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &[501]),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", &[501]),
        ("Transfer-Encoding: xchunked", &[501]),
        ("Transfer-Encoding: chunkedx", &[501]),
        ("Transfer-Encoding: chunked;q=1", &[501]),
        ("Transfer-Encoding: \"chunked\"", &[501]),
        ("Transfer-Encoding: \x0bchunked", &[501]),
        ("Transfer-Encoding: chunked\x0c", &[501]),
        ("Transfer-Encoding: chunk\u{e9}d", &[501]),
        ("Transfer-Encoding:", &[501]),
        ("Transfer-Encoding : chunked", &[]),
        ("Transfer-Encoding:\r\n chunked", &[]),
        ("X: y\r\n Transfer-Encoding: chunked", &[]),
        ("X: y\rTransfer-Encoding: chunked", &[]),
        ("X: y\nTransfer-Encoding: chunked", &[]),
        (" Transfer-Encoding: chunked", &[]),
        ("Transfer-Encoding\0: chunked", &[]),
        ("Transfer-Encoding: chunked\0", &[501]),
    ];
    let rows: Vec<(Vec<u8>, &[u16])> = heads
        .iter()
        .map(|(fields, statuses)| {
            let row = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n");
            (row.into_bytes(), *statuses)
        })
        .collect();
    let rows: Vec<(&[u8], &[u16])> = rows.iter().map(|(row, s)| (row.as_slice(), *s)).collect();

    refused(&rows, Seen::Nothing);
}

/// RFC 9112 §6.1: HTTP/1.0 has no transfer codings; a server that thinks otherwise can be fooled.
#[test]
fn a_transfer_coding_in_http_1_0_is_refused() {
    refused(
        &[
            (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[501]),
            (
                b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\
                  Content-Length: 5\r\n\r\n0\r\n\r\n",
                &[501],
            ),
        ],
        Seen::Nothing,
    );
}

/// Equal lengths, told twice, may be read as one or refused (RFC 9110 §8.6), but never passed on
/// as two.
#[test]
fn the_same_length_told_twice_is_passed_on_once_or_not_at_all() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);

    for fields in ["Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5, 5"] {
        let before = upstream.requests().len();
        let answer = gateway
            .connect()
            .exchange(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nhello"));

        match answer.status() {
            200 => assert_eq!(upstream.last_request().framing, Body::Length(5)),
            400 => assert_eq!(upstream.requests().len(), before),
            other => panic!("{fields:?}: {other}"),
        }
    }
}

/// RFC 9112 §2.2, §5.1, §5.2: lines end in CRLF, names touch their colon, nothing is folded.
#[test]
fn a_field_line_that_is_not_exactly_one_is_refused() {
    let rows: &[(&[u8], &[u16])] = &[
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\nHost: a\n\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\n\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\nX: y\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: w\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\rHost: a\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\0\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n \r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\x80: z\r\n\r\n", &[]),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\"X\": z\r\n\r\n", &[]),
    ];

    refused(rows, Seen::Nothing);
}

/// RFC 9112 §3.2; RFC 9110 §7.2: exactly one Host, and a valid one, or routes can be confused.
#[test]
fn a_missing_double_or_malformed_host_is_refused() {
    let hosts = [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a, b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a\\b\r\n",
        "Host: user@a\r\n",
        "Host: http://a\r\n",
        "Host: a:port\r\n",
        "Host: a:-1\r\n",
        "Host: a:1:2\r\n",
        "Host: [::1\r\n",
        "Host: ::1\r\n",
        "Host: [::1]x\r\n",
        "Host: a\tb\r\n",
        "Host: a<b>\r\n",
        "Host: a%zz\r\n",
    ];
    let rows: Vec<Vec<u8>> =
        hosts.iter().map(|host| format!("GET / HTTP/1.1\r\n{host}X: y\r\n\r\n").into()).collect();
    let rows: Vec<(&[u8], &[u16])> =
        rows.iter().map(|row| (row.as_slice(), [].as_slice())).collect();

    refused(&rows, Seen::Nothing);
}

/// The other side of the above: what is a valid host is let through.
#[test]
fn every_form_of_a_valid_host_is_accepted() {
    let upstream = Upstream::answering("reached");
    let gateway = Gateway::to(&upstream);

    for host in [
        "a",
        "A.b-c.example",
        "a:80",
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:80",
        "a_b",
        "a.",
    ] {
        let answer = gateway.connect().exchange(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));

        assert_eq!(answer.status(), 200, "{host}: {answer:?}");
        assert_eq!(upstream.last_request().field("host"), Some(host));
    }
}

/// RFC 9112 §3: one method, one target, one version, each a single space apart.
#[test]
fn a_request_line_that_is_not_exactly_one_is_refused() {
    let lines: &[(&[u8], &[u16])] = &[
        (b"GE(T / HTTP/1.1", &[501]),
        (b"G\0T / HTTP/1.1", &[501]),
        (b"G\x80T / HTTP/1.1", &[501]),
        (b" GET / HTTP/1.1", &[501]),
        (b"/ HTTP/1.1", &[501]),
        (b" / HTTP/1.1", &[501]),
        (b"GET /", &[505]),
        (b"GET", &[505]),
        (b"GET / ", &[505]),
        (b"GET  / HTTP/1.1", &[]),
        (b"GET /  HTTP/1.1", &[]),
        (b"GET\t/ HTTP/1.1", &[]),
        (b"GET /\tHTTP/1.1", &[]),
        (b"GET / HTTP/1.1 ", &[505]),
        (b"GET / HTTP/1.1 x", &[505]),
        (b"GET /a b HTTP/1.1", &[]),
        (b"GET /a\0 HTTP/1.1", &[]),
        (b"GET /a\x01 HTTP/1.1", &[]),
        (b"GET /a\x7f HTTP/1.1", &[]),
        (b"GET a HTTP/1.1", &[]),
        (b"GET ?a HTTP/1.1", &[]),
        (b"GET a:80 HTTP/1.1", &[]),
        (b"GET * HTTP/1.1", &[]),
        (b"GET http:/x HTTP/1.1", &[]),
        (b"GET http:// HTTP/1.1", &[]),
        (b"GET http://u@h/ HTTP/1.1", &[]),
        (b"GET ftp://h/ HTTP/1.1", &[421]),
        (b"GET / HTTP/0.9", &[505]),
        (b"GET / HTTP/2.0", &[505]),
        (b"GET / HTTP/3.0", &[505]),
        (b"GET / HTTP/1", &[505]),
        (b"GET / HTTP/1.", &[505]),
        (b"GET / HTTP/1.10", &[505]),
        (b"GET / HTTP/01.1", &[505]),
        (b"GET / HTTP/11.1", &[505]),
        (b"GET / HTTP/1,1", &[505]),
        (b"GET / http/1.1", &[505]),
        (b"GET / HTTPS/1.1", &[505]),
        (b"GET / ICAP/1.0", &[505]),
        (b"PRI * HTTP/2.0", &[505]),
    ];
    let rows: Vec<(Vec<u8>, &[u16])> = lines
        .iter()
        .map(|(line, statuses)| ([line, b"\r\nHost: a\r\n\r\n".as_slice()].concat(), *statuses))
        .collect();
    let rows: Vec<(&[u8], &[u16])> = rows.iter().map(|(row, s)| (row.as_slice(), *s)).collect();

    refused(&rows, Seen::Nothing);
}

/// RFC 9112 §7.1: where a chunk ends must be beyond doubt. A bare LF that ends a chunk line hides a
/// request from one of two parsers.
#[test]
fn a_chunk_that_can_be_read_in_two_ways_is_refused() {
    let bodies: &[&[u8]] = &[
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"\t5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"g\r\nhello\r\n0\r\n\r\n",
        b"5g\r\nhello\r\n0\r\n\r\n",
        b"5_\r\nhello\r\n0\r\n\r\n",
        b"5,\r\nhello\r\n0\r\n\r\n",
        b";ext\r\nhello\r\n0\r\n\r\n",
        b"10000000000000000\r\nhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffffffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5;ext\nhello\r\n0\r\n\r\n",
        b"5;ext=\"\n\"\r\nhello\r\n0\r\n\r\n",
        b"5;e\rxt\r\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\r\nhello\r\n0\r\n\r\n",
        b"5;\0\r\nhello\r\n0\r\n\r\n",
        b"5\0\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
        b"6\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0;\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"5\r\nhello\r\n0\r\n\r\r\n",
        b"5\r\nhello\r\n0\r\nX\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\rZ: w\r\n\r\n",
        b"5\r\nhello\r\n0\r\n: y\r\n\r\n",
    ];

    refused_bodies(bodies);
}

/// While an early answer is delivered, the rest of the request is still read. What follows a malformed
/// chunk must reach nobody, and its connection must not meet the next request.
#[test]
fn what_follows_a_malformed_chunk_is_not_sent_on_after_an_early_answer() {
    const LENGTH: usize = 16 << 20;
    let upstream = Upstream::start(|connection| {
        let head = connection.request_head()?;
        if head.method() == "GET" {
            return connection.answer("hello");
        }
        connection.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"))?;
        connection.try_send(vec![b'x'; LENGTH])?;
        let _ = connection.take_rest();
        Ok(())
    });
    let gateway = Gateway::to_with(&upstream, json!({ "workers": { "count": 1, "pin": false } }));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let head = client.try_response_head("POST").unwrap();

    client.send("1Z");
    // Read by itself: nothing tells from outside when that has happened.
    std::thread::sleep(Duration::from_millis(100));
    client.send("0\r\n0\r\n\r\nGET /evil\r\n\r\n0\r\n\r\n");

    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(client.take_body(head).unwrap().body.len(), LENGTH);
    assert_eq!(gateway.get("/next").text(), "hello");
    eventually("the end of the connection", || (upstream.ended() == 2).then_some(()));
    assert!(!upstream.received_text().contains("evil"), "{}", upstream.received_text());
    assert_eq!(upstream.connections(), 2);
}

/// RFC 9110 §6.5.1: fields of framing, routing and authentication have no business in trailers.
#[test]
fn trailers_that_frame_or_route_a_message_are_refused() {
    refused_bodies(&[
        b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\r\ncontent-length: 0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n",
    ]);
}

/// What no application reads must not be read for ever either.
#[test]
fn chunk_extensions_and_trailers_without_end_are_refused() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let rows = [
        format!("{head}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(200_000)),
        format!("{head}{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "y".repeat(1000)).repeat(300)),
        format!("{head}{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(200_000)),
        format!("{head}0\r\nX: {}\r\n\r\n", "y".repeat(200_000)),
        format!("{head}0\r\n{}\r\n", "X: y\r\n".repeat(20_000)),
    ];
    let rows: Vec<(&[u8], &[u16])> =
        rows.iter().map(|row| (row.as_bytes(), [413, 431].as_slice())).collect();

    refused(&rows, Seen::Part);
}

/// A reverse proxy opens no tunnels to where its clients like.
#[test]
fn a_connect_is_refused() {
    refused(
        &[
            (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", &[404, 405, 501]),
            (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: a\r\n\r\n", &[404, 405, 501]),
            (b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", &[404, 405, 501]),
        ],
        Seen::Nothing,
    );
}

fn refused_bodies(bodies: &[&[u8]]) {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
    let rows: Vec<Vec<u8>> = bodies.iter().map(|body| [head, *body].concat()).collect();
    let rows: Vec<(&[u8], &[u16])> =
        rows.iter().map(|row| (row.as_slice(), [].as_slice())).collect();

    refused(&rows, Seen::Part);
}

/// Whatever it is, it is not HTTP/1; the gateway says so or closes, and lives on.
#[test]
fn other_protocols_and_noise_are_turned_away() {
    let upstream = Upstream::answering("reached");
    let gateway = Gateway::to(&upstream);
    let tls = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03hello\x00\x00\r\n\r\n".to_vec();
    let noise: Vec<u8> =
        (0..4096_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    let rows = [
        tls,
        b"PRI * HTTP/2.0\r\n\r\nMS\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        vec![0; 10_000],
        vec![0xff; 10_000],
        b"\r\n".repeat(50_000),
        noise,
    ];

    for row in rows {
        let mut client = gateway.connect();
        let _ = client.try_send(&row);
        // What cannot be told from a request that is still coming may wait for more.
        client.finish();
        match client.try_response() {
            Ok(answer) => {
                assert!(
                    [400, 414, 431, 501, 505].contains(&answer.status()),
                    "{}: {answer:?}",
                    show(&row)
                );
            }
            Err(WireError::Closed | WireError::Reset) => {}
            other => panic!("{}: {other:?}", show(&row)),
        }
    }

    assert_eq!(upstream.connections(), 0);
    assert_eq!(gateway.get("/").text(), "reached");
}
