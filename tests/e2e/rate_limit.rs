//! The built-in plugin `rate-limit`, over sockets and several workers.
//!
//! Not here: keys, windows and what answers say (unit tests of the plugin); `counters` alone (`state`).

use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Gateway, JWT_SAMPLE, Upstream, run};

const SECRET: &str = "your-256-bit-secret";

fn gateway(upstream: &Upstream, config: Value) -> Gateway {
    Gateway::start(json!({
        "middleware": { "rate-limit": config },
        "routes": [
            { "name": "limited", "path": "/", "upstream": upstream.url(), "middleware": ["rate-limit"] },
            { "name": "same", "path": "/same", "upstream": upstream.url(), "middleware": ["rate-limit"] },
            { "name": "free", "path": "/free", "upstream": upstream.url() },
        ],
    }))
}

/// Statuses of so many requests by eight clients at once, each on connections of its own.
fn burst(gateway: &Gateway, path: &str, count: usize) -> Vec<u16> {
    std::thread::scope(|scope| {
        let ask = || (0..count / 8).map(|_| gateway.get(path).status()).collect::<Vec<_>>();
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|one| **one == status).count()
}

/// The original's configuration, as it is. Sixty at once, and one more for each second that the test takes;
/// never sixty for each of two workers.
#[test]
fn sixty_a_minute_are_sixty_over_all_workers() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, json!({ "enabled": true, "requests_per_minute": 60 }));
    let began = Instant::now();

    let statuses = burst(&gateway, "/", 200);

    let back = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    let passed = count(&statuses, 200);
    assert!((60..=60 + back).contains(&passed), "{passed} in {:?}", began.elapsed());
    assert_eq!(passed + count(&statuses, 429), 200);
    assert_eq!(upstream.requests().len(), passed);
    let busy = gateway.admin_json("/workers");
    let accepted = |worker: &Value| worker["accepted"].as_u64().unwrap() > 0;
    assert!(busy["workers"].as_array().unwrap().iter().all(accepted), "{busy}");
}

/// Of two limits the smaller one holds, and what it refuses takes nothing from the larger.
#[test]
fn several_limits_hold_over_all_workers() {
    let upstream = Upstream::answering("ok");
    let hour = json!({ "requests_per_hour": 1000, "name": "hour" });
    let day = json!({ "requests_per_day": 40, "name": "day" });
    let gateway = gateway(&upstream, json!({ "limits": [hour, day] }));

    let statuses = burst(&gateway, "/", 160);

    assert_eq!((count(&statuses, 200), count(&statuses, 429)), (40, 120));
    let refused = gateway.get("/");
    let policy = r#""hour";q=1000;w=3600, "day";q=40;w=86400"#;
    assert_eq!(refused.field("ratelimit-policy"), Some(policy));
    assert!(refused.field("ratelimit").unwrap().starts_with(r#""day";r=0;t=2"#), "{refused:?}");
    gateway.counts("zproxy_plugin_state_entries", &[("plugin", "rate-limit")], 2.0);
}

/// As the gateway knows clients: behind a trusted proxy by what that one says.
#[test]
fn clients_are_told_apart_by_their_networks() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(json!({
        "trusted_proxies": ["127.0.0.0/8"],
        "middleware": { "rate-limit": { "requests_per_hour": 1, "allow_list": ["192.0.2.0/24", "2001:db8:ffff::/48"] } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["rate-limit"] }],
    }));

    for (client, expected) in [
        ("198.51.100.1", 200),
        ("198.51.100.1", 429),
        ("::ffff:198.51.100.1", 429),
        ("198.51.100.2", 200),
        ("2001:db8::1", 200),
        ("2001:db8::ffff:0:0:2", 429),
        ("2001:db8:0:1::1", 200),
        ("192.0.2.1", 200),
        ("::ffff:192.0.2.1", 200),
        ("2001:db8:ffff::1", 200),
        ("2001:db8:ffff::1", 200),
    ] {
        let answer = gateway.ask("GET", "/", &format!("X-Forwarded-For: {client}\r\n"));
        assert_eq!(answer.status(), expected, "{client}");
    }
}

