//! Everything a client can stretch has an end: sizes, counts, times.
//!
//! Not here: limits of upstreams (`upstream`, `bad_upstream`) and of plugins (`hostile`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream, Wire, eventually};

fn limited(upstream: &Upstream, limits: Value) -> Gateway {
    Gateway::to_with(upstream, json!({ "limits": limits }))
}

/// Sends bytes: the status of the answer, after which the connection must end.
fn last_status(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> u16 {
    let mut client = gateway.connect();
    let _ = client.try_send(bytes);
    let answer = client.response();
    assert!(answer.says_close(), "{answer:?}");
    client.closed();
    answer.status()
}

/// RFC 9110 §15.5.15.
#[test]
fn a_target_beyond_its_limit_gets_a_414() {
    let upstream = Upstream::answering("hello");
    let gateway = limited(&upstream, json!({ "uri_bytes_max": 100 }));
    let get = |length: usize| {
        let target = "/".to_owned() + &"x".repeat(length - 1);
        format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
    };

    assert_eq!(gateway.connect().exchange(get(100)).status(), 200);
    assert_eq!(last_status(&gateway, get(101)), 414);
    assert_eq!(last_status(&gateway, get(50_000)), 414);
    assert_eq!(upstream.requests().len(), 1);
}

/// A target that never ends must not be waited for.
#[test]
fn a_request_line_without_end_gets_its_answer_at_once() {
    let upstream = Upstream::answering("hello");
    let gateway = limited(&upstream, json!({ "header_timeout_ms": 60_000 }));

    let status = last_status(&gateway, "GET /".to_owned() + &"x".repeat(100_000));

    assert!([414, 431].contains(&status), "{status}");
}

/// RFC 6585 §5.
#[test]
fn a_head_beyond_its_limit_gets_a_431() {
    let upstream = Upstream::answering("hello");
    let gateway = limited(
        &upstream,
        json!({ "header_bytes_max": 2000, "uri_bytes_max": 1000, "headers_max": 10, "header_timeout_ms": 60_000 }),
    );
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let wide = |width: usize| format!("X: {}\r\n", "y".repeat(width));

    assert_eq!(gateway.connect().exchange(get(&wide(1900))).status(), 200);
    assert_eq!(gateway.connect().exchange(get(&"X: y\r\n".repeat(9))).status(), 200);
    assert_eq!(last_status(&gateway, get(&wide(2000))), 431);
    assert_eq!(last_status(&gateway, get(&wide(500_000))), 431);
    assert_eq!(last_status(&gateway, get(&"X: y\r\n".repeat(10))), 431);
    // Without an end, too.
    assert_eq!(
        last_status(&gateway, format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(5000))),
        431
    );
    assert_eq!(upstream.requests().len(), 2);
}

/// The defaults of the contract: 64 KiB, 100 fields, 8 KiB.
#[test]
fn the_default_limits_are_those_of_the_contract() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let get = |target: usize, fields: &str| {
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n{fields}\r\n", "x".repeat(target - 1))
    };
    let wide = |width: usize| format!("X: {}\r\n", "y".repeat(width));

    assert_eq!(gateway.connect().exchange(get(8192, "")).status(), 200);
    assert_eq!(last_status(&gateway, get(8193, "")), 414);
    assert_eq!(gateway.connect().exchange(get(1, &wide(65_000))).status(), 200);
    assert_eq!(last_status(&gateway, get(1, &wide(66_000))), 431);
    assert_eq!(gateway.connect().exchange(get(1, &"X: y\r\n".repeat(99))).status(), 200);
    assert_eq!(last_status(&gateway, get(1, &"X: y\r\n".repeat(100))), 431);
}

