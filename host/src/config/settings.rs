//! What the gateway runs on: checked values that need no further checks.
//!
//! [`Settings`] is made from a [`Config`](super::Config) by [`super::check()`]. Names are resolved
//! to indexes, durations are durations, addresses are parsed.
//!
//! Not here: what operators write (`file`), and turning one into the other (`check`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::redis::{Redis, StateError};

use super::{Destination, WebSocket};

/// A whole checked configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect. At least one.
    pub listeners: Vec<Listener>,
    /// How many workers, and where they sit.
    pub workers: Workers,
    /// Named groups of servers; routes refer to them by index.
    pub upstreams: Vec<Upstream>,
    /// In file order; the router sorts them.
    pub routes: Vec<Route>,
    /// Every plugin that a chain may name; chains refer to them by index.
    pub plugins: Vec<Plugin>,
    /// Every `*.wasm` file in it is a plugin as well.
    pub plugins_dir: Option<PathBuf>,
    /// Where compiled code is kept; `None`: nowhere.
    pub plugin_cache: Option<PathBuf>,
    /// Files in `plugins_dir` whose names cannot name a plugin.
    pub misnamed: Vec<PathBuf>,
    /// What a peer may stretch, and how far.
    pub limits: Limits,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The admin listener; `None` when it is switched off.
    pub admin: Option<Admin>,
    /// Where each request leaves a line.
    pub access_log: AccessLog,
    /// Where counters of plugins are kept; `None`: in memory.
    pub state: Option<Arc<Redis>>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
}

/// An address to listen on or to connect to without a name lookup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IP address and port.
    Tcp(SocketAddr),
    /// Path of a Unix stream socket.
    Unix(PathBuf),
}

/// One place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
    /// What clients may speak.
    pub protocols: Protocols,
    /// Connections that the kernel holds before they are accepted.
    pub backlog: u32,
    /// Whether `[::]` leaves IPv4 alone, since another listener has the port there.
    pub only_v6: bool,
    /// TLS to clients.
    pub tls: Option<ListenerTls>,
    /// Whether trusted peers begin with a PROXY header.
    pub proxy_protocol: bool,
}

/// TLS to clients, by the files that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one; the first is shown when no other fits.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// The oldest version.
    pub min_version: TlsVersion,
    /// Protocols by their ALPN names, the preferred one first.
    pub alpn: Vec<&'static str>,
    /// JSON path of it, for messages.
    pub at: Arc<str>,
}

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and its chain.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
    /// Names that it is shown for; empty: those that it is for.
    pub sni: Vec<HostPattern>,
    /// JSON path of what has `cert_path` and `key_path`.
    pub at: Arc<str>,
}

/// Whether clients show certificates, and where the roots for these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// They do not.
    None,
    /// They may.
    Optional(PathBuf),
    /// They must.
    Required(PathBuf),
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// 1.2
    V12,
    /// 1.3
    V13,
}

/// TLS to servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Whom the servers must be, all of them; `None`: each the host of its address.
    pub server_name: Option<Box<str>>,
    /// Roots; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Whether servers must prove who they are.
    pub verify: bool,
    /// What the gateway shows.
    pub identity: Option<CertificateFiles>,
    /// What it offers by ALPN.
    pub alpn: &'static [&'static str],
    /// JSON path of it, for messages.
    pub at: Arc<str>,
}

/// What the servers of an upstream speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// What they choose, where TLS lets them; else HTTP/1.1.
    Auto,
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// What clients of a listener may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.0 and 1.1.
    pub h1: bool,
    /// HTTP/2.
    pub h2: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Self { h1: true, h2: true }
    }
}

/// How many workers, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// `None`: one per CPU that this process may use.
    pub count: Option<usize>,
    /// Whether each worker stays on one CPU.
    pub pin: bool,
    /// Who accepts connections.
    pub acceptors: Acceptors,
    /// How workers talk to the kernel.
    pub io: Io,
}

/// How workers talk to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// By io_uring where it can be had, else by epoll.
    Auto,
    /// By epoll.
    Epoll,
    /// By io_uring, or not at all.
    Uring,
}

/// Who accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptors {
    /// Every worker has its own listening socket (SO_REUSEPORT).
    PerWorker,
    /// One thread per NUMA node accepts and deals connections out to the workers there.
    Dedicated,
}

