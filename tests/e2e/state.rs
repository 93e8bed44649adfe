//! What plugins keep in the gateway: exact over all workers, bounded, each plugin its own, and nothing
//! that the operator has not granted.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Gateway, Message, Upstream, guest, run};

/// Two names for one component, each with a route of its own.
fn keepers(allow: &Value) -> Gateway {
    let plugin = json!({
        "path": guest("keeper"),
        "allow": allow,
        "limits": { "time_ms_max": 60_000 },
    });
    Gateway::start(json!({
        "plugins": { "one": plugin, "other": plugin },
        "routes": [
            { "name": "one", "path": "/one", "upstream": "echo", "middleware": ["one"] },
            { "name": "other", "path": "/other", "upstream": "echo", "middleware": ["other"] },
        ],
    }))
}

fn all() -> Value {
    json!({
        "kv": { "bytes_max": 1_048_576 },
        "counters": { "bytes_max": 1_048_576 },
        "env": ["KEEPER_NONE"],
        "secrets": { "db": "hunter2" },
    })
}

fn order(gateway: &Gateway, path: &str, order: &str) -> Message {
    gateway.ask("GET", path, &format!("X-Do: {order}\r\n"))
}

#[track_caller]
fn says(gateway: &Gateway, path: &str, what: &str, said: &str) {
    let answer = order(gateway, path, what);
    assert_eq!((answer.status(), answer.text()), (200, said), "{what}");
}

/// Sixty a minute are sixty of a burst, however many clients send it to however many workers.
#[test]
fn a_quota_is_exact_over_all_workers() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::to_with(
        &upstream,
        json!({
            "plugins": { "quota": { "path": guest("quota"), "allow": { "counters": true } } },
            "routes": [{
                "name": "all", "path": "/", "upstream": "test",
                "middleware": [{ "plugin": "quota", "config": { "count": 60, "period_ms": 3_600_000 } }],
            }],
        }),
    );

    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..25).map(|_| gateway.get("/").status()).collect::<Vec<_>>()))
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });

    let count = |status: u16| statuses.iter().filter(|one| **one == status).count();
    assert_eq!((count(200), count(429)), (60, 140));
    let busy = gateway.admin_json("/workers");
    let accepted = |worker: &Value| worker["accepted"].as_u64().unwrap() > 0;
    assert!(busy["workers"].as_array().unwrap().iter().all(accepted), "{busy}");
}

#[test]
fn state_is_shared_by_workers_and_belongs_to_its_plugin() {
    let gateway = keepers(&all());

    says(&gateway, "/one", "set k secret", "true");
    for count in 1..=20 {
        says(&gateway, "/one", "get k", "secret");
        says(&gateway, "/one", "count c", &count.to_string());
    }
    says(&gateway, "/other", "get k", "none");
    says(&gateway, "/other", "count c", "1");
    says(&gateway, "/one", "secret db", "hunter2");
    says(&gateway, "/one", "variable KEEPER_NONE", "None");
}

/// What breaks a rule fails its hook, by name, and leaves the instance as it was.
#[test]
fn absurd_arguments_fail_the_hook_and_nothing_else() {
    let gateway = keepers(&all());

    for (what, reason) in [
        ("long-key 257", "counters.add: a key has at most 256 bytes"),
        ("random 65537", "random.bytes(65537): at most 65,536"),
        ("random 4294967295", "random.bytes(4294967295): at most 65,536"),
        ("variable PATH", "environment.variable(\"PATH\"): not granted"),
        ("secret other", "environment.secret(\"other\"): not granted"),
        // The log has five such lines a second, and this one's words already.
        ("long-key 1000000", "counters.add: a key has at most 256 bytes"),
    ] {
        assert_eq!(order(&gateway, "/one", what).status(), 503, "{what}");
        gateway.logs(reason);
    }
    says(&gateway, "/one", "long-key 256", "1");
    says(&gateway, "/one", "random 65536", "65536");
    says(&gateway, "/one", "set-large 65537", "Err(TooLarge)");
    assert!(order(&gateway, "/one", "set-large 65536").text().starts_with("Ok("));
    let traps = gateway.metrics().sum("zproxy_plugin_traps_total", &[]);
    assert_eq!(traps.to_bits(), 0.0_f64.to_bits());
}

