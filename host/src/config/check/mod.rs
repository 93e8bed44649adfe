//! From what was written to what the gateway runs on.
//!
//! Every check goes on after a problem; a caller uses the settings only when there was none.
//! What the schema can say (kinds, ranges, required keys) holds already.
//!
//! Not here: positions in the file (`document`), shapes of values (`structure`).

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::environment::Environment;
use super::file::{
    AcceptorsConfig, Config, IoConfig, LimitsConfig, PlacedWorkersConfig, ProtocolConfig,
    WorkerCountConfig, WorkersConfig,
};
use super::problem::{At, Refusal, Report, quote};
use super::settings::{
    Acceptors, Address, Admin, Io, Limits, Listener, Pings, Protocols, Settings, Workers,
};

mod address;
mod allow;
mod built_in;
mod log;
mod pattern;
mod plugin;
mod rewrite;
mod route;
mod state;
mod tls;
mod upstream;
mod websocket;

pub(super) use address::listen;
pub use built_in::built_in_names;
pub(super) use plugin::{files_in, names_in, normal, unmentioned};

/// Checks `config` and turns it into settings, which are whole only if nothing was reported.
pub(super) fn settings(
    config: &Config,
    environment: &dyn Environment,
    native: &[&str],
    report: &mut Report,
) -> Settings {
    let root = At::default();
    let mut listeners = listeners(config, report);
    let mut admin = admin(config, report);
    distinct(config, &listeners, admin.as_ref(), report);
    part_families(&mut listeners, admin.as_mut());
    let mut upstreams = upstream::Upstreams::check(&config.upstreams, report);
    let state = state::check(&config.state, report);
    let mut plugins = plugin::Plugins::check(config, environment, native, &mut upstreams, report);
    let routes = route::check(&config.routes, &mut upstreams, &mut plugins, report);
    plugins.finish(state.as_ref().map(|redis| redis.on_error), report);
    Settings {
        listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
        workers: workers(&config.workers),
        upstreams: upstreams.list,
        routes,
        plugins: plugins.list,
        misnamed: plugins.misnamed,
        plugins_dir: config.plugins_dir.as_ref().map(PathBuf::from),
        plugin_cache: plugin::cache(&config.plugin_cache, environment, report),
        limits: limits(&config.limits, report),
        trusted_proxies: trusted_proxies(&config.trusted_proxies, report),
        admin,
        access_log: log::check(&config.access_log, &root.key("access_log"), environment, report),
        state,
        drain_timeout: milliseconds(config.drain_timeout_ms),
    }
}

/// The listeners and their places in the file.
fn listeners(config: &Config, report: &mut Report) -> Vec<(Listener, At)> {
    let root = At::default();
    let backlog = super::file::ListenerConfig::default().backlog;
    let mut listeners = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let at = root.key("listeners").index(index).key("address");
        let tls = listener.tls.as_ref();
        let tls = tls.map(|tls| tls::listener(tls, &root.key("listeners").index(index), report));
        let backlog = listener.backlog;
        let proxy_protocol = listener.proxy_protocol;
        if let Some(address) = report.take(&at, address::listen(&listener.address)) {
            let protocols = Protocols {
                h1: listener.protocols.contains(&ProtocolConfig::H1),
                h2: listener.protocols.contains(&ProtocolConfig::H2),
            };
            let tls = tls.map(|tls| tls::spoken(tls, protocols));
            if proxy_protocol && config.trusted_proxies.is_empty() && !is_unix(&address) {
                let at = root.key("listeners").index(index).key("proxy_protocol");
                let message = "nobody is trusted, so no PROXY header would be believed";
                let cure = "name the load balancers in `trusted_proxies`";
                report.problem(&at, message, cure);
            }
            let listener =
                Listener { address, protocols, backlog, only_v6: false, tls, proxy_protocol };
            listeners.push((listener, at));
        }
    }
    let short = config.listen_address.is_some() || config.listen_port.is_some();
    if short || listeners.is_empty() && config.listeners.is_empty() {
        let port = config.listen_port.unwrap_or(8080);
        let written = config.listen_address.as_deref().unwrap_or("127.0.0.1");
        let key = if config.listen_address.is_some() { "listen_address" } else { "listen_port" };
        let at = root.key(key);
        if let Some(ip) = report.take(&at, address::listen_ip(written)) {
            let address = Address::Tcp((ip, port).into());
            let protocols = Protocols::default();
            let tls = config.tls.as_ref().and_then(|tls| tls::short(tls, report));
            let proxy_protocol = false;
            let listener =
                Listener { address, protocols, backlog, only_v6: false, tls, proxy_protocol };
            listeners.push((listener, at));
        }
    } else if config.tls.as_ref().is_some_and(|tls| tls.enabled) {
        let message = "there is no `listen_address` or `listen_port` that it could be for";
        let cure = "write `\"tls\": {\"certificates\": [...]}` into an entry of `listeners`";
        report.problem(&root.key("tls"), message, cure);
    }
    listeners
}