/// A group of servers that answer for the same routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The name in the file, or the URL that a route gave.
    pub name: Arc<str>,
    /// What it consists of.
    pub kind: UpstreamKind,
    /// What they speak.
    pub protocol: UpstreamProtocol,
    /// How to choose among the servers.
    pub balance: Balance,
    /// TLS to them.
    pub tls: Option<UpstreamTls>,
    /// Time to establish a connection.
    pub connect_timeout: Duration,
    /// Time from the end of the request to the head of the response.
    pub response_timeout: Duration,
    /// Longest silence while a body or a tunnel is open.
    pub idle_timeout: Duration,
    /// Idle connections kept per server and worker.
    pub keepalive_connections_max: usize,
    /// How long an idle connection is kept.
    pub keepalive_idle: Duration,
    /// Pings on connections of HTTP/2.
    pub pings: Option<Pings>,
}

/// When a silent peer is asked whether it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// After so much silence.
    pub interval: Duration,
    /// And how long it may take to answer.
    pub timeout: Duration,
}

/// What an upstream consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamKind {
    /// Servers on the network. At least one.
    Servers(Vec<Server>),
    /// The built-in upstream that answers with a picture of the request.
    Echo,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: ServerAddress,
    /// Share of the requests, 1 to 256.
    pub weight: u32,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// Needs no lookup.
    Ip(SocketAddr),
    /// Looked up when a connection is made.
    Name {
        /// Host name, without brackets.
        host: Arc<str>,
        /// TCP port.
        port: u16,
    },
    /// Path of a Unix stream socket.
    Unix(PathBuf),
}

/// How to choose among servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    RoundRobin,
    /// In turn, each as often as its weight says, spread evenly.
    Weighted,
}

/// Which requests, and what becomes of them.
#[derive(Clone, Debug)]
pub struct Route {
    /// Unique; given or made from the path.
    pub name: Arc<str>,
    /// Hosts that it answers for, lower case; empty means any.
    pub hosts: Vec<HostPattern>,
    /// The path as written: literal, `{name}`, `{*rest}`.
    pub path: String,
    /// Whether `path` also matches everything below it.
    pub matching: Matching,
    /// Allowed methods; empty means any. HEAD is allowed where GET is.
    pub methods: Vec<String>,
    /// Higher wins among equally specific routes.
    pub priority: i32,
    /// What answers.
    pub target: Target,
    /// Changes to the request on its way to an upstream.
    pub rewrite: Rewrite,
    /// Plugins in request order.
    pub chain: Vec<ChainItem>,
    /// Longest time for a whole exchange; `None`: `limits.request_timeout`.
    pub request_timeout: Option<Duration>,
    /// Longest silence of an open body or tunnel; `None`: the upstream's.
    pub idle_timeout: Option<Duration>,
    /// Largest request body; `None`: `limits.body_bytes_max`.
    pub body_bytes_max: Option<u64>,
    /// What becomes of its WebSockets.
    pub websocket: WebSocket,
}

/// A host that a route answers for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `example.com`
    Exact(String),
    /// `*.example.com`: kept as `.example.com`
    Suffix(String),
}

/// How a route's path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    /// The path itself and everything below it, at segment borders.
    Prefix,
    /// The whole path.
    Exact,
}

/// What answers a route.
#[derive(Clone, Debug)]
pub enum Target {
    /// Index into `Settings::upstreams`.
    Upstream(usize),
    /// Several upstreams, each with a share of the requests.
    Split(Vec<(usize, u32)>),
    /// A redirect.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// `Location`; `{path}`, `{query}`, `{host}` and the route's parameters are filled in.
        to: String,
    },
    /// A fixed answer.
    Respond {
        /// 200 to 599.
        status: u16,
        /// Header fields, validated.
        headers: Vec<(String, String)>,
        /// The body.
        body: Arc<[u8]>,
    },
}

/// Changes to a request on its way to an upstream.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// Taken off the front of the path, at a segment border.
    pub strip_prefix: Option<String>,
    /// Replaces the path; the route's parameters (`{name}`) are filled in.
    pub path: Option<String>,
    /// Replaces `Host`.
    pub host: Option<String>,
}

/// A plugin's place in a route's chain.
#[derive(Clone, Debug)]
pub struct ChainItem {
    /// Index into `Settings::plugins`.
    pub plugin: usize,
    /// JSON text handed to `init`: an object.
    pub config: Arc<str>,
    /// What happens to a request when the plugin fails.
    pub on_error: OnError,
    /// JSON path of what wrote its config, or of the item itself: for messages.
    pub at: Arc<str>,
}

