//! Plugins that are shown bodies: what goes on, how it is framed, and what failures do.
//!
//! The guest `body` does what its configuration says.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Gateway, Message, Upstream, WireError, eventually, guest};

/// One worker; `/` leads through these configurations of the guest, in this order.
fn gateway(upstream: &Upstream, chain: &[Value]) -> Gateway {
    let chain: Vec<Value> =
        chain.iter().map(|config| json!({ "plugin": "body", "config": config })).collect();
    gateway_of(upstream, Value::Array(chain))
}

/// Large bodies take a debug build on a busy machine longer than a call may take by default.
fn gateway_of(upstream: &Upstream, chain: Value) -> Gateway {
    Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "plugins": { "body": { "path": guest("body"), "limits": { "time_ms_max": 5_000 } } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": chain }],
    }))
}

fn post(body: &str) -> String {
    let length = body.len();
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn chunked(parts: &[&str], trailers: &str) -> String {
    let chunks: String =
        parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
    format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n{trailers}\r\n"
    )
}

/// What the upstream got for this request.
#[track_caller]
fn sent(config: &Value, request: &str) -> Message {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, std::slice::from_ref(config));
    let mut client = gateway.connect();
    for _ in 0..2 {
        let answer = client.exchange(request);
        assert_eq!(answer.text(), "ok", "{config}: {answer:?}\n{}", gateway.stderr());
    }
    let requests = upstream.requests();
    assert_eq!(requests[0].body, requests[1].body, "the connection is good for another request");
    requests[0].clone()
}

/// What the client got for this response of an upstream that closes, or not.
#[track_caller]
fn got(config: &Value, response: &str) -> Message {
    let upstream = Upstream::sending_and_closing(response);
    let gateway = gateway(&upstream, std::slice::from_ref(config));
    gateway.get("/")
}

#[test]
fn a_request_body_is_changed_and_framed_anew() {
    let upper = json!({ "chunk": "upper" });
    for request in [post("hello"), chunked(&["he", "l", "lo"], "")] {
        let sent = sent(&upper, &request);
        assert_eq!(sent.text(), "HELLO");
        assert_eq!(sent.field("content-length"), None);
        assert_eq!(sent.field("transfer-encoding"), Some("chunked"));
    }
    assert_eq!(sent(&json!({ "chunk": "append", "with": "!" }), &post("hello")).text(), "hello!");
    assert_eq!(sent(&json!({ "chunk": "drop" }), &post("hello")).text(), "");
    let large = "x".repeat(1_000_000);
    assert_eq!(sent(&upper, &post(&large)).text(), "X".repeat(1_000_000));
}

