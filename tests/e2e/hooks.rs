//! Hooks besides requests and responses, and what requests show of themselves.
//!
//! The guest `hooks` says in the log what it is shown.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream, eventually, guest};

fn gateway(upstream: &Upstream, config: Value, more: &Value) -> Gateway {
    Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "plugins": {
            "hooks": { "path": guest("hooks"), "config": config, "on_error": more["on_error"] },
        },
        "upstreams": {
            "first": { "servers": [upstream.address()] },
            "second": { "servers": [upstream.address()] },
        },
        "routes": [
            { "path": "/users/{id}/{*rest}", "upstream": "first", "middleware": ["hooks"],
              "rewrite": { "path": "/elsewhere" } },
            { "path": "/said", "respond": { "status": 200, "body": "said" }, "middleware": ["hooks"] },
            { "path": "/moved", "redirect": { "to": "/there" }, "middleware": ["hooks"] },
            { "path": "/", "upstream": "first", "middleware": ["hooks"] },
        ],
    }))
}

fn closed() -> Value {
    json!({ "on_error": "closed" })
}

#[test]
fn a_request_shows_its_parameters_query_and_protocol() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, json!({}), &closed());

    gateway.get("/users/a%20b/c/d?x=1&y");
    assert_eq!(upstream.last_request().field("x-shown"), Some("a%20b c/d - x=1&y HTTP/1.1"));

    let mut old = gateway.connect();
    old.send("GET /other HTTP/1.0\r\nHost: a\r\n\r\n");
    old.response();
    assert_eq!(upstream.last_request().field("x-shown"), Some("- - HTTP/1.0"));
}

#[test]
fn a_request_knows_its_id() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, json!({}), &closed());

    let answer = gateway.get("/");

    let id = upstream.last_request().field("x-request-id").unwrap().to_owned();
    assert_eq!(answer.field("x-id"), Some(&*id));
}

/// Whatever the route says.
#[test]
fn a_plugin_chooses_the_upstream() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, json!({ "upstream": "second" }), &closed());

    for path in ["/users/1/x", "/said", "/moved", "/"] {
        assert_eq!(gateway.get(path).text(), "ok", "{path}");
    }

    gateway.counts("zproxy_upstream_requests_total", &[("upstream", "second")], 4.0);
}

#[test]
fn an_upstream_that_is_not_there_cannot_be_chosen() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, json!({ "upstream": "third" }), &closed());

    assert_eq!(gateway.get("/").text(), "no such upstream");
}

#[test]
fn an_exchange_that_is_over_is_shown_once() {
    let upstream =
        Upstream::sending("HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 2\r\n\r\nok");
    let gateway = gateway(&upstream, json!({}), &closed());

    gateway.get("/a");
    gateway.logs("logged /a first a/b 200 true true");
    gateway.get("/said");
    gateway.logs("logged /said - text/plain; charset=utf-8 200 true true");
    gateway.get("/users/1/x");
    gateway.logs("logged /elsewhere first a/b 200 true true");

    gateway.counts(
        "zproxy_plugin_calls_total",
        &[("plugin", "hooks"), ("hook", "on-log"), ("outcome", "next")],
        3.0,
    );
}

/// Nobody waits for it, and nobody suffers from it.
#[test]
fn a_log_hook_that_fails_harms_no_request() {
    let upstream = Upstream::answering("ok");
    for what in ["panic", "loop"] {
        let gateway = gateway(&upstream, json!({ "on": "on_log", "what": what }), &closed());
        let mut client = gateway.connect();

        for _ in 0..3 {
            assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
        }

        gateway.logs("failed in on-log");
    }
}

#[test]
fn an_idle_worker_ticks() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, json!({}), &closed());

    gateway.logs("ticked");
    let tick = [("plugin", "hooks"), ("hook", "on-tick"), ("outcome", "next")];
    eventually("a second tick", || {
        (gateway.metrics().sum("zproxy_plugin_calls_total", &tick) >= 2.0).then_some(())
    });
}

#[test]
fn a_tick_that_hangs_is_ended_and_its_worker_goes_on() {
    let upstream = Upstream::answering("ok");
    for what in ["panic", "loop"] {
        let gateway = gateway(&upstream, json!({ "on": "on_tick", "what": what }), &closed());
        gateway.logs("failed in on-tick");

        for _ in 0..3 {
            assert_eq!(gateway.get("/").text(), "ok");
        }
    }
}

#[test]
fn an_instance_has_a_last_word_when_its_worker_is_drained() {
    let upstream = Upstream::answering("ok");
    for what in ["", "panic", "loop"] {
        let mut gateway = gateway(&upstream, json!({ "on": "shutdown", "what": what }), &closed());
        assert_eq!(gateway.get("/").text(), "ok");

        gateway.signal(Signal::TERM);

        assert_eq!(gateway.exit_code(), 0);
        let last = if what.is_empty() { "shut down" } else { "failed in shutdown" };
        assert!(gateway.stderr().contains(last), "{what}: {}", gateway.stderr());
    }
}

/// All of it at once, each with its place in the file.
#[test]
fn a_check_shows_everything_that_a_plugin_does_not_like() {
    let dir = tempfile::TempDir::new().unwrap();
    let write = |config: Value| {
        let text = format!(
            "{{\n  \"plugins\": {{ \"hooks\": {{ \"path\": {} }} }},\n  \"routes\": [{{\n    \
             \"path\": \"/\", \"respond\": {{ \"status\": 200 }},\n    \"middleware\": [{{ \
             \"plugin\": \"hooks\", \"config\":\n{config:#} }}]\n  }}]\n}}",
            json!(guest("hooks")),
        );
        std::fs::write(dir.path().join("zproxy.json"), text).unwrap();
        crate::harness::run(dir.path(), &["check"])
    };

    let run = write(json!({ "bad": ["/bad/1", "", "/on", "/no/such~1key"], "on": "x" }));
    assert_eq!(run.code, Some(5), "{run:?}");
    for place in [
        "zproxy.json:9:5: routes[0].middleware[0].config.bad[1]: plugin `hooks`: is bad; make it good",
        "routes[0].middleware[0].config: plugin `hooks`: is bad",
        "zproxy.json:13:9: routes[0].middleware[0].config.on: plugin `hooks`: is bad",
        "routes[0].middleware[0].config.no[\"such/key\"]: plugin `hooks`: is bad",
    ] {
        assert!(run.stderr.contains(place), "{place}: {}", run.stderr);
    }

    let run = write(json!({ "on": 5 }));
    let place = "routes[0].middleware[0].config.on: plugin `hooks`: invalid type";
    assert!(run.stderr.contains(place), "{}", run.stderr);

    assert_eq!(write(json!({ "on": "x" })).code, Some(0));
}
