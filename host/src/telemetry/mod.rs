//! What happened: counts per worker, the access log, the gateway's own log.
//!
//! Each worker counts for itself, in plain integers. When somebody asks for metrics, the control
//! side asks every worker for a [`WorkerReport`] and adds them up: counting costs an increment,
//! and nobody ever waits for a lock.
//!
//! Not here: how metrics are written (`control::metrics`), what plugins count (`plugin::stats`).

pub mod access_log;
pub mod date;
pub mod histogram;
pub mod log;
pub mod sink;
pub mod websocket;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use access_log::{AccessLog, AccessLogger, AccessRecord, PluginRecord};
pub use date::http_date;
pub use histogram::Histogram;
pub use websocket::{CloseKind, ClosedBy, Conversation, WebSocketCounts};

use crate::http::Method;
use crate::io::RingCounts;
use crate::state::redis::RemoteCounts;

/// Different (listener, method, status) of one route, or statuses of one server, that are counted
/// apart. A hostile server may invent statuses; beyond this, new ones are counted as the first of
/// their class.
const COMBINATIONS_MAX: usize = 256;

/// A request that is done.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// Index of the listener.
    pub listener: usize,
    /// Index of the route; `None`: no route was found.
    pub route: Option<usize>,
    /// The method.
    pub method: Method,
    /// What the client got; 499 when it left before.
    pub status: u16,
    /// Indexes of upstream and server that answered or failed.
    pub upstream: Option<(usize, usize)>,
    /// What the upstream answered; `None` when it did not.
    pub upstream_status: Option<u16>,
    /// A plugin refused it with 429.
    pub rate_limited: bool,
    /// Received from the client, heads included.
    pub bytes_in: u64,
    /// Sent to the client, heads included.
    pub bytes_out: u64,
    /// From the end of the request's head to the last byte of the response.
    pub duration: Duration,
    /// From picking a server to the head of its response.
    pub upstream_wait: Option<Duration>,
    /// Attempts upstream beyond the first.
    pub retries: u32,
}

/// Requests of one route.
#[derive(Clone, Debug)]
pub struct RouteCounts {
    /// Name of the route; empty for requests without.
    pub route: Arc<str>,
    /// By listener, method and status.
    pub requests: Vec<(usize, Method, u16, u64)>,
    /// How long they took.
    pub durations: Histogram,
    /// Refused by a plugin with 429.
    pub rate_limited: u64,
    /// Its WebSockets, once there were some.
    pub websockets: Option<Box<WebSocketCounts>>,
}

/// Requests of one server.
#[derive(Clone, Debug)]
pub struct ServerCounts {
    /// Its address as written.
    pub server: Arc<str>,
    /// By status; 0 stands for no answer.
    pub requests: Vec<(u16, u64)>,
}

/// Requests of one upstream.
#[derive(Clone, Debug)]
pub struct UpstreamCounts {
    /// Name of the upstream.
    pub upstream: Arc<str>,
    /// In the order of the settings.
    pub servers: Vec<ServerCounts>,
    /// Attempts beyond the first of a request.
    pub retries: u64,
}

/// How what comes before the first request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// With a session.
    Done {
        /// Of TLS 1.3.
        v13: bool,
        /// An earlier one, resumed.
        resumed: bool,
    },
    /// The client left, or did not agree.
    Failed,
    /// Not in time.
    TimedOut,
    /// Too many were going on.
    Refused,
    /// With HTTP without TLS.
    PlainHttp,
}

impl Handshake {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Done { v13: false, resumed: false },
        Self::Done { v13: false, resumed: true },
        Self::Done { v13: true, resumed: false },
        Self::Done { v13: true, resumed: true },
        Self::Failed,
        Self::TimedOut,
        Self::Refused,
        Self::PlainHttp,
    ];
}

/// Connections of one listener.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenerCounts {
    /// Since the start.
    pub accepted: u64,
    /// Now, with a request.
    pub active: u64,
    /// Now, without one.
    pub idle: u64,
    /// TLS handshakes, in the order of [`Handshake::ALL`].
    pub handshakes: [u64; Handshake::ALL.len()],
    /// Requests that HTTP/2 itself has refused.
    pub streams_refused: u64,
}

/// What one worker has counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// One for each route, and a last one for requests without.
    pub routes: Vec<RouteCounts>,
    /// One for each upstream.
    pub upstreams: Vec<UpstreamCounts>,
    /// By listener.
    pub listeners: Vec<ListenerCounts>,
    /// Waiting for upstreams.
    pub upstream_wait: Histogram,
    /// Received from clients.
    pub bytes_in: u64,
    /// Sent to clients.
    pub bytes_out: u64,
    /// Failed `accept` calls.
    pub accept_errors: u64,
    /// Share of the last second that the worker was busy.
    pub utilisation: f64,
}

