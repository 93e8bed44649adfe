//! The load generator: asks, counts, and looks at the clock of whom it loads.
//!
//! One thread, one request at a time on each of N connections. Two ways to pace:
//!
//! - *closed*: the next request goes out when the last is answered; shows what a request costs
//!   and how many a saturated proxy serves;
//! - *at a rate*: requests are due at fixed moments, and a latency counts from the moment at
//!   which its request was due, whenever a connection was free to send it. A stall thus shows in
//!   every request that it delayed, not in one (coordinated omission).
//!
//! The CPU time of the processes named by `--watch` is read here, at both ends of the window and
//! by the same thread that counts requests: divided by each other, they belong together.
//!
//! - `mod.rs`: flags in, JSON out · `engine.rs`: the event loop · `tally.rs`: what is counted.
//!
//! Not here: deciding which loads to run (`scenario`, `run`).

mod engine;
mod tally;

pub(crate) use engine::run;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::args::Flags;
use crate::{http, sockets};

/// Connections at once: what the peers are configured for.
pub(crate) const CONNECTIONS_MAX: usize = 6_000;
/// Requests per second that may be asked for.
pub(crate) const RATE_MAX: u64 = 500_000;
/// Longest window.
pub(crate) const SECONDS_MAX: u64 = 120;

/// One load.
pub(crate) struct Plan {
    /// Whom to ask.
    pub(crate) target: SocketAddr,
    /// Requests in flight at most; connections when they are kept.
    pub(crate) connections: usize,
    /// Whether each request takes a connection of its own.
    pub(crate) per_request: bool,
    /// Requests due per second; none: the next as soon as the last is answered.
    pub(crate) rate: Option<u64>,
    /// Runs before anything counts.
    pub(crate) warmup: Duration,
    /// Runs and counts.
    pub(crate) window: Duration,
    /// The request, head and body.
    pub(crate) request: Vec<u8>,
    /// Length that every response body must have.
    pub(crate) body_bytes: u64,
    /// Processes whose CPU time is read at both ends of the window, by name.
    pub(crate) watch: Vec<(String, Vec<u32>)>,
}

/// `zproxy-benches load`: one load, its outcome as one line of JSON on stdout.
pub(crate) fn command(arguments: Vec<String>) -> Result<()> {
    let mut flags = Flags::parse(arguments, &["per-request"])?;
    let target = flags.text("target").context("--target ADDR:PORT is missing")?;
    let per_request = flags.switch("per-request");
    let path = flags.text("path").unwrap_or_else(|| "/".to_owned());
    let post_bytes = flags.within("post-bytes", 1..=64 << 20)?;
    let plan = Plan {
        target: target.parse().with_context(|| format!("--target {target}: not ADDR:PORT"))?,
        connections: flags.within("connections", 1..=CONNECTIONS_MAX)?.unwrap_or(64),
        per_request,
        rate: flags.within("rate", 1..=RATE_MAX)?,
        warmup: Duration::from_millis(flags.within("warmup-ms", 0..=60_000)?.unwrap_or(500)),
        window: Duration::from_secs(flags.within("seconds", 1..=SECONDS_MAX)?.unwrap_or(3)),
        request: request(&path, per_request, &flags.all("header"), post_bytes),
        body_bytes: flags.within("body-bytes", 0..=1 << 30)?.unwrap_or(100),
        watch: flags.all("watch").iter().map(|text| watched(text)).collect::<Result<_>>()?,
    };
    flags.finish()?;
    sockets::raise_descriptor_limit();
    println!("{}", run(&plan)?);
    Ok(())
}

/// A request as a plain client would send it.
pub(crate) fn request(
    path: &str,
    close: bool,
    headers: &[String],
    post_bytes: Option<usize>,
) -> Vec<u8> {
    let method = if post_bytes.is_some() { "POST" } else { "GET" };
    let mut lines = vec![
        format!("{method} {path} HTTP/1.1"),
        "Host: bench.example".to_owned(),
        "User-Agent: zproxy-benches".to_owned(),
        "Accept: */*".to_owned(),
    ];
    lines.extend_from_slice(headers);
    lines.extend(close.then(|| "Connection: close".to_owned()));
    lines.extend(post_bytes.map(|bytes| format!("Content-Length: {bytes}")));
    let mut request = lines.join("\r\n").into_bytes();
    request.extend_from_slice(b"\r\n\r\n");
    request.extend(http::letters(post_bytes.unwrap_or(0)));
    request
}