/// RFC 9110 §15.5.14. A body that says its length is refused before any of it is sent.
#[test]
fn a_body_beyond_its_limit_gets_a_413() {
    let upstream = Upstream::echoing();
    let gateway = limited(&upstream, json!({ "body_bytes_max": 100 }));
    let post =
        |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "x".repeat(size));
    let chunked = "Transfer-Encoding: chunked";
    let body = "x".repeat(100);

    assert_eq!(gateway.connect().exchange(post("Content-Length: 100", &body)).text(), body);
    assert_eq!(
        gateway.connect().exchange(post(chunked, &(chunk(60) + &chunk(40) + "0\r\n\r\n"))).text(),
        body
    );
    assert_eq!(gateway.connect().exchange(post("Content-Length: 101", "")).status(), 413);
    assert_eq!(last_status(&gateway, post("Content-Length: 100000000000", "")), 413);
    assert_eq!(last_status(&gateway, post(chunked, &chunk(101))), 413);
    assert_eq!(last_status(&gateway, post(chunked, &(chunk(60) + &chunk(41) + "0\r\n\r\n"))), 413);
    assert_eq!(upstream.requests().len(), 2);

    // A small rest may be read to keep the connection; then it is in step.
    let mut client = gateway.connect();
    let answer = client.exchange(post("Content-Length: 101", "x"));
    assert_eq!(answer.status(), 413);
    if !answer.says_close() {
        client.send(&body);
        assert_eq!(client.exchange(post("Content-Length: 2", "ok")).text(), "ok");
    }
}

#[test]
fn a_route_has_its_own_limit_for_bodies() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::start(json!({
        "limits": { "body_bytes_max": 10 },
        "routes": [
            { "path": "/wide", "upstream": upstream.url(), "limits": { "body_bytes_max": 1000 } },
            { "path": "/", "upstream": upstream.url() },
        ],
    }));
    let body = "x".repeat(20);
    let post =
        |path: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{body}");

    assert_eq!(gateway.connect().exchange(post("/wide")).text(), body);
    assert_eq!(gateway.connect().exchange(post("/narrow")).status(), 413);
}

/// Waits for the answer to a request that never came to its end, and for the end of the connection.
#[track_caller]
fn ends_with_408(client: &mut Wire) {
    let answer = client.response();
    assert_eq!(answer.status(), 408, "{answer:?}");
    assert!(answer.says_close(), "{answer:?}");
    client.closed();
}

#[test]
fn a_head_that_does_not_come_to_its_end_in_time_is_given_up() {
    let upstream = Upstream::answering("hello");
    let gateway = limited(&upstream, json!({ "header_timeout_ms": 300 }));

    for start in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: "] {
        let mut client = gateway.connect();
        client.send(start);
        let began = Instant::now();

        ends_with_408(&mut client);

        assert!(began.elapsed() > Duration::from_millis(200), "{start:?}: {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(5), "{start:?}: {:?}", began.elapsed());
    }
    assert_eq!(upstream.connections(), 0);
}

/// A byte now and then is not progress: the limit is on the whole head.
#[test]
fn a_head_that_trickles_is_given_up_all_the_same() {
    let upstream = Upstream::answering("hello");
    let gateway = limited(&upstream, json!({ "header_timeout_ms": 500 }));
    let mut client = gateway.connect();
    let began = Instant::now();

    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(1000));
    let sent = head.bytes().take_while(|byte| {
        std::thread::sleep(Duration::from_millis(20));
        began.elapsed() < Duration::from_secs(10) && client.try_send([*byte]).is_ok()
    });

    assert!(sent.count() < 400, "still taken after {:?}", began.elapsed());
    assert_eq!(upstream.connections(), 0);
}

/// Opening a connection and saying nothing is free for a client; it must not last.
#[test]
fn a_connection_on_which_nothing_is_said_is_closed() {
    let upstream = Upstream::answering("hello");
    let gateway = limited(&upstream, json!({ "header_timeout_ms": 300, "idle_timeout_ms": 300 }));

    gateway.connect().closed();
}

#[test]
fn a_connection_that_is_idle_between_requests_is_closed() {
    let upstream = Upstream::answering("hello");
    let gateway = limited(&upstream, json!({ "idle_timeout_ms": 300 }));
    let mut client = gateway.connect();

    assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "hello");
    let began = Instant::now();

    client.closed();
    assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
}

