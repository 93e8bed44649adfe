//! Reaching upstreams: pooled connections, dead ones, refusals, time-outs, and how the client
//! learns of them.
//!
//! Not here: wrong answers (`bad_upstream`), choosing among servers (`balance`).

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Gateway, Upstream, WireError, eventually, full_backlog};

/// One worker, so that it is known which pool is used.
fn one_worker() -> serde_json::Value {
    json!({ "workers": { "count": 1, "pin": false } })
}

#[test]
fn connections_are_shared_by_the_clients_of_a_worker() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(&upstream, one_worker());

    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "hello");
    }

    assert_eq!(upstream.connections(), 1);
}

#[test]
fn requests_at_the_same_time_have_a_connection_each() {
    let waiting = std::sync::Barrier::new(4);
    let upstream = Upstream::start(move |connection| {
        loop {
            connection.request()?;
            // Nobody answers before all have asked.
            waiting.wait();
            connection.answer("together")?;
        }
    });
    let gateway = Gateway::to_with(&upstream, one_worker());
    let mut clients: Vec<_> = (0..4).map(|_| gateway.connect()).collect();

    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    for client in &mut clients {
        assert_eq!(client.response().text(), "together");
    }
    assert_eq!(upstream.connections(), 4);
}

/// `keepalive.connections_max` 0: a new connection for every request.
#[test]
fn keeping_connections_can_be_switched_off() {
    let upstream = Upstream::answering("hello");
    let mut more = one_worker();
    more["upstreams"] = json!({ "test": { "keepalive": { "connections_max": 0 } } });
    let gateway = Gateway::to_with(&upstream, more);

    for _ in 0..3 {
        assert_eq!(gateway.get("/").text(), "hello");
    }

    assert_eq!(upstream.connections(), 3);
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let upstream = Upstream::answering("hello");
    let mut more = one_worker();
    more["upstreams"] = json!({ "test": { "keepalive": { "idle_ms": 100 } } });
    let gateway = Gateway::to_with(&upstream, more);

    assert_eq!(gateway.get("/").text(), "hello");

    eventually("the end of the idle connection", || (upstream.ended() == 1).then_some(()));
    assert_eq!(gateway.get("/").text(), "hello");
}

/// Servers close idle connections when they like; no client should ever notice.
#[test]
fn a_pooled_connection_that_has_died_is_replaced_silently() {
    for reset in [false, true] {
        let upstream = Upstream::start(move |connection| {
            connection.request()?;
            if reset {
                connection.reset_at_end();
            }
            connection.answer("hello")
        });
        let gateway = Gateway::to_with(&upstream, one_worker());

        for method in ["GET", "GET", "POST", "POST", "DELETE"] {
            let answer = gateway.ask(method, "/", "Content-Length: 0\r\n");
            assert_eq!(
                (answer.status(), answer.text()),
                (200, "hello"),
                "{method}, reset: {reset}"
            );
            // On loopback it has reached the gateway's socket then.
            eventually("the end", || (upstream.ended() == upstream.connections()).then_some(()));
        }
        assert_eq!(upstream.connections(), 5);
    }
}

/// Answers the first request of every connection, and closes as soon as the second has come: the
/// race of keep-alive, lost every time.
fn closing_on_the_second() -> Upstream {
    Upstream::start(|connection| {
        connection.request()?;
        connection.answer("hello")?;
        connection.request()?;
        Ok(())
    })
}

/// RFC 9112 §9.3.1: a request that changes nothing may be repeated without asking.
#[test]
fn a_safe_request_that_a_dying_connection_swallowed_is_repeated() {
    let upstream = closing_on_the_second();
    let gateway = Gateway::to_with(&upstream, one_worker());

    assert_eq!(gateway.get("/1").text(), "hello");
    assert_eq!(gateway.get("/2").text(), "hello");

    let targets: Vec<String> =
        upstream.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, ["/1", "/2", "/2"]);
}

/// A repeated body is the same body, and what the client pipelined behind it comes next.
#[test]
fn a_put_that_a_dying_connection_swallowed_is_repeated_with_its_body() {
    let upstream = closing_on_the_second();
    let gateway = Gateway::to_with(&upstream, one_worker());
    assert_eq!(gateway.get("/1").text(), "hello");
    let mut client = gateway.connect();

    client.send(
        "PUT /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
    );

    assert_eq!(client.response().text(), "hello");
    assert_eq!(client.response().text(), "hello");
    let seen: Vec<(String, Vec<u8>)> = upstream
        .requests()
        .into_iter()
        .map(|request| (request.target().to_owned(), request.body))
        .collect();
    let expected = [("/1", ""), ("/2", "hello"), ("/2", "hello"), ("/3", ""), ("/3", "")];
    assert_eq!(seen, expected.map(|(target, body)| (target.to_owned(), body.as_bytes().to_vec())));
}