fn watched(text: &str) -> Result<(String, Vec<u32>)> {
    let parsed = text.split_once('=').and_then(|(name, pids)| {
        let pids: Result<Vec<u32>, _> = pids.split(',').map(str::parse).collect();
        Some((name.to_owned(), pids.ok()?))
    });
    match parsed {
        Some(parsed) => Ok(parsed),
        None => bail!("--watch {text}: write NAME=PID,PID"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::origin;

    fn plan(target: SocketAddr) -> Plan {
        Plan {
            target,
            connections: 4,
            per_request: false,
            rate: None,
            warmup: Duration::from_millis(20),
            window: Duration::from_millis(200),
            request: request("/", false, &[], None),
            body_bytes: 100,
            watch: vec![("origin".to_owned(), vec![std::process::id()])],
        }
    }

    fn count(outcome: &Value, pointer: &str) -> u64 {
        outcome.pointer(pointer).and_then(Value::as_u64).unwrap()
    }

    #[test]
    fn kept_connections_are_answered_without_an_error() {
        let outcome = run(&plan(origin::in_background().unwrap())).unwrap();

        assert!(count(&outcome, "/requests") > 20, "{outcome}");
        assert_eq!(count(&outcome, "/errors/total"), 0, "{outcome}");
        assert_eq!(count(&outcome, "/reconnects"), 0, "{outcome}");
        assert!(count(&outcome, "/cpu_ns/origin") > 0, "{outcome}");
        assert!(count(&outcome, "/latency_us/p99") >= count(&outcome, "/latency_us/p50"));
    }

    #[test]
    fn a_connection_per_request_is_closed_and_counted_each_time() {
        let mut plan = plan(origin::in_background().unwrap());
        plan.per_request = true;
        plan.request = request("/", true, &[], None);

        let outcome = run(&plan).unwrap();

        assert!(count(&outcome, "/requests") > 20, "{outcome}");
        assert_eq!(count(&outcome, "/errors/total"), 0, "{outcome}");
        assert!(count(&outcome, "/connects") >= count(&outcome, "/requests"), "{outcome}");
    }

    #[test]
    fn a_rate_is_kept() {
        let mut plan = plan(origin::in_background().unwrap());
        plan.rate = Some(500);
        plan.window = Duration::from_millis(400);

        let outcome = run(&plan).unwrap();

        let requests = count(&outcome, "/requests");
        assert!((195..=205).contains(&requests), "{outcome}");
        assert_eq!(count(&outcome, "/errors/total"), 0, "{outcome}");
    }

    #[test]
    fn large_bodies_both_ways_come_through_whole() {
        let mut plan = plan(origin::in_background().unwrap());
        plan.request = request("/3m", false, &[], Some(300_000));
        plan.body_bytes = 3 << 20;
        plan.window = Duration::from_millis(400);

        let outcome = run(&plan).unwrap();

        assert!(count(&outcome, "/requests") > 4, "{outcome}");
        assert_eq!(count(&outcome, "/errors/total"), 0, "{outcome}");
    }

    /// A proxy that answers fast because it answers wrong must not win.
    #[test]
    fn a_body_of_another_length_or_status_is_an_error() {
        let mut wrong_length = plan(origin::in_background().unwrap());
        wrong_length.body_bytes = 99;
        let mut wrong_status = plan(origin::in_background().unwrap());
        wrong_status.request = b"HEAD / HTTP/1.1\r\n\r\n".to_vec();
        wrong_status.body_bytes = 0;

        let length = run(&wrong_length).unwrap();
        let status = run(&wrong_status).unwrap();

        assert!(count(&length, "/errors/length") > 20, "{length}");
        assert!(count(&status, "/errors/status") > 20, "{status}");
        assert_eq!(count(&length, "/requests") + count(&status, "/requests"), 0);
    }

    /// Whoever is slow must be seen as slow: an answer that never comes counts as an error, and
    /// its waiting time as a latency.
    #[test]
    fn silence_and_refusal_are_errors() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut waiting = plan(silent.local_addr().unwrap());
        waiting.rate = Some(100);
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

        let silence = run(&waiting).unwrap();
        let refusal = run(&plan(refused)).unwrap();

        assert!(count(&silence, "/errors/unanswered") >= 15, "{silence}");
        assert!(count(&silence, "/latency_us/max") > 100_000, "{silence}");
        assert!(count(&refusal, "/errors/connection") > 0, "{refusal}");
    }
}
