//! Messages through the gateway: connections, bodies, interim responses.
//!
//! Not here: what is refused (`framing`, `bad_upstream`), header rules (`headers`), limits.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Body, Gateway, Upstream, WireError};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// RFC 9112 §9.3: persistence is the default of HTTP/1.1, on both sides.
#[test]
fn one_connection_serves_many_requests_and_so_does_one_to_the_upstream() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for _ in 0..5 {
        let response = client.exchange(GET);

        assert_eq!((response.status(), response.text()), (200, "hello"));
        assert!(!response.says_close(), "{response:?}");
    }

    assert_eq!(upstream.connections(), 1);
}

/// RFC 9112 §9.3: HTTP/1.0 closes unless the client asks to keep the connection.
#[test]
fn http_1_0_closes_after_the_answer() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    let response = client.exchange("GET / HTTP/1.0\r\n\r\n");

    assert_eq!((response.status(), response.text()), (200, "hello"));
    client.closed();
    assert_eq!(upstream.last_request().version(), "HTTP/1.1");
}

#[test]
fn http_1_0_with_keep_alive_stays_open_and_says_so() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for _ in 0..2 {
        let response =
            client.exchange("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");

        assert_eq!((response.status(), response.text()), (200, "hello"));
        assert_eq!(
            response.field("connection").map(str::to_ascii_lowercase).as_deref(),
            Some("keep-alive")
        );
    }
}

/// RFC 9112 §9.6.
#[test]
fn a_client_that_says_close_gets_one_answer_and_the_end() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    client.send("GET /1 HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n");
    let response = client.response();

    assert!(response.says_close(), "{response:?}");
    client.closed();
    assert_eq!(upstream.requests().len(), 1);
}

/// The upstream's wish to close is its own affair: the client's connection stays.
#[test]
fn an_upstream_that_closes_after_each_answer_does_not_close_the_client() {
    let upstream = Upstream::sending_and_closing(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
    );
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for _ in 0..3 {
        let response = client.exchange(GET);

        assert_eq!((response.status(), response.text()), (200, "hi"));
        assert!(!response.says_close(), "{response:?}");
    }
    assert_eq!(upstream.connections(), 3);
}

/// RFC 9112 §9.3.2: answers come in the order of the requests, whichever is ready first.
#[test]
fn pipelined_requests_are_answered_in_order_even_when_the_first_is_slow() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            if request.target() == "/0" {
                std::thread::sleep(Duration::from_millis(200));
            }
            connection.answer(request.target())?;
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();
    let requests: String =
        (0..20).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();

    client.send(requests);

    for number in 0..20 {
        assert_eq!(client.response().text(), format!("/{number}"));
    }
}

#[test]
fn pipelined_requests_with_bodies_are_told_apart() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none\
         POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ntw\r\n1\r\no\r\n0\r\n\r\n\
         GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n\
         POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nthree",
    );

    for expected in ["one", "two", "", "three"] {
        assert_eq!(client.response().text(), expected);
    }
}

/// TCP may cut a message anywhere.
#[test]
fn messages_may_arrive_byte_by_byte() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            let body = String::from_utf8(request.body).unwrap();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nX-T: 1\r\n\r\n",
                body.len()
            );
            for byte in answer.bytes() {
                connection.try_send([byte])?;
            }
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5;ext=1\r\nhello\r\n0\r\n\r\n";

    for _ in 0..2 {
        for byte in request.bytes() {
            client.send([byte]);
        }

        assert_eq!(client.response().text(), "hello");
    }
}

/// Small bodies go with the head, larger ones through a scratch buffer, the largest by splice.
#[test]
fn bodies_of_every_size_arrive_unchanged_both_ways() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for size in [0_usize, 1, 1000, 16_384, 65_535, 65_536, 262_144, 262_145, 1 << 20, 5_000_001] {
        let body: Vec<u8> =
            (0..size).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[5]).collect();
        client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"));
        client.send(&body);
        let response = client.response();

        assert_eq!(response.framing, Body::Length(size as u64), "{size}");
        assert!(response.body == body, "a body of {size} bytes came back different");
        assert!(upstream.last_request().body == body, "a body of {size} bytes arrived different");
    }
    assert_eq!(upstream.connections(), 1, "no body costs a connection");
}