/// What happens to a request when a plugin fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// It is refused with 503.
    Closed,
    /// It goes on as if the plugin were not there.
    Open,
}

/// A plugin that chains may name.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Lower case with `-`, never `_`.
    pub name: Arc<str>,
    /// Its file.
    pub source: PluginSource,
    /// What an instance may use.
    pub limits: PluginLimits,
    /// What it may reach.
    pub allow: Arc<Allow>,
    /// JSON path of what leads to its file, for messages; empty when nothing does.
    pub at: Arc<str>,
    /// What chains take that give no configuration, and the JSON path of it, when it was written
    /// and the plugin is not switched off.
    pub config: Option<(Arc<str>, Arc<str>)>,
}

/// Where a plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginSource {
    /// A component on disk.
    File(PathBuf),
    /// Middleware that the embedding program registered under this name.
    Native,
    /// The plugin of this name in the binary.
    BuiltIn,
}

/// What an instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PluginLimits {
    /// Linear memory, all of an instance's memories together.
    pub memory_bytes_max: usize,
    /// Longest time in one hook call.
    pub time_max: Duration,
    /// Longest time in all hooks for the heads and bodies of one request; `None`: it is not added up.
    pub request_time_max: Option<Duration>,
    /// Most fuel in one hook call; `None`: it is not counted.
    pub fuel_max: Option<u64>,
    /// Largest body that it may hold, or put in place of another.
    pub body_bytes_max: usize,
    /// Instances per worker, of a plugin that waits.
    pub instances_max: usize,
    /// Callouts for one request, or in one tick.
    pub callouts_max: u32,
}

/// What a plugin may reach beyond the exchange that it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Where it may send requests.
    pub http: Vec<Destination>,
    /// Whether it may be one that sends requests, though it be to nobody: a built-in plugin of which
    /// only some configurations name a URL.
    pub callouts: bool,
    /// Variables that it may read, with their values at the load; `None`: not set.
    pub env: BTreeMap<Box<str>, Option<Box<str>>>,
    /// Secrets by name.
    pub secrets: BTreeMap<Box<str>, Secret>,
    /// Memory for its counters.
    pub counters: Option<usize>,
    /// They are in Redis; this is what happens while that is away.
    pub redis: Option<StateError>,
    /// Memory for its values.
    pub kv: Option<usize>,
    /// Memory for its responses.
    pub cache: Option<CacheSize>,
}

/// A value that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Hides `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The value.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How large a plugin's cache may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// All responses together.
    pub bytes_max: usize,
    /// The body of one.
    pub object_bytes_max: usize,
}

/// What a peer may stretch, and how far.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections of the whole gateway.
    pub connections_max: usize,
    /// Bytes of a message head, request line included.
    pub header_bytes_max: usize,
    /// Field lines of a head.
    pub headers_max: usize,
    /// Bytes of a request target.
    pub uri_bytes_max: usize,
    /// Bytes of a request body; `None`: no limit.
    pub body_bytes_max: Option<u64>,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// What comes before the first request.
    pub handshake_timeout: Duration,
    /// TLS handshakes of the whole gateway at a time.
    pub handshakes_max: usize,
    /// Silence of a client between requests and within bodies.
    pub idle_timeout: Duration,
    /// A whole exchange without a tunnel, until the response head.
    pub request_timeout: Duration,
    /// Requests at a time on a connection of HTTP/2.
    pub h2_streams_max: u32,
    /// Pings on connections of HTTP/2.
    pub h2_pings: Option<Pings>,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
    /// As [`Listener::only_v6`].
    pub only_v6: bool,
    /// Required as `Authorization: Bearer` when set.
    pub token: Option<Arc<str>>,
}

/// Where each request leaves a line.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where it goes.
    pub path: AccessLogPath,
    /// How a line looks.
    pub format: AccessLogFormat,
    /// Notes that a line of JSON shows.
    pub context: Vec<String>,
    /// Share of the requests that leave one, 0 to 1.
    pub sample: f64,
    /// Header fields whose values are never written, lower case.
    pub redact: Vec<String>,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogPath {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// How a line of the access log looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object.
    Json,
    /// The Combined Log Format.
    Combined,
    /// A template with `{field}` places, named as the JSON fields; `{request_header.NAME}` too.
    Template(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
