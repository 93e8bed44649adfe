//! HTTP/2 from clients: requests, bodies, trailers, and ends of all kinds.
//!
//! Not here: how connections begin and end (`http2_connection`), servers that speak it
//! (`http2_upstream`), clients that mean harm (`http2_abuse`).

use std::sync::{Mutex, mpsc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use serde_json::json;

use crate::harness::http2::{Http2, PREFACE, await_frame, block, frame, get, post, take};
use crate::harness::{DEADLINE, Gateway, Upstream, connect, eventually};

/// RFC 9113 §8.3.1, §8.2.3: what the upstream of HTTP/1 is told.
#[test]
fn a_request_is_translated() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut client = Http2::connect(gateway.address());
    let request = Request::get("http://site.example:81/a/b?c=d")
        .header("cookie", "a=1")
        .header("x-one", "1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(())
        .unwrap();

    let answer = client.ask(request, None);

    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!(answer.field("content-length"), Some("5"));
    assert_eq!(answer.field("connection"), None);
    assert_eq!(answer.field("via"), Some("1.1 zproxy"));
    let request = upstream.request();
    assert_eq!(request.start, "GET /a/b?c=d HTTP/1.1");
    assert_eq!(request.field("host"), Some("site.example:81"));
    assert_eq!(request.field("cookie"), Some("a=1; b=2"));
    assert_eq!(request.field("x-one"), Some("1"));
    assert_eq!(request.field("via"), Some("2.0 zproxy"));
    assert_eq!(request.field("te"), None);
    assert_eq!(request.all("content-length").len() + request.all("transfer-encoding").len(), 0);
    assert!(request.fields.iter().all(|(name, _)| !name.starts_with(':')));
}

#[test]
fn the_access_log_and_metrics_know_it() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(&upstream, json!({ "access_log": { "path": "stdout" } }));
    let mut client = Http2::connect(gateway.address());

    client.get("/logged");

    let line = eventually("a line in the access log", || {
        let text = gateway.stdout();
        text.lines().find(|line| line.contains("/logged")).map(str::to_owned)
    });
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["protocol"], &line["status"]), (&json!("HTTP/2"), &json!(200)));
    let metrics = gateway.admin("/metrics");
    assert!(metrics.text().contains("zproxy_connections{"), "{}", metrics.text());
}

#[test]
fn many_requests_are_answered_at_a_time() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    let mut client = Http2::connect(gateway.address());

    let sent: Vec<_> = (0..100)
        .map(|index| {
            let (response, mut stream) = client.open(post("/"), false);
            stream.send_data(Bytes::from(format!("body {index}")), true).unwrap();
            response
        })
        .collect();

    for (index, response) in sent.into_iter().enumerate() {
        let answer = client.run(take(response)).unwrap();
        assert_eq!((answer.status, answer.text()), (200, &*format!("body {index}")));
    }
}

#[test]
fn bodies_of_any_size_and_framing_pass_both_ways() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    for size in [0, 1, 100, 16_384, 65_535, 1_000_000] {
        for told in [true, false] {
            let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let mut client = Http2::connect(gateway.address());
            let mut request = post("/");
            if told {
                let length = size.to_string().parse().unwrap();
                request.headers_mut().insert("content-length", length);
            }
            let (response, mut stream) = client.open(request, false);
            let answer = client.run(async {
                let sending = async {
                    let mut rest = Bytes::from(body.clone());
                    while !rest.is_empty() {
                        stream.reserve_capacity(rest.len());
                        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                        let part = rest.split_to(room.unwrap().unwrap().min(rest.len()));
                        stream.send_data(part, false).unwrap();
                    }
                    stream.send_data(Bytes::new(), true).unwrap();
                };
                let (answer, ()) = tokio::join!(take(response), sending);
                answer.unwrap()
            });

            assert_eq!(answer.status, 200);
            assert!(answer.body == body, "{size}, {told}: {}", answer.body.len());
            let request = upstream.last_request();
            let expected = if told { Some(size.to_string()) } else { None };
            assert_eq!(request.field("content-length"), expected.as_deref());
        }
    }
}

/// RFC 9110 §9.3.1: it means nothing, and its framing must hold all the same.
#[test]
fn a_get_with_a_body_is_one_request() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    let mut client = Http2::connect(gateway.address());
    for told in [true, false] {
        let mut request = get("/");
        if told {
            request.headers_mut().insert("content-length", "4".parse().unwrap());
        }

        let answer = client.ask(request, Some(b"body"));

        assert_eq!((answer.status, answer.text()), (200, "body"));
        let request = upstream.last_request();
        assert_eq!((request.method(), request.text()), ("GET", "body"));
    }
}