fn is_unix(address: &Address) -> bool {
    matches!(address, Address::Unix(_))
}

/// Two listeners, or a listener and the admin listener, cannot share an address.
fn distinct(
    config: &Config,
    listeners: &[(Listener, At)],
    admin: Option<&Admin>,
    report: &mut Report,
) {
    let mut seen: HashMap<&Address, &At> = HashMap::new();
    for (listener, at) in listeners {
        // Port 0 is a different free port each time.
        if matches!(listener.address, Address::Tcp(address) if address.port() == 0) {
            continue;
        }
        match seen.get(&listener.address) {
            Some(other) => {
                let message = format!("is the same address as `{other}`");
                report.problem(at, message, "remove it, or use another port");
            }
            None => _ = seen.insert(&listener.address, at),
        }
    }
    let Some(listener) = admin.and_then(|admin| seen.get(&admin.address)) else { return };
    if config.admin == Config::default().admin {
        let message = "is the default address of the admin listener";
        report.problem(listener, message, "use another port, or set `admin.address`");
    } else {
        let at = At::default().key("admin").key("address");
        let message = format!("is the same address as `{listener}`");
        report.problem(&at, message, "use another port");
    }
}

/// `[::]` takes the clients of IPv4 too, unless somebody else listens for them on that port.
fn part_families(listeners: &mut [(Listener, At)], mut admin: Option<&mut Admin>) {
    let addresses = listeners.iter().map(|(listener, _)| &listener.address);
    let addresses = addresses.chain(admin.as_deref().map(|admin| &admin.address));
    let v4: HashSet<u16> = addresses
        .filter_map(|address| match address {
            Address::Tcp(SocketAddr::V4(address)) => Some(address.port()),
            Address::Tcp(SocketAddr::V6(_)) | Address::Unix(_) => None,
        })
        .filter(|port| *port != 0)
        .collect();
    let shared = |address: &Address| match address {
        Address::Tcp(SocketAddr::V6(address)) => v4.contains(&address.port()),
        Address::Tcp(SocketAddr::V4(_)) | Address::Unix(_) => false,
    };
    for (listener, _) in listeners {
        listener.only_v6 = shared(&listener.address);
    }
    if let Some(admin) = &mut admin {
        admin.only_v6 = shared(&admin.address);
    }
}

fn admin(config: &Config, report: &mut Report) -> Option<Admin> {
    let at = At::default().key("admin");
    let admin = config.admin.as_ref()?;
    if admin.token.as_deref().is_some_and(|token| token.trim().is_empty()) {
        let message = "the token is empty, so anybody would know it";
        report.problem(&at.key("token"), message, "write a long random string");
    }
    if admin.token.as_deref().is_some_and(|token| !is_token68(token)) {
        let message = "the token holds characters that no `Authorization` field can carry";
        let cure = "use letters, digits and `-._~+/=` without spaces";
        report.problem(&at.key("token"), message, cure);
    }
    let at = at.key("address");
    let address = report.take(&at, address::listen(admin.address.as_ref()?))?;
    if admin.token.is_none() && !address::is_local(&address) {
        let message = "other machines can reach this address, and there is no token";
        let cure = "add `admin.token`, or write \"127.0.0.1:9901\"";
        report.incomplete(&at, message, cure);
    }
    let token = admin.token.as_deref().map(Into::into);
    Some(Admin { address, only_v6: false, token })
}

