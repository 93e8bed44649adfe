//! Bodies on their way: when they are asked for, when they are cut short.
//!
//! Not here: bodies as such (`http`), their size limits (`limits`), memory (`backpressure`).

use crate::harness::{Gateway, Upstream, eventually};

const EXPECT: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

/// RFC 9110 §10.1.1: the client waits for 100; the upstream's 100 reaches it before the body.
#[test]
fn a_100_of_the_upstream_lets_the_client_send_its_body() {
    let upstream = Upstream::start(|connection| {
        loop {
            let head = connection.request_head()?;
            assert_eq!(
                head.field("expect").map(str::to_ascii_lowercase).as_deref(),
                Some("100-continue")
            );
            connection.try_send("HTTP/1.1 100 Continue\r\n\r\n")?;
            let request = connection.rest_of(head)?;
            connection.answer(request.text())?;
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for _ in 0..2 {
        assert_eq!(client.exchange(EXPECT).status(), 100);
        assert_eq!(client.exchange("hello").text(), "hello");
    }
}

/// The client has not sent the body and, told no, never will.
#[test]
fn a_final_answer_instead_of_100_reaches_the_client_before_any_body() {
    let upstream = Upstream::start(|connection| {
        connection.request_head()?;
        connection.try_send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")?;
        // What comes now would be the body.
        let _ = connection.take_some();
        Ok(())
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    let answer = client.exchange(EXPECT);

    assert_eq!((answer.status(), answer.text()), (401, "no"));
    // Nobody can tell whether a body or a request comes next.
    assert!(answer.says_close(), "{answer:?}");
    client.closed();
}

/// The client does not wait: RFC 9110 §10.1.1 allows it to send at once.
#[test]
fn a_body_that_comes_without_waiting_for_100_is_taken() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    client.send(format!("{EXPECT}hello"));

    let mut answer = client.response();
    while answer.status() == 100 {
        answer = client.response();
    }
    assert_eq!((answer.status(), answer.text()), (200, "hello"));
}

/// RFC 9110 §10.1.1: a client of HTTP/1.0 cannot have meant it, and never gets a 100.
#[test]
fn an_http_1_0_client_gets_no_100() {
    let upstream = Upstream::start(|connection| {
        let request = connection.request()?;
        connection.try_send("HTTP/1.1 100 Continue\r\n\r\n")?;
        connection.answer(request.text())
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    let answer = client.exchange(
        "POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    );

    assert_eq!((answer.status(), answer.text()), (200, "hello"));
}

#[test]
fn an_expectation_that_nobody_knows_is_refused() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);

    let answer = gateway.ask("POST", "/", "Expect: wonders\r\nContent-Length: 0\r\n");

    assert_eq!(answer.status(), 417);
}

/// An upstream that knows enough answers at once; the client must not have to finish first.
#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let upstream = Upstream::start(|connection| {
            connection.request_head()?;
            connection.try_send("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nenough")?;
            while !connection.take_some().unwrap_or_default().is_empty() {}
            Ok(())
        });
        let gateway = Gateway::to(&upstream);
        let mut client = gateway.connect();

        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n5\r\nhello\r\n"));
        let answer = client.response();

        assert_eq!((answer.status(), answer.text()), (403, "enough"), "{framing}");
    }
}

/// The usual way to say no to an upload: answer and close. The answer must survive the reset that
/// the rest of the body causes.
#[test]
fn an_early_answer_followed_by_a_close_is_not_lost() {
    let upstream = Upstream::start(|connection| {
        connection.request_head()?;
        connection.try_send(
            "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 6\r\n\r\nenough",
        )
    });
    let gateway = Gateway::to(&upstream);

    for _ in 0..5 {
        let mut client = gateway.connect();
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        // Goes on sending as long as anyone listens.
        let chunk = [b'x'; 50_000];
        let sent = (0..20).take_while(|_| client.try_send(chunk).is_ok()).count();
        let answer = client.response();

        assert_eq!((answer.status(), answer.text()), (413, "enough"), "after {sent} chunks");
    }
}

/// A request whose client vanished in the middle is not a request: the upstream must not take what
/// has come for all of it.
#[test]
fn a_request_that_is_cut_is_never_completed_upstream() {
    for body in
        ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
    {
        let upstream = Upstream::echoing();
        let gateway = Gateway::to(&upstream);
        let mut client = gateway.connect();

        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"));
        eventually("the part upstream", || {
            upstream.received_text().contains("hello").then_some(())
        });
        drop(client);

        eventually("the end upstream", || (upstream.ended() == 1).then_some(()));
        assert_eq!(upstream.requests(), []);
    }
}

/// What a client no longer waits for need not be made.
#[test]
fn a_client_that_leaves_takes_its_upstream_request_along() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")?;
        loop {
            connection.try_send([b'x'; 10_000])?;
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_response_head("GET").unwrap().status(), 200);
    drop(client);

    eventually("the end upstream", || (upstream.ended() == 1).then_some(()));
}
