//! Choosing among servers and among upstreams.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream};

/// Asks this often, each time on a new connection: who answered how often.
fn count_answers(gateway: &Gateway, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(gateway.get("/").text().to_owned()).or_default() += 1;
    }
    counts
}

/// One worker: each keeps a turn of its own.
fn gateway(upstreams: &Value, target: Value) -> Gateway {
    Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "upstreams": upstreams,
        "routes": [{ "path": "/", "upstream": target }],
    }))
}

#[test]
fn round_robin_gives_every_server_its_turn() {
    let servers = ["a", "b", "c"].map(Upstream::answering);
    let addresses = servers.each_ref().map(Upstream::address);
    let gateway = gateway(
        &json!({ "all": { "servers": addresses, "balance": "round-robin" } }),
        json!("all"),
    );

    let counts = count_answers(&gateway, 30);

    assert_eq!(counts, [("a".into(), 10), ("b".into(), 10), ("c".into(), 10)].into());
}

#[test]
fn weights_are_shares_spread_evenly() {
    let servers = ["a", "b"].map(Upstream::answering);
    let gateway = gateway(
        &json!({ "all": { "balance": "weighted", "servers": [
            { "address": servers[0].address(), "weight": 3 },
            { "address": servers[1].address(), "weight": 1 },
        ] } }),
        json!("all"),
    );

    let answers: Vec<String> = (0..40).map(|_| gateway.get("/").text().to_owned()).collect();

    assert_eq!(answers.iter().filter(|answer| *answer == "a").count(), 30);
    // Never more of `a` in a row than its weight, give or take the border of two rounds.
    let longest = answers.split(|answer| answer == "b").map(<[String]>::len).max();
    assert!(longest <= Some(4), "{answers:?}");
}

#[test]
fn a_route_splits_its_requests_by_weight() {
    let upstreams = ["old", "new", "never"].map(Upstream::answering);
    let [old, new, never] = upstreams.each_ref().map(Upstream::address);
    let gateway = gateway(
        &json!({
            "old": { "servers": [old] },
            "new": { "servers": [{ "address": new }] },
            "never": { "servers": [never] },
        }),
        json!([
            { "upstream": "old", "weight": 3 },
            { "upstream": "new", "weight": 1 },
            { "upstream": "never", "weight": 0 },
        ]),
    );

    let counts = count_answers(&gateway, 400);

    // Six standard deviations of a fair coin of this kind; exact turns satisfy it as well.
    assert!((248..=352).contains(&counts["old"]), "{counts:?}");
    assert_eq!(counts["old"] + counts["new"], 400);
}

/// Every worker serves, and each comes to the same servers.
#[test]
fn every_worker_balances() {
    let servers = ["a", "b"].map(Upstream::answering);
    let addresses = servers.each_ref().map(Upstream::address);
    for acceptors in ["per-worker", "dedicated"] {
        let gateway = Gateway::start(json!({
            "workers": { "count": 4, "pin": false, "acceptors": acceptors },
            "upstreams": { "all": { "servers": addresses } },
            "routes": [{ "path": "/", "upstream": "all" }],
        }));

        let counts = count_answers(&gateway, 40);

        assert_eq!(counts.values().sum::<usize>(), 40, "{acceptors}");
        assert!(counts.values().all(|count| *count >= 8), "{acceptors}: {counts:?}");
    }
}
