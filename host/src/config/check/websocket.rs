//! WebSockets: keys that fit each other and the route.
//!
//! Not here: whether a plugin wants to see messages (`control::snapshot`).

use super::milliseconds;
use crate::config::file::{RouteConfig, WebSocketConfig};
use crate::config::problem::{At, Report};
use crate::config::{Inspection, WebSocket};

/// Checks what becomes of a route's WebSockets.
pub(super) fn check(route: &RouteConfig, at: &At, report: &mut Report) -> WebSocket {
    let route_at = at.to_string().into();
    let Some(written) = &route.websocket else {
        return WebSocket { at: route_at, ..WebSocket::default() };
    };
    let at = at.key("websocket");
    if route.upstream.is_none() {
        let message = "is about an upstream, and this route has none";
        report.incomplete(&at, message, "remove it, or give the route an `upstream`");
    }
    let WebSocketConfig { inspect, idle_ms, lifetime_ms, connections_max, .. } = *written;
    let needs = [
        ("message_bytes_max", written.message_bytes_max),
        ("frame_bytes_max", written.frame_bytes_max),
        ("messages_per_second", written.messages_per_second),
        ("ping_interval_ms", written.ping_interval_ms),
        ("pong_timeout_ms", written.pong_timeout_ms),
    ];
    // Left out, a plugin may still want to see messages, and the keys are about how.
    let blind = inspect == Some(false) || inspect.is_none() && route.middleware.is_empty();
    for (key, value) in needs.into_iter().filter(|_| blind) {
        if value.is_some() {
            let message = "is about messages, which nobody looks at here";
            report.problem(
                &at.key(key),
                message,
                "write `\"inspect\": true` beside it, or remove it",
            );
        }
    }
    let default = Inspection::default();
    let bytes = |written: Option<u32>| written.and_then(|bytes| usize::try_from(bytes).ok());
    let message_bytes_max = bytes(written.message_bytes_max).unwrap_or(default.message_bytes_max);
    let frame_bytes_max = bytes(written.frame_bytes_max).unwrap_or(message_bytes_max);
    if frame_bytes_max > message_bytes_max {
        let message = format!("is more than a message may have, which is {message_bytes_max}");
        let cure = "remove it, or raise `message_bytes_max`";
        report.problem(&at.key("frame_bytes_max"), message, cure);
    }
    let ping_interval = match written.ping_interval_ms {
        Some(0) => None,
        Some(interval) => Some(milliseconds(interval)),
        None => default.ping_interval,
    };
    if ping_interval.is_none() && written.pong_timeout_ms.is_some() {
        let message = "no pings are sent that could be answered";
        let cure = "remove it, or raise `ping_interval_ms` above 0";
        report.problem(&at.key("pong_timeout_ms"), message, cure);
    }
    WebSocket {
        inspect,
        inspection: Inspection {
            message_bytes_max,
            frame_bytes_max,
            messages_per_second: written.messages_per_second,
            ping_interval,
            pong_timeout: written.pong_timeout_ms.map_or(default.pong_timeout, milliseconds),
        },
        idle_timeout: idle_ms.map(milliseconds),
        lifetime: lifetime_ms.map(milliseconds),
        connections_max,
        at: route_at,
    }
}