/// RFC 9440 §2.4: upstreams would believe it.
#[test]
fn trailers_do_not_say_who_a_client_is() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut client = Http2::connect(gateway.address());
    for name in ["client-cert", "client-cert-chain", "x-forwarded-for", "forwarded"] {
        let (response, mut stream) = client.open(post("/"), false);
        stream.send_data(Bytes::from_static(b"up"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert(name, "127.0.0.1".parse().unwrap());
        trailers.insert("x-sum", "1".parse().unwrap());
        stream.send_trailers(trailers).unwrap();

        let answer = client.run(take(response));

        let passed = upstream.requests().into_iter().any(|request| {
            request.trailers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
        });
        assert!(!passed, "{name}: {answer:?}");
    }
}

/// RFC 9113 §8.1.
#[test]
fn trailers_pass_both_ways() {
    let upstream = Upstream::start(|connection| {
        let request = connection.request()?;
        assert_eq!(request.trailers, [("x-sum".to_owned(), "up".to_owned())]);
        connection.try_send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndown\r\n0\r\nX-Sum: 1\r\n\r\n",
        )
    });
    let gateway = Gateway::to(&upstream);
    let mut client = Http2::connect(gateway.address());
    let (response, mut stream) = client.open(post("/"), false);
    stream.send_data(Bytes::from_static(b"up"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "up".parse().unwrap());
    stream.send_trailers(trailers).unwrap();

    let answer = client.run(take(response)).unwrap();

    assert_eq!((answer.status, answer.text()), (200, "down"));
    assert_eq!(answer.trailers.unwrap().get("x-sum").unwrap(), "1");
    assert_eq!(answer.fields.get("transfer-encoding"), None);
}

#[test]
fn answers_without_a_body_have_none() {
    for (method, response, status, length) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, Some("5")),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, Some("5")),
    ] {
        let upstream = Upstream::sending(response);
        let gateway = Gateway::to(&upstream);
        let mut client = Http2::connect(gateway.address());
        let request = Request::builder().method(method).uri("http://a/").body(()).unwrap();

        let answer = client.ask(request, None);

        assert_eq!((answer.status, answer.text()), (status, ""));
        assert_eq!(answer.field("content-length"), length, "{status}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_ends_its_stream() {
    let upstream = Upstream::sending_and_closing("HTTP/1.1 200 OK\r\n\r\nall of it");
    let gateway = Gateway::to(&upstream);

    let answer = Http2::connect(gateway.address()).get("/");

    assert_eq!((answer.status, answer.text()), (200, "all of it"));
}

/// A body that breaks off is no whole one.
#[test]
fn an_answer_that_breaks_off_resets_its_stream_and_no_other() {
    let upstream = Upstream::start(|connection| {
        if connection.request()?.target() == "/good" {
            return connection.answer("good");
        }
        connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.")
    });
    let gateway = Gateway::to(&upstream);
    let mut client = Http2::connect(gateway.address());

    let broken = client.try_ask(get("/bad"), None).unwrap_err();

    assert!(broken.is_reset(), "{broken}");
    assert_eq!(client.get("/good").text(), "good");
}

/// RFC 9110 §15.2.
#[test]
fn interim_responses_are_passed_on() {
    let upstream = Upstream::sending(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let gateway = Gateway::to(&upstream);
    let mut client = Http2::connect(gateway.address());
    let (mut response, _) = client.open(get("/"), true);

    let interim = client.run(std::future::poll_fn(|cx| response.poll_informational(cx)));

    let interim = interim.unwrap().unwrap();
    assert_eq!(
        (interim.status().as_u16(), interim.headers()["link"].to_str().unwrap()),
        (103, "</a>")
    );
    assert_eq!(client.run(take(response)).unwrap().status, 200);
}

/// Nobody waits for the answer any more, so nobody shall work for it.
#[test]
fn a_client_that_cancels_ends_the_request_upstream_at_once() {
    for answered in [false, true] {
        let (told, ended) = mpsc::channel();
        let told = Mutex::new(told);
        let upstream = Upstream::start(move |connection| {
            if connection.request()?.target() == "/other" {
                return connection.answer("other");
            }
            if answered {
                connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.")?;
            }
            let rest = connection.take_rest();
            told.lock().unwrap().send(rest.is_ok()).unwrap();
            Ok(())
        });
        let gateway = Gateway::to(&upstream);
        let mut client = Http2::connect(gateway.address());
        let (response, mut stream) = client.open(get("/slow"), true);
        client.wait(|| !upstream.requests().is_empty());
        let mut body = None;
        if answered {
            let mut received = client.run(response).unwrap().into_body();
            assert_eq!(&client.run(received.data()).unwrap().unwrap()[..], b"five.");
            body = Some(received);
        }

        stream.send_reset(h2::Reason::CANCEL);

        // The connection is driven while something is waited for.
        assert_eq!(client.get("/other").text(), "other");
        ended.recv_timeout(DEADLINE).expect("the end of the connection upstream");
        drop(body);
    }
}

/// RFC 9113 §8.1: an answer may come before the request has ended, which is told to stop then.
#[test]
fn an_early_answer_ends_the_upload_without_an_error() {
    let upstream = Upstream::start(|connection| {
        connection.request_head()?;
        connection.answer("enough")
    });
    let gateway = Gateway::to(&upstream);
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    wire.send(frame(4, 0, 0, &[]));
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    wire.send(frame(1, 0x4, 1, &block(&fields)));

    await_frame(&mut wire, |frame| frame.kind == 0 && frame.flags & 1 != 0 && frame.stream == 1);
    let reset = await_frame(&mut wire, |frame| frame.kind == 3);

    assert_eq!((reset.stream, &*reset.payload), (1, &[0, 0, 0, 0][..]));
}

/// A server that counts the bytes answers before the client has said that nothing follows. The request was whole
/// then, so nothing is reset: a client that is about to say so may take that for an error.
#[test]
fn a_whole_request_is_not_reset_because_its_end_comes_after_the_answer() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    wire.send(frame(4, 0, 0, &[]));
    let head = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let head = [&head[..], &[("content-length", "5")]].concat();
    for stream in [1, 3] {
        wire.send(frame(1, 0x4, stream, &block(&head)));
        wire.send(frame(0, 0, stream, b"hello"));
        await_frame(&mut wire, |frame| frame.kind == 0 && frame.flags & 1 != 0);
    }

    wire.send(frame(0, 1, 1, &[]));
    wire.send(frame(1, 0x5, 3, &block(&[("x-trailer", "1")])));
    wire.send(frame(6, 0, 0, b"are here"));

    let next = await_frame(&mut wire, |frame| frame.kind == 3 || frame.kind == 6);
    assert_eq!((next.kind, &*next.payload), (6, &b"are here"[..]));
}

/// A stalled reader has its window in its hands and nothing else: memory stays flat, and others go on.
#[test]
fn a_reader_that_stalls_holds_up_its_own_stream_only() {
    const LARGE: usize = 100_000_000;
    let upstream = Upstream::start(|connection| {
        loop {
            if connection.request()?.target() == "/small" {
                connection.answer("small")?;
                continue;
            }
            connection.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"))?;
            let piece = vec![b'x'; 100_000];
            for _ in 0..LARGE / piece.len() {
                connection.try_send(&piece)?;
            }
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(4 << 20);
    let mut client = Http2::connect_with(gateway.address(), &builder);
    assert_eq!(client.get("/small").text(), "small");
    let before = gateway.memory_kib();

    let (first, _) = client.open(get("/large"), true);
    let (second, _) = client.open(get("/large"), true);
    let stalled = client.run(first).unwrap().into_body();
    let also = client.run(second).unwrap().into_body();
    for _ in 0..20 {
        assert_eq!(client.get("/small").text(), "small");
    }

    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for two stalled readers");
    drop((stalled, also));
    assert_eq!(client.get("/small").text(), "small");
}

/// RFC 9113 §8.2, §8.3: what HTTP/1 could be made to read as something else.
#[test]
fn what_could_smuggle_is_refused() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    for (fields, body) in [
        (&[("transfer-encoding", "chunked")][..], false),
        (&[("connection", "close")], false),
        (&[("upgrade", "h2c")], false),
        (&[("te", "gzip")], false),
        (&[("X-Upper", "1")], false),
        (&[("x bad", "1")], false),
        (&[("x", "a\r\nb: c")], false),
        (&[("x", "a\0b")], false),
        (&[("content-length", "1")], false),
        (&[("content-length", "3")], true),
        (&[("content-length", "9")], true),
        (&[("content-length", "+5")], true),
        (&[("content-length", "5"), ("content-length", "6")], true),
        (&[("host", "b")], false),
        (&[("host", "a"), ("host", "b")], false),
        (&[(":path", "/b")], false),
        (&[("x", "1"), (":scheme", "http")], false),
        (&[(":unknown", "1")], false),
    ] {
        let mut wire = connect(gateway.address());
        wire.send(PREFACE);
        wire.send(frame(4, 0, 0, &[]));
        let mut all =
            vec![(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        all.extend(fields);
        wire.send(frame(1, if body { 0x4 } else { 0x5 }, 1, &block(&all)));
        if body {
            wire.send(frame(0, 1, 1, b"12345"));
        }

        let refused = await_frame(&mut wire, |frame| [1, 3, 7].contains(&frame.kind));

        // 400 is literal or from the static table; a reset and GOAWAY say no by themselves.
        if refused.kind == 1 {
            assert_eq!(refused.payload[0], 0x8c, "{fields:?}: {refused:?}");
        }
    }
    // Requests that were found out on their way have not become whole ones.
    assert_eq!(upstream.requests().len(), 0, "{:?}", upstream.requests());
}

#[test]
fn a_target_or_authority_that_is_none_is_refused() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    for (path, authority) in [("*", "a"), ("/a b", "a"), ("/", "a,b"), ("/", "u@a"), ("/", "")] {
        let mut wire = connect(gateway.address());
        wire.send(PREFACE);
        wire.send(frame(4, 0, 0, &[]));
        let fields =
            [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", authority)];
        wire.send(frame(1, 0x5, 1, &block(&fields)));

        let refused = await_frame(&mut wire, |frame| [1, 3, 7].contains(&frame.kind));

        assert!(refused.kind != 1 || refused.payload[0] == 0x8c, "{path} {authority}: {refused:?}");
    }
    assert_eq!(upstream.requests().len(), 0);
}

/// RFC 9113 §3.1: the way that a later RFC took back.
/// RFC 9113 §6.8: a GOAWAY that says so, one that says how far, and every request is answered.
#[test]
fn plugins_that_hold_bodies_see_them() {
    let gateway = Gateway::start(json!({
        "routes": [{ "path": "/", "respond": { "status": 200, "body": "made here" } }],
    }));
    let mut client = Http2::connect(gateway.address());

    let answer = client.ask(post("/"), Some(b"a body that nobody wants"));

    assert_eq!((answer.status, answer.text()), (200, "made here"));
    assert_eq!(client.get("/").text(), "made here");
}

/// RFC 8441: a WebSocket in a stream, to a server that knows them in HTTP/1.
#[test]
fn a_websocket_opens_in_a_stream() {
    let upstream = Upstream::start(|connection| {
        let request = connection.request()?;
        assert_eq!(request.method(), "GET");
        if request.target() == "/settings-are-known" {
            return connection.answer("known");
        }
        assert!(request.field("connection").unwrap().to_ascii_lowercase().contains("upgrade"));
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("sec-websocket-version"), Some("13"));
        assert_eq!(request.field("sec-websocket-key").unwrap().len(), 24);
        if request.target() == "/no" {
            return connection.answer("no websocket");
        }
        connection.try_send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello",
        )?;
        while let Ok(some) = connection.take_some() {
            if some.is_empty() {
                break;
            }
            connection.try_send(some)?;
        }
        connection.try_send("bye")
    });
    let gateway = Gateway::to(&upstream);
    let mut client = Http2::connect(gateway.address());
    assert_eq!(client.get("/settings-are-known").text(), "known");
    let request = |path: &str| {
        let uri = format!("http://a{path}");
        let request = Request::builder().method(Method::CONNECT).uri(uri);
        let request = request.header("sec-websocket-version", "13");
        request.extension(h2::ext::Protocol::from_static("websocket")).body(()).unwrap()
    };

    let (response, mut stream) = client.open(request("/chat"), false);
    let response = client.run(response).unwrap();
    let status = response.status().as_u16();
    let fields = response.headers().clone();
    let mut received = response.into_body();
    let mut text = client.run(received.data()).unwrap().unwrap().to_vec();
    stream.send_data(Bytes::from_static(b" and back"), true).unwrap();
    while let Some(data) = client.run(received.data()) {
        text.extend_from_slice(&data.unwrap());
    }

    assert_eq!(status, 200);
    assert_eq!(fields.get("sec-websocket-accept"), None);
    assert_eq!(fields["sec-websocket-protocol"], "chat");
    assert_eq!(std::str::from_utf8(&text).unwrap(), "hello and backbye");
    // A success would be a tunnel.
    let (response, _stream) = client.open(request("/no"), false);
    assert_eq!(client.run(response).unwrap().status(), 502);
    // What is expected of it is what may be of a GET.
    let mut expecting = request("/chat");
    expecting.headers_mut().insert("expect", "much".parse().unwrap());
    let (response, _stream) = client.open(expecting, false);
    assert_eq!(client.run(response).unwrap().status(), 417);
    let connect = Request::builder().method(Method::CONNECT).uri("a:80").body(()).unwrap();
    let (response, _stream) = client.open(connect, false);
    assert_eq!(client.run(response).unwrap().status(), 501);
}
