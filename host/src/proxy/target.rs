//! What a route makes of a request's target: rewrites and redirects.
//!
//! Not here: how they are written and worked out (`route::rewrite`).

use super::context::{Context, RoutePlan};
use super::{Progress, reply, sanitize_reply};
use crate::error::RequestError;
use crate::http::RequestHead;
use crate::plugin::Exchange;
use crate::route::rewrite::Rewrite;

/// Changes target and host as the route says.
pub(super) fn rewrite(
    head: &mut RequestHead,
    rewrite: &Rewrite,
    progress: &Progress,
) -> Result<(), RequestError> {
    let refused = |_| RequestError::Malformed("rewritten target");
    if !rewrite.keeps_target() {
        let mut target = String::new();
        let routed = progress.routed.as_deref().unwrap_or_default();
        let changed = rewrite.target(head.target(), routed, &progress.params, &mut target);
        if changed.map_err(|_| RequestError::Malformed("rewritten target"))? {
            head.set_target(&target).map_err(refused)?;
        }
    }
    if let Some(host) = rewrite.host() {
        head.set_authority(host).map_err(refused)?;
    }
    Ok(())
}

/// Answers with the route's redirect.
pub(super) fn redirect(
    context: &Context,
    exchange: &mut Exchange,
    plan: &RoutePlan,
    status: u16,
    progress: &Progress,
) {
    let head = &exchange.request;
    let routed = progress.routed.as_deref().unwrap_or_default();
    let location = plan
        .redirect
        .as_ref()
        .and_then(|to| to.location(head.authority(), head.target(), routed, &progress.params));
    let Some(location) = location else {
        // It needs a host, and an HTTP/1.0 client did not say which.
        reply::error(exchange, RequestError::Malformed("missing Host"), None);
        return;
    };
    exchange.response.assign(status);
    exchange.response.fields.push("Location", location.as_bytes());
    exchange.body = Some(bytes::Bytes::new());
    sanitize_reply(context, exchange);
}
