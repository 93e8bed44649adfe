//! Metrics as Prometheus reads them (text format 0.0.4, OpenMetrics 1.0).
//!
//! The workers' reports are added up here, when somebody asks. `host/docs/metrics.md` lists every
//! family.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::http::Method;
use crate::plugin::Hook;
use crate::plugin::callout::OUTCOMES;
use crate::plugin::stats::{DURATION_BOUNDS_NS, HookStats, Outcome, PluginStats};
use crate::state::metrics::{Kind, Metric};
use crate::state::redis::RemoteCounts;
use crate::state::{PluginState, Usage, cache};
use crate::telemetry::histogram::BOUNDS_US;
use crate::telemetry::websocket::CLOSE_KINDS;
use crate::telemetry::{ClosedBy, Handshake, Histogram, WebSocketCounts, WorkerReport};

/// What a worker reports.
pub type Report = WorkerReport<PluginStats>;

/// Numbers that are not any worker's.
#[derive(Clone, Debug, Default)]
pub struct Globals {
    /// Access log lines that were dropped.
    pub access_log_dropped: u64,
    /// Log lines that were dropped.
    pub log_dropped: u64,
    /// Accepts that failed before there was a worker.
    pub accept_errors: u64,
    /// Configurations taken.
    pub config_generation: u64,
    /// Reloads by their results.
    pub reloads: BTreeMap<&'static str, u64>,
    /// New components, by plugin and what became of them.
    pub swaps: BTreeMap<(Arc<str>, &'static str), u64>,
    /// Connections that workers handed on to others.
    pub handed_on: u64,
    /// When certificates end, in seconds since 1970: listener, file, time.
    pub certificates: Vec<(String, String, i64)>,
}

struct Text {
    out: String,
    openmetrics: bool,
}

impl Text {
    /// Begins a family. In OpenMetrics a counter's family has no `_total`.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let family = match name.strip_suffix("_total") {
            Some(short) if self.openmetrics && kind == "counter" => short,
            _ => name,
        };
        let _ = writeln!(self.out, "# HELP {family} {help}");
        let _ = writeln!(self.out, "# TYPE {family} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.out.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.out, "{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    /// A histogram's samples. `bounds` are in seconds.
    fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: impl Iterator<Item = f64>,
        counts: &[u64],
        sum: f64,
    ) {
        let mut total = 0;
        let bucket = format!("{name}_bucket");
        // OpenMetrics wants floats; in the older format the series keep the names they have.
        let floats = self.openmetrics;
        let ends = bounds.map(|bound| match bound.fract() == 0.0 && floats {
            true => format!("{bound:.1}"),
            false => bound.to_string(),
        });
        let ends = ends.chain(["+Inf".to_owned()]);
        for (end, count) in ends.zip(counts) {
            total += count;
            let mut all = labels.to_vec();
            all.push(("le", &end));
            self.sample(&bucket, &all, total);
        }
        self.sample(&format!("{name}_sum"), labels, number(sum));
        self.sample(&format!("{name}_count"), labels, total);
    }
}

/// Renders everything.
#[must_use]
pub fn render(
    listeners: &[String],
    reports: &[Report],
    states: &[Arc<PluginState>],
    globals: &Globals,
    openmetrics: bool,
) -> String {
    let mut text = Text { out: String::with_capacity(16 * 1024), openmetrics };
    requests(&mut text, listeners, reports);
    websockets(&mut text, reports);
    connections(&mut text, listeners, reports, globals);
    upstreams(&mut text, reports);
    plugins(&mut text, reports);
    kept(&mut text, states);
    shared(&mut text, reports);
    text.family("zproxy_worker_utilisation", "gauge", "Busy share of each worker's last second.");
    for report in reports {
        let worker = report.worker.to_string();
        text.sample("zproxy_worker_utilisation", &[("worker", &worker)], report.counts.utilisation);
    }
    text.family("zproxy_access_log_dropped_total", "counter", "Access log lines dropped.");
    text.sample("zproxy_access_log_dropped_total", &[], globals.access_log_dropped);
    text.family("zproxy_log_dropped_total", "counter", "Log lines dropped.");
    text.sample("zproxy_log_dropped_total", &[], globals.log_dropped);
    text.family("zproxy_config_generation", "gauge", "Configurations taken since the start.");
    text.sample("zproxy_config_generation", &[], globals.config_generation);
    text.family("zproxy_config_reloads_total", "counter", "Reloads by what became of them.");
    for (result, count) in &globals.reloads {
        text.sample("zproxy_config_reloads_total", &[("result", result)], count);
    }
    let help = "Configurations that have requests, the current one included; the most on a worker.";
    text.family("zproxy_config_generations_alive", "gauge", help);
    let alive = reports.iter().map(|report| report.generations).max().unwrap_or(0);
    text.sample("zproxy_config_generations_alive", &[], alive);
    let help = "New components by what became of them: swapped, rolled-back, refused.";
    text.family("zproxy_plugin_swaps_total", "counter", help);
    for ((plugin, result), count) in &globals.swaps {
        let labels = [("plugin", plugin.as_ref()), ("result", result)];
        text.sample("zproxy_plugin_swaps_total", &labels, count);
    }
    let help = "When a listener's certificate ends, in seconds since 1970.";
    text.family("zproxy_tls_certificate_expiry_seconds", "gauge", help);
    for (listener, path, end) in &globals.certificates {
        let labels = [("listener", listener.as_str()), ("path", path)];
        text.sample("zproxy_tls_certificate_expiry_seconds", &labels, end);
    }
    text.family("zproxy_build_info", "gauge", "What is running.");
    let (version, wasmtime) = (env!("CARGO_PKG_VERSION"), env!("ZPROXY_WASMTIME"));
    text.sample("zproxy_build_info", &[("version", version), ("wasmtime", wasmtime)], 1);
    if openmetrics {
        text.out.push_str("# EOF\n");
    }
    text.out
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other => "other",
    }
}