/// What the client pipelined behind a body is not part of it, however much it is.
#[test]
fn a_repeated_body_is_followed_by_what_the_client_pipelined() {
    let upstream = closing_on_the_second();
    let gateway = Gateway::to_with(&upstream, one_worker());
    assert_eq!(gateway.get("/1").text(), "hello");
    let mut client = gateway.connect();
    let pad = "x".repeat(12_000);
    let next = |name: &str| format!("GET {name} HTTP/1.1\r\nHost: a\r\nX: {pad}\r\n\r\n");

    client.send(format!(
        "PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{}{}",
        next("/3"),
        next("/4")
    ));

    for _ in 0..3 {
        assert_eq!(client.response().text(), "hello");
    }
    let puts: Vec<_> =
        upstream.requests().into_iter().filter(|request| request.method() == "PUT").collect();
    assert_eq!(puts.len(), 2);
    assert!(puts.iter().all(|put| put.text() == "hello"));
    assert_eq!(upstream.last_request().target(), "/4");
}

/// Too long to be kept: the client learns at once, and nothing is sent without its body.
#[test]
fn a_long_body_that_a_dying_connection_swallowed_is_a_502() {
    let upstream = closing_on_the_second();
    let gateway = Gateway::to_with(&upstream, one_worker());
    assert_eq!(gateway.get("/1").text(), "hello");

    let body = "x".repeat(20_000);
    let mut client = gateway.connect();
    let answer = client
        .exchange(format!("PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n{body}"));

    assert_eq!(answer.status(), 502, "{answer:?}");
    assert_eq!(upstream.connections(), 1);
}

/// As long as nothing has been taken of the body, there is nothing that a second try would lack.
#[test]
fn a_put_whose_body_is_still_to_come_is_repeated() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.answer("hello")?;
        // Reads one more head, and leaves.
        connection.request_head().map(drop)
    });
    let gateway = Gateway::to_with(&upstream, one_worker());
    assert_eq!(gateway.get("/1").text(), "hello");
    let mut client = gateway.connect();

    client.send("PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    eventually("the second connection", || (upstream.connections() == 2).then_some(()));
    client.send("hello");

    assert_eq!(client.response().text(), "hello");
    assert_eq!(upstream.last_request().text(), "hello");
}

/// An interim answer shows that the upstream had the request.
#[test]
fn a_request_with_an_interim_answer_is_not_repeated() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.answer("hello")?;
        connection.request()?;
        connection.try_send("HTTP/1.1 103 Early Hints\r\n\r\n")
    });
    let gateway = Gateway::to_with(&upstream, one_worker());
    assert_eq!(gateway.get("/1").text(), "hello");
    let mut client = gateway.connect();

    assert_eq!(client.exchange("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").status(), 103);

    assert_eq!(client.response().status(), 502);
    assert_eq!(upstream.connections(), 1);
}

/// RFC 9110 §9.2.2: an order placed twice is worse than an order not placed.
#[test]
fn a_post_that_a_dying_connection_swallowed_is_not_repeated() {
    let upstream = closing_on_the_second();
    let gateway = Gateway::to_with(&upstream, one_worker());
    assert_eq!(gateway.get("/1").text(), "hello");

    let mut client = gateway.connect();
    let answer = client.exchange("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\norder");

    assert_eq!(answer.status(), 502);
    assert_eq!(upstream.requests().len(), 2);
    assert_eq!(upstream.connections(), 1);
}

/// On a new connection there is no race: the upstream meant it.
#[test]
fn a_request_that_fails_on_a_new_connection_is_not_repeated_for_ever() {
    let upstream = Upstream::start(|connection| connection.request().map(drop));
    let gateway = Gateway::to_with(&upstream, one_worker());

    let answer = gateway.get("/");

    assert_eq!(answer.status(), 502);
    assert!(upstream.requests().len() <= 2, "{}", upstream.requests().len());
}

/// RFC 9112 §9.6: such a connection takes no further request.
#[test]
fn a_connection_on_which_the_upstream_says_close_is_not_used_again() {
    for head in ["HTTP/1.1 200 OK\r\nConnection: x, close", "HTTP/1.0 200 OK"] {
        let upstream = Upstream::sending(format!("{head}\r\nContent-Length: 2\r\n\r\nhi"));
        let gateway = Gateway::to_with(&upstream, one_worker());

        for _ in 0..2 {
            assert_eq!(gateway.get("/").text(), "hi");
        }

        assert_eq!(upstream.connections(), 2, "{head:?}");
    }
}

