//! Plugins that ask other services, and wait: who may be asked, and what happens meanwhile.
//!
//! The guest `ask` asks about each request and lets it pass on a 200.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream, eventually, guest};

/// One worker. `/` leads through the guest, which may ask as `allow` says; `/other` does not.
fn gateway(upstream: &Upstream, auth: &Upstream, config: Value, allow: Value) -> Gateway {
    gateway_with(upstream, auth, json!({ "config": config, "allow": { "http": allow } }))
}

fn gateway_with(upstream: &Upstream, auth: &Upstream, plugin: Value) -> Gateway {
    let mut plugin = plugin;
    plugin["path"] = json!(guest("ask"));
    Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "plugins": { "ask": plugin },
        "upstreams": {
            "main": { "servers": [upstream.address()] },
            "auth": { "servers": [auth.address()] },
            "unasked": { "servers": [auth.address()] },
        },
        "routes": [
            { "path": "/", "upstream": "main", "middleware": ["ask"] },
            { "path": "/other", "upstream": "main" },
        ],
    }))
}

/// Lets `/good…` pass and nothing else.
fn judge() -> Upstream {
    Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            if request.target().contains("good") {
                connection.answer("yes")?;
            } else {
                connection.try_send("HTTP/1.1 403 No\r\nContent-Length: 6\r\n\r\nnot so")?;
            }
        }
    })
}

fn upstream_allowed() -> Value {
    json!(["upstream:auth"])
}

