//! HTTP/2 to servers: translation in both directions, connections and places on them, and what is asked
//! again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use serde_json::json;

use crate::harness::http2::{
    Http2, Http2Upstream, await_frame, frame, get, next_frame, post, take,
};
use crate::harness::{DEADLINE, Upstream, Wire, eventually};

/// Sends back what comes, trailers too.
fn echo() -> Http2Upstream {
    Http2Upstream::start(|mut asked| async move {
        let Ok((body, trailers)) = asked.whole().await else { return };
        let head = Response::builder().header("x-method", asked.head.method().as_str());
        let Ok(mut stream) = asked.respond.send_response(head.body(()).unwrap(), false) else {
            return;
        };
        let ends = trailers.is_none();
        let _ = stream.send_data(Bytes::from(body), ends);
        if let Some(trailers) = trailers {
            let _ = stream.send_trailers(trailers);
        }
    })
}

#[test]
fn a_client_of_http_1_is_translated() {
    let upstream = echo();
    let gateway = upstream.gateway(json!({}));
    let mut client = gateway.connect();

    let empty =
        client.exchange("GET /a?b HTTP/1.1\r\nHost: site:1\r\nCookie: a\r\nTE: gzip\r\n\r\n");
    let length = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let chunks = client.exchange(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n",
    );

    assert_eq!((empty.status(), empty.text()), (200, ""));
    assert_eq!(empty.field("via"), Some("2.0 zproxy"));
    assert_eq!(length.text(), "hello");
    assert_eq!(chunks.text(), "hello");
    assert_eq!(chunks.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    let seen = upstream.seen();
    let head = &seen[0].head;
    assert_eq!(head.uri(), "http://site:1/a?b");
    assert_eq!(
        (&head.headers()["te"], &head.headers()["cookie"]),
        (&"trailers".parse().unwrap(), &"a".parse().unwrap())
    );
    assert_eq!(head.headers().get("host"), None);
    assert_eq!(seen[1].head.headers()["content-length"], "5");
    assert_eq!(seen[2].head.headers().get("content-length"), None);
    assert!(seen.iter().all(|one| one.connection == 0), "{seen:?}");
}

#[test]
fn streams_pass_from_http_2_to_http_2() {
    let upstream = echo();
    let gateway = upstream.gateway(json!({}));
    let mut client = Http2::connect(gateway.address());
    for told in [true, false] {
        let mut request = post("/");
        if told {
            request.headers_mut().insert("content-length", "5".parse().unwrap());
        }
        let (response, mut stream) = client.open(request, false);
        stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        stream.send_trailers(trailers).unwrap();

        let answer = client.run(take(response)).unwrap();

        assert_eq!((answer.status, answer.text()), (200, "hello"));
        assert_eq!(answer.trailers.unwrap()["x-sum"], "1");
    }
    let large = vec![7; 3_000_000];
    let upload = client.ask(post("/"), Some(&large));
    assert!(upload.body == large);
}

/// Both sides at once, message by message.
#[test]
fn a_conversation_goes_both_ways_at_a_time() {
    let upstream = Http2Upstream::start(|mut asked| async move {
        let mut stream = asked.respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(data)) = asked.body.data().await {
            let _ = asked.body.flow_control().release_capacity(data.len());
            stream.send_data(data, false).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let gateway = upstream.gateway(json!({}));
    let mut client = Http2::connect(gateway.address());
    let (response, mut stream) = client.open(post("/"), false);

    let mut answers = client.run(response).unwrap().into_body();
    for round in 0..50 {
        let message = Bytes::from(format!("message {round}"));
        stream.send_data(message.clone(), false).unwrap();
        assert_eq!(client.run(answers.data()).unwrap().unwrap(), message);
        answers.flow_control().release_capacity(message.len()).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
    while let Some(rest) = client.run(answers.data()) {
        assert!(rest.unwrap().is_empty());
    }
}

/// As many on one connection as the server allows, and the rest on another.
#[test]
fn a_full_connection_is_joined_by_another() {
    let (told, arrived) = mpsc::channel();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(4);
    let upstream = Http2Upstream::start_with(builder, move |mut asked| {
        let (told, gate) = (told.clone(), Arc::clone(&opened));
        async move {
            told.send(asked.connection).unwrap();
            let _open = gate.acquire().await;
            asked.answer(200, b"done");
        }
    });
    let gateway = upstream.gateway(json!({}));
    let mut client = Http2::connect(gateway.address());

    let sent: Vec<_> = (0..10).map(|_| client.open(get("/"), true).0).collect();
    let waiting = std::thread::spawn(move || {
        let mut counts = [0; 3];
        for _ in 0..10 {
            counts[arrived.recv_timeout(DEADLINE).unwrap()] += 1;
        }
        counts
    });
    let answers = client.run(async {
        let opening = async {
            while !waiting.is_finished() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            gate.add_permits(100);
        };
        tokio::join!(opening, futures_util::future::join_all(sent.into_iter().map(take))).1
    });

    assert!(answers.into_iter().all(|answer| answer.unwrap().text() == "done"));
    assert_eq!(waiting.join().unwrap(), [4, 4, 2]);
}

/// RFC 9113 §8.7: what was refused was not begun with, whatever its method.
#[test]
fn a_refused_request_is_sent_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let upstream = Http2Upstream::start(move |mut asked| {
        let count = Arc::clone(&counted);
        async move {
            if count.fetch_add(1, Ordering::SeqCst) < 2 {
                asked.respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else if let Ok((body, _)) = asked.whole().await {
                asked.answer(200, &body);
            }
        }
    });
    let gateway = upstream.gateway(json!({}));

    let answer =
        gateway.connect().exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nonce");

    assert_eq!((answer.status(), answer.text()), (200, "once"));
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[test]
fn a_request_that_is_refused_for_ever_is_given_up() {
    let upstream = Http2Upstream::start(|mut asked| async move {
        asked.respond.send_reset(h2::Reason::REFUSED_STREAM);
    });
    let gateway = upstream.gateway(json!({}));

    assert_eq!(gateway.get("/").status(), 502);
    assert_eq!(upstream.seen().len(), 4);
}

#[test]
fn a_stream_that_a_server_resets_is_a_bad_answer_and_costs_no_other() {
    let upstream = Http2Upstream::start(|mut asked| async move {
        if asked.head.uri().path() == "/bad" {
            asked.respond.send_reset(h2::Reason::INTERNAL_ERROR);
        } else {
            asked.answer(200, b"good");
        }
    });
    let gateway = upstream.gateway(json!({}));
    let mut client = Http2::connect(gateway.address());

    assert_eq!(client.get("/bad").status, 502);
    assert_eq!(client.get("/good").text(), "good");
    assert!(upstream.seen().iter().all(|one| one.connection == 0));
}

/// A client can tell who has cancelled, and who has had enough, from a failure; nothing else that a server says of a
/// stream holds for the client's.
#[test]
fn why_a_server_gives_a_stream_up_is_passed_on() {
    use h2::Reason;

    const REASONS: [Reason; 5] = [
        Reason::CANCEL,
        Reason::ENHANCE_YOUR_CALM,
        Reason::NO_ERROR,
        Reason::REFUSED_STREAM,
        Reason::PROTOCOL_ERROR,
    ];
    let heads = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&heads);
    let upstream = Http2Upstream::start(move |mut asked| {
        let seen = Arc::clone(&seen);
        async move {
            let path = asked.head.uri().path().to_owned();
            let (when, reason) = path[1..].split_once('/').unwrap();
            let reason = Reason::from(reason.parse::<u32>().unwrap());
            if when == "before" {
                return asked.respond.send_reset(reason);
            }
            let before = seen.load(Ordering::SeqCst);
            let mut stream = asked.respond.send_response(Response::new(()), false).unwrap();
            while seen.load(Ordering::SeqCst) == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stream.send_reset(reason);
        }
    });
    let gateway = upstream.gateway(json!({}));
    let mut client = Http2::connect(gateway.address());

    let after = REASONS.map(|reason| {
        let (response, _) = client.open(get(&format!("/after/{}", u32::from(reason))), true);
        let mut body = client.run(response).unwrap().into_body();
        heads.fetch_add(1, Ordering::SeqCst);
        client.run(body.data()).unwrap().unwrap_err().reason().unwrap()
    });
    let statuses =
        [Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::PROTOCOL_ERROR].map(|reason| {
            let mut call = post(&format!("/before/{}", u32::from(reason)));
            call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            client.ask(call, Some(b"")).field("grpc-status").map(str::to_owned)
        });

    let failed = Reason::INTERNAL_ERROR;
    assert_eq!(after, [Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, failed, failed, failed]);
    assert_eq!(statuses, ["1", "8", "13"].map(|status| Some(status.to_owned())));
}

/// A cancelled call is cancelled at its server, and its connection stays.
#[test]
fn a_client_that_cancels_resets_the_stream_upstream() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    let told = Arc::new(told);
    let upstream = Http2Upstream::start(move |mut asked| {
        let told = Arc::clone(&told);
        async move {
            if asked.head.uri().path() == "/other" {
                return asked.answer(200, b"other");
            }
            let reason = std::future::poll_fn(|cx| asked.respond.poll_reset(cx)).await;
            told.lock().unwrap().send(reason.unwrap()).unwrap();
        }
    });
    let gateway = upstream.gateway(json!({}));
    let mut client = Http2::connect(gateway.address());
    let (response, mut stream) = client.open(get("/slow"), true);
    client.wait(|| !upstream.seen().is_empty());

    stream.send_reset(h2::Reason::CANCEL);
    assert_eq!(client.get("/other").text(), "other");

    assert_eq!(ended.recv_timeout(DEADLINE).unwrap(), h2::Reason::CANCEL);
    drop(response);
    assert!(upstream.seen().iter().all(|one| one.connection == 0));
}

/// A connection that ends between two requests is replaced.
#[test]
fn a_server_that_says_goaway_gets_no_more_requests_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            for connection in 0.. {
                let Ok((socket, _)) = listener.accept().await else { return };
                tokio::spawn(async move {
                    let mut served = h2::server::handshake(socket).await.unwrap();
                    let mut asked = 0;
                    while let Some(Ok((_, mut respond))) = served.accept().await {
                        let mut stream = respond.send_response(Response::new(()), false).unwrap();
                        stream.send_data(Bytes::from(connection.to_string()), true).unwrap();
                        asked += 1;
                        if asked == 2 {
                            served.graceful_shutdown();
                        }
                    }
                });
            }
        });
    });
    let gateway = crate::harness::Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "upstreams": { "test": { "servers": [address.to_string()], "protocol": "h2" } },
        "routes": [{ "path": "/", "upstream": "test" }],
    }));
    let mut client = gateway.connect();
    let answers: Vec<String> = (0..20)
        .map(|_| {
            let answer =
                client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
            assert_eq!(answer.status(), 200);
            answer.text().to_owned()
        })
        .collect();

    assert!(answers.last().unwrap().parse::<usize>().unwrap() >= 5, "{answers:?}");
}

