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
//! Not here: what the host does with an answer (`wit/`), and building (`zproxy-guest-build`).

#[doc(hidden)]
pub mod bindings;
mod export;
mod config;
mod request;
mod response;
mod fields;
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

#[doc(hidden)]
pub use export::{Hook, Plugin, Running, Slot};
pub use fields::Fields;
pub use request::Request;
pub use response::{Reply, Response};

/// What a plugin does with a request.
#[derive(Debug)]
#[must_use = "a flow says whether the request goes on"]
pub enum Flow {
    /// Go on along the chain.
    Next,
    /// Go no further: this is the answer.
    Reply(Reply),
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
}

/// A duration as the host takes it, never shorter.
fn milliseconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