fn requests(text: &mut Text, listeners: &[String], reports: &[Report]) {
    let mut counts: BTreeMap<(usize, &str, &str, u16), u64> = BTreeMap::new();
    let mut durations: BTreeMap<&str, Histogram> = BTreeMap::new();
    let mut rate_limited: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut wait, mut bytes_in, mut bytes_out) = (Histogram::default(), 0, 0);
    for report in reports {
        for route in &report.counts.routes {
            for (listener, verb, status, count) in &route.requests {
                let key = (*listener, route.route.as_ref(), method(*verb), *status);
                *counts.entry(key).or_default() += count;
            }
            durations.entry(&route.route).or_default().add(&route.durations);
            *rate_limited.entry(&route.route).or_default() += route.rate_limited;
        }
        wait.add(&report.counts.upstream_wait);
        bytes_in += report.counts.bytes_in;
        bytes_out += report.counts.bytes_out;
    }
    text.family("zproxy_requests_total", "counter", "Requests answered; 499: the client left.");
    for ((listener, route, verb, status), count) in counts {
        let listener = listeners.get(listener).map_or("", String::as_str);
        let status = status.to_string();
        text.sample(
            "zproxy_requests_total",
            &[("listener", listener), ("route", route), ("method", verb), ("status", &status)],
            count,
        );
    }
    let name = "zproxy_request_duration_seconds";
    text.family(name, "histogram", "From the end of a request's head to the end of its response.");
    for (route, histogram) in &durations {
        text.histogram(
            name,
            &[("route", route)],
            seconds(),
            &histogram.counts,
            from_us(histogram.sum_us),
        );
    }
    let name = "zproxy_ratelimit_rejected_total";
    text.family(name, "counter", "Requests that a plugin refused with 429.");
    for (route, count) in rate_limited.into_iter().filter(|(_, count)| *count > 0) {
        text.sample(name, &[("route", route)], count);
    }
    let name = "zproxy_request_phase_seconds";
    text.family(name, "histogram", "Parts of that time: waiting for an upstream's response head.");
    let labels = [("phase", "upstream")];
    text.histogram(name, &labels, seconds(), &wait.counts, from_us(wait.sum_us));
    text.family("zproxy_bytes_total", "counter", "Bytes from clients (in) and to them (out).");
    text.sample("zproxy_bytes_total", &[("direction", "in")], bytes_in);
    text.sample("zproxy_bytes_total", &[("direction", "out")], bytes_out);
}

