//! Answers from a cache that are given again without a call of the plugin: when, and when not.

use serde_json::json;

use crate::harness::{Gateway, Message, Upstream, eventually, guest};

/// A gateway of one worker, for it has one instance then, whose plugin lets answers be given again for `ms`.
fn repeating(upstream: &Upstream, ms: u64) -> Gateway {
    Gateway::start(json!({
        "workers": 1,
        "plugins": {
            "again": { "path": guest("again"), "allow": { "cache": true }, "config": { "ms": ms } },
        },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["again"] }],
    }))
}

fn calls(answer: &Message) -> Option<u32> {
    answer.field("x-calls").map(|calls| calls.parse().unwrap())
}

/// Asks until an answer is one that was given before. How many calls it took.
#[track_caller]
fn settle(gateway: &Gateway, path: &str, fields: &str) -> u32 {
    let mut last = None;
    eventually(&format!("{path} to be given again"), || {
        let now = calls(&gateway.ask("GET", path, fields));
        let same = now.is_some() && now == last;
        last = now;
        now.filter(|_| same)
    })
}

const UPSTREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/a\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn who_asks_with_the_same_declared_fields_gets_the_same_without_a_call() {
    let upstream = Upstream::sending(UPSTREAM);
    let gateway = repeating(&upstream, 600_000);
    let settled = settle(&gateway, "/a", "");
    let asked = upstream.requests().len();

    for other in ["", "Accept: x\r\n", "Cookie: a=b\r\n"] {
        let answer = gateway.ask("GET", "/a", other);
        assert_eq!((answer.status(), answer.text()), (200, "hello"));
        assert_eq!((calls(&answer), answer.field("content-length")), (Some(settled), Some("5")));
        assert_eq!(answer.field("content-type"), Some("text/a"));
        assert_eq!(answer.all("date").len(), 1);
        let ages = answer.all("age");
        assert_eq!(ages.len(), 1);
        assert!(ages[0].parse::<u32>().unwrap() >= 100);
    }
    let head = gateway.ask("HEAD", "/a", "");
    assert_eq!((head.status(), head.field("content-length")), (200, Some("5")));
    assert!(calls(&gateway.ask("GET", "/a", "X-Who: me\r\n")) > Some(settled));
    assert!(settle(&gateway, "/a?b", "") > settled, "another path");
    assert_eq!(calls(&gateway.get("/a")), Some(settled), "still there");
    assert_eq!(upstream.requests().len(), asked);
    let metrics = gateway.metrics();
    assert!(metrics.sum("zproxy_cache_requests_total", &[("result", "hit")]) >= 5.0);
}

#[test]
fn what_was_removed_is_not_given_again() {
    let upstream = Upstream::sending(UPSTREAM);
    let gateway = repeating(&upstream, 600_000);
    settle(&gateway, "/first", "");
    eventually("/two/a stored", || {
        // It asks for both, and only then.
        calls(&gateway.get("/two/a"))
    });
    let settled = settle(&gateway, "/two/a", "");
    let asked = upstream.requests().len();

    assert_eq!(gateway.get("/remove/first").text(), "true");

    assert_eq!(gateway.get("/two/a").text(), "there is no first");
    assert_eq!(upstream.requests().len(), asked);
    gateway.get("/first");
    assert_eq!(upstream.requests().len(), asked + 1);
    eventually("/first stored anew", || {
        let answer = gateway.get("/two/a");
        (answer.text() == "hello").then_some(())
    });
    assert!(calls(&gateway.get("/two/a")) > Some(settled), "another first");
}

#[test]
fn after_its_time_the_hook_is_called() {
    let upstream = Upstream::sending(UPSTREAM);
    let gateway = repeating(&upstream, 300);
    let settled = settle(&gateway, "/a", "");

    eventually("a call", || (calls(&gateway.get("/a")) > Some(settled)).then_some(()));
}