/// The counts of one worker, on their way to whoever asked.
#[derive(Clone, Debug, Default)]
pub struct WorkerReport<P> {
    /// Index of the worker.
    pub worker: usize,
    /// What it has counted.
    pub counts: Counts,
    /// Active and idle connections, by upstream and server.
    pub connections: Vec<Vec<(usize, usize)>>,
    /// What it knows of its plugins.
    pub plugins: Vec<P>,
    /// Generations of the configuration that have requests here, the current one included.
    pub generations: usize,
    /// What its ring has in use, if it has one.
    pub ring: Option<RingCounts>,
    /// What it has asked of Redis, if counters are there.
    pub redis: Option<RemoteCounts>,
}

/// A worker's counts by route and upstream, for one generation of the configuration.
///
/// The indexes are that generation's. What has the same name in two generations is counted as one, so
/// that no count goes back when a configuration is taken.
#[derive(Debug)]
pub struct Tallies {
    /// One for each route, and a last one for requests without.
    routes: Vec<Rc<RefCell<RouteCounts>>>,
    upstreams: Vec<UpstreamTally>,
}

#[derive(Debug)]
struct UpstreamTally {
    upstream: Arc<str>,
    servers: Vec<Rc<RefCell<ServerCounts>>>,
    retries: Rc<Cell<u64>>,
}

/// A worker's counts in the making.
#[derive(Debug)]
pub struct WorkerTelemetry {
    counts: RefCell<Counts>,
    cpu: RefCell<Option<(std::time::Instant, Duration)>>,
}

impl Tallies {
    /// Counts for these routes, and for these upstreams with their servers. Goes on with the counts
    /// of `former`.
    pub fn new(
        routes: impl Iterator<Item = Arc<str>>,
        upstreams: impl Iterator<Item = (Arc<str>, Vec<Arc<str>>)>,
        former: Option<&Self>,
    ) -> Self {
        let mut known_routes = HashMap::new();
        let mut known_upstreams = HashMap::new();
        if let Some(former) = former {
            let routes = former.routes.iter();
            known_routes.extend(routes.map(|route| (Arc::clone(&route.borrow().route), route)));
            let upstreams = former.upstreams.iter();
            known_upstreams.extend(upstreams.map(|one| (Arc::clone(&one.upstream), one)));
        }
        let route = |route: Arc<str>| match known_routes.get(&route) {
            Some(known) => Rc::clone(known),
            None => Rc::new(RefCell::new(RouteCounts {
                route,
                requests: Vec::new(),
                durations: Histogram::default(),
                rate_limited: 0,
                websockets: None,
            })),
        };
        let upstream = |(upstream, names): (Arc<str>, Vec<Arc<str>>)| {
            let known = known_upstreams.get(&upstream);
            let server = |server: Arc<str>| {
                let mut all = known.iter().flat_map(|known| &known.servers);
                let same = all.find(|counts| counts.borrow().server == server);
                same.cloned().unwrap_or_else(|| {
                    Rc::new(RefCell::new(ServerCounts { server, requests: Vec::new() }))
                })
            };
            let servers = names.into_iter().map(server).collect();
            let retries = known.map(|known| Rc::clone(&known.retries)).unwrap_or_default();
            UpstreamTally { upstream, servers, retries }
        };
        Self {
            routes: routes.chain([Arc::from("")]).map(route).collect(),
            upstreams: upstreams.map(upstream).collect(),
        }
    }

    fn record(&self, done: &Finished) {
        let last = self.routes.len() - 1;
        let mut route = self.routes[done.route.unwrap_or(last).min(last)].borrow_mut();
        count_request(&mut route.requests, done);
        route.durations.record(done.duration);
        route.rate_limited += u64::from(done.rate_limited);
        if let Some((upstream, server)) = done.upstream
            && let Some(tally) = self.upstreams.get(upstream)
        {
            tally.retries.set(tally.retries.get() + u64::from(done.retries));
            tally.answered(server, done.upstream_status.unwrap_or(0));
        }
    }

    /// Counts something about a route's WebSockets.
    pub fn websocket(&self, route: usize, count: impl FnOnce(&mut WebSocketCounts)) {
        if let Some(route) = self.routes.get(route) {
            count(route.borrow_mut().websockets.get_or_insert_default());
        }
    }

    /// A server has answered a request that no client waits for; status 0: it has not.
    pub fn server_answered(&self, upstream: usize, server: usize, status: u16) {
        if let Some(tally) = self.upstreams.get(upstream) {
            tally.answered(server, status);
        }
    }

    /// A server could not be reached, and another one of its upstream is asked.
    pub fn server_failed(&self, upstream: usize, server: usize) {
        if let Some(tally) = self.upstreams.get(upstream) {
            tally.answered(server, 0);
        }
    }
}