/// RFC 6750 §2.1: what can follow `Bearer`.
fn is_token68(token: &str) -> bool {
    token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte))
}

fn workers(config: &WorkersConfig) -> Workers {
    let whole = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let placed = match config {
        WorkersConfig::Placed(placed) => placed.clone(),
        WorkersConfig::Auto(_) => PlacedWorkersConfig::default(),
        WorkersConfig::Count(count) => PlacedWorkersConfig {
            count: WorkerCountConfig::Number(*count),
            ..PlacedWorkersConfig::default()
        },
    };
    Workers {
        count: match placed.count {
            WorkerCountConfig::Number(count) => Some(whole(count)),
            WorkerCountConfig::Auto(_) => None,
        },
        pin: placed.pin,
        acceptors: match placed.acceptors {
            AcceptorsConfig::PerWorker => Acceptors::PerWorker,
            AcceptorsConfig::Dedicated => Acceptors::Dedicated,
        },
        io: match placed.io {
            IoConfig::Auto => Io::Auto,
            IoConfig::Epoll => Io::Epoll,
            IoConfig::Uring => Io::Uring,
        },
    }
}

fn limits(limits: &LimitsConfig, report: &mut Report) -> Limits {
    let at = At::default().key("limits");
    // A limit that was refused is not the one that was meant.
    if limits.uri_bytes_max > limits.header_bytes_max
        && !report.is_broken(&at.key("header_bytes_max"))
    {
        let message = format!(
            "`{}` is more than `header_bytes_max`, which is `{}`",
            limits.uri_bytes_max, limits.header_bytes_max
        );
        report.problem(
            &at.key("uri_bytes_max"),
            message,
            "lower it, or raise `limits.header_bytes_max`",
        );
    }
    Limits {
        connections_max: limits.connections_max,
        header_bytes_max: limits.header_bytes_max,
        headers_max: limits.headers_max,
        uri_bytes_max: limits.uri_bytes_max,
        body_bytes_max: limits.body_bytes_max,
        header_timeout: milliseconds(limits.header_timeout_ms),
        handshake_timeout: milliseconds(limits.handshake_timeout_ms),
        handshakes_max: limits.handshakes_max,
        idle_timeout: milliseconds(limits.idle_timeout_ms),
        request_timeout: milliseconds(limits.request_timeout_ms),
        h2_streams_max: limits.h2_streams_max,
        h2_pings: pings(limits.h2_ping_interval_ms, limits.h2_ping_timeout_ms),
    }
}

fn trusted_proxies(written: &[String], report: &mut Report) -> Vec<IpNet> {
    let mut trusted = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let at = At::default().key("trusted_proxies").index(index);
        trusted.extend(report.take(&at, network(text)));
    }
    trusted
}

/// A CIDR block, or one address.
fn network(text: &str) -> Result<IpNet, Refusal> {
    if let Ok(address) = text.parse() {
        return Ok(IpNet::new_assert(address, if address.is_ipv4() { 32 } else { 128 }));
    }
    let network: IpNet = text.parse().map_err(|_| {
        let cure = "write a block like `10.0.0.0/8` or an address like `192.0.2.1`";
        (format!("{} is not a CIDR block", quote(text)), cure.to_owned())
    })?;
    if network.addr() != network.network() {
        let message = format!("{} has bits set behind its prefix", quote(text));
        return Err((message, format!("write `{}`", network.trunc())));
    }
    Ok(network)
}

fn pings(interval_ms: Option<u32>, timeout_ms: u32) -> Option<Pings> {
    let timeout = milliseconds(timeout_ms);
    interval_ms.map(|interval| Pings { interval: milliseconds(interval), timeout })
}

fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(count.into())
}
