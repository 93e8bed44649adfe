//! One load of a scenario, in a process of its own: flags in, JSON out.
//!
//! The CPU time of the processes named by `--watch` is read at both ends of the window, by the same
//! thread that counts requests: divided by each other, they belong together.
//!
//! Not here: the load itself (`zproxy::load`), deciding which loads to run (`scenario`, `run`).

use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use serde_json::{Map, Value, json};
use zproxy::load::{self, Edge, Expected, Live, Plan, Request, Target};

use crate::args::Flags;
use crate::tls::{self, Sessions};
use crate::{origin, process, websocket};

/// Connections at once: what the peers are configured for.
pub(crate) const CONNECTIONS_MAX: usize = 6_000;
/// Requests per second that may be asked for.
pub(crate) const RATE_MAX: u64 = 500_000;
/// Longest window.
pub(crate) const SECONDS_MAX: u64 = 120;

/// Requests at a time on one connection of HTTP/2: what browsers and peers take for a usual limit.
const STREAMS: usize = 100;

/// A request that waits longer will not be answered: nothing of a scenario takes that long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// `zproxy-benches load`: one load, its outcome as one line of JSON on stdout.
pub(crate) fn command(arguments: Vec<String>) -> Result<()> {
    let mut flags = Flags::parse(arguments, &["per-request", "websocket", "http2"])?;
    let target = flags.text("target").context("--target ADDR:PORT is missing")?;
    let path = flags.text("path").unwrap_or_else(|| "/".to_owned());
    let body_bytes = flags.within("body-bytes", 0..=1 << 30)?.unwrap_or(100);
    let post_bytes = flags.within("post-bytes", 1..=64 << 20)?;
    let per_request = flags.switch("per-request");
    let headers = flags.all("header");
    let requests = flags.within("requests", 1..=u64::MAX)?;
    let warmup_ms = flags.within("warmup-ms", 0..=60_000)?;
    let mut plan = Plan {
        target: target.parse().with_context(|| format!("--target {target}: not ADDR:PORT"))?,
        connections: flags.within("connections", 1..=CONNECTIONS_MAX)?.unwrap_or(64),
        per_request,
        rate: flags.within("rate", 1..=RATE_MAX)?,
        warmup: Duration::from_millis(warmup_ms.unwrap_or(if requests.is_some() {
            0
        } else {
            500
        })),
        window: Duration::from_secs(flags.within("seconds", 1..=SECONDS_MAX)?.unwrap_or(3)),
        requests,
        timeout: TIMEOUT,
        tls: None,
        request: request(&path, per_request, &headers, post_bytes)?,
        expected: Expected::Exactly(body_bytes),
        tunnel: None,
    };
    let sessions = flags.text("tls").map(|text| Sessions::parse(&text)).transpose()?;
    if flags.switch("http2") {
        plan.request = plan.request.over_http2(STREAMS).map_err(Error::msg)?;
    }
    if flags.switch("websocket") {
        plan.request = Request::raw(websocket::upgrade(&path));
        plan.tunnel = Some(websocket::tunnel());
    }
    let watched =
        flags.all("watch").iter().map(|text| watched(text)).collect::<Result<Vec<_>>>()?;
    flags.finish()?;
    zproxy::sys::raise_descriptor_limit();
    if let Some(sessions) = sessions {
        let plan = tls::Plan {
            target: plan.target,
            sessions,
            connections: plan.connections,
            request: format!("GET {path} HTTP/1.1\r\nHost: bench.example\r\n\r\n").into(),
            body_bytes,
            warmup: plan.warmup,
            window: plan.window,
        };
        println!("{}", watching(&watched, |edge| tls::run(&plan, edge))?);
        return Ok(());
    }
    println!("{}", run(&plan, &watched)?);
    Ok(())
}

/// Runs a load; its outcome, with the CPU time that the watched processes and this one spent in the
/// window.
fn run(plan: &Plan, watched: &[(String, Vec<u32>)]) -> Result<Value> {
    watching(watched, |edge| Ok(load::run_here(plan, &Live::default(), edge)?.to_json()))
}

fn watching(
    watched: &[(String, Vec<u32>)],
    run: impl FnOnce(&mut dyn FnMut(Edge)) -> Result<Value>,
) -> Result<Value> {
    let own = [("load".to_owned(), vec![std::process::id()])];
    let read = || watched.iter().chain(&own).map(|(_, pids)| process::cpu_time_ns(pids)).collect();
    let (mut before, mut after) = (Vec::<u64>::new(), Vec::<u64>::new());
    let mut json = run(&mut |edge| match edge {
        Edge::Begins => before = read(),
        Edge::Ends => after = read(),
    })?;
    let names = watched.iter().chain(&own).map(|(name, _)| name.clone());
    let spent = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before));
    json["cpu_ns"] = names.zip(spent.map(|ns| json!(ns))).collect::<Map<_, _>>().into();
    Ok(json)
}

