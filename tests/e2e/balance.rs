//! Choosing among servers and among upstreams, and how connections spread over the workers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream, Wire, eventually};

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

/// What a server fails at is counted as its own, also when another one answered in its place.
#[test]
fn failures_are_those_of_the_server_that_failed() {
    let good = Upstream::answering("hello");
    let bad = Upstream::sending_and_closing("what?\r\n\r\n");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "upstreams": { "all": { "servers": [good.address(), gone.to_string(), bad.address()] } },
        "routes": [{ "path": "/", "upstream": "all" }],
        "access_log": { "path": "access.log", "format": "{status} {server} {attempts}" },
    }));

    let statuses: Vec<u16> = (0..6).map(|_| gateway.get("/").status()).collect();

    assert_eq!(statuses, [200, 502, 502, 200, 502, 502]);
    let counts = |server: &str, status: &str, count: f64| {
        let labels = [("server", server), ("status", status)];
        gateway.counts("zproxy_upstream_requests_total", &labels, count);
    };
    counts(&good.address(), "200", 2.0);
    counts(&good.address(), "0", 0.0);
    counts(&gone.to_string(), "0", 2.0);
    counts(&bad.address(), "0", 4.0);
    gateway.counts("zproxy_upstream_retries_total", &[], 2.0);
    let log = eventually("six lines", || {
        let text = std::fs::read_to_string(gateway.dir.path().join("access.log")).ok()?;
        (text.lines().count() == 6).then_some(text)
    });
    let (good, bad) = (good.address(), bad.address());
    let turn = [format!("200 {good} 1"), format!("502 {bad} 2"), format!("502 {bad} 1")];
    assert_eq!(log.lines().collect::<Vec<_>>(), [turn.clone(), turn].concat());
    // One line a second at most.
    assert!(gateway.stderr().matches("connection refused").count() <= 2, "{}", gateway.stderr());
}

/// Connections of each worker, as `/workers` says.
fn connections(gateway: &Gateway) -> Vec<u64> {
    let workers = gateway.admin_json("/workers");
    let of = |worker: &Value| worker["connections"].as_u64().unwrap();
    workers["workers"].as_array().unwrap().iter().map(of).collect()
}

/// Opens this many connections that stay, each served once.
fn open(gateway: &Gateway, count: usize) -> Vec<Wire> {
    let connect = || {
        let mut client = gateway.connect();
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
        client
    };
    std::iter::repeat_with(connect).take(count).collect()
}

fn with_workers(count: usize, acceptors: &str) -> Gateway {
    Gateway::start(json!({
        "workers": { "count": count, "pin": false, "acceptors": acceptors },
        "routes": [{ "path": "/", "respond": { "status": 200, "body": "hello" } }],
    }))
}

/// The kernel's hash deals a few connections as coins fall: of twenty, one worker often gets
/// thirteen. Each may carry as much as all others together.
#[test]
fn few_connections_that_stay_are_spread_evenly() {
    let gateway = with_workers(2, "per-worker");

    let clients = open(&gateway, 20);

    let spread = connections(&gateway);
    assert_eq!(spread.iter().sum::<u64>(), 20);
    assert!(spread[0].abs_diff(spread[1]) <= 2, "{spread:?}");
    // That the hash deals this evenly by itself is possible, but once in a thousand runs.
    gateway.counts_some("zproxy_connections_handed_on_total", &[]);
    drop(clients);
    eventually("all of them closed", || (connections(&gateway) == [0, 0]).then_some(()));
}

/// Also when many of them end, and those that are left are all with one worker.
#[test]
fn dedicated_acceptors_deal_to_whoever_has_the_fewest() {
    let gateway = with_workers(3, "dedicated");

    let mut clients = open(&gateway, 30);

    assert_eq!(connections(&gateway), [10, 10, 10]);
    gateway.counts("zproxy_connections_handed_on_total", &[], 0.0);
    // In turn: what is left is with the first worker, or nearly so.
    let mut turn = 0..;
    clients.retain(|_| turn.next().is_some_and(|turn| turn % 3 == 0));
    eventually("those closed", || (connections(&gateway).iter().sum::<u64>() == 10).then_some(()));
    clients.extend(open(&gateway, 20));
    assert_eq!(connections(&gateway), [10, 10, 10]);
}
