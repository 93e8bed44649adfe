//! Where clients connect, and who serves them: `listeners`, `workers`.
//!
//! Not here: the admin listener (`file`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ListenerTlsConfig;

/// One place where clients connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Listener")]
pub struct ListenerConfig {
    /// `ip:port`, such as `0.0.0.0:8080` or `[::]:8080`, or `unix:/path` of a socket. Port 0
    /// takes a free one.
    #[schemars(example = "127.0.0.1:8080", extend("x-required" = true))]
    pub address: String,

    /// What clients may speak: `"h1"` is HTTP/1.0 and 1.1, `"h2"` is HTTP/2. A client that begins with the
    /// preface of HTTP/2 is understood without being asked.
    #[schemars(length(min = 1))]
    pub protocols: Vec<ProtocolConfig>,

    /// Connections that the kernel holds until a worker accepts them. The kernel cuts it to
    /// `net.core.somaxconn`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub backlog: u32,

    /// TLS to clients. Without it they speak plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTlsConfig>,

    /// Whether connections begin with a PROXY protocol header (version 1 or 2), which names the client
    /// that a load balancer has accepted. Peers in `trusted_proxies`, and those of a Unix socket, must send
    /// one, or the connection is closed. Others must not: they are served by their own address, and a
    /// header from them is answered as the malformed request that it is then.
    pub proxy_protocol: bool,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        let protocols = vec![ProtocolConfig::H1, ProtocolConfig::H2];
        let address = String::new();
        Self { address, protocols, backlog: 4096, tls: None, proxy_protocol: false }
    }
}

/// What a client may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Protocol")]
pub enum ProtocolConfig {
    /// HTTP/1.0 and 1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// A listener with every other key at its default.
impl From<&str> for ListenerConfig {
    fn from(address: &str) -> Self {
        Self { address: address.into(), ..Self::default() }
    }
}

/// How many workers: a number or `"auto"`, or an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Workers")]
pub enum WorkersConfig {
    /// This many workers.
    Count(#[schemars(range(min = 1, max = 1024))] u32),
    /// One per CPU.
    Auto(AutoConfig),
    /// Count and placement.
    Placed(PlacedWorkersConfig),
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self::Auto(AutoConfig::Auto)
    }
}

/// Workers and where they run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PlacedWorkers")]
pub struct PlacedWorkersConfig {
    /// How many workers: a number, or `"auto"` for one per CPU that the process may use
    /// (affinity mask and cgroup quota).
    pub count: WorkerCountConfig,

    /// Whether each worker stays on one CPU.
    pub pin: bool,

    /// Who accepts connections.
    pub acceptors: AcceptorsConfig,

    /// How workers talk to the kernel.
    pub io: IoConfig,
}

impl Default for PlacedWorkersConfig {
    fn default() -> Self {
        Self {
            count: WorkerCountConfig::Auto(AutoConfig::Auto),
            pin: true,
            acceptors: AcceptorsConfig::PerWorker,
            io: IoConfig::Auto,
        }
    }
}

/// A number of workers, or `"auto"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "WorkerCount")]
pub enum WorkerCountConfig {
    /// This many workers.
    Number(#[schemars(range(min = 1, max = 1024))] u32),
    /// One per CPU.
    Auto(AutoConfig),
}

/// The word `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Auto")]
pub enum AutoConfig {
    /// As many as there are CPUs that the process may use.
    Auto,
}

/// Who accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Acceptors")]
pub enum AcceptorsConfig {
    /// Every worker has a listening socket of its own and the kernel spreads connections; a worker
    /// that has clearly more than another of its node hands new ones on.
    PerWorker,
    /// One thread per NUMA node accepts and gives each connection to the worker of the node that
    /// has the fewest: exact shares, one more hop per connection.
    Dedicated,
}

/// How workers talk to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Io")]
pub enum IoConfig {
    /// `uring` where it can be had and is faster, else `epoll`.
    Auto,
    /// Readiness by epoll: works everywhere.
    Epoll,
    /// Operations by io_uring, which needs Linux 6.6 or later and that nothing forbids it; without it
    /// the gateway does not start.
    Uring,
}
