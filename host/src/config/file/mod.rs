//! What operators write: one type per object of the file, one doc comment per key.
//!
//! The doc comments are the manual: [`super::schema()`] carries them as descriptions and
//! [`super::manual()`] prints them, so each says meaning, unit and effect. Defaults come from
//! `Default` and are printed by themselves.
//!
//! Schema marks, resolved by `schema.rs`: `x-required` makes a key obligatory, `x-null` keeps
//! `null` as a value of its own. Elsewhere `null` is refused: a key is left out instead.
//!
//! Not here: any check that the JSON Schema cannot say (`check`), and what the gateway runs on
//! (`settings`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod listener;
mod allow;
mod plugin;
mod route;
mod state;
mod tls;
mod upstream;
mod websocket;

pub use allow::*;
pub use listener::*;
pub use plugin::*;
pub use route::*;
pub use state::*;
pub use tls::*;
pub use upstream::*;
pub use websocket::*;

/// The configuration of one gateway, as the operator writes it in `zproxy.json` or a program
/// builds it.
///
/// JSON with `//` and `/* */` comments and trailing commas. Inside strings `${env:NAME}`,
/// `${env:NAME:-default}` and `${file:/path}` are replaced; `$${` stands for `${`. A string
/// that is nothing but one replacement counts as a number or a boolean where one is expected.
/// An unknown key is an error. Relative paths start at the working directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Config")]
pub struct Config {
    /// Where editors find the JSON Schema of this file (`zproxy schema` prints it). Has no
    /// effect on the gateway.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,

    /// IP address of a single listener. Short form of one entry in `listeners`, together with
    /// `listen_port`; when only the port is given, the address is `127.0.0.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "127.0.0.1")]
    pub listen_address: Option<String>,

    /// TCP port of the listener that `listen_address` describes; when only the address is
    /// given, the port is 8080. 0 takes a free port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = 8080)]
    pub listen_port: Option<u16>,

    /// TLS of the listener that `listen_address` and `listen_port` describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,

    /// Where clients connect. Without `listeners`, `listen_address` and `listen_port` the
    /// gateway listens on `127.0.0.1:8080`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub listeners: Vec<ListenerConfig>,

    /// How many workers there are, and where they run: a number, `"auto"`, or an object. Auto
    /// is one worker per CPU that the process may use.
    #[schemars(example = 4)]
    pub workers: WorkersConfig,

    /// Named groups of servers that routes send requests to. The name `echo` is built in and
    /// answers with a JSON picture of the request, unless a group of that name is given.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub upstreams: BTreeMap<String, UpstreamConfig>,

    /// Which requests go where. The most specific route wins: one with a matching host before
    /// one for any host, an exact path before the longest literal one before a parameter before
    /// a wildcard, then the higher `priority`, then the order in the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteConfig>,

    /// Default configuration of plugins, by name. Short form of `plugins.NAME.config`; one
    /// plugin takes only one of both. A plugin runs where a route's `middleware` names it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub middleware: BTreeMap<String, MiddlewareConfig>,

    /// Plugins by name, for those that need more than their file in the plugins folder. In
    /// names `-` and `_` are equal, and so are upper and lower case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub plugins: BTreeMap<String, PluginConfig>,

    /// A folder whose `*.wasm` files are plugins, each named by its file name without `.wasm`.
    /// Same as the flag `--plugins`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "./plugins")]
    pub plugins_dir: Option<String>,

    /// Where the compiled code of plugins is kept between starts: a folder, `"off"`, or `"auto"`,
    /// which is `zproxy` in `$XDG_CACHE_HOME`, else in `$HOME/.cache`, else nowhere. Compiled code
    /// runs as it is, so the folder must belong to the gateway's user and be writable by nobody else;
    /// another one is not used. At most 1 GiB is kept, the oldest files go first.
    #[schemars(example = "/var/cache/zproxy")]
    pub plugin_cache: String,

    /// What clients may stretch, and how far.
    pub limits: LimitsConfig,

    /// Peers whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` fields are believed: IP
    /// addresses or CIDR blocks. From all others these fields are replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub trusted_proxies: Vec<String>,

    /// The admin listener: health, metrics and state. `null` switches it off.
    #[schemars(extend("x-null" = true))]
    pub admin: Option<AdminConfig>,

    /// Where each request leaves a line.
    pub access_log: AccessLogConfig,

    /// Where counters and quotas of plugins are kept: in memory, or in a Redis that several gateways share.
    pub state: StateConfig,

    /// Longest time of a drain, in milliseconds: requests that are still running then are cut.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub drain_timeout_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schema: None,
            listen_address: None,
            listen_port: None,
            tls: None,
            listeners: Vec::new(),
            workers: WorkersConfig::default(),
            upstreams: BTreeMap::new(),
            routes: Vec::new(),
            middleware: BTreeMap::new(),
            plugins: BTreeMap::new(),
            plugins_dir: None,
            plugin_cache: "auto".into(),
            limits: LimitsConfig::default(),
            trusted_proxies: Vec::new(),
            admin: Some(AdminConfig::default()),
            access_log: AccessLogConfig::default(),
            state: StateConfig::default(),
            drain_timeout_ms: 30_000,
        }
    }
}