/// The limit on silence is not a limit on the connection: one that is used stays.
#[test]
fn a_connection_that_is_used_now_and_then_stays_open() {
    let upstream = Upstream::answering("hello");
    let gateway = limited(&upstream, json!({ "idle_timeout_ms": 1000, "header_timeout_ms": 1000 }));
    let mut client = gateway.connect();

    for _ in 0..15 {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "hello");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_body_that_stops_coming_is_given_up_and_never_completed_upstream() {
    for start in
        ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
    {
        let upstream = Upstream::echoing();
        let gateway = limited(&upstream, json!({ "idle_timeout_ms": 300 }));
        let mut client = gateway.connect();

        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{start}"));

        ends_with_408(&mut client);
        eventually("the end upstream", || {
            (upstream.ended() == upstream.connections()).then_some(())
        });
        assert_eq!(upstream.requests(), []);
    }
}

/// A client that takes its answer too slowly to ever end holds a worker's memory and an upstream.
#[test]
fn an_answer_that_nobody_takes_is_given_up() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")?;
        for _ in 0..1000 {
            connection.try_send(vec![b'x'; 100_000])?;
        }
        Ok(())
    });
    let gateway = Gateway::to_with(
        &upstream,
        json!({
            "limits": { "idle_timeout_ms": 500 },
            "upstreams": { "test": { "timeouts": { "idle_ms": 500 } } },
        }),
    );
    let mut client = gateway.connect();
    client.receive_little();

    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

    eventually("the end upstream", || (upstream.ended() == 1).then_some(()));
}

/// `connections_max`: further clients are told to come again, and the others go on.
#[test]
fn clients_beyond_the_limit_of_connections_are_turned_away() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "limits": { "connections_max": 2 }, "workers": { "count": 1, "pin": false } }),
    );
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut first, mut second) = (gateway.connect(), gateway.connect());
    assert_eq!(first.exchange(get).text(), "hello");
    assert_eq!(second.exchange(get).text(), "hello");

    let refusal = gateway.connect().response();
    assert_eq!(refusal.status(), 503, "{refusal:?}");
    assert!(refusal.says_close() && refusal.field("retry-after").is_some(), "{refusal:?}");
    assert_eq!(first.exchange(get).text(), "hello");
    drop(first);

    let third =
        eventually("room", || Some(gateway.get("/")).filter(|answer| answer.status() == 200));
    assert_eq!(third.text(), "hello");
    assert_eq!(second.exchange(get).text(), "hello");
}

/// Clients that are turned away and do not go must keep nobody out, and be bounded themselves.
#[test]
fn clients_that_are_turned_away_keep_nobody_out() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "limits": { "connections_max": 1 }, "workers": { "count": 1, "pin": false } }),
    );
    let mut first = gateway.connect();
    assert_eq!(first.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "hello");
    let mut held = Vec::new();
    let mut ask = || {
        let mut client = gateway.connect();
        // One that is closed without a word may be gone already.
        let _ = client.try_send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let status = client.try_response().map(|answer| answer.status());
        held.push(client);
        status
    };

    assert_eq!(ask(), Ok(503));
    eventually("no room even to be turned away", || ask().is_err().then_some(()));
    drop(first);

    eventually("room", || (ask() == Ok(200)).then_some(()));
}

/// A client that asks and asks and never reads: neither requests nor answers may pile up.
#[test]
fn a_client_that_pipelines_without_reading_holds_little() {
    let upstream = Upstream::answering(&"x".repeat(2000));
    let gateway = Gateway::to(&upstream);
    assert_eq!(gateway.get("/").status(), 200);
    let before = gateway.memory_kib();
    let mut client = gateway.connect();
    client.receive_little();
    let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000);

    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        if client.send_some(requests.as_bytes()) < requests.len() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let held = gateway.memory_kib().saturating_sub(before);

    assert!(held < 16 * 1024, "{held} KiB held for a client that does not read");
    assert_eq!(gateway.get("/").status(), 200);
}
