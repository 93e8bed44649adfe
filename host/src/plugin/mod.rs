//! Plugins: from a `.wasm` file to hooks that are called for each request.
//!
//! A plugin's life:
//!
//! 1. **load** ([`PluginEngine::load`], control thread): check, compile, link; a bad component is
//!    refused in words (`load`).
//! 2. **probe** ([`Plugin::probe`], control thread): one instance is made with the configuration, so
//!    that what `init` refuses is refused before any worker hears of it.
//! 3. **serve** ([`Instances::chain`], each worker): one warm instance per worker, plugin and
//!    configuration, made when the worker takes a snapshot, called inline for each request
//!    (`chain`, `instance`, `live`), for parts of its body (`body`) and once a second.
//! 4. **fail**: a trap, a time-out or the memory cap costs the request that met it; the instance is
//!    thrown away and the next request gets a new one (`instance`).
//! 5. **swap**: a new generation is another [`Plugin`]; workers make chains of it at a request
//!    boundary, and the last chain of the old generation takes its instances along.
//!
//! What a plugin may call is `host`, one file per WIT interface. What everything works on is the
//! [`Exchange`]. Native middleware ([`Middleware`]) stands in the same chains.
//!
//! Not here: reading files and watching folders (`control`), HTTP (`proxy`, `http`).

pub mod body;
pub mod cache;
pub mod callout;
pub mod chain;
pub mod engine;
pub mod exchange;
pub mod failure;
pub mod instance;
pub mod load;
pub mod message;
pub mod middleware;
mod remote;
pub mod stats;
mod backoff;
mod backtrace;
mod broken;
pub mod built_in;
mod declared;
mod exports;
mod host;
mod imports;
mod live;
mod native;
mod repeat;
mod settle;
mod shape;

pub use body::{BodyFilter, BodyStop, ChunkFlow, Halt, Wish};
pub use broken::{Change, Listener};
pub use cache::CodeCache;
pub use chain::{
    Broken, Chain, ChainError, ChainPlan, HookFailure, Instances, LinkPlan, NativeFactory, Passed,
    PlanSource, Ticking,
};
pub use engine::PluginEngine;
pub use exchange::{Exchange, Flow, RouteParams, Summary};
pub use exports::Hooks;
pub use failure::FailureKind;
pub use instance::{Hook, Warm};
pub use load::{Complaint, LoadError, Plugin, digest_of, joined};
pub use message::{MessageFlow, MessagePassed, Peer, SocketMessage};
pub use middleware::Middleware;
pub use native::make_native;
pub use remote::Target;
pub use stats::{DURATION_BOUNDS_NS, HookStats, Outcome, PluginStats};

#[cfg(test)]
pub(crate) mod tests;