#[test]
fn an_observed_body_keeps_its_length() {
    let observe = json!({ "ask": "observe" });
    let sent = sent(&observe, &post("hello"));
    assert_eq!((sent.text(), sent.field("content-length")), ("hello", Some("5")));

    let observe = json!({ "ask": "observe", "at": "response" });
    let got = got(&observe, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((got.text(), got.field("content-length")), ("hello", Some("5")));
}

/// A plugin that says so does not come between.
#[test]
fn a_skipped_body_goes_its_direct_way() {
    let skip = json!({ "ask": "skip", "chunk": "upper" });
    let sent = sent(&skip, &post("hello"));
    assert_eq!((sent.text(), sent.field("content-length")), ("hello", Some("5")));

    let skip = json!({ "ask": "skip", "chunk": "panic", "at": "response" });
    let got = got(&skip, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((got.text(), got.field("content-length")), ("hello", Some("5")));
}

#[test]
fn a_request_without_a_body_is_shown_none() {
    let sent = sent(&json!({ "chunk": "panic" }), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");

    assert_eq!(sent.text(), "");
}

#[test]
fn trailers_come_after_what_plugins_made_of_a_body() {
    let request = chunked(&["hello"], "X-Sum: 5\r\n");
    for config in [json!({ "chunk": "upper" }), json!({ "ask": "observe" })] {
        let sent = sent(&config, &request);
        assert!(sent.text().eq_ignore_ascii_case("hello"));
        let upstream = Upstream::answering("ok");
        let gateway = gateway(&upstream, &[config]);
        assert_eq!(gateway.connect().exchange(&request).text(), "ok");
        assert!(upstream.received_text().ends_with("0\r\nX-Sum: 5\r\n\r\n"));
    }
}

#[test]
fn a_held_request_waits_and_its_head_can_still_be_edited() {
    let hold = json!({ "ask": "hold", "chunk": "append", "with": "!", "field": "x-length" });
    for (request, expected, length) in [
        (post("hello"), "hello!", "5"),
        (chunked(&["he", "llo"], "X-Sum: 5\r\n"), "hello!", "5"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(), "!", "0"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "!", "0"),
    ] {
        let sent = sent(&hold, &request);
        assert_eq!(sent.text(), expected);
        assert_eq!(sent.field("x-length"), Some(length), "{sent:?}");
        let length = expected.len().to_string();
        assert_eq!(sent.field("content-length"), Some(&*length), "{sent:?}");
        assert_eq!(sent.field("transfer-encoding"), None, "{sent:?}");
    }
    let large = "x".repeat(1_000_000);
    assert_eq!(sent(&hold, &post(&large)).body.len(), 1_000_001);
}

#[test]
fn a_body_longer_than_a_plugin_holds_is_refused() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, &[json!({ "ask": "hold", "bytes_max": 10 })]);
    for request in [post("hello hello"), chunked(&["hello", " hello"], "")] {
        assert_eq!(gateway.connect().exchange(request).status(), 413);
    }
    assert_eq!(gateway.connect().exchange(post("hello")).text(), "ok");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_response_longer_than_a_plugin_holds_is_a_bad_gateway() {
    let hold = json!({ "ask": "hold", "bytes_max": 10, "at": "response" });
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello hello",
        "HTTP/1.1 200 OK\r\n\r\nhello hello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello hello\r\n0\r\n\r\n",
    ] {
        assert_eq!(got(&hold, response).status(), 502, "{response}");
    }
}

/// The client sends its body only when it is asked to.
#[test]
fn a_client_that_waits_is_told_to_go_on_while_its_request_is_held() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, &[json!({ "ask": "hold", "chunk": "upper" })]);
    let mut client = gateway.connect();

    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.response().status(), 100);
    assert_eq!(upstream.requests().len(), 0);
    client.send("hello");

    assert_eq!(client.response().text(), "ok");
    let sent = upstream.last_request();
    assert_eq!((sent.text(), sent.field("expect")), ("HELLO", None));
    assert_eq!(client.exchange(post("x")).text(), "ok");
}

#[test]
fn a_body_is_replaced_by_a_head_hook() {
    let replace = json!({ "ask": "replace", "with": "other", "chunk": "panic" });
    for request in [post("hello"), chunked(&["hello"], ""), post(&"x".repeat(300_000))] {
        let sent = sent(&replace, &request);
        assert_eq!((sent.text(), sent.field("content-length")), ("other", Some("5")));
    }
    let none = sent(&json!({ "ask": "replace" }), &post("hello"));
    assert_eq!((none.text(), none.field("content-length")), ("", Some("0")));

    let replace = json!({ "ask": "replace", "with": "other", "chunk": "panic", "at": "response" });
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let got = got(&replace, response);
        assert_eq!((got.status(), got.text()), (200, "other"), "{response}");
        assert_eq!(got.field("content-length"), Some("5"));
    }
}

#[test]
fn a_response_body_is_changed_whatever_its_framing() {
    let upper = json!({ "chunk": "upper", "at": "response" });
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n",
    ] {
        let upstream = Upstream::sending_and_closing(response);
        let gateway = gateway(&upstream, std::slice::from_ref(&upper));

        let answer = gateway.get("/");
        assert_eq!(answer.text(), "HELLO", "{response}");
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.field("content-length"), None);

        // RFC 9112 §6.3: an old client knows no chunks; the end of the connection is the end.
        let mut old = gateway.connect();
        old.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        let answer = old.response();
        assert_eq!(answer.text(), "HELLO", "{response}");
        assert_eq!(answer.field("transfer-encoding"), None);
        assert_eq!(answer.field("content-length"), None);
        assert!(answer.says_close());
    }
}

#[test]
fn a_held_response_waits_and_its_head_can_still_be_edited() {
    let hold = json!({
        "ask": "hold", "chunk": "append", "with": "!", "field": "x-length", "at": "response",
    });
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
    ] {
        let got = got(&hold, response);
        assert_eq!((got.text(), got.field("content-length")), ("hello!", Some("6")), "{response}");
        assert_eq!(got.field("x-length"), Some("5"));
    }
    let got = got(&hold, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((got.text(), got.field("x-length")), ("!", Some("0")));
}