/// Nothing, where there was none.
fn websockets(text: &mut Text, reports: &[Report]) {
    let mut routes: BTreeMap<&str, WebSocketCounts> = BTreeMap::new();
    for route in reports.iter().flat_map(|report| &report.counts.routes) {
        if let Some(counts) = &route.websockets {
            routes.entry(&route.route).or_default().add(counts);
        }
    }
    if routes.is_empty() {
        return;
    }
    text.family("zproxy_websockets", "gauge", "WebSockets that are open.");
    for (route, counts) in &routes {
        text.sample("zproxy_websockets", &[("route", route)], counts.open);
    }
    text.family("zproxy_websockets_opened_total", "counter", "WebSockets opened.");
    for (route, counts) in &routes {
        text.sample("zproxy_websockets_opened_total", &[("route", route)], counts.opened);
    }
    let name = "zproxy_websockets_refused_total";
    text.family(name, "counter", "WebSockets above websocket.connections_max.");
    for (route, counts) in &routes {
        text.sample(name, &[("route", route)], counts.refused);
    }
    let help = "WebSocket messages that were seen, by who sent them.";
    let mut each = |name: &str, help: &str, pick: fn(&WebSocketCounts) -> [u64; 2]| {
        text.family(name, "counter", help);
        for (route, counts) in &routes {
            for (from, count) in ["client", "server"].into_iter().zip(pick(counts)) {
                text.sample(name, &[("route", route), ("from", from)], count);
            }
        }
    };
    each("zproxy_websocket_messages_total", help, |counts| counts.messages);
    each("zproxy_websocket_message_bytes_total", "Their bytes.", |counts| counts.bytes);
    let name = "zproxy_websocket_closes_total";
    text.family(name, "counter", "Ends of WebSockets whose messages were seen.");
    for (route, counts) in &routes {
        for (by, kinds) in ClosedBy::ALL.iter().zip(&counts.closes) {
            for (code, count) in CLOSE_KINDS.iter().zip(kinds).filter(|(_, count)| **count > 0) {
                let labels = [("route", *route), ("by", by.as_str()), ("code", code)];
                text.sample(name, &labels, count);
            }
        }
    }
}