/// RFC 6585 §4, draft-ietf-httpapi-ratelimit-headers.
#[test]
fn a_refusal_says_when_to_come_again_and_is_counted_by_route() {
    let upstream = Upstream::answering("ok");
    let gateway = gateway(&upstream, json!({ "requests_per_hour": 2 }));

    let first = gateway.get("/");
    assert_eq!(first.field("ratelimit-policy"), Some(r#""2-per-hour";q=2;w=3600"#));
    assert_eq!(first.field("ratelimit"), Some(r#""2-per-hour";r=1;t=1800"#));
    // The same limit on another route is the same limit.
    assert_eq!(gateway.get("/same").status(), 200);
    let refused = gateway.ask("GET", "/", "Accept: application/json\r\n");
    gateway.get("/same");
    gateway.get("/same");

    assert_eq!(refused.status(), 429);
    let wait: u32 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&wait), "{wait}");
    assert!(refused.field("ratelimit").unwrap().starts_with(r#""2-per-hour";r=0;t=1"#));
    assert_eq!(refused.json()["status"], 429);
    assert_eq!(gateway.get("/").field("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(gateway.get("/free").status(), 200);
    let name = "zproxy_ratelimit_rejected_total";
    gateway.counts(name, &[("route", "limited")], 2.0);
    gateway.counts(name, &[("route", "same")], 2.0);
    gateway.counts("zproxy_plugin_rate_limit_refused_total", &[], 4.0);
    gateway.counts("zproxy_plugin_state_entries", &[("plugin", "rate-limit")], 1.0);
}

/// What an upstream refuses is the upstream's business.
#[test]
fn what_an_upstream_refuses_is_not_counted_as_the_gateways() {
    let upstream = Upstream::sending("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n");
    let gateway = gateway(&upstream, json!({ "requests_per_hour": 100 }));

    assert_eq!(gateway.get("/").status(), 429);

    gateway.counts("zproxy_requests_total", &[("status", "429")], 1.0);
    assert!(!gateway.metrics().has("zproxy_ratelimit_rejected_total", &[]));
}

#[test]
fn switched_off_it_limits_nobody() {
    let upstream = Upstream::answering("ok");
    let off = gateway(&upstream, json!({ "enabled": false, "requests_per_minute": 1 }));
    let dry = gateway(&upstream, json!({ "dry_run": true, "requests_per_hour": 1 }));

    assert_eq!(count(&burst(&off, "/", 16), 200), 16);
    assert_eq!(count(&burst(&dry, "/", 16), 200), 16);
    dry.counts("zproxy_plugin_rate_limit_would_refuse_total", &[], 15.0);
}

/// Whose turn comes first decides what is counted: behind `jwt` the requests of each subject, in front of it
/// those of an address, refused tokens included.
#[test]
fn it_works_in_front_of_jwt_and_behind_it() {
    let upstream = Upstream::answering("ok");
    let limit =
        json!({ "plugin": "rate-limit", "config": { "requests_per_hour": 2, "key": "claim:sub" } });
    let gateway = Gateway::start(json!({
        "middleware": { "jwt": { "jwt_secret": SECRET } },
        "routes": [
            { "path": "/behind", "upstream": upstream.url(), "middleware": ["jwt", limit] },
            { "path": "/before", "upstream": upstream.url(),
              "middleware": [{ "plugin": "rate-limit", "config": { "requests_per_hour": 3 } }, "jwt"] },
        ],
    }));
    let with = |path: &str, token: &str| {
        gateway.ask("GET", path, &format!("Authorization: Bearer {token}\r\n")).status()
    };
    // Another subject, signed with the same secret.
    let other = {
        use jsonwebtoken::{EncodingKey, Header, encode};
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        encode(&Header::default(), &json!({ "sub": "ann" }), &key).unwrap()
    };

    for _ in 0..5 {
        assert_eq!(with("/behind", "wrong"), 401);
    }
    let statuses = [JWT_SAMPLE, JWT_SAMPLE, JWT_SAMPLE, &other, &other, &other];
    let statuses: Vec<u16> = statuses.iter().map(|token| with("/behind", token)).collect();
    assert_eq!(statuses, [200, 200, 429, 200, 200, 429]);
    let statuses: Vec<u16> = (0..3).map(|_| with("/before", "wrong")).collect();
    assert_eq!(statuses, [401, 401, 401]);
    assert_eq!(with("/before", JWT_SAMPLE), 429);
}

#[test]
fn mistakes_are_told_with_their_places() {
    let upstream = Upstream::answering("ok");
    let dir = tempfile::TempDir::new().unwrap();
    let config = json!({
        "middleware": { "rate-limit": { "requests_per_minute": 0, "key": ["route", "ip"] } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["rate-limit"] }],
    });
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();

    let run = run(dir.path(), &["check"]);

    assert_eq!(run.code, Some(5), "{run:?}");
    let said = format!("{}{}", run.stdout, run.stderr);
    for place in ["middleware.rate-limit.requests_per_minute", "middleware.rate-limit.key[1]"] {
        assert!(said.contains(place), "{place}: {said}");
    }
}