/// Nobody listens: 502, and the cause for those who run the gateway (RFC 9209 §2.3).
#[test]
fn a_refused_connection_becomes_a_502_that_says_so() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let missing = "unix:/nowhere/to/be/found.sock";
    for address in [free.to_string(), missing.to_owned()] {
        let gateway = Gateway::start(json!({
            "upstreams": { "gone": { "servers": [address] } },
            "routes": [{ "path": "/", "upstream": "gone" }],
        }));

        let answer = gateway.get("/");

        assert_eq!(answer.status(), 502, "{address}");
        let cause = answer.field("proxy-status").unwrap();
        assert!(cause.starts_with("zproxy") && cause.contains("error="), "{cause}");
        if !address.starts_with("unix") {
            assert!(cause.contains("error=connection_refused"), "{cause}");
        }
        assert!(!answer.text().contains(&address), "the client learns where: {}", answer.text());
        assert!(!cause.contains(&address), "the client learns where: {cause}");
    }
}

#[test]
fn a_name_that_cannot_be_resolved_becomes_a_502_that_says_so() {
    let gateway = Gateway::start(json!({
        "routes": [{ "path": "/", "upstream": "http://no-such-host.invalid:80" }],
    }));

    let answer = gateway.get("/");

    assert_eq!(answer.status(), 502);
    assert!(answer.field("proxy-status").unwrap().contains("error=dns_"), "{answer:?}");
}

#[test]
fn a_name_is_resolved() {
    let upstream = Upstream::answering("hello");
    let port = upstream.address().rsplit_once(':').unwrap().1.to_owned();
    let gateway = Gateway::start(json!({
        "routes": [{ "path": "/", "upstream": format!("http://localhost:{port}") }],
    }));

    assert_eq!(gateway.get("/").text(), "hello");
}

/// The SYN is dropped: without a limit the kernel tries for two minutes.
#[test]
fn a_connection_that_does_not_come_about_in_time_becomes_a_504() {
    let (address, _held) = full_backlog();
    let gateway = Gateway::start(json!({
        "upstreams": {
            "hole": { "servers": [address.to_string()], "timeouts": { "connect_ms": 300 } },
        },
        "routes": [{ "path": "/", "upstream": "hole" }],
    }));
    let start = Instant::now();

    let answer = gateway.get("/");

    assert_eq!(answer.status(), 504, "{answer:?}");
    assert!(answer.field("proxy-status").unwrap().contains("error=connection_timeout"));
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn an_answer_that_does_not_come_in_time_becomes_a_504() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        // The rest is silence, until the gateway closes.
        connection
            .take_some()
            .map(drop)
            .map_err(|error| std::io::Error::other(format!("{error:?}")))
    });
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "upstreams": { "test": { "timeouts": { "response_ms": 300 } } } }),
    );
    let mut client = gateway.connect();

    let answer = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

    assert_eq!(answer.status(), 504, "{answer:?}");
    assert!(answer.field("proxy-status").unwrap().contains("error=http_response_timeout"));
    // The late answer must not meet the next request.
    eventually("the end of the connection", || (upstream.ended() == 1).then_some(()));
}

/// A server after the other, each with its own time to connect: the request's own ends it all.
#[test]
fn the_time_for_a_request_holds_for_all_servers_together() {
    let holes: Vec<_> = (0..4).map(|_| full_backlog()).collect();
    let servers: Vec<String> = holes.iter().map(|(address, _)| address.to_string()).collect();
    let gateway = Gateway::start(json!({
        "upstreams": { "holes": { "servers": servers, "timeouts": { "connect_ms": 20_000 } } },
        "routes": [{ "path": "/", "upstream": "holes" }],
        "limits": { "request_timeout_ms": 500 },
    }));
    let start = Instant::now();

    let answer = gateway.get("/");

    assert_eq!(answer.status(), 504, "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

/// The limit is on silence, not on the whole: a body that keeps coming may take its time.
#[test]
fn an_upload_that_trickles_is_not_cut() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to_with(
        &upstream,
        json!({
            "upstreams": { "test": { "timeouts": { "response_ms": 800 } } },
            "limits": { "request_timeout_ms": 800 },
        }),
    );
    let mut client = gateway.connect();

    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(150));
        client.send("x");
    }

    assert_eq!(client.response().text(), "xxxxxxxxxx");
}

