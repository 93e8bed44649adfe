//! Which route a request takes, and whether it may.
//!
//! Not here: what becomes of it then (`proxy`).

use std::borrow::Cow;
use std::sync::Arc;

use super::client;
use super::headers::{self, Stamp};
use super::{Client, Context, Progress, RoutePlan};
use crate::error::RequestError;
use crate::http::parse::{Framing, RequestFacts};
use crate::plugin::{Exchange, RouteParams};
use crate::route::rewrite::Redirect;
use crate::route::{Found, path};

/// Whether a request came on a TLS connection that was made to another host with another certificate.
pub(super) fn is_misdirected(context: &Context, client: &Client, exchange: &Exchange) -> bool {
    let tls = client.connection.stream.tls();
    let Some(server_name) = tls.and_then(|tls| tls.server_name.as_deref()) else { return false };
    let Some(host) = exchange.request.authority() else { return false };
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let listeners = &context.snapshot.tls.listeners;
    let listener = listeners.get(client.listener).and_then(Option::as_ref);
    listener.is_some_and(|listener| listener.certificates.misdirects(server_name, host))
}

pub(super) fn find_route(
    context: &Context,
    exchange: &mut Exchange,
    progress: &mut Progress,
) -> Result<usize, RequestError> {
    let normal = match path::normalize(exchange.request.target()) {
        Ok(Cow::Borrowed(_)) => None,
        Ok(Cow::Owned(normal)) => Some(normal),
        Err(_) if exchange.request.target() == "*" => None,
        Err(_) => return Err(RequestError::Malformed("path")),
    };
    if let Some(normal) = normal {
        exchange.request.set_target(&normal).map_err(|_| RequestError::Malformed("path"))?;
    }
    let head = &exchange.request;
    let router = &context.snapshot.router;
    let host = if router.reads_hosts() { head.authority() } else { None };
    match router.find(host, head.path(), head.method_name(), &mut progress.params) {
        Found::Route { index } => {
            progress.route = Some(index);
            let plan = &context.snapshot.plans[index];
            if plan.rewrite.reads_parameters()
                || plan.redirect.as_ref().is_some_and(Redirect::reads_parameters)
            {
                progress.routed = Some(head.path().into());
            }
            exchange.route = context.route_names.get(index).cloned();
            if !context.chains[index].is_empty() {
                exchange.upstreams = Some(Arc::clone(&context.upstream_names));
                let names = &context.parameters[index];
                if !names.is_empty() {
                    let path = exchange.request.path_at();
                    let params = progress.params;
                    exchange.params = Some(RouteParams { names: Arc::clone(names), params, path });
                }
            }
            Ok(index)
        }
        Found::MethodNotAllowed { allow } => {
            progress.allow = Some(allow);
            Err(RequestError::MethodNotAllowed)
        }
        Found::None => Err(RequestError::NoRoute),
    }
}

/// Checks what can be checked before anything happens, and makes the head fit to be forwarded.
pub(super) fn admit(
    client: &Client,
    exchange: &mut Exchange,
    facts: &RequestFacts,
    plan: &RoutePlan,
    context: &Context,
    progress: &mut Progress,
) -> Result<(), RequestError> {
    debug_assert!(progress.route.is_some(), "only a routed request is admitted");
    if matches!(facts.framing, Framing::Length(length) if length > plan.body_bytes_max) {
        return Err(RequestError::BodyTooLarge);
    }
    exchange.client_ip = client.facts.peer.map(|peer| {
        let trusted = &context.settings().trusted_proxies;
        client::client_ip(peer, trusted, &exchange.request)
    });
    let mut random = context.random.borrow_mut();
    let stamp = Stamp {
        unix_ms: context.clock.wall_ms(),
        random: std::array::from_fn(|_| random.u64(..)),
        // Upstreams record a trace unless its parent says no; nobody has said so.
        sampled: true,
    };
    let trace = headers::request_to_upstream(&mut exchange.request, &client.facts, &stamp)?;
    if let Some(tls) = client.connection.stream.tls() {
        headers::push_client_certificate(&mut exchange.request.fields, tls);
        exchange.tls = Some(Arc::clone(tls));
    }
    exchange.scheme = headers::scheme(&exchange.request.fields, &client.facts);
    progress.trace = Some(trace);
    Ok(())
}
