//! Write ZProxy plugins in Rust.
//!
//! A plugin is a type that is read from its configuration, implements [`Middleware`] and is named
//! in [`export!`]. Built for `wasm32-wasip2` it is a component that the gateway loads.
//!
//! ```
//! use zproxy_sdk::{Middleware, Response, export};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct HeaderStamp {
//!     name: String,
//! }
//!
//! impl Middleware for HeaderStamp {
//!     fn on_response(&self, response: &mut Response) {
//!         response.set_header("x-served-by", &self.name);
//!     }
//! }
//!
//! export!(HeaderStamp: on_response);
//! # fn main() {}
//! ```
//!
//! What each hook is for is said at the methods of [`Middleware`]; which of them the gateway calls, at
//! [`export!`].
//!
//! Not here: what the host does with an answer (`wit/`), and building (`zproxy-guest-build`).

#[doc(hidden)]
pub mod bindings;
mod export;
mod config;
mod request;
mod response;
mod body;
mod websocket;
mod fields;
pub mod callout;
pub mod context;
pub mod crypto;
pub mod clock;
pub mod random;
pub mod metrics;
pub mod counters;
pub mod kv;
pub mod cache;
pub mod environment;
pub mod log;
mod host;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use body::Chunk;
#[doc(hidden)]
pub use export::{Hook, Plugin, Running, Slot};
pub use fields::Fields;
pub use request::Request;
pub use response::{Reply, Response};
pub use websocket::{Message, MessageFlow, Peer};

/// What a plugin does with a request.
#[derive(Debug)]
#[must_use = "a flow says whether the request goes on"]
pub enum Flow {
    /// Go on along the chain.
    Next,
    /// Go no further: this is the answer.
    Reply(Reply),
}

/// An exchange that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The status that the client was sent.
    pub status: u16,
    /// Bytes received from the client, framing included.
    pub request_bytes: u64,
    /// Bytes sent to the client, framing included.
    pub response_bytes: u64,
    /// Microseconds from the request's head to the response's last byte.
    pub duration_us: u64,
    /// Of these, those spent waiting for the upstream's head; 0 when none was asked.
    pub upstream_us: u64,
}

/// Something that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A JSON pointer (RFC 6901) to what is wrong: `/keys/0/algorithm`; empty for the whole.
    pub path: String,
    /// What is wrong there, and how to write it.
    pub message: String,
}

impl Problem {
    /// A problem at `path`.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// A plugin.
///
/// It is read once per instance from the operator's configuration, with `serde`: write
/// `#[serde(deny_unknown_fields)]` so that a misspelt key is refused by name, and
/// `#[serde(try_from = "…")]` where values have to be checked. What the error says is what the
/// operator reads. An instance serves one call at a time, so `Cell`s are fine; its memory is not
/// shared with the plugin's instances on other workers.
pub trait Middleware: serde::de::DeserializeOwned + 'static {
    /// Names of request fields, and pseudo names such as `:path`, that every call reads.
    ///
    /// The host hands them over with the call, so that [`Request::header`] costs no call back.
    /// Asked once, after the configuration has been read; at most 64.
    fn request_fields(&self) -> Vec<&str> {
        Vec::new()
    }

    /// The same for [`Middleware::on_response`], without pseudo names.
    fn response_fields(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Called for each request, before it is sent upstream.
    fn on_request(&self, request: &mut Request) -> Flow {
        let _ = request;
        Flow::Next
    }

    /// Called for each response on its way back, but for one that this plugin made itself.
    fn on_response(&self, response: &mut Response) {
        let _ = response;
    }

    /// Called with each chunk of a request's body, up to 64 KiB at a time, on its way upstream. `end` is
    /// true for the last, which may be empty. What [`Request::skip_body`] and its neighbours ask
    /// for in `on_request` decides what is shown; edits count only when all of the body is held.
    ///
    /// Requests of many clients take turns here: what belongs to one of them goes into
    /// [`context`], or into a map of the plugin's own with a key that is kept there.
    fn on_request_body(&self, request: &mut Request, chunk: &[u8], end: bool) -> Chunk {
        let _ = (request, chunk, end);
        Chunk::Pass
    }

    /// The same for a response's body, on its way to the client. Not called for answers without one.
    fn on_response_body(&self, response: &mut Response, chunk: &[u8], end: bool) -> Chunk {
        let _ = (response, chunk, end);
        Chunk::Pass
    }

    /// Called with each message of a WebSocket, whole, before it goes on; `request` is the one that has opened
    /// it. A route whose chain has this hook sees messages (`websocket.inspect`). One that fails closes both
    /// ends with 1011, unless its `on_error` is open.
    ///
    /// Messages of many clients take turns here: what belongs to one WebSocket goes into [`context`].
    fn on_message(&self, request: &Request, from: Peer, message: &Message) -> MessageFlow {
        let _ = (request, from, message);
        MessageFlow::Pass
    }

    /// Called after an exchange, when its answer has been sent and nobody waits: request, response and
    /// [`context`] can still be read.
    fn on_log(&self, request: &Request, response: &Response, summary: &Summary) {
        let _ = (request, response, summary);
    }

    /// Called about once a second on every instance, with or without requests.
    fn on_tick(&self) {}

    /// Called once when an instance is retired in good order; not after a failure.
    fn shutdown(&self) {}

    /// Says everything that is wrong with a configuration that could be read, not just the first thing.
    /// What serde finds comes first, and alone.
    fn validate(&self) -> Vec<Problem> {
        Vec::new()
    }
}

/// A duration as the host takes it, never shorter.
fn milliseconds(duration: std::time::Duration) -> u32 {
    // In 64 bits: wasm has no wider numbers, and dividing one takes longer than asking the host.
    let rest = u64::from(duration.subsec_nanos().div_ceil(1_000_000));
    let whole = duration.as_secs().saturating_mul(1000).saturating_add(rest);
    u32::try_from(whole).unwrap_or(u32::MAX)
}
