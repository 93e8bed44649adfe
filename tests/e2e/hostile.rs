//! Plugins that loop, grow, trap or flood: each costs one request, and the gateway goes on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream, eventually, guest};

/// One worker, so that whatever a plugin does is done to everybody: `/bad` leads through the
/// plugin, `/good` past it.
fn gateway(upstream: &Upstream, plugin: &str, place: Value) -> Gateway {
    let mut place = place;
    place["plugin"] = json!(plugin);
    Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "plugins": { plugin: { "path": guest(plugin) } },
        "routes": [
            { "path": "/bad", "upstream": upstream.url(), "middleware": [place] },
            { "path": "/good", "upstream": upstream.url() },
        ],
    }))
}

/// Asks through the plugin three times: 503 each time, the rest untouched, and all of it named.
fn costs_one_request(plugin: &str, config: Value) {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, plugin, json!({ "config": config }));
    let mut neighbour = gateway.connect();

    for _ in 0..3 {
        let start = Instant::now();
        let answer = gateway.get("/bad");

        assert_eq!(answer.status(), 503, "{answer:?}");
        assert!(answer.field("proxy-status").is_some(), "{answer:?}");
        assert!(!answer.text().contains("wasm"), "the inside leaks: {}", answer.text());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(neighbour.exchange("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
    }

    assert!(upstream.requests().iter().all(|request| request.target() == "/good"));
    gateway.counts_some("zproxy_plugin_traps_total", &[("plugin", &plugin.replace('_', "-"))]);
    let log = gateway.stderr();
    let named = log.lines().any(|line| {
        (line.contains("WARN") || line.contains("ERROR"))
            && line.replace('_', "-").contains(&plugin.replace('_', "-"))
    });
    assert!(named, "{plugin} is not named: {log}");
}

#[test]
fn a_loop_costs_one_request() {
    costs_one_request("loop_forever", json!({}));
}

/// A worker that waits serves nobody.
#[test]
fn a_sleep_costs_one_request() {
    costs_one_request("sleep", json!({}));
}

#[test]
fn a_memory_bomb_costs_one_request() {
    costs_one_request("memory_bomb", json!({}));
}

#[test]
fn a_trap_costs_one_request() {
    costs_one_request("panic", json!({ "always": true }));
}

#[test]
fn a_stack_overflow_costs_one_request() {
    costs_one_request("stack_overflow", json!({}));
}

/// A worker that waited with it would keep everybody waiting.
#[test]
fn a_sleep_costs_one_request_and_no_time() {
    costs_one_request("sleep", json!({ "ms": 60_000 }));
}

#[test]
fn a_flood_of_edits_costs_one_request() {
    costs_one_request("edit_flood", json!({}));
}

/// CR and LF in a value would be a field of the plugin's choice, or a second message.
#[test]
fn a_field_that_would_break_the_message_costs_one_request() {
    for (name, value) in [
        ("x-bad", "a\r\nx-evil: 1"),
        ("x-bad", "a\nb"),
        ("x bad", "a"),
        ("", "a"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
    ] {
        for response in [false, true] {
            let upstream = Upstream::answering("ok");
            let config = json!({ "name": name, "value": value, "response": response });
            let gateway = gateway(&upstream, "bad_header", json!({ "config": config }));

            let answer = gateway.get("/bad");

            assert_eq!(
                answer.status(),
                503,
                "{name:?}: {value:?}, response: {response}: {answer:?}"
            );
            assert_eq!(answer.field("x-evil"), None);
            assert!(!upstream.received_text().contains("x-evil"));
        }
    }
}

#[test]
fn a_trap_on_the_way_back_replaces_the_answer() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, "response_panic", json!({}));
    let mut client = gateway.connect();

    for _ in 0..3 {
        assert_eq!(client.exchange("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n").status(), 503);
        assert_eq!(client.exchange("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
    }
}

/// The issue: the next request is served by a fresh instance.
#[test]
fn the_next_request_after_a_trap_is_served_by_a_fresh_instance() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "plugins": { "panic": { "path": guest("panic") } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["panic"] }],
    }));
    assert_eq!(gateway.get("/fine").text(), "ok");

    assert_eq!(gateway.get("/panic").status(), 503);
    assert_eq!(gateway.get("/fine").text(), "ok");

    // Again and again there may be a pause between two instances, but there is a next one.
    for _ in 0..5 {
        assert_eq!(gateway.get("/panic").status(), 503);
        eventually("a fresh instance", || (gateway.get("/fine").status() == 200).then_some(()));
    }
    gateway.counts("zproxy_plugin_traps_total", &[("plugin", "panic")], 6.0);
}