/// The largest message head that a configuration may allow: a head ends within one buffer of a
/// connection, and the rest of the buffer is for what follows it.
pub const HEAD_BYTES_MAX: usize = 192 * 1024;

/// What clients may stretch, and how far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Limits")]
pub struct LimitsConfig {
    /// Client connections of the whole gateway. At this many, a new one gets a 503 with
    /// `Retry-After` and is closed; one that would have to begin with TLS or a PROXY header is closed at once.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub connections_max: usize,

    /// Size of a message head, request or status line included, in bytes. A larger request
    /// gets a 431, a larger response from an upstream becomes a 502.
    #[schemars(range(min = 1024, max = HEAD_BYTES_MAX))]
    pub header_bytes_max: usize,

    /// Field lines in a message head. A request with more gets a 431.
    #[schemars(range(min = 1, max = 4096))]
    pub headers_max: usize,

    /// Size of a request target (path and query), in bytes; at most `header_bytes_max`. A
    /// longer one gets a 414.
    #[schemars(range(min = 16, max = HEAD_BYTES_MAX))]
    pub uri_bytes_max: usize,

    /// Size of a request body, in bytes; not limited when left out. A larger one gets a 413. A
    /// route can set its own in `routes[].limits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), example = 10_485_760)]
    pub body_bytes_max: Option<u64>,

    /// Longest time from the first byte of a request head to its last, in milliseconds. A
    /// slower client gets a 408.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub header_timeout_ms: u32,

    /// Longest time for what comes before the first request: a PROXY header and a TLS handshake, each, in
    /// milliseconds. The connection is closed then.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub handshake_timeout_ms: u32,

    /// TLS handshakes of the whole gateway at a time. At this many, a new connection is closed at once.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub handshakes_max: usize,

    /// Longest silence of a client between requests and within bodies, in milliseconds. The
    /// connection is closed then.
    #[schemars(range(min = 1, max = 2_592_000_000_u32))]
    pub idle_timeout_ms: u32,

    /// Longest time from the head of a request to that of its response, connecting included, in
    /// milliseconds; the client gets a 504 then. While a body arrives, it begins anew with each
    /// part; a body that still is not complete after this time (or a minute, if that is longer)
    /// and a further second for each 100 bytes of it is cut with a 408. A route can set its own
    /// in `routes[].timeouts`.
    #[schemars(range(min = 1, max = 2_592_000_000_u32))]
    pub request_timeout_ms: u32,

    /// Requests that one connection of HTTP/2 may have open at a time. A client is told of it; a stream
    /// beyond it is refused.
    #[schemars(range(min = 1, max = 65_535))]
    pub h2_streams_max: u32,

    /// After so much silence of a client of HTTP/2 it is asked by a PING whether it is still there, in
    /// milliseconds; never when left out. This finds clients that are gone without a word, also while they
    /// have requests open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 2_592_000_000_u32), example = 30_000)]
    pub h2_ping_interval_ms: Option<u32>,

    /// How long such a client may take to answer, in milliseconds. Its connection is closed then.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub h2_ping_timeout_ms: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            header_bytes_max: 65_536,
            headers_max: 100,
            uri_bytes_max: 8192,
            body_bytes_max: None,
            header_timeout_ms: 10_000,
            handshake_timeout_ms: 10_000,
            handshakes_max: 10_000,
            idle_timeout_ms: 75_000,
            request_timeout_ms: 60_000,
            h2_streams_max: 128,
            h2_ping_interval_ms: None,
            h2_ping_timeout_ms: 20_000,
        }
    }
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Admin")]
pub struct AdminConfig {
    /// Where it listens: `ip:port` or `unix:/path`. An address that other machines can reach
    /// needs a `token`. `null` switches the admin listener off.
    #[schemars(extend("x-null" = true))]
    pub address: Option<String>,

    /// Secret that callers send as `Authorization: Bearer TOKEN`. Without it everybody who
    /// reaches the address is believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "${env:ADMIN_TOKEN}")]
    pub token: Option<String>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { address: Some("127.0.0.1:9901".into()), token: None }
    }
}

/// Where each request leaves a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "AccessLog")]
pub struct AccessLogConfig {
    /// `"off"`, `"stdout"`, or the path of a file that lines are appended to.
    pub path: String,

    /// `"json"`: one object per line; `"combined"`: the Combined Log Format of Apache and
    /// nginx; anything else is a template such as `{client} {method} {path} {status}`, whose
    /// places are named as the JSON fields (`{upstream_us}` for the one in `phases`),
    /// `{request_header.NAME}`, or `{context.KEY}` for a note that a plugin has made.
    pub format: String,

    /// Notes of plugins that a line of JSON shows, by their keys: what plugins tell each other of a request by
    /// `context` of `wit/`, and the log only when it is named here.
    #[schemars(example = ["user", "tenant"])]
    pub context: Vec<String>,

    /// Share of the requests that leave a line, from 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: f64,

    /// Header fields whose values are never written. A list given here replaces the default as
    /// a whole.
    pub redact: Vec<String>,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        let redact = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
        Self {
            path: "off".into(),
            format: "json".into(),
            context: Vec::new(),
            sample: 1.0,
            redact: redact.map(String::from).to_vec(),
        }
    }
}
