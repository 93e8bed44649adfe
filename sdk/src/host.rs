//! The host's functions: the real ones in wasm, those of [`crate::testing`] elsewhere.

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::imports::zproxy::gateway::{
    body, cache, clock, context, counters, crypto, environment, kv, log, metrics, random, reply,
    request, response, websocket,
};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::host::{
    body, clock, context, log, reply, request, response, websocket,
};
#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::state::{counters, environment, kv, metrics, random};
#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::{cache, crypto};

/// `callout`, in a module of its own: what imports it is another kind of plugin.
#[cfg(target_family = "wasm")]
pub(crate) mod callout {
    use crate::bindings::callouts::zproxy::gateway::callout as host;
    use crate::callout::{Error, Request, Response};

    pub(crate) fn send(request: Request) -> Result<Response, Error> {
        let Request { method, url, headers, body, timeout_ms } = request;
        match host::send(&host::Request { method, url, headers, body, timeout_ms }) {
            Ok(host::Response { status, headers, body }) => Ok(Response { status, headers, body }),
            Err(error) => Err(match error {
                host::Error::Denied(what) => Error::Denied(what),
                host::Error::Invalid(what) => Error::Invalid(what),
                host::Error::Unreachable(what) => Error::Unreachable(what),
                host::Error::Timeout => Error::Timeout,
                host::Error::TooLarge => Error::TooLarge,
                host::Error::Busy => Error::Busy,
            }),
        }
    }
}

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::host::callout;
