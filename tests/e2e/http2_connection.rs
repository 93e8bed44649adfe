//! Connections of HTTP/2 from clients: how they begin, what is told to them, and how they end.
//!
//! Not here: requests (`http2`), clients that mean harm (`http2_abuse`).

use std::sync::{Mutex, mpsc};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::http2::{
    Http2, Http2Upstream, PREFACE, await_frame, block, frame, get, get_frame, goaway, next_frame,
    take,
};
use crate::harness::{DEADLINE, Gateway, Upstream, connect, eventually};

#[test]
fn an_upgrade_to_h2c_is_answered_in_http_1() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    let answer = client.exchange(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );

    assert_eq!((answer.status(), answer.text()), (200, "hello"));
    assert_eq!(answer.field("upgrade"), None);
    assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "hello");
    assert!(upstream.requests().iter().all(|request| request.field("upgrade").is_none()));
}

#[test]
fn a_preface_may_come_in_pieces() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut wire = connect(gateway.address());

    for byte in PREFACE {
        wire.send([*byte]);
    }
    wire.send(frame(4, 0, 0, &[]));
    wire.send(get_frame(1, &[]));

    let data = await_frame(&mut wire, |frame| frame.kind == 0);
    assert_eq!(data.payload, b"hello");
}

#[test]
fn a_listener_speaks_what_it_is_told_to() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "listeners": [
            { "address": "127.0.0.1:0", "protocols": ["h1"] },
            { "address": "127.0.0.1:0", "protocols": ["h2"] },
        ] }),
    );
    let mut first = gateway.connect_to(0);
    first.send(PREFACE);
    assert_eq!(first.response().status(), 505);
    let mut second = gateway.connect_to(1);
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(second.response().status(), 505);
    let mut second = gateway.connect_to(1);
    second.send(PREFACE);
    second.send(frame(4, 0, 0, &[]));
    second.send(get_frame(1, &[]));
    assert_eq!(await_frame(&mut second, |frame| frame.kind == 0).payload, b"hello");
}

#[test]
fn limits_are_told_and_kept() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "limits": {
            "h2_streams_max": 7, "headers_max": 10, "header_bytes_max": 4096, "uri_bytes_max": 100,
        } }),
    );
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    wire.send(frame(4, 0, 0, &[]));
    let settings = next_frame(&mut wire).unwrap();
    let settings: Vec<_> = settings.payload.chunks(6).collect();
    assert!(settings.contains(&&[0, 3, 0, 0, 0, 7][..]), "{settings:?}");
    // Twice the limit: what is over it the gateway answers itself.
    assert!(settings.contains(&&[0, 6, 0, 0, 0x20, 0][..]), "{settings:?}");
    assert!(settings.contains(&&[0, 8, 0, 0, 0, 1][..]), "{settings:?}");

    let mut client = Http2::connect(gateway.address());
    let mut many = get("/");
    for index in 0..11 {
        let name: http::HeaderName = format!("x-{index}").parse().unwrap();
        many.headers_mut().insert(name, "1".parse().unwrap());
    }
    assert_eq!(client.ask(many, None).status, 431);
    assert_eq!(client.get(&format!("/{}", "x".repeat(100))).status, 414);
    let mut large = get("/");
    large.headers_mut().insert("x", "x".repeat(4200).parse().unwrap());
    assert_eq!(client.ask(large, None).status, 431);
    assert_eq!(client.get("/").status, 200);
    assert!(upstream.requests().iter().all(|request| request.target() == "/"));
}

/// Whoever looks for the reason of a 431 finds it where all answers are.
#[test]
fn a_head_over_the_limit_is_logged_and_counted() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "limits": { "header_bytes_max": 4096, "uri_bytes_max": 100 }, "access_log": { "path": "stdout" } }),
    );
    let mut client = Http2::connect(gateway.address());
    let sized = |size: usize| {
        let mut request = get("/large");
        request.headers_mut().insert("x", "x".repeat(size).parse().unwrap());
        request
    };

    let answer = client.ask(sized(5000), None);
    // The crate's own answer: there is no head for anybody to look at.
    let crude = client.ask(sized(10_000), None);
    drop(client);

    assert_eq!((answer.status, crude.status), (431, 431));
    assert!(answer.field("proxy-status").is_some() && crude.field("proxy-status").is_none());
    let line = eventually("a line in the access log", || {
        let text = gateway.stdout();
        text.lines().find(|line| line.contains("/large")).map(str::to_owned)
    });
    assert!(line.contains("431"), "{line}");
    gateway.counts("zproxy_requests_total", &[("status", "431")], 1.0);
    gateway.counts("zproxy_http2_refused_total", &[], 1.0);
}

