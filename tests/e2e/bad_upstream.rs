//! Upstreams that answer wrongly: the client gets a 502 that names the cause, or an answer that is
//! visibly cut, and never one that someone else could read differently.
//!
//! Not here: upstreams that cannot be reached or take too long (`upstream`).

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde_json::json;

use crate::harness::{DEADLINE, Gateway, Upstream, Wire, WireError, eventually};

/// Answers the request for `/N` with row N, and waits for the gateway to close the connection.
fn answering_rows(rows: Vec<Vec<u8>>) -> Upstream {
    Upstream::start(move |connection| {
        loop {
            let request = connection.request()?;
            let number: usize = request.target()[1..].parse().unwrap();
            connection.try_send(&rows[number])?;
        }
    })
}

/// Asks for every row: each must be answered by 502 with `Proxy-Status`, and its connection closed.
fn refused(rows: &[&[u8]]) {
    let upstream = answering_rows(rows.iter().map(|row| row.to_vec()).collect());
    let gateway = Gateway::to(&upstream);
    let mut problems = Vec::new();
    let mut client = gateway.connect();

    for (number, row) in rows.iter().enumerate() {
        let mut say = |what: String| {
            let row = row[..row.len().min(120)].escape_ascii();
            problems.push(format!("{row}: {what}"));
        };
        client.deadline = Duration::from_secs(5);
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
        match client.try_response() {
            Ok(answer) if answer.status() != 502 => say(format!("answered {answer:?}")),
            Ok(answer) if !answer.all("proxy-status").concat().contains("error=") => {
                say(format!("no cause in Proxy-Status {:?}", answer.all("proxy-status")));
            }
            Ok(answer) if answer.says_close() => client = gateway.connect(),
            Ok(_) => {}
            Err(error) => {
                say(format!("{error:?}"));
                client = gateway.connect();
            }
        }
    }

    assert!(problems.is_empty(), "{} rows:\n{}", problems.len(), problems.join("\n"));
    eventually("the end of every connection to the upstream", || {
        (upstream.ended() == upstream.connections()).then_some(())
    });
}

/// RFC 9112 §4.
#[test]
fn a_status_line_that_is_none_becomes_a_502() {
    let lines = [
        "HTTP/1.1 99 Low",
        "HTTP/1.1 1000 High",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1 020 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 200OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1200 OK",
        " HTTP/1.1 200 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/0.9 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "GET / HTTP/1.1",
        "200 OK",
        "",
    ];
    let rows: Vec<String> =
        lines.iter().map(|line| format!("{line}\r\nContent-Length: 0\r\n\r\n")).collect();
    let rows: Vec<&[u8]> = rows.iter().map(String::as_bytes).collect();

    refused(&rows);
}