fn connections(text: &mut Text, listeners: &[String], reports: &[Report], globals: &Globals) {
    let sum = |index: usize, pick: fn(&crate::telemetry::ListenerCounts) -> u64| -> u64 {
        reports.iter().filter_map(|report| report.counts.listeners.get(index)).map(pick).sum()
    };
    text.family("zproxy_connections", "gauge", "Client connections, with and without a request.");
    for (index, listener) in listeners.iter().enumerate() {
        let labels = |state| [("listener", listener.as_str()), ("state", state)];
        text.sample("zproxy_connections", &labels("active"), sum(index, |counts| counts.active));
        text.sample("zproxy_connections", &labels("idle"), sum(index, |counts| counts.idle));
    }
    text.family("zproxy_connections_accepted_total", "counter", "Client connections accepted.");
    for (index, listener) in listeners.iter().enumerate() {
        let accepted = sum(index, |counts| counts.accepted);
        text.sample("zproxy_connections_accepted_total", &[("listener", listener)], accepted);
    }
    let help = "Requests that HTTP/2 itself refused: malformed, far too large, too many at a time.";
    text.family("zproxy_http2_refused_total", "counter", help);
    for (index, listener) in listeners.iter().enumerate() {
        let refused = sum(index, |counts| counts.streams_refused);
        if refused > 0 {
            text.sample("zproxy_http2_refused_total", &[("listener", listener)], refused);
        }
    }
    let help = "TLS handshakes with clients by how they ended: ok, failed, timeout, refused, http.";
    text.family("zproxy_tls_handshakes_total", "counter", help);
    for (index, listener) in listeners.iter().enumerate() {
        for (kind, handshake) in Handshake::ALL.iter().enumerate() {
            let of = |report: &Report| {
                report.counts.listeners.get(index).map(|one| one.handshakes[kind])
            };
            let count: u64 = reports.iter().filter_map(of).sum();
            if count > 0 {
                let (result, version, resumed) = match handshake {
                    Handshake::Done { v13, resumed } => {
                        ("ok", if *v13 { "1.3" } else { "1.2" }, *resumed)
                    }
                    Handshake::Failed => ("failed", "", false),
                    Handshake::TimedOut => ("timeout", "", false),
                    Handshake::Refused => ("refused", "", false),
                    Handshake::PlainHttp => ("http", "", false),
                };
                let labels = [
                    ("listener", listener.as_str()),
                    ("result", result),
                    ("version", version),
                    ("resumed", if resumed { "true" } else { "false" }),
                ];
                text.sample("zproxy_tls_handshakes_total", &labels, count);
            }
        }
    }
    let errors: u64 = reports.iter().map(|report| report.counts.accept_errors).sum();
    text.family("zproxy_accept_errors_total", "counter", "Accepts that failed.");
    text.sample("zproxy_accept_errors_total", &[], errors + globals.accept_errors);
    let help = "Client connections that a worker handed on to one that had fewer.";
    text.family("zproxy_connections_handed_on_total", "counter", help);
    text.sample("zproxy_connections_handed_on_total", &[], globals.handed_on);
}

fn upstreams(text: &mut Text, reports: &[Report]) {
    let mut answers: BTreeMap<(&str, &str, u16), u64> = BTreeMap::new();
    let mut connections: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    let mut retries: BTreeMap<&str, u64> = BTreeMap::new();
    for report in reports {
        for (one, open) in report.counts.upstreams.iter().zip(&report.connections) {
            let upstream = one.upstream.as_ref();
            *retries.entry(upstream).or_default() += one.retries;
            for (counts, (active, idle)) in one.servers.iter().zip(open) {
                let server = counts.server.as_ref();
                for (status, count) in &counts.requests {
                    *answers.entry((upstream, server, *status)).or_default() += count;
                }
                let sum = connections.entry((upstream, server)).or_default();
                *sum = (sum.0 + active, sum.1 + idle);
            }
        }
    }
    text.family(
        "zproxy_upstream_requests_total",
        "counter",
        "Requests for a server, by its answer; 0: none.",
    );
    for ((upstream, server, status), count) in answers {
        let status = status.to_string();
        let labels = [("upstream", upstream), ("server", server), ("status", &status)];
        text.sample("zproxy_upstream_requests_total", &labels, count);
    }
    text.family("zproxy_upstream_connections", "gauge", "Connections to servers.");
    for ((upstream, server), (active, idle)) in connections {
        for (state, count) in [("active", active), ("idle", idle)] {
            let labels = [("upstream", upstream), ("server", server), ("state", state)];
            text.sample("zproxy_upstream_connections", &labels, count);
        }
    }
    text.family(
        "zproxy_upstream_retries_total",
        "counter",
        "Further attempts: a pooled connection was dead, or a server not reached.",
    );
    for (upstream, count) in retries {
        text.sample("zproxy_upstream_retries_total", &[("upstream", upstream)], count);
    }
}

#[derive(Default)]
struct Sum {
    hooks: [HookStats; Hook::ALL.len()],
    traps: u64,
    lines_dropped: u64,
    callouts: [u64; OUTCOMES.len()],
    broken: u64,
    memory_bytes: u64,
    generation: u64,
}