impl UpstreamTally {
    fn answered(&self, server: usize, status: u16) {
        if let Some(server) = self.servers.get(server) {
            count_answer(&mut server.borrow_mut().requests, status);
        }
    }

    fn counts(&self) -> UpstreamCounts {
        UpstreamCounts {
            upstream: Arc::clone(&self.upstream),
            servers: self.servers.iter().map(|server| server.borrow().clone()).collect(),
            retries: self.retries.get(),
        }
    }
}

impl WorkerTelemetry {
    /// Counts for so many listeners.
    pub fn new(listeners: usize) -> Self {
        let listeners = vec![ListenerCounts::default(); listeners];
        let counts = Counts { listeners, ..Counts::default() };
        Self { counts: RefCell::new(counts), cpu: RefCell::new(None) }
    }

    /// Counts a request.
    pub fn record(&self, tallies: &Tallies, done: &Finished) {
        tallies.record(done);
        let counts = &mut *self.counts.borrow_mut();
        counts.bytes_in += done.bytes_in;
        counts.bytes_out += done.bytes_out;
        if let Some(wait) = done.upstream_wait {
            counts.upstream_wait.record(wait);
        }
    }

    /// A connection has been accepted. It counts as active until it says otherwise.
    pub fn connection_accepted(&self, listener: usize) {
        self.listener(listener, |counts| {
            counts.accepted += 1;
            counts.active += 1;
        });
    }

    /// So many requests of a connection were refused as HTTP/2 refuses, before any of the gateway's rules.
    pub fn streams_refused(&self, listener: usize, count: u64) {
        self.listener(listener, |counts| counts.streams_refused += count);
    }

    /// A connection waits for a request.
    pub fn connection_idle(&self, listener: usize) {
        self.listener(listener, |counts| {
            counts.active = counts.active.saturating_sub(1);
            counts.idle += 1;
        });
    }

    /// A connection has a request, or has just ended its waiting.
    pub fn connection_active(&self, listener: usize) {
        self.listener(listener, |counts| {
            counts.idle = counts.idle.saturating_sub(1);
            counts.active += 1;
        });
    }

    /// An active connection has ended.
    pub fn connection_closed(&self, listener: usize) {
        self.listener(listener, |counts| counts.active = counts.active.saturating_sub(1));
    }

    /// A TLS handshake has ended, or did not begin.
    pub fn handshake(&self, listener: usize, ended: Handshake) {
        let index = Handshake::ALL.iter().position(|one| *one == ended);
        self.listener(listener, |counts| counts.handshakes[index.unwrap_or_default()] += 1);
    }

    /// An `accept` has failed.
    pub fn accept_error(&self, error: &std::io::Error) {
        let mut counts = self.counts.borrow_mut();
        counts.accept_errors += 1;
        // Powers of two: the first, and then fewer and fewer.
        if counts.accept_errors.is_power_of_two() {
            let so_far = counts.accept_errors;
            ::log::warn!(target: "worker", "accept: {error} ({so_far} so far)");
        }
    }

    /// Takes note of how busy the worker was. To be called about once a second.
    pub fn sample_utilisation(&self, now: std::time::Instant) {
        let busy = crate::sys::thread_cpu_time();
        let before = self.cpu.replace(Some((now, busy)));
        if let Some((then, busy_then)) = before {
            let span = now.saturating_duration_since(then).as_secs_f64();
            let used = busy.saturating_sub(busy_then).as_secs_f64();
            if span > 0.0 {
                self.counts.borrow_mut().utilisation = (used / span).clamp(0.0, 1.0);
            }
        }
    }

    /// A copy of the counts, by the routes and upstreams of `tallies`.
    pub fn counts(&self, tallies: &Tallies) -> Counts {
        Counts {
            routes: tallies.routes.iter().map(|route| route.borrow().clone()).collect(),
            upstreams: tallies.upstreams.iter().map(UpstreamTally::counts).collect(),
            ..self.counts.borrow().clone()
        }
    }

    fn listener(&self, listener: usize, change: impl FnOnce(&mut ListenerCounts)) {
        if let Some(counts) = self.counts.borrow_mut().listeners.get_mut(listener) {
            change(counts);
        }
    }
}

/// Few combinations occur, and the usual one is found first.
fn count_request(list: &mut Vec<(usize, Method, u16, u64)>, done: &Finished) {
    let same = |entry: &&mut (usize, Method, u16, u64), status| {
        entry.0 == done.listener && entry.1 == done.method && entry.2 == status
    };
    if let Some(entry) = list.iter_mut().find(|entry| same(entry, done.status)) {
        entry.3 += 1;
    } else if list.len() < COMBINATIONS_MAX {
        list.push((done.listener, done.method, done.status, 1));
    } else {
        let class = class(done.status);
        match list.iter_mut().find(|entry| same(entry, class)) {
            Some(entry) => entry.3 += 1,
            None => list.push((done.listener, done.method, class, 1)),
        }
    }
}

