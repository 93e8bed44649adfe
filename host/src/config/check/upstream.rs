//! Upstreams: those that have a name in the file, and those that routes make from a URL.
//!
//! Not here: picking a server (`upstream`).

use std::collections::{BTreeMap, HashSet};

use super::address::{self, json};
use super::{milliseconds, pings, tls};
use crate::config::file::{BalanceConfig, ServerConfig, UpstreamConfig, UpstreamProtocolConfig};
use crate::config::problem::{At, Refusal, Report, quote};
use crate::config::settings::{
    Balance, Server, Upstream, UpstreamKind, UpstreamProtocol, UpstreamTls,
};

/// The built-in upstream.
const ECHO: &str = "echo";

/// All upstreams, growing while routes are checked.
pub(super) struct Upstreams {
    /// In the order of their indexes.
    pub(super) list: Vec<Upstream>,
    by_name: BTreeMap<String, usize>,
}

impl Upstreams {
    /// Checks the upstreams that have a name.
    pub(super) fn check(written: &BTreeMap<String, UpstreamConfig>, report: &mut Report) -> Self {
        let mut upstreams = Self { list: Vec::new(), by_name: BTreeMap::new() };
        for (name, upstream) in written {
            let at = At::default().key("upstreams").key(name);
            if !is_name(name) {
                let message = format!("{} cannot name an upstream", quote(name));
                report.problem(&at, message, "use letters, digits, `-`, `_` and `.`, at most 64");
            }
            let upstream = check_one(name, upstream, &at, report);
            upstreams.add(upstream);
        }
        upstreams
    }

    /// The index of the upstream that a route at `at` with the path `route` names by `text`.
    pub(super) fn find(
        &mut self,
        text: &str,
        route: &str,
        at: &At,
        report: &mut Report,
    ) -> Option<usize> {
        if let Some(index) = self.by_name.get(text) {
            return Some(*index);
        }
        if text == ECHO {
            return Some(self.add(with_defaults(ECHO, UpstreamKind::Echo)));
        }
        if text.contains("://") {
            let (address, url, tls) = report.take(at, address::url(text, route))?;
            if let Some(index) = self.by_name.get(&url) {
                return Some(*index);
            }
            let servers = vec![Server { address, weight: 1 }];
            let mut upstream = with_defaults(&url, UpstreamKind::Servers(servers));
            upstream.tls = tls.then(|| tls::of_url(at));
            return Some(self.add(upstream));
        }
        let (message, cure) = self.unknown(text, report);
        report.problem(at, message, cure);
        None
    }

    fn unknown(&self, text: &str, report: &mut Report) -> Refusal {
        let message = format!("{} is not an upstream", quote(text));
        // URLs are upstreams too, but nobody means one by a name.
        let names = self.by_name.keys().map(String::as_str).filter(|name| is_name(name));
        let names = || [ECHO].into_iter().chain(names.clone().filter(|name| *name != ECHO));
        if let Some(close) = report.closest(text, names()) {
            return (message, format!("did you mean `{close}`?"));
        }
        if text.starts_with("unix:") {
            let name = "`\"upstreams\": {\"NAME\": {\"servers\": [";
            return (message, format!("declare it: {name}{}]}}}}`", json(text)));
        }
        if address::server(text).is_ok() {
            return (message, format!("write {}", json(&format!("http://{text}"))));
        }
        let shown: Vec<_> = names().take(10).map(|name| format!("`{name}`")).collect();
        let more = if names().nth(10).is_some() { ", …" } else { "" };
        let cure = format!("declare it in `upstreams`, or use one of {}{more}", shown.join(", "));
        (message, cure)
    }

    fn add(&mut self, upstream: Upstream) -> usize {
        let index = self.list.len();
        self.by_name.insert(upstream.name.to_string(), index);
        self.list.push(upstream);
        index
    }
}

fn check_one(name: &str, written: &UpstreamConfig, at: &At, report: &mut Report) -> Upstream {
    let mut servers: Vec<Server> = Vec::new();
    let mut seen = HashSet::new();
    let mut weighted = None;
    for (index, server) in written.servers.iter().enumerate() {
        let mut place = at.key("servers").index(index);
        let (text, weight) = match server {
            ServerConfig::Address(text) => (text, None),
            ServerConfig::Weighted(server) => {
                if server.weight.is_some() {
                    weighted = Some(place.key("weight"));
                }
                place = place.key("address");
                (&server.address, server.weight)
            }
        };
        let Some(address) = report.take(&place, address::server(text)) else { continue };
        if !seen.insert(address.clone()) {
            let message = format!("{} is there twice", quote(text));
            report.problem(&place, message, "remove one; to send it more, give it a `weight`");
        }
        servers.push(Server { address, weight: weight.unwrap_or(1) });
    }
    if written.servers.is_empty() {
        report.incomplete(
            &at.key("servers"),
            "the upstream has no server",
            "write `\"servers\": [\"127.0.0.1:3000\"]`",
        );
    }
    let balance = match (written.balance, weighted) {
        (Some(BalanceConfig::Weighted), _) | (None, Some(_)) => Balance::Weighted,
        (Some(BalanceConfig::RoundRobin) | None, None) => Balance::RoundRobin,
        // Written like this, and not put in the place of another one that was refused.
        (Some(BalanceConfig::RoundRobin), Some(weight))
            if !report.is_broken(&at.key("balance")) =>
        {
            let message = "the weight has no effect with `balance` \"round-robin\"";
            report.problem(&weight, message, "write \"weighted\", or remove the weight");
            Balance::RoundRobin
        }
        (Some(BalanceConfig::RoundRobin), Some(_)) => Balance::RoundRobin,
    };
    let protocol = match written.protocol {
        UpstreamProtocolConfig::Auto => UpstreamProtocol::Auto,
        UpstreamProtocolConfig::H1 => UpstreamProtocol::H1,
        UpstreamProtocolConfig::H2 => UpstreamProtocol::H2,
    };
    let tls = written.tls.as_ref().and_then(|tls| tls::upstream(tls, &servers, at, report));
    let tls = tls.map(|tls| UpstreamTls { alpn: tls::offered(protocol), ..tls });
    Upstream {
        name: name.into(),
        kind: UpstreamKind::Servers(servers),
        protocol,
        balance,
        tls,
        connect_timeout: milliseconds(written.timeouts.connect_ms),
        response_timeout: milliseconds(written.timeouts.response_ms),
        idle_timeout: milliseconds(written.timeouts.idle_ms),
        keepalive_connections_max: written.keepalive.connections_max,
        keepalive_idle: milliseconds(written.keepalive.idle_ms),
        pings: pings(written.keepalive.ping_interval_ms, written.keepalive.ping_timeout_ms),
    }
}

/// An upstream that the file does not describe.
fn with_defaults(name: &str, kind: UpstreamKind) -> Upstream {
    let defaults = UpstreamConfig::default();
    Upstream {
        name: name.into(),
        kind,
        protocol: UpstreamProtocol::Auto,
        balance: Balance::RoundRobin,
        tls: None,
        connect_timeout: milliseconds(defaults.timeouts.connect_ms),
        response_timeout: milliseconds(defaults.timeouts.response_ms),
        idle_timeout: milliseconds(defaults.timeouts.idle_ms),
        keepalive_connections_max: defaults.keepalive.connections_max,
        keepalive_idle: milliseconds(defaults.keepalive.idle_ms),
        pings: None,
    }
}

/// Whether `text` can name an upstream: short, and safe in URLs, labels and logs.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}