/// What a client has not taken is gone with it, wherever it was on its way.
#[test]
fn bytes_of_a_client_that_left_reach_nobody_else() {
    const SIZE: usize = 32 << 20;
    let upstream = Upstream::start(|connection| {
        loop {
            let fill = if connection.request()?.target() == "/theirs" { b'a' } else { b'b' };
            connection.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"))?;
            connection.try_send(vec![fill; SIZE])?;
        }
    });
    let gateway = Gateway::to_with(&upstream, json!({ "workers": 1 }));

    for _ in 0..4 {
        let mut leaving = gateway.connect();
        leaving.send("GET /theirs HTTP/1.1\r\nHost: a\r\n\r\n");
        leaving.try_response_head("GET").unwrap();
        leaving.reset_at_end();
        drop(leaving);

        let body = gateway.get("/ours").body;
        assert_eq!(body.len(), SIZE);
        assert!(body.iter().all(|byte| *byte == b'b'), "bytes of another client");
    }
}

/// RFC 9112 §7.1: sizes and extensions belong to one connection, content and trailers to the
/// message.
#[test]
fn chunked_bodies_and_their_trailers_go_both_ways() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            assert_eq!(request.text(), "hello, world");
            connection.try_send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 4;a=b\r\ngood\r\nA;c=\"d;\\\"\"\r\n and worse\r\n000\r\nX-Sum: 14\r\n\r\n",
            )?;
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for _ in 0..2 {
        let response = client.exchange(
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Crc\r\n\r\n\
             5;x\r\nhello\r\n7\r\n, world\r\n0;last\r\nX-Crc:  12\r\n\r\n",
        );

        assert_eq!((response.framing, response.text()), (Body::Chunked, "good and worse"));
        assert_eq!(response.trailers, [("X-Sum".to_owned(), "14".to_owned())]);
        let request = upstream.last_request();
        assert_eq!(request.framing, Body::Chunked);
        assert_eq!(request.trailers, [("X-Crc".to_owned(), "12".to_owned())]);
    }
}

/// RFC 9112 §7.1: chunked is never sent to a client of HTTP/1.0.
#[test]
fn a_chunked_answer_reaches_an_http_1_0_client_unchunked() {
    let upstream = Upstream::sending(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n...\r\n0\r\nX-T: 1\r\n\r\n",
    );
    let gateway = Gateway::to(&upstream);

    for fields in ["", "Connection: keep-alive\r\n"] {
        let mut client = gateway.connect();
        let response = client.exchange(format!("GET / HTTP/1.0\r\nHost: a\r\n{fields}\r\n"));

        assert_eq!(response.text(), "hello...");
        assert_eq!(response.field("transfer-encoding"), None);
        client.closed();
    }
}

/// RFC 9112 §6.3: what ends at the connection's end has no other length.
#[test]
fn an_answer_that_ends_at_close_arrives_whole_and_the_client_knows_its_end() {
    let body = "x".repeat(300_000);
    let upstream = Upstream::sending_and_closing(format!("HTTP/1.1 200 OK\r\n\r\n{body}"));
    let gateway = Gateway::to(&upstream);

    let mut client = gateway.connect();
    let response = client.exchange(GET);
    assert!(response.body == body.as_bytes());
    if response.framing == Body::Close {
        assert!(response.says_close(), "{:?}", response.start);
    } else {
        assert_eq!(client.exchange(GET).body.len(), body.len());
    }

    let mut old = gateway.connect();
    let response = old.exchange("GET / HTTP/1.0\r\n\r\n");
    assert!(response.body == body.as_bytes());
    old.closed();
}

/// A reset is not an end: what is cut must not look whole (RFC 9112 §8).
#[test]
fn an_answer_that_is_cut_does_not_look_whole_to_the_client() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let upstream =
            Upstream::sending_and_closing(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhel"));
        let gateway = Gateway::to(&upstream);
        let mut client = gateway.connect();

        client.send(GET);

        match client.try_response() {
            Err(WireError::Truncated(_) | WireError::Closed | WireError::Reset) => {}
            Ok(response) => assert_eq!(response.status(), 502, "{head}: {response:?}"),
            other => panic!("{head}: {other:?}"),
        }
    }
}

