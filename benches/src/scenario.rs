//! What is measured: the loads, and who takes part in each.
//!
//! A new scenario is one more entry of [`SCENARIOS`]; whatever `load` can send, an entry can say.
//!
//! Not here: how contenders are configured (`contender`, `peers/`).

use crate::contender::Kind;

/// One load that every contender gets in turn.
pub(crate) struct Scenario {
    /// For `--scenario` and the raw output.
    pub(crate) name: &'static str,
    /// For the table.
    pub(crate) title: &'static str,
    /// Who takes part, in this order in every round.
    pub(crate) contenders: &'static [Kind],
    /// What is asked for.
    pub(crate) path: &'static str,
    /// Length of every response body.
    pub(crate) body_bytes: u64,
    /// Length of the request body; none is a GET.
    pub(crate) post_bytes: Option<usize>,
    /// Further request header lines.
    pub(crate) headers: &'static [&'static str],
    /// Requests in flight.
    pub(crate) connections: usize,
    /// Whether each request takes a new connection.
    pub(crate) per_request: bool,
    /// Requests per second of the latency measurement: well below what any contender can do, so
    /// that it shows waiting, not saturation.
    pub(crate) rate: u64,
}

/// Everyone with the same task.
const PROXIES: &[Kind] = &[Kind::Haproxy, Kind::Nginx, Kind::Zproxy { plugins: 0 }];

/// The same gateway with chains of different length.
const CHAINS: &[Kind] =
    &[Kind::Zproxy { plugins: 0 }, Kind::Zproxy { plugins: 1 }, Kind::Zproxy { plugins: 4 }];

/// A small GET on kept connections: the base of the others.
const KEEPALIVE: Scenario = Scenario {
    name: "keepalive",
    title: "keep-alive, 100-byte responses, 64 connections",
    contenders: PROXIES,
    path: "/",
    body_bytes: 100,
    post_bytes: None,
    headers: &[],
    connections: 64,
    per_request: false,
    rate: 5_000,
};

/// Every scenario, in the order of the table.
pub(crate) const SCENARIOS: &[Scenario] = &[
    KEEPALIVE,
    Scenario {
        name: "connections",
        title: "a new connection per request, 100-byte responses, 500 in flight",
        connections: 500,
        per_request: true,
        rate: 2_000,
        ..KEEPALIVE
    },
    Scenario {
        name: "body-100k",
        title: "keep-alive, 100 KiB responses, 64 connections",
        path: "/100k",
        body_bytes: 102_400,
        rate: 1_000,
        ..KEEPALIVE
    },
    Scenario {
        name: "body-10m",
        title: "keep-alive, 10 MiB responses, 8 connections",
        path: "/10m",
        body_bytes: 10 << 20,
        connections: 8,
        rate: 20,
        ..KEEPALIVE
    },
    Scenario {
        name: "plugins",
        title: "keep-alive, 100-byte responses, 64 connections, chains of 0, 1 and 4 no-op plugins",
        contenders: CHAINS,
        ..KEEPALIVE
    },
];