/// The client does what it is told: it waits. It is the upstream that does not answer.
#[test]
fn an_upstream_that_does_not_say_continue_in_time_becomes_a_504() {
    for beginning in ["", "HTTP/1.1 200 OK\r\n"] {
        let upstream = Upstream::start(move |connection| {
            connection.request_head()?;
            connection.try_send(beginning)?;
            let _ = connection.take_some();
            Ok(())
        });
        let gateway = Gateway::to_with(
            &upstream,
            json!({ "upstreams": { "test": { "timeouts": { "response_ms": 300 } } } }),
        );
        let mut client = gateway.connect();

        let answer = client.exchange(
            "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        );

        assert_eq!(answer.status(), 504, "{answer:?}");
        assert!(answer.field("proxy-status").unwrap().contains("error=http_response_timeout"));
    }
}

/// Told to go on, the client has its own time again.
#[test]
fn a_client_that_was_told_to_go_on_is_waited_for() {
    let upstream = Upstream::start(|connection| {
        let head = connection.request_head()?;
        connection.try_send("HTTP/1.1 100 Continue\r\n\r\n")?;
        connection.rest_of(head)?;
        connection.answer("thanks")
    });
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "upstreams": { "test": { "timeouts": { "response_ms": 300 } } } }),
    );
    let mut client = gateway.connect();

    let go_on = client
        .exchange("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(go_on.status(), 100);
    assert!(client.is_silent(Duration::from_millis(700)));
    client.send("body");

    assert_eq!(client.response().text(), "thanks");
}

/// A byte now and then is not an answer.
#[test]
fn an_answer_whose_head_trickles_becomes_a_504() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nX: ")?;
        loop {
            std::thread::sleep(Duration::from_millis(50));
            connection.try_send("y")?;
        }
    });
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "upstreams": { "test": { "timeouts": { "response_ms": 400, "idle_ms": 200 } } } }),
    );
    let start = Instant::now();

    let answer = gateway.get("/");

    assert_eq!(answer.status(), 504, "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    eventually("the end of the connection", || (upstream.ended() == 1).then_some(()));
}

/// Half an answer and then nothing: what came stays, and its end is not invented.
#[test]
fn a_body_that_stops_for_too_long_is_cut() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
        let _ = connection.take_some();
        Ok(())
    });
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "upstreams": { "test": { "timeouts": { "idle_ms": 300 } } } }),
    );
    let mut client = gateway.connect();

    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let cut = client.try_response().unwrap_err();

    assert!(matches!(cut, WireError::Truncated(_) | WireError::Reset), "{cut:?}");
    eventually("the end of the connection", || (upstream.ended() == 1).then_some(()));
}

/// The limit is on silence, not on the whole: a body that trickles on may take its time.
#[test]
fn a_body_that_trickles_is_not_cut() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n")?;
        for _ in 0..15 {
            std::thread::sleep(Duration::from_millis(100));
            connection.try_send("x")?;
        }
        Ok(())
    });
    let gateway = Gateway::to_with(
        &upstream,
        json!({
            "upstreams": { "test": { "timeouts": { "idle_ms": 1000, "response_ms": 1000 } } },
            "limits": { "request_timeout_ms": 1000, "idle_timeout_ms": 1000 },
        }),
    );

    assert_eq!(gateway.get("/").text(), "x".repeat(15));
}

/// A route may be more patient, or less, than the rest.
#[test]
fn a_route_has_its_own_time_for_a_request() {
    let upstream = Upstream::start(|connection| {
        loop {
            connection.request()?;
            std::thread::sleep(Duration::from_millis(1000));
            connection.answer("late")?;
        }
    });
    let gateway = Gateway::start(json!({
        "upstreams": {
            "slow": { "servers": [upstream.address()], "timeouts": { "response_ms": 500 } },
        },
        "routes": [
            { "path": "/hasty", "upstream": "slow", "timeouts": { "request_ms": 200 } },
            { "path": "/patient", "upstream": "slow", "timeouts": { "request_ms": 20000 } },
        ],
        "limits": { "request_timeout_ms": 500 },
    }));

    assert_eq!(gateway.get("/hasty").status(), 504);
    assert_eq!(gateway.get("/patient").text(), "late");
}

/// A worker that serves a slow upstream serves everybody else at the same time.
#[test]
fn a_slow_upstream_does_not_hold_up_others() {
    let slow = Upstream::start(|connection| {
        connection.request()?;
        let _ = connection.take_some();
        Ok(())
    });
    let quick = Upstream::answering("quick");
    let mut config = one_worker();
    config["routes"] = json!([
        { "path": "/slow", "upstream": slow.url() },
        { "path": "/quick", "upstream": quick.url() },
    ]);
    let gateway = Gateway::start(config);
    let mut waiting: Vec<_> = (0..20).map(|_| gateway.connect()).collect();
    for client in &mut waiting {
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("all slow requests", || (slow.requests().len() == 20).then_some(()));

    for _ in 0..20 {
        assert_eq!(gateway.get("/quick").text(), "quick");
    }
}