/// RFC 9110 §6.4.1: whatever their fields say, these have no body, and the next message follows.
#[test]
fn answers_without_a_body_leave_the_connection_in_step() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            let answer = match (request.method(), request.target()) {
                ("HEAD", "/chunked") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                ("HEAD", _) => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n",
                (_, "/204") => "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
                (_, "/304") => {
                    "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"x\"\r\n\r\n"
                }
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
            };
            connection.try_send(answer)?;
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for (method, target, status) in
        [("HEAD", "/", 200), ("HEAD", "/chunked", 200), ("GET", "/204", 204), ("GET", "/304", 304)]
    {
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response_to(method);

        assert_eq!(response.status(), status, "{method} {target}");
        assert!(!response.says_close(), "{method} {target}: {response:?}");
        if (method, target) == ("HEAD", "/") {
            assert_eq!(response.field("content-length"), Some("12345"));
        }
        if status == 204 {
            // RFC 9110 §8.6: never in a 204.
            assert_eq!(response.field("content-length"), None, "{response:?}");
        }
        assert_eq!(client.exchange(GET).text(), "body", "after {method} {target}");
    }
    assert_eq!(upstream.connections(), 1);
}

/// RFC 9110 §15.2: 103 and unknown 1xx are passed on, before the final answer.
#[test]
fn interim_responses_are_passed_on() {
    let upstream = Upstream::sending(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n\
         HTTP/1.1 199 Odd\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for _ in 0..2 {
        client.send(GET);
        let interim = [client.response(), client.response(), client.response()];

        assert_eq!(interim.each_ref().map(|one| one.status()), [103, 103, 199]);
        assert_eq!(interim[1].field("link"), Some("</b.css>; rel=preload"));
        assert_eq!(client.response().text(), "ok");
    }

    // RFC 9110 §15.2: a client of HTTP/1.0 cannot know 1xx.
    assert_eq!(gateway.connect().exchange("GET / HTTP/1.0\r\n\r\n").status(), 200);
}

/// RFC 9110 §5.5: field values may hold any byte from 0x80 up; they are data, not text.
#[test]
fn bytes_above_ascii_pass_in_field_values() {
    let upstream = Upstream::sending(
        b"HTTP/1.1 200 OK\r\nX-R: \xe9\xff\x80\r\nContent-Length: 0\r\n\r\n".as_slice(),
    );
    let gateway = Gateway::to(&upstream);

    let response =
        gateway.connect().exchange(b"GET / HTTP/1.1\r\nHost: a\r\nX-Q: \x80 \xfe\r\n\r\n");

    assert_eq!(response.field("x-r"), Some("\u{e9}\u{ff}\u{80}"));
    assert_eq!(upstream.last_request().field("x-q"), Some("\u{80} \u{fe}"));
}

/// Closing with something unread would take back what the client has not received yet.
#[test]
fn an_answer_arrives_whole_though_the_client_goes_on_sending() {
    const LENGTH: usize = 300_000;
    for more in ["\r\n", GET] {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::start(move |connection| {
            connection.request()?;
            // An error means that the test has ended.
            let _ = wait.lock().unwrap().recv();
            connection.answer(&"x".repeat(LENGTH))
        });
        let gateway = Gateway::to(&upstream);
        let mut client = gateway.connect();
        client.receive_little();

        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        upstream.request();
        client.send(more);
        go.send(()).unwrap();
        let head = client.try_response_head("GET").unwrap();
        // Long enough for the gateway to have written all of it, and closed.
        std::thread::sleep(Duration::from_millis(100));

        assert_eq!(client.take_body(head).unwrap().body.len(), LENGTH, "{more:?}");
        client.closed();
    }
}

/// RFC 9112 §9.3: close wins, whatever stands beside it.
#[test]
fn close_wins_over_keep_alive() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    for version in ["1.0", "1.1"] {
        for list in ["close, keep-alive", "keep-alive, close"] {
            let mut client = gateway.connect();
            let answer = client
                .exchange(format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {list}\r\n\r\n"));

            assert!(answer.says_close(), "{version} {list}: {answer:?}");
            client.closed();
        }
    }
}

/// RFC 9110 §10.1.1: an expectation that cannot be meant must not reach somebody who acts on it.
#[test]
fn an_expectation_goes_on_only_where_a_body_waits_for_it() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    let rows = [
        ("GET / HTTP/1.1", "", false),
        ("POST / HTTP/1.0", "Content-Length: 2\r\n", false),
        ("POST / HTTP/1.1", "Content-Length: 2\r\n", true),
        ("POST / HTTP/1.1", "Connection: expect\r\nContent-Length: 2\r\n", true),
    ];
    for (line, fields, goes_on) in rows {
        let body = if fields.is_empty() { "" } else { "hi" };
        let answer = gateway
            .connect()
            .exchange(format!("{line}\r\nHost: a\r\nExpect: 100-continue\r\n{fields}\r\n{body}"));

        assert_eq!(answer.text(), body);
        assert_eq!(upstream.last_request().field("expect").is_some(), goes_on, "{line} {fields}");
    }
}

