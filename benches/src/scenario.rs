//! What is measured: the loads, who takes part in each, and what ZProxy is to reach.
//!
//! A new scenario is one more entry of [`SCENARIOS`]; whatever `load` can send, an entry can say.
//!
//! Not here: how contenders are configured (`contender`, `peers/`), whether a goal is met (`report`).

use crate::contender::{self, Kind};
use crate::jwt::{self, Signed};
use crate::tls::Sessions;

/// One load that every contender gets in turn.
pub(crate) struct Scenario {
    /// For `--scenario` and the raw output.
    pub(crate) name: &'static str,
    /// For the table.
    pub(crate) title: &'static str,
    /// Who takes part, in this order in every round.
    pub(crate) contenders: &'static [Kind],
    /// No load at all: only what memory they hold is looked at.
    pub(crate) idle: bool,
    /// What is asked for.
    pub(crate) path: &'static str,
    /// Length of every response body.
    pub(crate) body_bytes: u64,
    /// Length of the request body; none is a GET.
    pub(crate) post_bytes: Option<usize>,
    /// Further request header lines.
    pub(crate) headers: &'static [&'static str],
    /// By TLS, and what becomes of its sessions.
    pub(crate) tls: Option<Sessions>,
    /// Each connection becomes a WebSocket, and a request is a message that comes back.
    pub(crate) websocket: bool,
    /// Over HTTP/2 with prior knowledge, a hundred requests at a time on each connection.
    pub(crate) http2: bool,
    /// Requests in flight.
    pub(crate) connections: usize,
    /// Whether each request takes a new connection.
    pub(crate) per_request: bool,
    /// Requests per second of the latency measurement: well below what any contender can do, so
    /// that it shows waiting, not saturation. None: latency is not looked at.
    pub(crate) rate: Option<u64>,
    /// What ZProxy is to reach.
    pub(crate) goals: &'static [Goal],
}

