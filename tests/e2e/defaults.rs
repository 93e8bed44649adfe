//! A gateway that was told nothing: the embedded default.
//!
//! Not here: `/try/<plugin>/` (`plugins`), the default addresses (unit tests of `config`: a test must
//! not need a certain port).

use crate::harness::{Gateway, Launch};

fn gateway() -> Gateway {
    Launch::flags(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).start()
}

/// Interface §1: the page names the version, the routes, the plugins and what to try.
#[test]
fn the_first_page_says_what_is_here_and_what_to_try() {
    let gateway = gateway();

    let answer = gateway.get("/");

    assert_eq!(answer.status(), 200);
    let page = answer.text();
    for part in [env!("CARGO_PKG_VERSION"), "/echo", "lugins", "curl"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert_eq!(gateway.get("/other").status(), 404);
}

/// What the echo shows is what an upstream gets: forwarding fields included.
#[test]
fn echo_answers_with_a_picture_of_the_request_that_reached_it() {
    let gateway = gateway();
    let mut client = gateway.connect();

    for path in ["/echo", "/echo/below"] {
        let answer = client.exchange(format!(
            "POST {path}?a=b HTTP/1.1\r\nHost: my.example\r\nX-Mine: 1\r\nContent-Length: 5\r\n\r\nhello"
        ));

        assert_eq!(answer.status(), 200);
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let picture = answer.json();
        assert_eq!(picture["method"], "POST");
        assert_eq!(picture["path"], path);
        assert_eq!(picture["query"], "a=b");
        assert_eq!(picture["body"], "hello");
        assert_eq!(picture["headers"]["host"], "my.example");
        assert_eq!(picture["headers"]["x-mine"], "1");
        assert_eq!(picture["headers"]["x-forwarded-for"], "127.0.0.1");
        assert_eq!(picture["headers"]["via"], "1.1 zproxy");
    }
}

#[test]
fn echo_reads_bodies_of_any_size() {
    let gateway = gateway();
    let mut client = gateway.connect();

    client.send("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n");
    client.send(vec![b'x'; 3_000_000]);
    let picture = client.response().json();

    assert_eq!(picture["body_bytes"], 3_000_000);
    assert_eq!(client.exchange("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
}