/// `on_error` open: the request goes on as if the plugin were not there.
#[test]
fn an_open_chain_goes_on_without_the_plugin() {
    let upstream = Upstream::sending("HTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nok");
    for (plugin, config) in [
        ("loop_forever", json!({})),
        ("panic", json!({ "always": true })),
        ("stack_overflow", json!({})),
        ("memory_bomb", json!({})),
        ("bad_header", json!({})),
        ("response_panic", json!({})),
    ] {
        let gateway = gateway(&upstream, plugin, json!({ "config": config, "on_error": "open" }));

        for _ in 0..3 {
            let answer = gateway.get("/bad");
            assert_eq!((answer.status(), answer.text()), (201, "ok"), "{plugin}: {answer:?}");
        }
        assert_eq!(upstream.last_request().field("x-evil"), None);
        let calls = [("plugin", plugin.replace('_', "-"))];
        let calls = calls.each_ref().map(|(name, plugin)| (*name, plugin.as_str()));
        let failed = gateway.metrics();
        let good = [calls[0], ("outcome", "next")];
        let failures = failed.sum("zproxy_plugin_calls_total", &calls)
            - failed.sum("zproxy_plugin_calls_total", &good);
        assert!(failures >= 3.0, "{plugin}: {}", failed.text);
    }
}

/// A hung plugin costs its own request, never a worker's second.
#[test]
fn a_looping_plugin_does_not_starve_its_worker() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, "loop_forever", json!({}));
    let address = gateway.address().to_owned();
    let attack = std::thread::spawn(move || {
        let mut wire = crate::harness::Wire::tcp(std::net::TcpStream::connect(address).unwrap());
        for _ in 0..50 {
            if wire.exchange("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n").says_close() {
                return;
            }
        }
    });
    let mut client = gateway.connect();

    let mut longest = Duration::ZERO;
    while !attack.is_finished() {
        let start = Instant::now();
        assert_eq!(client.exchange("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
        longest = longest.max(start.elapsed());
    }

    attack.join().unwrap();
    assert!(longest < Duration::from_secs(5), "a neighbour waited for {longest:?}");
}

/// Memory of dead instances goes back.
#[test]
fn a_memory_bomb_that_goes_off_often_leaves_memory_flat() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, "memory_bomb", json!({}));
    assert_eq!(gateway.get("/bad").status(), 503);
    let before = gateway.memory_kib();

    for _ in 0..30 {
        assert_eq!(gateway.get("/bad").status(), 503);
    }

    let held = gateway.memory_kib().saturating_sub(before);
    assert!(held < 64 * 1024, "{held} KiB more after 30 bombs of 16 MiB");
}

/// Handles of standard streams are bounded, and no reason for an honest plugin to fail.
#[test]
fn a_plugin_may_print_for_as_long_as_it_lives() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, "print", json!({}));

    for _ in 0..100 {
        assert_eq!(gateway.get("/bad").text(), "ok");
    }

    gateway.counts("zproxy_plugin_traps_total", &[("plugin", "print")], 0.0);
}

/// The limits are the operator's.
#[test]
fn limits_of_time_and_memory_can_be_set() {
    let upstream = Upstream::answering("ok");
    let config = json!({
        "workers": { "count": 1, "pin": false },
        "plugins": {
            "loop_forever": { "path": guest("loop_forever"), "limits": { "time_ms_max": 300 } },
            "noop": { "path": guest("noop"), "limits": { "memory_bytes_max": 2_000_000 } },
        },
        "routes": [
            { "path": "/loop", "upstream": upstream.url(), "middleware": ["loop_forever"] },
            { "path": "/noop", "upstream": upstream.url(), "middleware": ["noop"] },
        ],
    });
    let gateway = Gateway::start(config.clone());
    let start = Instant::now();
    assert_eq!(gateway.get("/loop").status(), 503);
    let taken = start.elapsed();
    assert!(taken > Duration::from_millis(200) && taken < Duration::from_secs(20), "{taken:?}");
    assert_eq!(gateway.get("/noop").text(), "ok");

    // Less than its first page: refused when it is loaded, not when it is called.
    let mut config = config;
    config["plugins"]["noop"]["limits"]["memory_bytes_max"] = json!(65_536);
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();
    let run = crate::harness::run(dir.path(), &["check"]);
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(run.stderr.contains("noop"), "{run:?}");
}

/// Fuel is the same on every machine: a limit by it needs no patience.
#[test]
fn a_loop_ends_with_its_fuel() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(json!({
        "plugins": {
            "loop_forever": {
                "path": guest("loop_forever"),
                "limits": { "time_ms_max": 60_000, "fuel_max": 1_000_000 },
            },
            "noop": { "path": guest("noop"), "limits": { "fuel_max": 100_000 } },
        },
        "routes": [
            { "path": "/loop", "upstream": upstream.url(), "middleware": ["loop_forever"] },
            { "path": "/noop", "upstream": upstream.url(), "middleware": ["noop"] },
        ],
    }));

    assert_eq!(gateway.get("/loop").status(), 503);
    assert_eq!(gateway.get("/noop").text(), "ok");

    gateway.logs("(fuel): it used more fuel than its 1000000");
    let labels = [("plugin", "loop-forever"), ("outcome", "fuel")];
    gateway.counts_some("zproxy_plugin_calls_total", &labels);
}