#[test]
fn a_request_passes_when_the_service_says_so() {
    let (upstream, auth) = (Upstream::answering("ok"), judge());
    let config = json!({ "url": "upstream://auth{path}?a=b", "fields": [["x-from", "plugin"]] });
    let gateway = gateway(&upstream, &auth, config, upstream_allowed());
    let mut client = gateway.connect();

    for _ in 0..3 {
        assert_eq!(client.exchange("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
        let refused = client.exchange("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((refused.status(), refused.text()), (403, "not so"));
    }

    let asked = auth.requests();
    assert_eq!((asked[0].method(), asked[0].target()), ("GET", "/good?a=b"));
    assert_eq!(asked[0].field("x-from"), Some("plugin"));
    assert_eq!(asked[0].all("host").len(), 1);
    assert_eq!(auth.connections(), 1, "connections are kept");
    assert!(upstream.requests().iter().all(|request| request.target() == "/good"));
}

#[test]
fn a_response_or_a_held_body_can_wait_too() {
    let (upstream, auth) = (Upstream::answering("ok"), judge());
    let config = json!({ "url": "upstream://auth{path}", "hook": "response" });
    let gateway = gateway(&upstream, &auth, config, upstream_allowed());
    let refused = gateway.get("/good");
    assert_eq!((refused.status(), refused.text()), (403, "not so"));
    assert_eq!(upstream.requests().len(), 1);

    let config = json!({ "url": "upstream://auth{path}", "hook": "body", "method": "POST" });
    let gateway = self::gateway(&upstream, &auth, config, upstream_allowed());
    let post = |path: &str| {
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        gateway.connect().exchange(request)
    };
    assert_eq!(post("/good").text(), "ok");
    assert_eq!(auth.last_request().text(), "hello");
    let refused = post("/bad");
    assert_eq!((refused.status(), refused.text()), (403, "not so"));
}

/// Elsewhere there is nobody who could wait.
#[test]
fn other_hooks_may_not_ask() {
    let (upstream, auth) = (Upstream::answering("ok"), judge());
    let config = json!({ "url": "upstream://auth{path}", "hook": "log" });
    let gateway = gateway(&upstream, &auth, config, upstream_allowed());
    assert_eq!(gateway.get("/good").text(), "ok");
    gateway.logs("logged: true");

    let config = json!({ "url": "upstream://auth{path}", "hook": "chunk" });
    let gateway = self::gateway(&upstream, &auth, config, upstream_allowed());
    let request = "POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let answer = gateway.connect().exchange(request);
    assert_eq!(answer.status(), 500, "{answer:?}");
    assert!(answer.text().starts_with("denied: callouts are for hooks"), "{answer:?}");
    assert_eq!(auth.requests().len(), 0);
}

/// What is looked after once a second can be asked for once a second, and keeps no request waiting; a tick
/// that waits is not called again meanwhile.
#[test]
fn a_tick_can_ask_and_keeps_nobody_waiting() {
    let (upstream, asked) = (Upstream::answering("ok"), Arc::new(AtomicUsize::new(0)));
    let (go_on, count) = (Arc::new(AtomicBool::new(false)), Arc::clone(&asked));
    let open = Arc::clone(&go_on);
    let auth = Upstream::start(move |connection| {
        loop {
            connection.request()?;
            count.fetch_add(1, Ordering::SeqCst);
            while !open.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            connection.answer("yes")?;
        }
    });
    let config = json!({ "url": "upstream://auth{path}", "hook": "tick", "timeout_ms": 30_000 });
    let gateway = gateway(&upstream, &auth, config, upstream_allowed());

    eventually("a tick that asks", || (asked.load(Ordering::SeqCst) == 1).then_some(()));
    assert_eq!(auth.request().target(), "/tick");
    for _ in 0..3 {
        assert_eq!(gateway.get("/").text(), "ok");
    }
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(asked.load(Ordering::SeqCst), 1, "one at a time");
    go_on.store(true, Ordering::SeqCst);

    gateway.logs("ticked: true");
    eventually("the next tick", || (asked.load(Ordering::SeqCst) > 1).then_some(()));
    gateway.counts_some("zproxy_plugin_calls_total", &[("hook", "on-tick"), ("outcome", "next")]);
}

/// Whoever waits keeps nobody else waiting, neither in the same plugin nor past it.
#[test]
fn others_go_on_while_a_request_waits() {
    let count = Arc::new(AtomicUsize::new(0));
    let here = Arc::clone(&count);
    let auth = Upstream::start(move |connection| {
        connection.request()?;
        here.fetch_add(1, Ordering::SeqCst);
        // All of them are answered when the last has come.
        while here.load(Ordering::SeqCst) < 10 {
            std::thread::sleep(Duration::from_millis(1));
        }
        connection.answer("yes")
    });
    let upstream = Upstream::answering("ok");
    let config = json!({ "url": "upstream://auth{path}", "timeout_ms": 20_000 });
    let gateway = gateway(&upstream, &auth, config, upstream_allowed());
    let mut waiting: Vec<_> = (0..9).map(|_| gateway.connect()).collect();
    for client in &mut waiting {
        client.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("nine questions", || (count.load(Ordering::SeqCst) == 9).then_some(()));

    assert_eq!(gateway.get("/other").text(), "ok");
    assert_eq!(gateway.get("/good").text(), "ok", "the tenth");

    for client in &mut waiting {
        assert_eq!(client.response().text(), "ok");
    }
}

/// As many as the operator allows wait in the plugin, and others for them.
#[test]
fn instances_are_bounded_and_requests_queue_for_them() {
    let released = Arc::new(AtomicBool::new(false));
    let go = Arc::clone(&released);
    let auth = Upstream::start(move |connection| {
        loop {
            connection.request()?;
            while !go.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            connection.answer("yes")?;
        }
    });
    let upstream = Upstream::answering("ok");
    let gateway = gateway_with(
        &upstream,
        &auth,
        json!({
            "config": { "url": "upstream://auth{path}", "timeout_ms": 20_000 },
            "allow": { "http": upstream_allowed() },
            "limits": { "instances_max": 2 },
        }),
    );
    let mut waiting: Vec<_> = (0..6).map(|_| gateway.connect()).collect();
    for client in &mut waiting {
        client.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("two questions", || (auth.requests().len() == 2).then_some(()));
    assert_eq!(gateway.get("/other").text(), "ok");
    assert_eq!(auth.requests().len(), 2);

    released.store(true, Ordering::SeqCst);

    for client in &mut waiting {
        assert_eq!(client.response().text(), "ok");
    }
}

/// A hook that does not wait has an instance of its own while all others are waited in; nobody waits in that as well.
#[test]
fn a_hook_that_does_not_wait_makes_no_room_for_those_that_do() {
    let released = Arc::new(AtomicBool::new(false));
    let hold = |path: &'static str| {
        let go = Arc::clone(&released);
        Upstream::start(move |connection| {
            loop {
                let held = connection.request()?.target() == path;
                while held && !go.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                connection.answer("yes")?;
            }
        })
    };
    let (upstream, auth) = (Upstream::answering("ok"), hold("/held"));
    let plugin = json!({
        "config": { "url": "upstream://auth{path}", "timeout_ms": 20_000 },
        "allow": { "http": upstream_allowed() },
        "limits": { "instances_max": 2 },
    });
    let gateway = gateway_with(&upstream, &auth, plugin);
    let held = || auth.requests().iter().filter(|asked| asked.target() == "/held").count();
    let logged = || gateway.metrics().sum("zproxy_plugin_calls_total", &[("hook", "on-log")]);
    // It has passed, and is logged when all instances are waited in.
    let mut passed = gateway.connect();
    passed.send("POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    eventually("its question", || (auth.requests().len() == 1).then_some(()));
    let mut waiting: Vec<_> = (0..4).map(|_| gateway.connect()).collect();
    for client in &mut waiting[..2] {
        client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("two questions", || (held() == 2).then_some(()));
    passed.send("1");
    assert_eq!(passed.response().text(), "ok");
    eventually("its log", || (logged() >= 1.0).then_some(()));

    for client in &mut waiting[2..] {
        client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    assert_eq!(gateway.get("/other").text(), "ok");
    assert_eq!(held(), 2);

    released.store(true, Ordering::SeqCst);
    for client in &mut waiting {
        assert_eq!(client.response().text(), "ok");
    }
}

/// What the operator has not named is not asked, whatever the plugin says.
#[test]
fn only_what_is_allowed_is_asked() {
    let (upstream, auth) = (Upstream::answering("ok"), judge());
    let port = auth.address().rsplit(':').next().unwrap().to_owned();
    let allowed = json!([
        "upstream:auth",
        format!("http://127.0.0.1:{port}/good/*"),
        format!("http://*.localhost.test:{port}/*"),
    ]);
    for (url, expected) in [
        ("upstream://unasked/good", "denied: no entry"),
        ("upstream://none/good", "denied: no entry"),
        (&*format!("http://127.0.0.1:{port}/bad"), "denied: no entry"),
        (&*format!("http://127.0.0.1:{port}/good/../bad"), "denied: no entry"),
        (&*format!("http://127.0.0.1:{port}/good/%2e%2e/bad"), "denied: no entry"),
        (&*format!("http://localhost:{port}/good/"), "denied: no entry"),
        (&*format!("http://[::1]:{port}/good/"), "denied: no entry"),
        ("http://127.0.0.1:1/good/", "denied: no entry"),
        ("https://127.0.0.1/good/", "denied: no entry"),
        (&*format!("http://user@127.0.0.1:{port}/good/"), "invalid"),
        ("file:///etc/passwd", "invalid"),
        ("", "invalid"),
    ] {
        let gateway = gateway(&upstream, &auth, json!({ "url": url }), allowed.clone());
        let answer = gateway.get("/x");
        assert_eq!(answer.status(), 500, "{url}: {answer:?}");
        assert!(answer.text().starts_with(expected), "{url}: {}", answer.text());
    }
    assert_eq!(auth.connections(), 0);
    // The address itself is named.
    let url = format!("http://127.0.0.1:{port}/good/x");
    assert_eq!(gateway(&upstream, &auth, json!({ "url": url }), allowed).get("/x").text(), "ok");
}

/// A name that everybody below a domain may have can lead anywhere: to this machine, too.
#[test]
fn an_address_that_is_not_public_is_refused_unless_its_host_is_named() {
    let (upstream, auth) = (Upstream::answering("ok"), judge());
    let port = auth.address().rsplit(':').next().unwrap().to_owned();
    // RFC 6761 §6.3: names below `localhost` are this machine, for resolvers that know it.
    let url = format!("http://a.localhost:{port}/good");
    let below = json!([format!("http://*.localhost:{port}/*")]);
    let gateway = gateway(&upstream, &auth, json!({ "url": url }), below);
    let answer = gateway.get("/x");
    assert_eq!(answer.status(), 500);
    let refused = ["denied: `a.localhost` leads to an address", "unreachable"];
    assert!(refused.iter().any(|start| answer.text().starts_with(start)), "{}", answer.text());
    assert_eq!(auth.connections(), 0);

    let url = format!("http://localhost:{port}/good");
    let named = json!([format!("http://localhost:{port}/*")]);
    let gateway = self::gateway(&upstream, &auth, json!({ "url": url }), named);
    assert_eq!(gateway.get("/x").text(), "ok");
}

#[test]
fn what_would_break_the_question_is_no_question() {
    let (upstream, auth) = (Upstream::answering("ok"), judge());
    for config in [
        json!({ "method": "G T" }),
        json!({ "method": "" }),
        json!({ "method": "CONNECT" }),
        json!({ "fields": [["x", "a\r\nb: c"]] }),
        json!({ "fields": [["x y", "a"]] }),
        json!({ "fields": [["Host", "other"]] }),
        json!({ "fields": [["content-length", "5"]] }),
        json!({ "fields": [["transfer-encoding", "chunked"]] }),
    ] {
        let mut config = config;
        config["url"] = json!("upstream://auth/good");
        let gateway = gateway(&upstream, &auth, config.clone(), upstream_allowed());
        let answer = gateway.get("/x");
        assert!(answer.text().starts_with("invalid"), "{config}: {answer:?}");
    }
    assert_eq!(auth.requests().len(), 0);
}

#[test]
fn an_answer_that_does_not_come_is_said_to_be_so() {
    let upstream = Upstream::answering("ok");
    let silent = Upstream::start(|connection| {
        connection.request()?;
        connection.request().map(drop)
    });
    let closing = Upstream::start(|connection| connection.request().map(drop));
    let large = Upstream::sending(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n{}",
        "x".repeat(2_000_000)
    ));
    let garbage = Upstream::sending_and_closing("what?\r\n\r\n");
    let redirect =
        Upstream::sending("HTTP/1.1 302 Found\r\nLocation: /good\r\nContent-Length: 0\r\n\r\n");
    for (auth, status, expected) in [
        (&silent, 500, "timed out"),
        (&closing, 500, "unreachable"),
        (&large, 500, "too large"),
        (&garbage, 500, "unreachable"),
        (&redirect, 302, ""),
    ] {
        let config = json!({ "url": "upstream://auth/x", "timeout_ms": 300 });
        let gateway = gateway(&upstream, auth, config, upstream_allowed());
        let answer = gateway.get("/x");
        assert_eq!(answer.status(), status, "{answer:?}");
        assert!(answer.text().starts_with(expected), "{expected}: {}", answer.text());
    }
}

#[test]
fn a_request_has_so_many_callouts_and_no_more() {
    let (upstream, auth) = (Upstream::answering("ok"), judge());
    let config = json!({ "url": "upstream://auth/good", "times": 20 });
    let gateway = gateway(&upstream, &auth, config, upstream_allowed());

    assert_eq!(gateway.get("/x").text(), "too many callouts");

    assert_eq!(auth.requests().len(), 16);

    // As many as the operator says, for each request anew.
    let config = json!({ "url": "upstream://auth/good", "times": 3 });
    let plugin = json!({
        "config": config, "allow": { "http": upstream_allowed() }, "limits": { "callouts_max": 2 },
    });
    let auth = judge();
    let gateway = gateway_with(&upstream, &auth, plugin);
    for asked in [2, 4] {
        assert_eq!(gateway.get("/x").text(), "too many callouts");
        assert_eq!(auth.requests().len(), asked);
    }
}

/// The time of a hook is its own; what it waits for is not, and what it does between two waits is.
#[test]
fn a_hook_may_wait_longer_than_it_may_run() {
    let upstream = Upstream::answering("ok");
    let slow = Upstream::start(|connection| {
        loop {
            connection.request()?;
            std::thread::sleep(Duration::from_millis(300));
            connection.answer("yes")?;
        }
    });
    let config = json!({ "url": "upstream://auth/x", "timeout_ms": 10_000, "times": 2 });
    let gateway = gateway(&upstream, &slow, config, upstream_allowed());
    assert_eq!(gateway.get("/x").text(), "ok");

    let config = json!({ "url": "upstream://auth/x", "timeout_ms": 10_000, "busy_ms": 10_000 });
    let gateway = self::gateway(&upstream, &slow, config, upstream_allowed());
    let began = Instant::now();
    assert_eq!(gateway.get("/x").status(), 503);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    gateway.logs("(timeout): it ran longer than 10ms");
}

/// The route's time is for everything.
#[test]
fn a_request_does_not_wait_longer_than_its_route_allows() {
    let upstream = Upstream::answering("ok");
    let silent = Upstream::start(|connection| {
        connection.request()?;
        connection.request().map(drop)
    });
    let mut plugin = json!({ "path": guest("ask"), "allow": { "http": ["upstream:auth"] } });
    plugin["config"] = json!({ "url": "upstream://auth/x", "timeout_ms": 30_000, "times": 5 });
    let gateway = Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "plugins": { "ask": plugin },
        "upstreams": { "auth": { "servers": [silent.address()] } },
        "routes": [{
            "path": "/", "upstream": upstream.url(), "middleware": ["ask"],
            "timeouts": { "request_ms": 500 },
        }],
    }));
    let began = Instant::now();

    let answer = gateway.get("/x");

    assert_eq!((answer.status(), answer.text()), (500, "timed out"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Nobody waits for the answer any more; the instance is as good as before.
#[test]
fn a_client_that_leaves_ends_the_wait() {
    let upstream = Upstream::answering("ok");
    let silent = Upstream::start(|connection| {
        let request = connection.request()?;
        if request.target() == "/good" {
            return connection.answer("yes");
        }
        // Until the gateway closes.
        connection.request().map(drop)
    });
    let gateway = gateway_with(
        &upstream,
        &silent,
        json!({
            "config": { "url": "upstream://auth{path}", "timeout_ms": 30_000 },
            "allow": { "http": upstream_allowed() },
            "limits": { "instances_max": 1 },
        }),
    );
    for round in 1..4 {
        let mut client = gateway.connect();
        client.send("GET /silent HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the question", || {
            let asked = silent.requests();
            let asked = asked.iter().filter(|request| request.target() == "/silent");
            (asked.count() == round).then_some(())
        });

        client.reset_at_end();
        drop(client);

        assert_eq!(gateway.get("/good").text(), "ok", "the only instance is free again");
    }
    let traps = [("plugin", "ask")];
    assert_eq!(gateway.metrics().sum("zproxy_plugin_traps_total", &traps), 0.0);
}

/// Nothing is left behind when the gateway ends in the middle.
#[test]
fn a_gateway_ends_while_requests_wait() {
    let upstream = Upstream::answering("ok");
    let silent = Upstream::start(|connection| {
        connection.request()?;
        connection.request().map(drop)
    });
    let config = json!({ "url": "upstream://auth{path}", "timeout_ms": 30_000 });
    let mut gateway = gateway(&upstream, &silent, config, upstream_allowed());
    let mut client = gateway.connect();
    client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the question", || (silent.requests().len() == 1).then_some(()));

    gateway.signal(rustix::process::Signal::TERM);
    eventually("the end of accepting", || {
        std::net::TcpStream::connect(gateway.address()).is_err().then_some(())
    });
    gateway.signal(rustix::process::Signal::TERM);

    assert_eq!(gateway.exit_code(), 0);
}

#[test]
fn a_plugin_that_may_ask_nobody_is_refused_when_it_is_loaded() {
    let dir = tempfile::TempDir::new().unwrap();
    let config = json!({
        "plugins": { "ask": { "path": guest("ask"), "config": { "url": "upstream://auth/" } } },
        "routes": [{ "path": "/", "respond": { "status": 200 }, "middleware": ["ask"] }],
    });
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();

    let run = crate::harness::run(dir.path(), &["check"]);

    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(run.stderr.contains("callout") && run.stderr.contains("\"http\""), "{run:?}");
}