/// RFC 9110 §9.3.2, §15.3.5, §15.4.5.
#[test]
fn what_has_no_body_by_rule_is_shown_to_nobody() {
    for ask in ["nothing", "hold", "observe"] {
        let config = json!({ "ask": ask, "chunk": "panic", "at": "response" });
        for status in ["204 No Content", "304 Not Modified"] {
            let got = got(&config, &format!("HTTP/1.1 {status}\r\nX-A: b\r\n\r\n"));
            assert_eq!((got.text(), got.field("x-a")), ("", Some("b")), "{ask}");
        }
        let upstream = Upstream::sending("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        let gateway = gateway(&upstream, &[config]);
        let answer = gateway.ask("HEAD", "/", "");
        assert_eq!((answer.status(), answer.field("content-length")), (200, Some("5")), "{ask}");
    }
}

/// Connections to both sides are used again after bodies that were held, changed or replaced.
#[test]
fn connections_stay_open() {
    let upstream = Upstream::answering("hello");
    for config in [
        json!({ "ask": "hold", "chunk": "upper", "at": "response" }),
        json!({ "ask": "replace", "with": "HELLO", "at": "response" }),
        json!({ "chunk": "upper", "at": "response" }),
    ] {
        let before = upstream.connections();
        let gateway = gateway(&upstream, std::slice::from_ref(&config));
        let mut client = gateway.connect();
        for _ in 0..3 {
            assert_eq!(client.exchange(post("x")).text(), "HELLO", "{config}");
        }
        assert_eq!(upstream.connections() - before, 1, "{config}");
    }
}

/// Requests pass the plugins in order, responses in the opposite one, whatever each of them asks for.
#[test]
fn plugins_of_a_chain_see_what_the_one_before_has_made() {
    let modes = ["nothing", "hold"];
    for (first, second, third) in
        modes.iter().flat_map(|a| modes.iter().flat_map(move |b| modes.map(|c| (*a, *b, c))))
    {
        let stage = |ask: &str, with: &str, at: &str| json!({ "ask": ask, "chunk": "append", "with": with, "at": at });
        let upstream = Upstream::echoing();
        let gateway = gateway(
            &upstream,
            &[
                stage(first, "1", "request"),
                stage(second, "2", "response"),
                json!({ "ask": "observe" }),
                stage(third, "3", "request"),
                json!({ "ask": "observe", "at": "response" }),
                stage(second, "4", "request"),
                stage(first, "5", "response"),
            ],
        );
        let mut client = gateway.connect();
        for request in [post("a"), chunked(&["a"], "")] {
            let answer = client.exchange(request);
            assert_eq!(answer.text(), "a13452", "{first} {second} {third}: {answer:?}");
        }
    }
}

/// What the gateway or a plugin answers passes the plugins before as an upstream's answer does.
#[test]
fn answers_made_here_are_shown_too() {
    let chain = |rest: Value| {
        let mut chain = vec![
            json!({ "plugin": "body", "config": { "chunk": "upper", "at": "response" } }),
            json!({ "plugin": "body",
                    "config": { "ask": "hold", "chunk": "append", "with": "!", "at": "response" } }),
        ];
        chain.extend(rest.as_array().unwrap().clone());
        Value::Array(chain)
    };
    let gateway = Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "plugins": {
            "body": { "path": guest("body") },
            "reply": { "path": guest("reply") },
            "panic": { "path": guest("panic") },
        },
        "upstreams": { "gone": { "servers": ["127.0.0.1:1"] } },
        "routes": [
            { "path": "/reply", "upstream": "gone", "middleware": chain(json!(["reply"])) },
            { "path": "/said", "respond": { "status": 200, "body": "said" },
              "middleware": chain(json!([])) },
            { "path": "/gone", "upstream": "gone", "middleware": chain(json!([])) },
            { "path": "/panic", "upstream": "gone", "middleware": chain(json!([
                { "plugin": "panic", "config": { "always": true } }])) },
            { "path": "/redirect", "redirect": { "to": "/there" }, "middleware": chain(json!([])) },
        ],
    }));
    let mut client = gateway.connect();
    let mut ask = |path: &str| client.exchange(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));

    assert_eq!(ask("/reply").text(), "REPLIED!");
    assert_eq!(ask("/said").text(), "SAID!");
    let gone = ask("/gone");
    assert_eq!((gone.status(), gone.text()), (502, "502 BAD GATEWAY\n!"));
    let failed = ask("/panic");
    assert_eq!((failed.status(), failed.text()), (503, "503 SERVICE UNAVAILABLE\n!"));
    let redirect = ask("/redirect");
    assert_eq!((redirect.status() / 100, redirect.text()), (3, "!"));
}