#[test]
fn floods_stay_within_what_was_granted() {
    let gateway = keepers(&all());
    says(&gateway, "/other", "set k kept", "true");

    for round in 0..5 {
        let first = round * 20_000;
        assert_eq!(order(&gateway, "/one", &format!("flood-values {first} 5000")).status(), 200);
        assert_eq!(order(&gateway, "/one", &format!("flood-counts {first} 20000")).status(), 200);
    }
    assert_eq!(order(&gateway, "/one", "metrics 10000").status(), 200);

    let metrics = gateway.metrics();
    for kind in ["kv", "counters"] {
        let labels = [("plugin", "one"), ("kind", kind)];
        let bytes = metrics.sum("zproxy_plugin_state_bytes", &labels);
        assert!((900_000.0..=1_048_576.0).contains(&bytes), "{kind}: {bytes}");
        assert!(metrics.sum("zproxy_plugin_state_entries", &labels) > 500.0);
    }
    let own = metrics.text.matches("# TYPE zproxy_plugin_one_").count();
    assert!((60..=64).contains(&own), "{own}");
    says(&gateway, "/other", "get k", "kept");
}

#[test]
fn metrics_of_plugins_are_summed_on_the_page_of_the_gateway() {
    let gateway = keepers(&all());

    for _ in 0..10 {
        says(&gateway, "/one", "get k", "none");
    }
    says(&gateway, "/other", "count c", "1");

    gateway.counts("zproxy_plugin_one_done_total", &[], 10.0);
    let text = gateway.metrics().text;
    for line in [
        "# HELP zproxy_plugin_one_done_total Things \"done\".",
        "# TYPE zproxy_plugin_one_done_total counter",
        "zproxy_plugin_other_done_total 1",
        "# TYPE zproxy_plugin_one_size gauge",
        "# TYPE zproxy_plugin_one_length histogram",
        "zproxy_plugin_one_length_bucket{le=\"2\"} 0",
        "zproxy_plugin_one_length_bucket{le=\"16\"} 10",
        "zproxy_plugin_one_length_bucket{le=\"+Inf\"} 10",
        "zproxy_plugin_one_length_sum 50",
        "zproxy_plugin_one_length_count 10",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
    let accept = "Accept: application/openmetrics-text\r\n";
    let open = gateway.admin_ask("GET", "/metrics", accept);
    for line in [
        "# HELP zproxy_plugin_one_done Things \\\"done\\\".",
        "# TYPE zproxy_plugin_one_done counter",
        "zproxy_plugin_one_done_total 10",
        "zproxy_plugin_one_length_bucket{le=\"2.0\"} 0",
    ] {
        assert!(open.text().lines().any(|one| one == line), "{line}\n{}", open.text());
    }
}

/// Not at three in the morning, by the first request that comes to it.
#[test]
fn what_is_not_granted_refuses_the_start_with_the_line_to_write() {
    let dir = TempDir::new().unwrap();
    let config = json!({
        "admin": null,
        "plugins": { "quota": { "path": guest("quota") } },
        "routes": [{ "path": "/", "upstream": "echo", "middleware": ["quota"] }],
    });
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();

    let refused = run(dir.path(), &["check"]);

    assert_eq!(refused.code, Some(5), "{refused:?}");
    let line = "imports `zproxy:gateway/counters` (`take`), which is not granted; if you trust it with \
                that, write `\"plugins\": {\"quota\": {\"allow\": {\"counters\": true}}}`";
    assert!(refused.stderr.contains(line), "{refused:?}");
}