#[test]
fn a_server_that_speaks_no_http_2_is_a_bad_one() {
    let upstream = Upstream::start(|connection| {
        connection.take(24).map_err(|_| std::io::ErrorKind::Other)?;
        connection.try_send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    });
    let gateway = crate::harness::Gateway::start(json!({
        "upstreams": { "test": { "servers": [upstream.address()], "protocol": "h2" } },
        "routes": [{ "path": "/", "upstream": "test" }],
    }));

    assert_eq!(gateway.get("/").status(), 502);
    gateway.logs("no HTTP/2");
}

#[test]
fn metrics_count_connections_and_not_streams() {
    let upstream = echo();
    let gateway = upstream.gateway(json!({}));
    for _ in 0..5 {
        assert_eq!(gateway.get("/").status(), 200);
    }

    eventually("an idle connection", || {
        let text = gateway.admin("/metrics").text().to_owned();
        text.lines()
            .any(|line| {
                line.starts_with("zproxy_upstream_connections{")
                    && line.contains("idle")
                    && line.ends_with(" 1")
            })
            .then_some(())
    });
}

/// A connection that takes no more requests is there until its last has ended.
#[test]
fn metrics_count_a_connection_that_is_going_away() {
    let (leave, left) = mpsc::channel::<()>();
    let left = Arc::new(Mutex::new(left));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut wire = Wire::tcp(listener.accept().unwrap().0);
        wire.take(24).unwrap();
        wire.send(frame(4, 0, 0, &[]));
        await_frame(&mut wire, |frame| frame.kind == 1);
        // The first head of a response, and GOAWAY.
        wire.send(frame(1, 4, 1, &[0x88]));
        wire.send(frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
        left.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        wire.send(frame(0, 1, 1, b"done"));
        while next_frame(&mut wire).is_some() {}
    });
    let gateway = crate::harness::Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "upstreams": { "test": { "servers": [address.to_string()], "protocol": "h2" } },
        "routes": [{ "path": "/", "upstream": "test" }],
    }));
    let mut client = Http2::connect(gateway.address());
    let (response, _) = client.open(get("/"), true);
    let body = client.run(response).unwrap().into_body();

    gateway.counts("zproxy_upstream_connections", &[("state", "active")], 1.0);
    leave.send(()).unwrap();

    let mut body = body;
    assert_eq!(&client.run(body.data()).unwrap().unwrap()[..], b"done");
    server.join().unwrap();
    gateway.counts("zproxy_upstream_connections", &[("state", "active")], 0.0);
}

/// What waits on a connection whose server is gone without a word has failed, and what comes next gets another.
#[test]
fn a_server_that_answers_no_ping_is_gone() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut wire = Wire::tcp(listener.accept().unwrap().0);
        wire.take(24).unwrap();
        wire.send(frame(4, 0, 0, &[]));
        for _ in 0..3 {
            let ping = await_frame(&mut wire, |frame| frame.kind == 6 && frame.flags == 0);
            wire.send(frame(6, 1, 0, &ping.payload));
        }
        while next_frame(&mut wire).is_some() {}
    });
    let gateway = crate::harness::Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "upstreams": { "test": {
            "servers": [address.to_string()], "protocol": "h2",
            "keepalive": { "ping_interval_ms": 100, "ping_timeout_ms": 300 },
        } },
        "routes": [{ "path": "/", "upstream": "test" }],
    }));
    let mut client = Http2::connect(gateway.address());

    let answer = client.ask(post("/"), Some(b"not to be repeated"));

    assert_eq!(answer.status, 502);
    server.join().unwrap();
}
