//! What remains of a request: counts, a line in the access log, and what plugins are told of it.

use std::time::Instant;

use super::context::Context;
use super::deliver::Delivered;
use super::forward::Journey;
use super::{Client, Progress};
use crate::error::RequestError;
use crate::plugin::{Exchange, LinkPlan, PlanSource, Summary};
use crate::state::cache::Outcome;
use crate::telemetry::{AccessRecord, Finished, PluginRecord};

/// Counts the request and writes its line in the access log.
pub(super) fn record(
    context: &Context,
    client: &mut Client,
    exchange: &Exchange,
    progress: &Progress,
    delivered: &Delivered,
    started: Instant,
) -> Summary {
    let Journey { attempts, server } = progress.journey;
    let finished = Finished {
        listener: client.listener,
        route: progress.route,
        method: exchange.request.method,
        status: exchange.response.status,
        upstream: progress.upstream.zip(server),
        upstream_status: progress.upstream_status,
        rate_limited: progress.answered && progress.said.unwrap_or(exchange.response.status) == 429,
        bytes_in: client.take_received(),
        bytes_out: delivered.written,
        duration: delivered.ended.saturating_duration_since(started),
        upstream_wait: progress.waited,
        retries: attempts.saturating_sub(1),
    };
    context.telemetry.record(&context.tallies, &finished);
    let summary = Summary {
        status: finished.status,
        request_bytes: finished.bytes_in,
        response_bytes: finished.bytes_out,
        duration: finished.duration,
        upstream: finished.upstream_wait.unwrap_or_default(),
    };
    let Some(log) = &context.access_log else { return summary };
    let upstream = progress.upstream.map(|upstream| &context.upstreams[upstream]);
    let server = upstream.and_then(|upstream| upstream.server_name(server?)).map(AsRef::as_ref);
    let plugins = || plugins(context, exchange, progress);
    log.write(&AccessRecord {
        finished: &finished,
        request: &exchange.request,
        client: exchange.client_ip.or(client.facts.peer),
        route: exchange.route.as_deref(),
        upstream: upstream.map(|upstream| upstream.settings.name.as_ref()),
        server,
        flags: progress.error.map(RequestError::proxy_status).or(delivered.broken),
        tls: client.connection.stream.tls().map(AsRef::as_ref),
        trace_id: progress.trace.as_ref().map(|trace| trace.id.as_slice()),
        wall_ms: context.clock.wall_ms(),
        attempts,
        body_bytes_out: delivered.written.saturating_sub(delivered.head),
        websocket: delivered.conversation.as_ref(),
        cache: exchange.cached.map(Outcome::as_str),
        plugins: &plugins,
        note: &|key| exchange.note(key),
    });
    summary
}

/// The plugins that have seen the request, and what each one said.
fn plugins<'a>(
    context: &'a Context,
    exchange: &Exchange,
    progress: &Progress,
) -> Vec<PluginRecord<'a>> {
    let Some(route) = progress.route else { return Vec::new() };
    let links = context.snapshot.plans[route].chain.links.iter().take(progress.reached);
    let record = |(index, link): (usize, &'a LinkPlan)| {
        let failed = exchange.failed.iter().find(|(plugin, _)| *plugin == link.name);
        let timed = exchange.timed.iter().filter(|(plugin, _)| *plugin == link.name);
        PluginRecord {
            name: &link.name,
            generation: match &link.plugin {
                PlanSource::Wasm(plugin) => Some(plugin.generation()),
                PlanSource::Native(_) => None,
            },
            verdict: match failed {
                Some((_, kind)) => kind.as_str(),
                None if progress.answered && index + 1 == progress.reached => "respond",
                None => "next",
            },
            took: timed.map(|(_, took)| *took).reduce(|sum, took| sum + took),
        }
    };
    links.enumerate().map(record).collect()
}
