//! Groups of servers: `upstreams`.
//!
//! Not here: addresses and names are checked in `check/upstream.rs`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::UpstreamTlsConfig;

/// A group of servers that answer for the same routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Upstream")]
pub struct UpstreamConfig {
    /// The servers, at least one: each an address (`host:port` or `unix:/path`) or an object.
    #[schemars(
        length(min = 1),
        extend("examples" = [["127.0.0.1:3000"]]),
        extend("x-required" = true)
    )]
    pub servers: Vec<ServerConfig>,

    /// What the servers speak.
    pub protocol: UpstreamProtocolConfig,

    /// How to choose among the servers. When left out: `weighted` if a server has a weight,
    /// else `round-robin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalanceConfig>,

    /// TLS to the servers. Without it they speak plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTlsConfig>,

    /// How long to wait for a server.
    pub timeouts: UpstreamTimeoutsConfig,

    /// Which connections are kept for later requests.
    pub keepalive: KeepaliveConfig,
}

/// What servers speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "UpstreamProtocol")]
pub enum UpstreamProtocolConfig {
    /// What they choose where a choice is offered, which takes TLS; else HTTP/1.1. A WebSocket gets an
    /// HTTP/1.1 connection of its own.
    #[default]
    Auto,
    /// HTTP/1.1, a request at a time on each connection.
    H1,
    /// HTTP/2, many requests on each connection, from its first byte on. What gRPC needs. No WebSockets
    /// and no other upgrades.
    H2,
}

/// One server: its address, or an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Server")]
pub enum ServerConfig {
    /// The address alone.
    Address(String),
    /// Address and weight.
    Weighted(WeightedServerConfig),
}

/// A server that is given by its address alone.
impl From<&str> for ServerConfig {
    fn from(address: &str) -> Self {
        Self::Address(address.into())
    }
}

/// A server with a weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "WeightedServer")]
pub struct WeightedServerConfig {
    /// `host:port` or `unix:/path`. A host name is looked up when a connection is made.
    #[schemars(example = "127.0.0.1:3000", extend("x-required" = true))]
    pub address: String,

    /// Share of the requests, in proportion to the other servers; 1 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub weight: Option<u32>,
}

/// How to choose among servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Balance")]
pub enum BalanceConfig {
    /// Each server in turn.
    RoundRobin,
    /// In turn, each as often as its weight says, spread evenly.
    Weighted,
}

/// How long to wait for a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "UpstreamTimeouts")]
pub struct UpstreamTimeoutsConfig {
    /// Longest time to establish a connection, TLS included, in milliseconds. The client gets a 504 then.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub connect_ms: u32,

    /// Longest time from the end of the request to the head of the response, in milliseconds.
    /// The client gets a 504 then. A route that has a `request_ms` of its own goes by that.
    #[schemars(range(min = 1, max = 2_592_000_000_u32))]
    pub response_ms: u32,

    /// Longest silence while a body or a tunnel (such as a WebSocket) is open, in
    /// milliseconds. The connection is closed then.
    #[schemars(range(min = 1, max = 2_592_000_000_u32))]
    pub idle_ms: u32,
}

impl Default for UpstreamTimeoutsConfig {
    fn default() -> Self {
        Self { connect_ms: 5_000, response_ms: 60_000, idle_ms: 60_000 }
    }
}

/// Which connections are kept for later requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Keepalive")]
pub struct KeepaliveConfig {
    /// Idle connections that each worker keeps per server; 0 closes every connection after
    /// its request.
    #[schemars(range(max = 1_000_000))]
    pub connections_max: usize,

    /// How long an idle connection is kept, in milliseconds. Less than the server's own limit
    /// avoids connections that are closed under a request.
    #[schemars(range(min = 1, max = 2_592_000_000_u32))]
    pub idle_ms: u32,

    /// After so much silence on a connection of HTTP/2 the server is asked by a PING whether it is still
    /// there, in milliseconds; never when left out. Servers of gRPC may allow no more than one in five
    /// minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 2_592_000_000_u32), example = 30_000)]
    pub ping_interval_ms: Option<u32>,

    /// How long the server may take to answer, in milliseconds. The connection is closed then, and its
    /// requests have failed.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub ping_timeout_ms: u32,
}

impl Default for KeepaliveConfig {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            idle_ms: 60_000,
            ping_interval_ms: None,
            ping_timeout_ms: 20_000,
        }
    }
}