/// A request as a plain client would send it.
fn request(
    path: &str,
    per_request: bool,
    headers: &[String],
    post_bytes: Option<usize>,
) -> Result<Request> {
    let target = Target::parse(&format!("http://bench.example{path}")).map_err(Error::msg)?;
    let body = post_bytes.map(origin::letters);
    let method = if body.is_some() { "POST" } else { "GET" };
    Request::new(&target, method, headers, body.as_deref(), per_request).map_err(Error::msg)
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
    use std::net::SocketAddr;

    use super::*;

    fn plan(target: SocketAddr) -> Plan {
        Plan {
            target,
            connections: 4,
            per_request: false,
            rate: None,
            warmup: Duration::from_millis(20),
            window: Duration::from_millis(200),
            requests: None,
            timeout: TIMEOUT,
            tls: None,
            request: request("/", false, &[], None).unwrap(),
            expected: Expected::Exactly(100),
            tunnel: None,
        }
    }

    fn outcome(plan: &Plan) -> Value {
        run(plan, &[("origin".to_owned(), vec![std::process::id()])]).unwrap()
    }

    fn count(outcome: &Value, pointer: &str) -> u64 {
        outcome.pointer(pointer).and_then(Value::as_u64).unwrap()
    }

    #[test]
    fn kept_connections_are_answered_without_an_error() {
        let outcome = outcome(&plan(origin::in_background().unwrap()));

        assert!(count(&outcome, "/successes") > 20, "{outcome}");
        assert_eq!(count(&outcome, "/errors/total"), 0, "{outcome}");
        assert_eq!(count(&outcome, "/reconnects"), 0, "{outcome}");
        assert!(count(&outcome, "/cpu_ns/origin") > 0, "{outcome}");
    }

    #[test]
    fn a_connection_per_request_is_closed_and_counted_each_time() {
        let mut plan = plan(origin::in_background().unwrap());
        plan.per_request = true;
        plan.request = request("/", true, &[], None).unwrap();

        let outcome = outcome(&plan);

        assert!(count(&outcome, "/successes") > 20, "{outcome}");
        assert_eq!(count(&outcome, "/errors/total"), 0, "{outcome}");
        assert!(count(&outcome, "/connections") >= count(&outcome, "/successes"), "{outcome}");
    }

    #[test]
    fn large_bodies_both_ways_come_through_whole() {
        let mut plan = plan(origin::in_background().unwrap());
        plan.request = request("/3m", false, &[], Some(300_000)).unwrap();
        plan.expected = Expected::Exactly(3 << 20);
        plan.window = Duration::from_millis(400);

        let outcome = outcome(&plan);

        assert!(count(&outcome, "/successes") > 4, "{outcome}");
        assert_eq!(count(&outcome, "/errors/total"), 0, "{outcome}");
    }

    #[test]
    fn messages_go_through_a_tunnel() {
        let mut plan = plan(origin::in_background().unwrap());
        plan.request = Request::raw(websocket::upgrade("/"));
        plan.tunnel = Some(websocket::tunnel());

        let outcome = outcome(&plan);

        assert!(count(&outcome, "/successes") > 20, "{outcome}");
        assert_eq!(count(&outcome, "/errors/total"), 0, "{outcome}");
        assert_eq!(count(&outcome, "/reconnects"), 0, "{outcome}");
    }

    /// A proxy that answers fast because it answers wrong must not win.
    #[test]
    fn a_body_of_another_length_or_status_is_an_error() {
        let mut wrong_length = plan(origin::in_background().unwrap());
        wrong_length.expected = Expected::Exactly(99);
        let mut wrong_status = plan(origin::in_background().unwrap());
        wrong_status.request = Request::raw(b"HEAD / HTTP/1.1\r\n\r\n".to_vec());
        wrong_status.expected = Expected::Exactly(0);

        let length = outcome(&wrong_length);
        let status = outcome(&wrong_status);

        assert!(count(&length, "/errors/length") > 20, "{length}");
        assert!(count(&status, "/errors/status") > 20, "{status}");
        assert_eq!(count(&length, "/successes") + count(&status, "/successes"), 0);
    }

    /// Whoever is slow must be seen as slow: an answer that never comes counts as an error, and
    /// its waiting time as a latency.
    #[test]
    fn silence_and_refusal_are_errors() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut waiting = plan(silent.local_addr().unwrap());
        waiting.rate = Some(100);
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

        let silence = outcome(&waiting);
        let refusal = outcome(&plan(refused));

        assert!(count(&silence, "/errors/unanswered") >= 15, "{silence}");
        let longest_us = silence.pointer("/latency_us/max").and_then(Value::as_f64).unwrap();
        assert!(longest_us > 100_000.0, "{silence}");
        assert!(count(&refusal, "/errors/connect") > 0, "{refusal}");
    }
}