/// RFC 9112 §6.1, §6.3; the same rules as for clients, because caches and clients behind us read
/// what we pass on.
#[test]
fn an_answer_whose_length_can_be_read_in_two_ways_becomes_a_502() {
    let fields = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 18446744073709551621",
        "Content-Length: 5\r\n ",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding:",
    ];
    let rows: Vec<String> =
        fields.iter().map(|field| format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n0\r\n\r\n")).collect();
    let mut rows: Vec<&[u8]> = rows.iter().map(String::as_bytes).collect();
    // RFC 9112 §6.1: no transfer codings in HTTP/1.0.
    rows.push(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");

    refused(&rows);
}

/// RFC 9112 §2.2, §5.
#[test]
fn a_malformed_field_line_of_an_answer_becomes_a_502() {
    refused(&[
        b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: y\rz\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: y\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX\0: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n X: y\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX y: z\r\nContent-Length: 0\r\n\r\n",
    ]);
}

/// RFC 9112 §5.1: a proxy takes the space away or refuses the answer; it never passes it on. (The
/// strict reader of the test would refuse it.)
#[test]
fn a_space_before_a_colon_is_never_passed_on() {
    let upstream = Upstream::sending("HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::to(&upstream);

    let answer = gateway.get("/");

    match answer.status() {
        200 => assert_eq!(answer.field("x"), Some("y")),
        other => assert_eq!(other, 502),
    }
}

/// RFC 9110 §7.8: nobody asked for an upgrade, so what follows would be a tunnel into the pool.
#[test]
fn an_unasked_101_becomes_a_502_and_opens_no_tunnel() {
    refused(&[
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ]);
}

/// The other side of the strictness: what is odd but unmistakable is passed on.
#[test]
fn odd_but_valid_answers_are_passed_on() {
    let rows = [
        ("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", 200),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
        ("HTTP/1.1 299 \u{fc}ber\r\nContent-Length: 2\r\n\r\nok", 299),
        ("HTTP/1.1 200 OK\r\nX:\r\nY:  \t z \t \r\nContent-Length:2\r\n\r\nok", 200),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n02;x=y\r\nok\r\n00\r\n\r\n", 200),
        ("HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\n\r\nok", 418),
    ];
    let upstream = answering_rows(
        rows.iter()
            .map(|(row, _)| row.chars().map(|letter| u8::try_from(letter).unwrap()).collect())
            .collect(),
    );
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for (number, (row, status)) in rows.iter().enumerate() {
        let answer = client.exchange(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));

        assert_eq!((answer.status(), answer.text()), (*status, "ok"), "{row:?}: {answer:?}");
        assert_eq!(answer.version(), "HTTP/1.1");
    }
}

/// The head may be on its way already; then only a cut connection tells the truth.
#[test]
fn a_body_with_bad_chunks_never_looks_whole() {
    let bodies = [
        "5 \r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5;x\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0;\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n10000000000000000\r\nx",
    ];
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let upstream =
        answering_rows(bodies.iter().map(|body| format!("{head}{body}").into_bytes()).collect());
    let gateway = Gateway::to(&upstream);

    for (number, body) in bodies.iter().enumerate() {
        let mut client = gateway.connect();
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_is_cut(&mut client, body);
    }
    eventually("the end of every connection to the upstream", || {
        (upstream.ended() == upstream.connections()).then_some(())
    });
}

/// As long as nothing has been sent, the client can be told.
#[test]
fn a_body_that_is_bad_from_its_first_byte_becomes_a_502() {
    refused(&[
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
    ]);
}

/// To HTTP/1.0 the end of the connection is the end of the body, unless it is a reset.
#[test]
fn a_body_that_breaks_off_ends_with_a_reset_where_nothing_else_would_tell() {
    let upstream = Upstream::sending_and_closing(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    );
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    client.send("GET / HTTP/1.0\r\n\r\n");

    assert_eq!(client.try_response().unwrap_err(), WireError::Reset);
}

fn assert_is_cut(client: &mut Wire, what: &str) {
    match client.try_response() {
        Err(WireError::Truncated(_) | WireError::Closed | WireError::Reset) => {}
        Ok(answer) if answer.status() == 502 => {}
        other => panic!("{what:?}: {other:?}"),
    }
}

/// What an upstream says beyond its answer belongs to nobody, least of all to the next client.
#[test]
fn bytes_after_an_answer_never_answer_the_next_request() {
    let good = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for late in [false, true] {
        // Late is: after the good answer has reached its client, before the next request.
        let (tell_arrival, arrived) = mpsc::channel();
        let (tell_sent, sent) = mpsc::channel();
        let late_ones = Mutex::new((arrived, tell_sent));
        let upstream = Upstream::start(move |connection| {
            loop {
                connection.request()?;
                if late {
                    connection.try_send(good)?;
                    let (arrived, tell_sent) = &*late_ones.lock().unwrap();
                    arrived.recv().map_err(std::io::Error::other)?;
                    connection.try_send(evil)?;
                    tell_sent.send(()).map_err(std::io::Error::other)?;
                } else {
                    connection.try_send(format!("{good}{evil}"))?;
                }
            }
        });
        let gateway =
            Gateway::to_with(&upstream, json!({ "workers": { "count": 1, "pin": false } }));

        for _ in 0..5 {
            let mut client = gateway.connect();
            let answer = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

            assert_eq!((answer.status(), answer.text()), (200, "good"), "late: {late}");
            if late {
                tell_arrival.send(()).unwrap();
                sent.recv_timeout(DEADLINE).unwrap();
            }
            assert!(client.is_silent(Duration::from_millis(50)), "late: {late}");
        }
    }
}

/// A 204 has no body whatever follows it (RFC 9112 §6.3).
#[test]
fn a_body_after_a_204_never_answers_the_next_request() {
    let upstream = Upstream::sending(
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for _ in 0..3 {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 204);
    }
}

/// Everything that ends before a head is whole.
#[test]
fn an_upstream_that_leaves_before_its_answer_becomes_a_502() {
    let endings: [&[u8]; 5] =
        [b"", b"HTTP", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: y\r\n", b"\0"];
    for reset in [false, true] {
        let upstream = Upstream::start(move |connection| {
            let request = connection.request()?;
            let number: usize = request.target()[1..].parse().unwrap();
            connection.try_send(endings[number])?;
            if reset {
                connection.reset_at_end();
            }
            Ok(())
        });
        let gateway = Gateway::to(&upstream);

        for number in 0..endings.len() {
            let answer = gateway.ask("POST", &format!("/{number}"), "Content-Length: 0\r\n");

            assert_eq!(answer.status(), 502, "{number}: {answer:?}");
            assert!(answer.field("proxy-status").is_some_and(|cause| cause.contains("error=")));
        }
    }
}

/// Every loop that a peer can feed has an end.
#[test]
fn an_upstream_that_never_gets_beyond_interim_answers_is_cut_off() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        loop {
            connection.try_send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(100))?;
        }
    });
    let gateway = Gateway::to_with(&upstream, json!({ "limits": { "request_timeout_ms": 1000 } }));
    let mut client = gateway.connect();

    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

    let end = eventually("the end of 103s", || match client.try_response() {
        Ok(answer) if answer.status() == 103 => None,
        other => Some(other),
    });
    match end {
        Ok(answer) => assert!([502, 504].contains(&answer.status()), "{answer:?}"),
        Err(WireError::Late(rest)) => panic!("still open: {rest:?}"),
        Err(_) => {}
    }
    assert_eq!(upstream.connections(), 1);
}

/// Heads have limits on this side too, in size and in number of lines.
#[test]
fn an_answer_with_a_head_beyond_the_limits_becomes_a_502() {
    let big = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(100_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(5000));

    refused(&[big.as_bytes(), many.as_bytes()]);
}