/// Whoever gets a part must not take it for the whole.
#[test]
fn a_body_hook_that_fails_breaks_the_message_off() {
    let half = "x".repeat(100_000);
    for end in ["panic", "abort", "loop"] {
        for chunk in ["pass", "upper"] {
            let config = json!({ "chunk": chunk, "end": end, "at": "response" });
            let length = half.len();
            let upstream = Upstream::start(move |connection| {
                connection.request()?;
                connection
                    .try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"))?;
                connection.try_send("x".repeat(length - 10))?;
                // The rest comes when the client has seen the beginning.
                std::thread::sleep(Duration::from_millis(200));
                connection.try_send("xxxxxxxxxx")
            });
            let gateway = gateway(&upstream, &[config]);
            let mut client = gateway.connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = client.try_response_head("GET").unwrap();
            assert_eq!(head.status(), 200);
            assert!(client.take_body(head).is_err(), "{end} {chunk}: it looks whole");

            let mut old = gateway.connect();
            old.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
            assert_eq!(old.try_response().unwrap_err(), WireError::Reset, "{end} {chunk}");
        }
    }
}

/// Before the head is sent there is still something better to say than nothing.
#[test]
fn a_body_hook_that_fails_before_the_head_is_sent_makes_an_error() {
    let hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    for (what, status) in [("panic", 503), ("loop", 503), ("abort", 502)] {
        for ask in ["nothing", "hold"] {
            let config = json!({ "ask": ask, "chunk": what, "at": "response" });
            assert_eq!(got(&config, hello).status(), status, "{what} {ask}");
            let upstream = Upstream::answering("ok");
            let config = json!({ "ask": ask, "chunk": what });
            let gateway = gateway(&upstream, &[config]);
            let answer = gateway.connect().exchange(post("hello"));
            assert_eq!(answer.status(), status, "{what} {ask}: {answer:?}");
            assert_eq!(upstream.requests().len(), 0, "no part may look whole");
        }
    }
}

#[test]
fn a_plugin_may_say_what_the_client_gets_when_it_breaks_off() {
    for ask in ["nothing", "hold"] {
        let config = json!({ "ask": ask, "chunk": "abort", "status": 422 });
        let upstream = Upstream::answering("ok");
        let gateway = gateway(&upstream, &[config]);
        let answer = gateway.connect().exchange(post("hello"));
        assert_eq!((answer.status(), answer.text()), (422, "by the plugin"), "{ask}");

        let config = json!({ "ask": ask, "chunk": "abort", "status": 422, "at": "response" });
        let got = got(&config, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!((got.status(), got.text()), (422, "by the plugin"), "{ask}");
    }
}

#[test]
fn a_failure_that_is_overlooked_lets_the_chunk_pass() {
    for (at, ask) in
        [("request", "nothing"), ("request", "hold"), ("response", "nothing"), ("response", "hold")]
    {
        for what in ["panic", "loop", "hold"] {
            let upstream = Upstream::echoing();
            let config = json!({ "ask": ask, "chunk": what, "at": at, "field": "x-seen" });
            let place = json!([{ "plugin": "body", "config": config, "on_error": "open" }]);
            let gateway = gateway_of(&upstream, place);
            let mut client = gateway.connect();
            for _ in 0..2 {
                let answer = client.exchange(post("hello"));
                assert_eq!(answer.text(), "hello", "{at} {ask} {what}: {answer:?}");
                if what != "hold" || at == "request" {
                    assert_eq!(answer.field("x-seen"), None);
                }
            }
            if what != "hold" || at == "request" {
                assert_eq!(upstream.last_request().field("x-seen"), None, "{at} {ask} {what}");
            }
        }
    }
}

/// Rules of the interface.
#[test]
fn what_may_not_be_asked_for_fails_the_hook() {
    let refused = |config: &Value| {
        let upstream = Upstream::answering("ok");
        let gateway = gateway(&upstream, std::slice::from_ref(config));
        assert_eq!(gateway.connect().exchange(post("hello")).status(), 503, "{config}");
        gateway.logs("plugin `body` failed in on-request");
    };
    refused(&json!({ "ask": "observe", "chunk": "upper" }));
    refused(&json!({ "ask": "observe", "chunk": "drop" }));
    refused(&json!({ "ask": "hold", "bytes_max": (4 << 20) + 1 }));
    refused(&json!({ "chunk": "hold" }));
    refused(&json!({ "ask": "replace", "with": "x", "times": (4 << 20) + 1 }));
    refused(&json!({ "chunk": "replace", "with": "x", "times": 5 << 20 }));
}

/// A chunk grows by what a plugin makes of it, and what another makes of that: bounded.
#[test]
fn plugins_cannot_make_too_much_of_a_chunk() {
    let upstream = Upstream::echoing();
    let grow = json!({ "chunk": "replace", "with": "x", "times": 4 << 20 });
    let two = gateway(&upstream, &[grow.clone(), grow.clone()]);
    let one = gateway(&upstream, &[grow]);

    assert_eq!(one.connect().exchange(post("a")).body.len(), 4 << 20);
    assert_eq!(two.connect().exchange(post("a")).status(), 503);
    let held = two.memory_kib();
    for _ in 0..10 {
        assert_eq!(two.connect().exchange(post("a")).status(), 503);
    }
    assert!(two.memory_kib() < held + 32 * 1024, "{held} KiB, then {}", two.memory_kib());
}

/// A slow receiver slows the sender, and the gateway holds no more than a few chunks.
#[test]
fn a_slow_receiver_slows_the_sender_through_the_plugins() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..1000 {
            connection.try_send(&chunk)?;
        }
        Err(io::Error::other("it took a gigabyte that nobody reads"))
    });
    let gateway = gateway(&upstream, &[json!({ "chunk": "upper", "at": "response" })]);
    let mut client = gateway.connect();
    client.receive_little();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.try_response_head("GET").unwrap();
    assert_eq!(head.status(), 200);
    let before = gateway.memory_kib();

    std::thread::sleep(Duration::from_millis(500));

    let held = gateway.memory_kib().saturating_sub(before);
    assert!(held < 16 * 1024, "{held} KiB");
    assert_eq!(upstream.ended(), 0, "it cannot have sent all");
}

