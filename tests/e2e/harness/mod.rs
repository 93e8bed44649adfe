//! What the tests are written with: the built gateway, scripted upstreams, and raw connections.
//!
//! - [`Gateway`] starts the binary with a config and kills it in the end,
//! - [`Upstream`] accepts connections and does on each what a closure says,
//! - [`Wire`] is a connection that sends any bytes and reads messages with a strict parser of its
//!   own, so that the gateway's parser is never its own judge.
//!
//! Everything blocks, with [`DEADLINE`] on each wait: a test ends by what happened, or fails by
//! the deadline. A sleep stands where time itself is under test, never in the hope that something
//! has happened.
//!
//! Not here: anything of the product. The suite sees it only from outside.

mod admin;
mod gateway;
mod guests;
pub mod http2;
mod message;
pub mod redis;
pub mod tls;
pub mod tools;
pub mod websocket;
mod upstream;
mod wire;

pub use gateway::{
    Gateway, Launch, Run, binary, connect, run, run_without_io_uring, spawn, try_connect,
};
pub use guests::{JWT_SAMPLE, guest, plugins_dir, version};
pub use message::{Body, Message};
pub use upstream::{Connection, Upstream, full_backlog};
pub use wire::{Wire, WireError};

use std::time::{Duration, Instant};

/// Longest wait for anything. Far more than anything takes, on a machine busy with other things.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The longest wait for what takes as long as the machine is slow: as often [`DEADLINE`] as
/// `ZPROXY_E2E_PATIENCE` says.
pub fn patience() -> Duration {
    let times = std::env::var("ZPROXY_E2E_PATIENCE").ok().and_then(|times| times.parse().ok());
    DEADLINE * times.unwrap_or(1)
}

/// Asks `ready` again and again until it answers with something.
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < patience(), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