fn plugins(text: &mut Text, reports: &[Report]) {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for stats in reports.iter().flat_map(|report| &report.plugins) {
        let sum = sums.entry(stats.plugin.as_ref()).or_default();
        for (hook, more) in sum.hooks.iter_mut().zip(&stats.hooks) {
            add(hook, more);
        }
        sum.traps += stats.traps;
        sum.lines_dropped += stats.lines_dropped;
        for (count, more) in sum.callouts.iter_mut().zip(stats.callouts) {
            *count += more;
        }
        sum.broken += u64::from(stats.broken.is_some());
        sum.memory_bytes += stats.memory_bytes;
        let newest = stats.generations.last().map_or(0, |(generation, _)| *generation);
        sum.generation = sum.generation.max(newest);
    }
    let hooks = Hook::ALL.map(Hook::as_str);
    text.family("zproxy_plugin_calls_total", "counter", "Hook calls by how they ended.");
    for (plugin, sum) in &sums {
        for (hook, stats) in hooks.iter().zip(&sum.hooks) {
            for (outcome, count) in Outcome::ALL.iter().zip(stats.calls) {
                if count > 0 {
                    let labels =
                        [("plugin", *plugin), ("hook", *hook), ("outcome", outcome.as_str())];
                    text.sample("zproxy_plugin_calls_total", &labels, count);
                }
            }
        }
    }
    let name = "zproxy_plugin_duration_seconds";
    text.family(name, "histogram", "Time spent in hooks, of a sample of all calls.");
    for (plugin, sum) in &sums {
        // The two that everybody has, and of the others those that were called.
        let called = |(index, _): &(usize, _)| {
            *index < 2 || sum.hooks[*index].calls.iter().any(|count| *count > 0)
        };
        let each = hooks.iter().zip(&sum.hooks).enumerate().filter(called);
        for (_, (hook, stats)) in each {
            let bounds = DURATION_BOUNDS_NS.iter().map(|bound| from_us(*bound) / 1e3);
            let labels = [("plugin", *plugin), ("hook", *hook)];
            let spent = from_us(stats.duration_ns_sum) / 1e3;
            text.histogram(name, &labels, bounds, &stats.durations, spent);
        }
    }
    let name = "zproxy_plugin_callouts_total";
    text.family(name, "counter", "Requests of plugins' own by what came of them.");
    for (plugin, sum) in &sums {
        for (outcome, count) in OUTCOMES.iter().zip(sum.callouts).filter(|(_, count)| *count > 0) {
            text.sample(name, &[("plugin", *plugin), ("outcome", *outcome)], count);
        }
    }
    let mut each = |name: &str, kind: &str, help: &str, pick: fn(&Sum) -> u64| {
        text.family(name, kind, help);
        for (plugin, sum) in &sums {
            text.sample(name, &[("plugin", plugin)], pick(sum));
        }
    };
    let help = "Instances thrown away after a trap, a time-out or the memory cap.";
    each("zproxy_plugin_traps_total", "counter", help, |sum| sum.traps);
    let help = "Lines of plugins that were not logged, being too many.";
    each("zproxy_plugin_log_lines_dropped_total", "counter", help, |sum| sum.lines_dropped);
    let help = "Workers on which it fails so much that it has to wait.";
    each("zproxy_plugin_broken", "gauge", help, |sum| sum.broken);
    let help = "Linear memory of all instances.";
    each("zproxy_plugin_memory_bytes", "gauge", help, |sum| sum.memory_bytes);
    let help = "Newest generation that serves; 0: native.";
    each("zproxy_plugin_generation", "gauge", help, |sum| sum.generation);
}

/// What plugins keep, and what they count themselves.
fn kept(text: &mut Text, states: &[Arc<PluginState>]) {
    let usages: Vec<(&str, Usage)> = states
        .iter()
        .flat_map(|state| state.usage().into_iter().map(|usage| (state.name().as_ref(), usage)))
        .collect();
    let mut each = |name: &str, help: &str, pick: fn(&Usage) -> usize| {
        text.family(name, "gauge", help);
        for (plugin, usage) in &usages {
            text.sample(name, &[("plugin", plugin), ("kind", usage.kind)], pick(usage));
        }
    };
    let help = "Memory of what a plugin keeps outside of its instances.";
    each("zproxy_plugin_state_bytes", help, |usage| usage.bytes);
    let help = "Entries of it.";
    each("zproxy_plugin_state_entries", help, |usage| usage.entries);
    cached(text, states);
    for metric in states.iter().flat_map(|state| state.metrics().read()) {
        own(text, &metric);
    }
}

