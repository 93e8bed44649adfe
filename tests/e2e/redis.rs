//! Counters in Redis: one limit for several gateways, exactly; and what happens while Redis is away.
//!
//! Each test has a real Redis of its own, and is left out, saying so, where there is none and nowhere to get it.
//!
//! Not here: URLs (unit tests of the configuration), what is said to Redis (those of `state::redis`).

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::redis::Redis;
use crate::harness::tls::Authority;
use crate::harness::{Gateway, Upstream, eventually, guest};

/// Longer than any request waits here that Redis answers: machines are slow.
const PATIENT_MS: u32 = 10_000;

fn config(upstream: &Upstream, state: Value, limit: Value) -> Value {
    json!({
        "state": state,
        "middleware": { "rate-limit": limit },
        "routes": [
            { "name": "limited", "path": "/", "upstream": upstream.url(), "middleware": ["rate-limit"] },
        ],
    })
}

fn at(redis: &Redis) -> Value {
    json!({ "backend": "redis", "url": redis.url(), "timeout_ms": PATIENT_MS })
}

fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|one| **one == status).count()
}

/// Statuses of so many requests to each gateway, by four clients of each at once.
fn burst(gateways: &[&Gateway], count: usize) -> Vec<u16> {
    std::thread::scope(|scope| {
        let ask = |gateway: &Gateway| {
            (0..count / 4).map(|_| gateway.get("/").status()).collect::<Vec<_>>()
        };
        let clients: Vec<_> = gateways
            .iter()
            .flat_map(|gateway| (0..4).map(move |_| *gateway))
            .map(|gateway| scope.spawn(move || ask(gateway)))
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn is_connected(gateway: &Gateway) {
    let workers = gateway.admin_json("/workers")["workers"].as_array().unwrap().len();
    let workers = f64::from(u32::try_from(workers).unwrap());
    gateway.counts("zproxy_state_connections", &[], workers);
}

/// The point of it all.
#[test]
fn two_gateways_admit_exactly_as_many_as_the_limit_says() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::answering("ok");
    let limit = json!({ "requests_per_day": 60 });
    let start = || Gateway::start(config(&upstream, at(&redis), limit.clone()));
    let (one, other) = (start(), start());
    is_connected(&one);
    is_connected(&other);

    let statuses = burst(&[&one, &other], 100);

    assert_eq!((count(&statuses, 200), count(&statuses, 429)), (60, 140));
    assert_eq!(upstream.requests().len(), 60);
    let refused = other.get("/");
    assert_eq!(refused.field("ratelimit-policy"), Some(r#""60-per-day";q=60;w=86400"#));
    assert!(refused.field("ratelimit").unwrap().starts_with(r#""60-per-day";r=0;t=1"#));
    let asked = |gateway: &Gateway| {
        gateway.metrics().sum("zproxy_state_requests_total", &[("result", "answered")])
    };
    assert_eq!(asked(&one) + asked(&other), 201.0);
    assert!(
        !one.metrics().has("zproxy_state_requests_total", &[("result", "unanswered")])
            || one.metrics().sum("zproxy_state_requests_total", &[("result", "unanswered")]) == 0.0
    );
}

/// Each further one would be another wait for every request.
#[test]
fn all_limits_of_a_request_are_one_question_and_keys_end() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::answering("ok");
    let limits = json!({ "limits": [
        { "requests_per_hour": 2, "name": "few" },
        { "requests_per_day": 100, "name": "many", "key": "route" },
        { "requests": 5, "window_seconds": 7, "key": "header:x-key" },
    ]});
    let gateway = Gateway::start(config(&upstream, at(&redis), limits));
    is_connected(&gateway);

    let statuses: Vec<u16> = (0..4).map(|_| gateway.get("/").status()).collect();

    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(redis.scripts_run(), 4);
    // What the first has refused has taken nothing from the others.
    let answer = gateway.ask("GET", "/", "X-Key: other\r\n");
    assert_eq!(answer.field("ratelimit").map(|left| left.contains("\"few\";r=0")), Some(true));
    assert_eq!(redis.ask(&["DBSIZE"]), "3");
    let keys = redis.ask(&[
        "EVAL",
        "
        local found = {}
        for _, key in ipairs(redis.call('KEYS', '*')) do
          assert(redis.call('PTTL', key) > 0, key)
          assert(string.sub(key, 1, 20) == 'zproxy:rate-limit:q:', key)
          found[#found + 1] = redis.call('GET', key)
        end
        return table.concat(found, ';')",
        "0",
    ]);
    assert_eq!(keys.split(';').count(), 3, "{keys}");
}

/// Redis is not to be a reason for a request to fail.
#[test]
fn while_redis_is_away_each_gateway_counts_for_itself() {
    let Some(mut redis) = Redis::start() else { return };
    let upstream = Upstream::answering("ok");
    let limit = json!({ "requests_per_day": 100_000 });
    let gateway = Gateway::start(config(&upstream, at(&redis), limit));
    is_connected(&gateway);
    assert_eq!(gateway.get("/").status(), 200);
    let loading = AtomicBool::new(true);

    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = 0;
                    while loading.load(Ordering::Relaxed) {
                        assert_eq!(gateway.get("/").status(), 200);
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        for _ in 0..3 {
            redis.kill();
            gateway.counts("zproxy_state_connections", &[], 0.0);
            assert_eq!(gateway.admin("/readyz").status(), 200);
            redis.start_again();
            is_connected(&gateway);
            eventually("a count", || (redis.ask(&["DBSIZE"]) == "1").then_some(()));
        }
        loading.store(false, Ordering::Relaxed);
        assert!(clients.into_iter().map(|client| client.join().unwrap()).sum::<u32>() > 0);
    });

    gateway.logs("until it is back, each gateway counts for itself");
    gateway.logs("it is back");
    gateway.counts_some("zproxy_state_requests_total", &[("result", "unanswered")]);
    gateway.counts_some("zproxy_state_connects_total", &[("result", "failed")]);
}

/// One that neither answers nor closes is worse than one that is gone.
#[test]
fn a_redis_that_hangs_holds_nobody_up_for_longer_than_said() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::answering("ok");
    let mut state = at(&redis);
    state["timeout_ms"] = json!(1000);
    let gateway = Gateway::start(config(&upstream, state, json!({ "requests_per_day": 2 })));
    is_connected(&gateway);
    assert_eq!(gateway.get("/").status(), 200);

    redis.hang(true);
    // Counted here, from the beginning.
    let statuses: Vec<u16> = (0..4).map(|_| gateway.get("/").status()).collect();
    redis.hang(false);

    assert_eq!(statuses, [200, 200, 429, 429]);
    is_connected(&gateway);
    // What was asked while it hung has been read since, so the limit is used up there, too.
    eventually("a refusal", || (gateway.get("/").status() == 429).then_some(()));
}

#[test]
fn what_happens_without_redis_is_the_operators_choice() {
    let upstream = Upstream::answering("ok");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("redis://{}", free.local_addr().unwrap());
    drop(free);
    let with = |on_error: &str, plugin: &str| {
        Gateway::start(json!({
            "state": { "backend": "redis", "url": nobody, "on_error": on_error },
            "middleware": { "rate-limit": { "requests_per_day": 1 } },
            "routes": [{
                "path": "/", "upstream": upstream.url(),
                "middleware": [{ "plugin": "rate-limit", "on_error": plugin }],
            }],
        }))
    };
    for (on_error, plugin, expected) in [
        ("local", "closed", [200, 429, 429]),
        ("open", "closed", [200, 200, 200]),
        ("closed", "closed", [503, 503, 503]),
        ("closed", "open", [200, 200, 200]),
    ] {
        let gateway = with(on_error, plugin);
        let statuses: Vec<u16> = (0..3).map(|_| gateway.get("/").status()).collect();
        assert_eq!(statuses, expected, "{on_error} {plugin}");
        assert_eq!(gateway.admin("/readyz").status(), 200);
        gateway.logs("until it is back");
        assert_eq!(gateway.metrics().sum("zproxy_plugin_traps_total", &[]), 0.0);
    }
}

#[test]
fn a_password_and_a_database_are_what_the_url_says() {
    let Some(redis) = Redis::start_with(&["--requirepass", "p@ss:w/rd"], Some("p@ss:w/rd")) else {
        return;
    };
    // What the manual says is enough.
    let rights = [
        "+script|load",
        "+evalsha",
        "+get",
        "+set",
        "+del",
        "+incrby",
        "+pexpire",
        "+time",
        "+select",
    ];
    let user = ["ACL", "SETUSER", "gate", "on", ">of its own", "~gate:*"];
    assert_eq!(redis.ask(&[user.as_slice(), &rights].concat()), "OK");
    let upstream = Upstream::answering("ok");
    let with =
        |state: Value| Gateway::start(config(&upstream, state, json!({ "requests_per_day": 3 })));
    let escaped = format!("redis://:p%40ss%3Aw%2Frd@{}/3", redis.address());
    let beside = format!("redis://gate@{}/4", redis.address());

    let right = with(json!({ "backend": "redis", "url": escaped, "timeout_ms": PATIENT_MS }));
    let user = with(json!({
        "backend": "redis", "url": beside, "password": "of its own", "prefix": "gate",
        "timeout_ms": PATIENT_MS,
    }));
    let wrong = with(json!({
        "backend": "redis", "url": format!("redis://:wrong@{}", redis.address()),
        "timeout_ms": PATIENT_MS,
    }));

    for gateway in [&right, &user] {
        is_connected(gateway);
        assert_eq!(gateway.get("/").status(), 200);
    }
    assert!(redis.ask(&["INFO", "keyspace"]).contains("db3:keys=1"), "{}", redis.ask(&["INFO"]));
    assert!(redis.ask(&["INFO", "keyspace"]).contains("db4:keys=1"));
    let statuses: Vec<u16> = (0..4).map(|_| wrong.get("/").status()).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    wrong.logs("WRONGPASS");
    for gateway in [&right, &user, &wrong] {
        let shown = format!("{} {}", gateway.stderr(), gateway.admin("/config").text());
        assert!(!shown.contains("p%40ss") && !shown.contains("of its own"), "{shown}");
        assert!(!shown.contains(":wrong@"), "{shown}");
    }
}

#[test]
fn it_is_reached_over_tls_and_unix_sockets() {
    let dir = tempfile::TempDir::new().unwrap();
    let authority = Authority::new("root");
    let ca = authority.write(dir.path().join("ca.pem")).display().to_string();
    let files = authority.issue(dir.path(), "redis", &["localhost"]);
    let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let arguments = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ];
    let Some(redis) = Redis::start_with(&arguments, None) else { return };
    let upstream = Upstream::answering("ok");
    let with = |more: Value| {
        let mut state = json!({ "backend": "redis", "timeout_ms": PATIENT_MS });
        state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Gateway::start(config(&upstream, state, json!({ "requests_per_day": 2 })))
    };
    let secure = format!("rediss://localhost:{port}");
    let socket = format!("unix:{}", redis.dir.path().join("redis.sock").display());

    let over_tls = with(json!({ "url": secure, "tls": { "ca_path": ca } }));
    let over_socket = with(json!({ "url": socket }));
    is_connected(&over_tls);
    is_connected(&over_socket);

    assert_eq!(over_tls.get("/").status(), 200);
    assert_eq!(over_socket.get("/").status(), 200);
    assert_eq!(over_tls.get("/").status(), 429);
    // Whom nobody vouches for is not asked.
    let other = Authority::new("other").write(dir.path().join("other.pem")).display().to_string();
    let doubted = with(json!({ "url": secure, "tls": { "ca_path": other } }));
    assert_eq!(doubted.get("/").status(), 200);
    doubted.logs("certificate");
}

/// Counts, and quotas one at a time, of a plugin of one's own; also from hooks that cannot wait.
#[test]
fn plugins_of_ones_own_count_there_too() {
    let Some(redis) = Redis::start() else { return };
    let keeper = json!({
        "path": guest("keeper"),
        "allow": {
            "kv": true, "counters": true, "env": ["KEEPER_NONE"], "secrets": { "db": "hunter2" },
        },
    });
    let start = || {
        Gateway::start(json!({
            "state": at(&redis),
            "plugins": { "one": keeper },
            "routes": [{ "path": "/", "upstream": "echo", "middleware": ["one"] }],
        }))
    };
    let (here, there) = (start(), start());
    is_connected(&here);
    is_connected(&there);
    let order = |gateway: &Gateway, what: &str| {
        gateway.ask("GET", "/", &format!("X-Do: {what}\r\n")).text().to_owned()
    };

    assert_eq!(order(&here, "count c"), "1");
    assert_eq!(order(&there, "count c"), "2");
    assert_eq!(order(&here, "count c"), "3");
    assert_eq!(order(&there, "counted c"), "3");
    assert_eq!(order(&there, "counted d"), "0");
    assert_eq!(order(&here, "take k 7"), "true 3");
    assert_eq!(order(&there, "take k 4"), "false 3");
    assert_eq!(order(&there, "give-back k 2"), "given");
    assert_eq!(order(&here, "take k 0"), "true 5");
    assert_eq!(order(&here, "take-all k l 5"), "0 5");
    assert_eq!(order(&there, "take-all l k 1"), "1 is short");
    assert_eq!(order(&there, "take-all l l 3"), "1 is short");
    assert_eq!(order(&there, "take-all l l 2"), "3 1");
    assert_eq!(order(&there, "give-back l 100"), "given");
    assert_eq!(order(&here, "take l 11"), "false 10");
    assert_eq!(order(&here, "take l 10"), "true 0");
    // Values are not there.
    assert_eq!(order(&here, "set k secret"), "true");
    assert_eq!(order(&there, "get k"), "none");
}

#[test]
fn redis_can_come_and_go_with_a_reload() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::answering("ok");
    let limit = json!({ "requests_per_day": 2 });
    let listening = json!({ "listeners": [{ "address": "127.0.0.1:0" }], "admin": { "address": "127.0.0.1:0" } });
    let whole = |state: Value| {
        let mut whole = config(&upstream, state, limit.clone());
        whole.as_object_mut().unwrap().extend(listening.as_object().unwrap().clone());
        whole
    };
    let memory = json!({ "backend": "memory" });
    let gateway = Gateway::start(whole(memory.clone()));
    let turn = |state: Value| {
        std::fs::write(gateway.dir.path().join("zproxy.json"), whole(state).to_string()).unwrap();
        let answer = gateway.admin_post("/reload", b"");
        assert_eq!(answer.status(), 200, "{answer:?}");
    };
    let statuses = || (0..3).map(|_| gateway.get("/").status()).collect::<Vec<u16>>();
    assert_eq!(statuses(), [200, 200, 429]);

    turn(at(&redis));
    is_connected(&gateway);
    assert_eq!(statuses(), [200, 200, 429]);
    let mut other = at(&redis);
    other["url"] = json!(format!("{}/7", redis.url()));
    turn(other);
    eventually("the other database", || (gateway.get("/").status() == 200).then_some(()));
    eventually("a count there", || redis.ask(&["INFO", "keyspace"]).contains("db7").then_some(()));
    turn(memory);

    assert_eq!(statuses(), [429, 429, 429]);
    assert!(!gateway.metrics().has("zproxy_state_connections", &[]));
}