fn count_answer(list: &mut Vec<(u16, u64)>, status: u16) {
    if let Some((_, count)) = list.iter_mut().find(|(known, _)| *known == status) {
        *count += 1;
    } else if list.len() < COMBINATIONS_MAX {
        list.push((status, 1));
    } else {
        let class = class(status);
        match list.iter_mut().find(|(known, _)| *known == class) {
            Some((_, count)) => *count += 1,
            None => list.push((class, 1)),
        }
    }
}

/// The first status of its class.
fn class(status: u16) -> u16 {
    status / 100 * 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(status: u16) -> Finished {
        Finished {
            listener: 0,
            route: Some(0),
            method: Method::Get,
            status,
            upstream: Some((0, 0)),
            upstream_status: Some(status),
            rate_limited: false,
            bytes_in: 10,
            bytes_out: 20,
            duration: Duration::from_millis(1),
            upstream_wait: None,
            retries: 0,
        }
    }

    fn tallies(routes: &[&str], servers: &[&str], former: Option<&Tallies>) -> Tallies {
        let routes: Vec<Arc<str>> = routes.iter().map(|name| Arc::from(*name)).collect();
        let servers = servers.iter().map(|name| Arc::from(*name)).collect();
        Tallies::new(routes.into_iter(), std::iter::once(("u".into(), servers)), former)
    }

    #[test]
    fn requests_are_counted_by_what_they_were() {
        let (telemetry, tallies) = (WorkerTelemetry::new(1), tallies(&["a"], &["s"], None));

        telemetry.record(&tallies, &done(200));
        telemetry.record(&tallies, &done(200));
        telemetry.record(&tallies, &Finished { route: None, upstream: None, ..done(404) });

        let counts = telemetry.counts(&tallies);
        assert_eq!(counts.routes[0].requests, [(0, Method::Get, 200, 2)]);
        assert_eq!(counts.routes[1].requests, [(0, Method::Get, 404, 1)]);
        assert_eq!(counts.upstreams[0].servers[0].requests, [(200, 2)]);
        assert_eq!((counts.bytes_in, counts.bytes_out), (30, 60));
    }

    /// A reload may put routes and servers at other places, while requests that began before it still
    /// count by the old ones.
    #[test]
    fn counts_follow_their_names_into_the_next_generation() {
        let (telemetry, old) = (WorkerTelemetry::new(1), tallies(&["a", "b"], &["s", "t"], None));
        telemetry.record(&old, &done(200));

        let new = tallies(&["b", "a"], &["t", "s"], Some(&old));
        telemetry.record(&old, &done(200));
        telemetry.record(&new, &Finished { route: Some(1), ..done(200) });

        let counts = telemetry.counts(&new);
        assert_eq!(&*counts.routes[1].route, "a");
        assert_eq!(counts.routes[1].requests, [(0, Method::Get, 200, 3)]);
        assert_eq!(counts.upstreams[0].servers[1].requests, [(200, 2)]);
        assert_eq!(counts.upstreams[0].servers[0].requests, [(200, 1)]);
    }

    /// A server that answers with every status there is must not grow the gateway.
    #[test]
    fn combinations_are_bounded() {
        let (telemetry, tallies) = (WorkerTelemetry::new(1), tallies(&["a"], &["s"], None));

        for status in 100..600 {
            telemetry.record(&tallies, &done(status));
        }

        let counts = telemetry.counts(&tallies);
        assert!(counts.routes[0].requests.len() <= COMBINATIONS_MAX + 5);
        assert!(counts.upstreams[0].servers[0].requests.len() <= COMBINATIONS_MAX + 5);
        let all: u64 = counts.routes[0].requests.iter().map(|entry| entry.3).sum();
        assert_eq!(all, 500);
        // What was counted before still is.
        telemetry.record(&tallies, &done(104));
        let counts = telemetry.counts(&tallies);
        assert!(counts.upstreams[0].servers[0].requests.contains(&(104, 2)));
        assert!(counts.routes[0].requests.contains(&(0, Method::Get, 104, 2)));
    }

    #[test]
    fn connections_are_counted_where_they_are() {
        let telemetry = WorkerTelemetry::new(1);

        telemetry.connection_accepted(0);
        telemetry.connection_accepted(0);
        telemetry.connection_idle(0);

        let listener = telemetry.counts(&tallies(&[], &[], None)).listeners[0];
        assert_eq!((listener.accepted, listener.active, listener.idle), (2, 1, 1));
    }
}