/// A client that is gone without a word would hold its requests until their time is up.
#[test]
fn a_client_that_answers_no_ping_is_gone() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        let rest = connection.take_rest();
        told.lock().unwrap().send(rest.is_ok()).unwrap();
        Ok(())
    });
    let limits = json!({ "h2_ping_interval_ms": 100, "h2_ping_timeout_ms": 300 });
    let gateway = Gateway::to_with(&upstream, json!({ "limits": limits }));
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    wire.send(frame(4, 0, 0, &[]));
    wire.send(get_frame(1, &[]));
    upstream.request();

    for _ in 0..5 {
        let ping = await_frame(&mut wire, |frame| frame.kind == 6 && frame.flags == 0);
        wire.send(frame(6, 1, 0, &ping.payload));
    }
    assert!(ended.try_recv().is_err(), "a client that answers stays");
    await_frame(&mut wire, |frame| frame.kind == 6 && frame.flags == 0);

    assert_eq!(next_frame(&mut wire), None);
    ended.recv_timeout(DEADLINE).expect("the end of the request upstream");
}

#[test]
fn a_drain_says_goaway_twice_and_finishes_what_has_begun() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        let _ = wait.lock().unwrap().recv_timeout(DEADLINE);
        connection.answer("done")
    });
    let mut gateway = Gateway::to(&upstream);
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    wire.send(frame(4, 0, 0, &[]));
    wire.send(get_frame(1, &[]));
    upstream.request();

    gateway.signal(Signal::TERM);
    let first = await_frame(&mut wire, |frame| frame.kind == 7);
    let ping = await_frame(&mut wire, |frame| frame.kind == 6 && frame.flags == 0);
    wire.send(frame(6, 1, 0, &ping.payload));
    let second = await_frame(&mut wire, |frame| frame.kind == 7);
    assert!(gateway.is_running());
    go.send(()).unwrap();
    let data = await_frame(&mut wire, |frame| frame.kind == 0);

    assert_eq!(first.payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(second.payload[..8], [0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(data.payload, b"done");
    assert_eq!(gateway.exit_code(), 0);
}

/// Each gets its own answer, though all connections are about to end.
#[test]
fn a_drain_finishes_thousands_of_requests() {
    const CONNECTIONS: usize = 3;
    const REQUESTS: usize = 1000;
    let (go, _) = tokio::sync::broadcast::channel::<()>(1);
    let waiting = go.clone();
    let upstream = Http2Upstream::start(move |mut asked| {
        let mut go = waiting.subscribe();
        async move {
            let _ = go.recv().await;
            let path = asked.head.uri().path().to_owned();
            asked.answer(200, path.as_bytes());
        }
    });
    let mut gateway = upstream.gateway(json!({ "limits": { "h2_streams_max": REQUESTS } }));
    // Crate `h2` takes many small answers that nobody has read yet for a flood, if its window is small.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(16 << 20);
    let client = |_| Http2::connect_with(gateway.address(), &builder);
    let mut clients: Vec<_> = (0..CONNECTIONS).map(client).collect();
    let mut responses = Vec::new();
    for client in &mut clients {
        let asked = (0..REQUESTS).map(|index| client.open(get(&format!("/{index}")), true).0);
        responses.push(asked.collect::<Vec<_>>());
    }
    eventually("all requests", || {
        // They send while somebody waits for something.
        clients.iter().for_each(|client| client.run(tokio::task::yield_now()));
        (upstream.seen().len() == CONNECTIONS * REQUESTS).then_some(())
    });

    gateway.signal(Signal::TERM);
    eventually("the end of accepting", || {
        std::net::TcpStream::connect(gateway.address()).is_err().then_some(())
    });
    go.send(()).unwrap();

    for (client, responses) in clients.iter().zip(responses) {
        for (index, response) in responses.into_iter().enumerate() {
            let answer = client.run(take(response)).unwrap();
            assert_eq!((answer.status, answer.text()), (200, &*format!("/{index}")));
        }
    }
    drop(clients);
    assert_eq!(gateway.exit_code(), 0);
}

#[test]
fn a_silent_connection_is_ended_with_goaway() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(&upstream, json!({ "limits": { "idle_timeout_ms": 300 } }));
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    wire.send(frame(4, 0, 0, &[]));
    wire.send(get_frame(1, &[]));
    assert_eq!(await_frame(&mut wire, |frame| frame.kind == 0).payload, b"hello");

    assert_eq!(goaway(&mut wire), 0);
}

#[test]
fn a_client_that_says_nothing_more_is_given_up() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(&upstream, json!({ "limits": { "header_timeout_ms": 300 } }));
    // In the middle of the preface; after it; in the middle of a head.
    let mut wire = connect(gateway.address());
    wire.send(&PREFACE[..10]);
    wire.closed();
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    while next_frame(&mut wire).is_some() {}
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    wire.send(frame(4, 0, 0, &[]));
    wire.send(frame(1, 0x1, 1, &block(&[(":method", "GET")])));
    assert_eq!(goaway(&mut wire), 0xb);
}