/// RFC 9110 §7.6.1: what `Connection` names, and what only a trusted peer may say, is no more to be
/// passed on in trailers than in heads.
#[test]
fn trailers_that_concern_one_connection_are_taken_off() {
    let rows = [
        ("X-Secret", "X-Secret: 1", 0),
        ("keep-alive, close", "X-Kept: 1", 1),
        ("", "X-Kept: 1", 1),
        ("", "X-Forwarded-Port: 1\r\nX_Forwarded_For: 1", 0),
    ];
    for (names, trailers, kept) in rows {
        let body = format!(
            "Connection: {names}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{trailers}\r\n\r\n"
        );
        let upstream = Upstream::sending(format!("HTTP/1.1 200 OK\r\n{body}"));
        let gateway = Gateway::to(&upstream);

        let answer = gateway.connect().exchange(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"));

        assert_eq!((answer.text(), answer.trailers.len()), ("hi", kept), "{names} {trailers}");
        let request = upstream.last_request();
        assert_eq!((request.text(), request.trailers.len()), ("hi", kept), "{names} {trailers}");
    }
}

/// RFC 9112 §2.2: an empty line before a request is ignored.
#[test]
fn empty_lines_before_a_request_are_ignored() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for _ in 0..2 {
        assert_eq!(client.exchange(format!("\r\n{GET}")).status(), 200);
    }
    // In two segments, which is how some clients end a body.
    client.send("\r");
    assert!(client.is_silent(Duration::from_millis(100)));
    assert_eq!(client.exchange(format!("\n{GET}")).status(), 200);
}

/// RFC 9112 §3.2.2: the target's authority replaces Host, and the upstream gets the origin form.
#[test]
fn a_target_in_absolute_form_names_the_host() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);

    let response = gateway
        .connect()
        .exchange("GET http://real.example:81/a?b=c HTTP/1.1\r\nHost: other.example\r\n\r\n");

    assert_eq!(response.status(), 200);
    let request = upstream.last_request();
    assert_eq!(request.target(), "/a?b=c");
    assert_eq!(request.field("host"), Some("real.example:81"));
}

/// `*` is no path, so no route has it (RFC 9110 §9.3.7); the connection stays in step.
#[test]
fn an_options_request_for_the_server_itself_is_answered() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    let response = client.exchange("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");

    assert_eq!((response.status(), response.says_close()), (404, false), "{response:?}");
    assert_eq!(client.exchange(GET).status(), 200);
}

/// A client that has said everything may close its side; its answer still comes.
#[test]
fn a_client_that_half_closes_still_gets_its_answer() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            std::thread::sleep(Duration::from_millis(200));
            connection.answer(&"x".repeat(request.body.len()))?;
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nlength");
    client.finish();

    assert_eq!(client.response().text(), "xxxxxx");
    client.closed();
}

/// Several listeners, one of them a Unix socket; the upstream on a Unix socket too.
#[test]
fn unix_sockets_work_on_both_sides() {
    let dir = tempfile::TempDir::new().unwrap();
    let upstream = Upstream::unix(&dir.path().join("up.sock"), |connection| {
        loop {
            let request = connection.request()?;
            connection.answer(request.target())?;
        }
    });
    let socket = dir.path().join("gateway.sock");
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "listeners": [
            { "address": "127.0.0.1:0" },
            { "address": format!("unix:{}", socket.display()) },
        ] }),
    );

    for listener in [0, 1] {
        let mut client = gateway.connect_to(listener);
        assert_eq!(client.exchange("GET /one HTTP/1.1\r\nHost: a\r\n\r\n").text(), "/one");
        assert_eq!(client.exchange("GET /two HTTP/1.1\r\nHost: a\r\n\r\n").text(), "/two");
    }
}