/// The plugin has seen enough; what follows is not its business, and may be spliced.
#[test]
fn what_follows_a_detached_chunk_goes_its_direct_way() {
    let size = 10 << 20;
    let upstream = Upstream::start(move |connection| {
        loop {
            connection.request()?;
            connection.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"))?;
            connection.try_send(vec![b'x'; size])?;
        }
    });
    for (ask, chunk) in [("observe", "detach"), ("nothing", "detach"), ("observe", "pass")] {
        let config = json!({ "ask": ask, "chunk": chunk, "at": "response" });
        let gateway = gateway(&upstream, &[config]);
        let mut client = gateway.connect();
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let answer = client.response();
            assert_eq!(answer.body.len(), size);
            assert!(answer.body.iter().all(|byte| *byte == b'x'));
        }
        let calls = [("plugin", "body"), ("hook", "on-response-body")];
        let calls = gateway.metrics().sum("zproxy_plugin_calls_total", &calls);
        assert!(chunk == "pass" || calls <= 2.0, "{calls}");
    }
}

/// A tunnel is not a body.
#[test]
fn a_tunnel_is_shown_to_nobody() {
    let upstream = Upstream::start(|connection| {
        connection.request_head()?;
        connection.try_send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\nhello",
        )
    });
    for at in ["request", "response"] {
        for ask in ["nothing", "hold"] {
            let chunk = if ask == "hold" && at == "request" { "pass" } else { "panic" };
            let config = json!({ "ask": ask, "chunk": chunk, "at": at });
            let gateway = gateway(&upstream, &[config]);
            let mut client = gateway.connect();
            client
                .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n");
            assert_eq!(client.response().status(), 101);
            assert_eq!(client.take_rest().unwrap(), b"hello");
        }
    }
}

/// A pooled connection that turns out dead is replaced: the body is still at hand.
#[test]
fn a_held_request_can_be_repeated() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.answer("ok")
    });
    let gateway = gateway(&upstream, &[json!({ "ask": "hold", "chunk": "upper" })]);
    let mut client = gateway.connect();
    for round in 1..5 {
        let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(client.exchange(put).text(), "ok");
        assert_eq!(upstream.last_request().text(), "HELLO");
        eventually("the connection's end", || (upstream.ended() == round).then_some(()));
    }
}