/// Counters that other gateways share. Nothing, where there are none.
fn shared(text: &mut Text, reports: &[Report]) {
    let workers: Vec<&RemoteCounts> =
        reports.iter().filter_map(|report| report.redis.as_ref()).collect();
    if workers.is_empty() {
        return;
    }
    let sum = |pick: fn(&RemoteCounts) -> u64| workers.iter().map(|one| pick(one)).sum::<u64>();
    let name = "zproxy_state_connections";
    text.family(name, "gauge", "Workers that have a connection to Redis.");
    text.sample(name, &[], sum(|one| one.connected.into()));
    let name = "zproxy_state_requests_total";
    text.family(name, "counter", "What plugins asked of Redis, by whether there was an answer.");
    text.sample(name, &[("result", "answered")], sum(|one| one.answered));
    text.sample(name, &[("result", "unanswered")], sum(|one| one.unanswered));
    let name = "zproxy_state_connects_total";
    text.family(name, "counter", "Connections to Redis: made, and those that failed or were lost.");
    text.sample(name, &[("result", "ok")], sum(|one| one.connects));
    text.sample(name, &[("result", "failed")], sum(|one| one.failures));
}

/// What became of requests that a cache was asked about. Nothing, where none is.
fn cached(text: &mut Text, states: &[Arc<PluginState>]) {
    let caches: Vec<_> = states.iter().filter_map(|state| state.granted_cache()).collect();
    if caches.is_empty() {
        return;
    }
    let help = "Requests that a cache has seen, by what became of them.";
    text.family("zproxy_cache_requests_total", "counter", help);
    for (index, outcome) in cache::Outcome::ALL.into_iter().enumerate() {
        let count: u64 = caches.iter().map(|cache| cache.outcomes()[index].1).sum();
        text.sample("zproxy_cache_requests_total", &[("result", outcome.as_str())], count);
    }
    text.family("zproxy_cache_bytes", "gauge", "Memory of stored responses.");
    let bytes: usize = caches.iter().map(|cache| cache.usage().1).sum();
    text.sample("zproxy_cache_bytes", &[], bytes);
}

/// A metric that a plugin has made.
fn own(text: &mut Text, metric: &Metric) {
    let Metric { name, help, kind, totals } = metric;
    let mut help = help.replace('\\', "\\\\");
    if text.openmetrics {
        help = help.replace('"', "\\\"");
    }
    match kind {
        Kind::Counter => {
            let name = format!("{name}_total");
            text.family(&name, "counter", &help);
            text.sample(&name, &[], totals.count);
        }
        Kind::Gauge => {
            text.family(name, "gauge", &help);
            text.sample(name, &[], number(totals.number));
        }
        Kind::Histogram(bounds) => {
            text.family(name, "histogram", &help);
            // One that nobody has used since its first instance ended has no buckets yet.
            let mut counts = totals.buckets.clone();
            counts.resize(bounds.len() + 1, 0);
            text.histogram(name, &[], bounds.iter().copied(), &counts, totals.number);
        }
    }
}

/// A number as both formats write it.
fn number(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    number.to_string()
}

fn add(sum: &mut HookStats, more: &HookStats) {
    for (count, more) in sum.calls.iter_mut().zip(more.calls) {
        *count += more;
    }
    for (count, more) in sum.durations.iter_mut().zip(more.durations) {
        *count += more;
    }
    sum.duration_ns_sum = sum.duration_ns_sum.saturating_add(more.duration_ns_sum);
}

fn seconds() -> impl Iterator<Item = f64> {
    BOUNDS_US.iter().map(|bound| from_us(*bound))
}

#[expect(clippy::cast_precision_loss, reason = "a metric of 2^53 µs is 285 years")]
fn from_us(us: u64) -> f64 {
    us as f64 / 1e6
}
