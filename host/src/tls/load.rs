//! From settings to everything that handshakes need.
//!
//! Goes on after a problem, so that one load shows them all. What has not changed since the former load is taken
//! over: its sessions and tickets go on, and what was said of it is not said again.
//!
//! Not here: single certificates (`certificate`), when to load (`control`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::ProducesTickets;

use super::certificate::Files;
use super::client::{self, SystemRoots, UpstreamTls};
use super::server::{self, ListenerTls, TicketScope};
use crate::config::{self, Destination, Environment, Problem, Problems, Settings};

/// Everything that handshakes need, by the settings of one generation.
#[derive(Debug, Default)]
pub struct TlsSet {
    /// In the order of the listeners; `None`: plain.
    pub listeners: Vec<Option<Arc<ListenerTls>>>,
    /// In the order of the upstreams; `None`: plain.
    pub upstreams: Vec<Option<Arc<UpstreamTls>>>,
    /// For the Redis that state is in; `None`: plain, or there is none.
    pub state: Option<Arc<UpstreamTls>>,
    /// For requests of plugins to `https` URLs, when one is allowed any.
    pub callouts: Option<Arc<ClientConfig>>,
    callouts_digest: [u8; 32],
    tickets: Vec<(TicketScope, Arc<dyn ProducesTickets>)>,
    files: BTreeMap<PathBuf, Option<[u8; 32]>>,
}

impl TlsSet {
    /// Files that it was made from.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Whether it was made from the same contents as `other`.
    #[must_use]
    pub fn is_of_the_same_files(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

/// Reads and checks everything, and makes a set of it.
///
/// # Errors
/// Everything that cannot be used, by its place in the settings.
pub fn load(
    settings: &Settings,
    former: Option<&TlsSet>,
    environment: &dyn Environment,
    now: SystemTime,
) -> Result<TlsSet, Problems> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut files = Files { environment, digests: BTreeMap::new() };
    let mut problems = Vec::new();
    let mut set = TlsSet::default();
    let mut system = None;
    for listener in &settings.listeners {
        let made = listener.tls.as_ref().and_then(|tls| {
            let digest = files.digest(server::files(tls));
            let known = former.into_iter().flat_map(|set| set.listeners.iter().flatten());
            let same = known.into_iter().find(|one| one.settings == *tls && one.digest == digest);
            let scope = server::scope(tls, &mut files);
            let tickets = set.tickets(scope, former, &mut problems)?;
            if let Some(same) = same {
                return Some(Arc::clone(same));
            }
            server::make(tls, &mut files, &provider, tickets, now, &mut problems).map(Arc::new)
        });
        set.listeners.push(made);
    }
    let mut servers = |whose: &str, tls: &config::UpstreamTls| {
        if !tls.verify {
            log::warn!(
                target: "tls",
                "{whose}: INSECURE: {}.verify is \"insecure\", so servers are believed \
                 whoever they are; anybody on the way can read and change everything",
                tls.at
            );
        }
        let digest = client::digest(tls, &mut files, &mut system);
        let known =
            former.into_iter().flat_map(|set| set.upstreams.iter().chain([&set.state]).flatten());
        let same = known.into_iter().find(|one| one.settings == *tls && one.digest == digest);
        if let Some(same) = same {
            return Some(Arc::clone(same));
        }
        client::make(tls, &mut files, &provider, &mut system, now, &mut problems).map(Arc::new)
    };
    for upstream in &settings.upstreams {
        let whose = format!("upstream `{}`", upstream.name);
        let made = upstream.tls.as_ref().and_then(|tls| servers(&whose, tls));
        set.upstreams.push(made);
    }
    let redis = settings.state.as_ref().and_then(|redis| redis.tls.as_ref());
    set.state = redis.and_then(|tls| servers("redis", tls));
    let asks = |one: &Destination| matches!(one, Destination::Url(pattern) if pattern.tls);
    if settings.plugins.iter().any(|plugin| plugin.allow.http.iter().any(asks)) {
        let system = system.get_or_insert_with(SystemRoots::load);
        // Without roots a callout says so; the plugin may do without.
        if let Some(problem) = &system.problem {
            log::warn!(target: "tls", "{problem}: plugins cannot ask `https` URLs");
        }
        let same = former.filter(|set| set.callouts_digest == system.digest);
        set.callouts_digest = system.digest;
        set.callouts = same.and_then(|set| set.callouts.clone()).or_else(|| {
            let roots = Some(Arc::clone(&system.roots));
            client::config(&provider, roots, None, &["http/1.1"]).ok().map(Arc::new)
        });
    }
    set.files = files.digests;
    if problems.is_empty() { Ok(set) } else { Err(Problems(problems)) }
}

impl TlsSet {
    /// The keys of tickets for listeners of this kind.
    fn tickets(
        &mut self,
        scope: TicketScope,
        former: Option<&Self>,
        problems: &mut Vec<Problem>,
    ) -> Option<Arc<dyn ProducesTickets>> {
        let known = self.tickets.iter().chain(former.into_iter().flat_map(|set| &set.tickets));
        let known =
            known.into_iter().find(|(of, _)| *of == scope).map(|(_, keys)| Arc::clone(keys));
        let keys = match known {
            Some(keys) => keys,
            // New ones every six hours; those of the six hours before still open sessions.
            None => match aws_lc_rs::Ticketer::new() {
                Ok(keys) => keys,
                Err(error) => {
                    let message = format!("no keys for tickets can be made: {error}");
                    problems.push(Problem::at("listeners", message, "try again"));
                    return None;
                }
            },
        };
        if !self.tickets.iter().any(|(of, _)| *of == scope) {
            self.tickets.push((scope, Arc::clone(&keys)));
        }
        Some(keys)
    }
}