/// What ZProxy is to reach, with the name of the contender that it is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// At most this share of the CPU time of a peer.
    Share(&'static str, &'static str, f64),
    /// At most this share of the CPU time of the cheapest of these.
    ShareOfBest(&'static str, &'static [&'static str], f64),
    /// Adds at most so many µs of CPU time a request to what the other costs.
    Added(&'static str, &'static str, f64),
    /// Adds less CPU time a request to what it costs without, the second, than the other one does to its own.
    AddsLess([&'static str; 2], [&'static str; 2]),
    /// Every request is answered well.
    NoFailure(&'static str),
    /// At most so many MiB resident.
    Resident(&'static str, f64),
    /// The lowest p99 at the rate.
    LowestP99(&'static str),
}

/// Those who check tokens, each beside itself without.
macro_rules! jwt {
    ($signed:expr) => {
        &[
            HAPROXY,
            HAPROXY.jwt("haproxy+jwt", $signed),
            NGINX,
            NGINX.jwt("nginx+jwt", $signed),
            ENVOY,
            ENVOY.jwt("envoy+jwt", $signed),
            EPOLL,
            EPOLL.jwt("zproxy-epoll+jwt", $signed),
        ]
    };
}

/// The plugin beside each of them.
const JWT_GOALS: &[Goal] = &[
    Goal::Added("zproxy-epoll+jwt", "zproxy-epoll", 2.0),
    Goal::AddsLess(["zproxy-epoll+jwt", "zproxy-epoll"], ["haproxy+jwt", "haproxy"]),
    Goal::AddsLess(["zproxy-epoll+jwt", "zproxy-epoll"], ["nginx+jwt", "nginx"]),
    Goal::AddsLess(["zproxy-epoll+jwt", "zproxy-epoll"], ["envoy+jwt", "envoy"]),
];

const RELAY: Kind = contender::RELAY;
const RELAY_SPLICE: Kind = contender::RELAY_SPLICE;
const HAPROXY: Kind = contender::HAPROXY;
const HAPROXY_FIELDS: Kind = contender::HAPROXY_FIELDS;
const HAPROXY_SPLICE: Kind = contender::HAPROXY_SPLICE;
const NGINX: Kind = contender::NGINX;
const NGINX_TUNED: Kind = contender::NGINX_TUNED;
const ENVOY: Kind = contender::ENVOY;
const EPOLL: Kind = contender::EPOLL;
const URING: Kind = contender::URING;

/// Everyone with a small request; one peer once more with the fields that ZProxy adds.
const SMALL: &[Kind] = &[RELAY, HAPROXY, HAPROXY_FIELDS, NGINX, ENVOY, EPOLL, URING];
/// Those who keep responses.
const CACHES: &[Kind] = &[
    contender::HAPROXY_CACHE,
    contender::NGINX_CACHE,
    contender::EPOLL_CACHE,
    contender::URING_CACHE,
];
/// Everyone once.
const ONCE: &[Kind] = &[RELAY, HAPROXY, NGINX, ENVOY, EPOLL, URING];
/// Those who speak TLS to clients.
const TLS: &[Kind] = &[
    HAPROXY.tls("haproxy-tls"),
    NGINX.tls("nginx-tls"),
    EPOLL.tls("zproxy-epoll-tls"),
    URING.tls("zproxy-uring-tls"),
];
/// Peers with and without what they offer for bodies.
const BODIES: &[Kind] =
    &[RELAY_SPLICE, HAPROXY, HAPROXY_SPLICE, NGINX, NGINX_TUNED, ENVOY, EPOLL, URING];

/// What peers offer for large bodies.
const TUNED: &[&str] = &["haproxy", "haproxy-splice", "nginx", "nginx-tuned"];

/// A small GET on kept connections: the base of the others.
const KEEPALIVE: Scenario = Scenario {
    name: "keepalive",
    title: "keep-alive, 100-byte responses, 64 connections",
    contenders: SMALL,
    idle: false,
    path: "/",
    body_bytes: 100,
    post_bytes: None,
    headers: &[],
    tls: None,
    websocket: false,
    http2: false,
    connections: 64,
    per_request: false,
    rate: None,
    goals: &[],
};

/// Every scenario, in the order of the table.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        rate: Some(5_000),
        goals: &[
            Goal::Share("zproxy-epoll", "haproxy", 0.72),
            Goal::Share("zproxy-uring", "haproxy", 0.68),
            Goal::LowestP99("zproxy-epoll"),
            Goal::LowestP99("zproxy-uring"),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "keepalive-1000",
        title: "keep-alive, 100-byte responses, 1,000 connections",
        contenders: ONCE,
        connections: 1_000,
        goals: &[
            Goal::Share("zproxy-epoll", "haproxy", 0.66),
            Goal::Share("zproxy-uring", "haproxy", 0.58),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "connections",
        title: "a new connection per request, 100-byte responses, 500 in flight",
        connections: 500,
        per_request: true,
        rate: Some(2_000),
        goals: &[
            Goal::Share("zproxy-epoll", "haproxy", 0.85),
            Goal::Share("zproxy-uring", "haproxy", 0.85),
            Goal::NoFailure("zproxy-epoll"),
            Goal::NoFailure("zproxy-uring"),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "body-100k",
        title: "keep-alive, 100 KiB responses, 64 connections",
        contenders: BODIES,
        path: "/100k",
        body_bytes: 102_400,
        goals: &[
            Goal::Share("zproxy-epoll", "haproxy", 0.65),
            Goal::Share("zproxy-uring", "haproxy", 0.65),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "body-10m",
        title: "keep-alive, 10 MiB responses, 8 connections",
        contenders: BODIES,
        path: "/10m",
        body_bytes: 10 << 20,
        connections: 8,
        goals: &[
            Goal::ShareOfBest("zproxy-epoll", TUNED, 0.95),
            Goal::ShareOfBest("zproxy-uring", TUNED, 0.95),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "plugins-10m",
        title: "the same through a plugin that has no hook for bodies",
        contenders: &[EPOLL, contender::EPOLL_1],
        path: "/10m",
        body_bytes: 10 << 20,
        connections: 8,
        goals: &[Goal::Share("zproxy-epoll+1", "zproxy-epoll", 1.02)],
        ..KEEPALIVE
    },
    Scenario {
        name: "post-64k",
        title: "keep-alive, POST of 64 KiB, 100-byte responses, 64 connections",
        contenders: &[RELAY, RELAY_SPLICE, HAPROXY, NGINX, ENVOY, EPOLL, URING],
        post_bytes: Some(64 << 10),
        goals: &[
            Goal::Share("zproxy-epoll", "nginx", 0.85),
            Goal::Share("zproxy-uring", "nginx", 0.85),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "websocket",
        title: "WebSocket tunnels, 128-byte messages that come back, 64 connections",
        contenders: ONCE,
        websocket: true,
        goals: &[
            Goal::Share("zproxy-epoll", "nginx", 1.0),
            Goal::Share("zproxy-uring", "nginx", 1.0),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "http2",
        title: "HTTP/2 in clear text, 4 connections with 100 streams each, 100-byte responses",
        // nginx of the distribution cannot have both versions on a port in clear text.
        contenders: &[HAPROXY, ENVOY, EPOLL, URING],
        http2: true,
        connections: 400,
        rate: Some(5_000),
        goals: &[
            Goal::Share("zproxy-epoll", "haproxy", 1.0),
            Goal::Share("zproxy-uring", "haproxy", 1.0),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "headers",
        title: "keep-alive, 20 header lines as a browser sends them, 100-byte responses, 64 connections",
        headers: BROWSER,
        goals: &[
            Goal::Share("zproxy-epoll", "haproxy", 0.75),
            Goal::Share("zproxy-uring", "haproxy", 0.75),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "tls-keepalive",
        title: "TLS 1.3, keep-alive, 100-byte responses, 64 connections",
        contenders: TLS,
        tls: Some(Sessions::Kept),
        goals: &[
            Goal::Share("zproxy-epoll-tls", "haproxy-tls", 0.8),
            Goal::Share("zproxy-uring-tls", "haproxy-tls", 0.8),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "tls-full",
        title: "TLS 1.3, a full handshake per request, 64 at a time",
        contenders: TLS,
        tls: Some(Sessions::Full),
        goals: &[Goal::Share("zproxy-epoll-tls", "nginx-tls", 1.0)],
        ..KEEPALIVE
    },
    Scenario {
        name: "tls-resumed",
        title: "TLS 1.3, a resumed session per request, 64 at a time",
        contenders: TLS,
        tls: Some(Sessions::Resumed),
        goals: &[Goal::Share("zproxy-epoll-tls", "nginx-tls", 1.0)],
        ..KEEPALIVE
    },
    Scenario {
        name: "tls-body-1m",
        title: "TLS 1.3, keep-alive, 1 MiB responses, 8 connections",
        contenders: TLS,
        tls: Some(Sessions::Kept),
        path: "/1m",
        body_bytes: 1 << 20,
        connections: 8,
        goals: &[Goal::ShareOfBest("zproxy-epoll-tls", &["haproxy-tls", "nginx-tls"], 1.1)],
        ..KEEPALIVE
    },
    Scenario {
        name: "two-workers",
        title: "one worker and two, keep-alive, 100-byte responses, 64 connections",
        contenders: &[
            HAPROXY,
            HAPROXY.two_workers("haproxy-2w"),
            NGINX,
            NGINX.two_workers("nginx-2w"),
            EPOLL,
            EPOLL.two_workers("zproxy-epoll-2w"),
            URING,
            URING.two_workers("zproxy-uring-2w"),
        ],
        goals: &[
            Goal::Share("zproxy-epoll-2w", "zproxy-epoll", 1.05),
            Goal::Share("zproxy-uring-2w", "zproxy-uring", 1.05),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "plugins",
        title: "keep-alive, 100-byte responses, 64 connections: no plugin, 1 and 4 that do nothing, one that sets a field",
        contenders: &[EPOLL, contender::EPOLL_1, contender::EPOLL_4, contender::EPOLL_STAMP],
        goals: &[Goal::Added("zproxy-epoll+stamp", "zproxy-epoll", 0.8)],
        ..KEEPALIVE
    },
    Scenario {
        name: "cache-hit",
        title: "keep-alive, 1 KiB responses from the cache, 64 connections",
        contenders: CACHES,
        path: "/cached/1k",
        body_bytes: 1 << 10,
        goals: &[
            Goal::Share("zproxy-epoll+cache", "haproxy-cache", 1.0),
            Goal::Share("zproxy-uring+cache", "haproxy-cache", 1.0),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "cache-hit-100k",
        title: "keep-alive, 100 KiB responses from the cache, 64 connections",
        contenders: CACHES,
        path: "/cached/100k",
        body_bytes: 102_400,
        goals: &[
            Goal::Share("zproxy-epoll+cache", "nginx-cache", 1.0),
            Goal::Share("zproxy-uring+cache", "nginx-cache", 1.0),
        ],
        ..KEEPALIVE
    },
    Scenario {
        name: "jwt-hs256",
        title: "keep-alive, 100-byte responses, 64 connections: one token of HS256 in all requests, checked or not",
        contenders: jwt!(Signed::Hs256),
        path: "/api",
        headers: &[jwt::HS256],
        goals: JWT_GOALS,
        ..KEEPALIVE
    },
    Scenario {
        name: "jwt-rs256",
        title: "keep-alive, 100-byte responses, 64 connections: one token of RS256 in all requests, checked or not",
        contenders: jwt!(Signed::Rs256),
        path: "/api",
        headers: &[jwt::RS256],
        goals: JWT_GOALS,
        ..KEEPALIVE
    },
    Scenario {
        name: "memory",
        title: "resident memory after one request, one worker",
        contenders: &[HAPROXY, NGINX, ENVOY, EPOLL, URING, contender::EPOLL_THREE],
        idle: true,
        goals: &[
            Goal::Resident("zproxy-epoll", 20.0),
            Goal::Resident("zproxy-uring", 20.0),
            Goal::Resident("zproxy-epoll+three", 30.0),
        ],
        ..KEEPALIVE
    },
];

/// With `Host`, which the load generator adds, 20 lines; names, order and lengths of a browser.
const BROWSER: &[&str] = &[
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8,fr;q=0.7",
    "Cache-Control: no-cache",
    "Cookie: session=4f1c9d7e8a6b4c3d9e2f1a0b5c6d7e8f; theme=dark; consent=functional.analytics; ab=17",
    "DNT: 1",
    "Origin: https://shop.bench.example",
    "Pragma: no-cache",
    "Priority: u=0, i",
    "Referer: https://shop.bench.example/catalogue/page/3?sort=price",
    "Sec-CH-UA: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"",
    "Sec-CH-UA-Mobile: ?0",
    "Sec-CH-UA-Platform: \"Linux\"",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-User: ?1",
    "Upgrade-Insecure-Requests: 1",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A goal about someone who does not take part would never be looked at.
    #[test]
    fn goals_are_about_contenders_of_their_scenario() {
        for scenario in SCENARIOS {
            let names: Vec<&str> = scenario.contenders.iter().map(|kind| kind.name).collect();
            for goal in scenario.goals {
                let named = match goal {
                    Goal::Share(own, peer, _) | Goal::Added(own, peer, _) => vec![*own, *peer],
                    Goal::ShareOfBest(own, peers, _) => [&[*own], *peers].concat(),
                    Goal::AddsLess(own, peer) => [*own, *peer].concat(),
                    Goal::NoFailure(own) | Goal::Resident(own, _) => vec![*own],
                    Goal::LowestP99(own) => {
                        assert!(scenario.rate.is_some(), "{goal:?}");
                        vec![*own]
                    }
                };
                assert!(
                    named.iter().all(|name| names.contains(name)),
                    "{}: {goal:?}",
                    scenario.name
                );
            }
        }
    }
}
