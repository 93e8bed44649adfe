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

use std::cell::RefCell;
use std::time::Duration;

pub use access_log::{AccessLog, AccessLogger, AccessRecord};
pub use date::http_date;
pub use histogram::Histogram;

use crate::http::Method;
use crate::io::RingCounts;

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
#[derive(Clone, Debug, Default)]
pub struct RouteCounts {
    /// By listener, method and status.
    pub requests: Vec<(usize, Method, u16, u64)>,
    /// How long they took.
    pub durations: Histogram,
}

/// Requests of one server.
#[derive(Clone, Debug, Default)]
pub struct ServerCounts {
    /// By status; 0 stands for no answer.
    pub requests: Vec<(u16, u64)>,
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
}

/// What one worker has counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// One for each route, and a last one for requests without.
    pub routes: Vec<RouteCounts>,
    /// By upstream and server.
    pub servers: Vec<Vec<ServerCounts>>,
    /// By upstream: attempts beyond the first of a request.
    pub retries: Vec<u64>,
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
    /// What its ring has in use, if it has one.
    pub ring: Option<RingCounts>,
}

/// A worker's counts in the making.
#[derive(Debug)]
pub struct WorkerTelemetry {
    counts: RefCell<Counts>,
    cpu: RefCell<Option<(std::time::Instant, Duration)>>,
}

impl WorkerTelemetry {
    /// Counts for so many listeners and routes, and so many servers of each upstream.
    pub fn new(listeners: usize, routes: usize, servers: &[usize]) -> Self {
        let counts = Counts {
            routes: vec![RouteCounts::default(); routes + 1],
            servers: servers.iter().map(|count| vec![ServerCounts::default(); *count]).collect(),
            retries: vec![0; servers.len()],
            listeners: vec![ListenerCounts::default(); listeners],
            ..Counts::default()
        };
        Self { counts: RefCell::new(counts), cpu: RefCell::new(None) }
    }

    /// Counts a request.
    pub fn record(&self, done: &Finished) {
        let counts = &mut *self.counts.borrow_mut();
        let last = counts.routes.len() - 1;
        let route = &mut counts.routes[done.route.unwrap_or(last).min(last)];
        count_request(&mut route.requests, done);
        route.durations.record(done.duration);
        counts.bytes_in += done.bytes_in;
        counts.bytes_out += done.bytes_out;
        if let Some(wait) = done.upstream_wait {
            counts.upstream_wait.record(wait);
        }
        if let Some((upstream, server)) = done.upstream {
            if let Some(retries) = counts.retries.get_mut(upstream) {
                *retries += u64::from(done.retries);
            }
            let server = counts.servers.get_mut(upstream).and_then(|list| list.get_mut(server));
            if let Some(server) = server {
                count_answer(&mut server.requests, done.upstream_status.unwrap_or(0));
            }
        }
    }

    /// A server could not be reached, and another one of its upstream is asked.
    pub fn server_failed(&self, upstream: usize, server: usize) {
        let counts = &mut *self.counts.borrow_mut();
        let server = counts.servers.get_mut(upstream).and_then(|list| list.get_mut(server));
        if let Some(server) = server {
            count_answer(&mut server.requests, 0);
        }
    }

    /// A connection has been accepted. It counts as active until it says otherwise.
    pub fn connection_accepted(&self, listener: usize) {
        self.listener(listener, |counts| {
            counts.accepted += 1;
            counts.active += 1;
        });
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

    /// A copy of the counts.
    pub fn counts(&self) -> Counts {
        self.counts.borrow().clone()
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
            bytes_in: 10,
            bytes_out: 20,
            duration: Duration::from_millis(1),
            upstream_wait: None,
            retries: 0,
        }
    }

    #[test]
    fn requests_are_counted_by_what_they_were() {
        let telemetry = WorkerTelemetry::new(1, 1, &[1]);

        telemetry.record(&done(200));
        telemetry.record(&done(200));
        telemetry.record(&Finished { route: None, upstream: None, ..done(404) });

        let counts = telemetry.counts();
        assert_eq!(counts.routes[0].requests, [(0, Method::Get, 200, 2)]);
        assert_eq!(counts.routes[1].requests, [(0, Method::Get, 404, 1)]);
        assert_eq!(counts.servers[0][0].requests, [(200, 2)]);
        assert_eq!((counts.bytes_in, counts.bytes_out), (30, 60));
    }

    /// A server that answers with every status there is must not grow the gateway.
    #[test]
    fn combinations_are_bounded() {
        let telemetry = WorkerTelemetry::new(1, 1, &[1]);

        for status in 100..600 {
            telemetry.record(&done(status));
        }

        let counts = telemetry.counts();
        assert!(counts.routes[0].requests.len() <= COMBINATIONS_MAX + 5);
        assert!(counts.servers[0][0].requests.len() <= COMBINATIONS_MAX + 5);
        let all: u64 = counts.routes[0].requests.iter().map(|entry| entry.3).sum();
        assert_eq!(all, 500);
        // What was counted before still is.
        telemetry.record(&done(104));
        assert!(telemetry.counts().servers[0][0].requests.contains(&(104, 2)));
        assert!(telemetry.counts().routes[0].requests.contains(&(0, Method::Get, 104, 2)));
    }

    #[test]
    fn connections_are_counted_where_they_are() {
        let telemetry = WorkerTelemetry::new(1, 0, &[]);

        telemetry.connection_accepted(0);
        telemetry.connection_accepted(0);
        telemetry.connection_idle(0);

        let listener = telemetry.counts().listeners[0];
        assert_eq!((listener.accepted, listener.active, listener.idle), (2, 1, 1));
    }
}
