//! The load generator: asks, counts, and looks at the clock.
//!
//! Threads share nothing but the end of the run. Each has connections of its own with one request
//! at a time on every one (over HTTP/2 many), in an edge-triggered loop that spends one send and one receive a
//! request: far less than who answers, so that one CPU of this loads several of that. Two ways to
//! pace:
//!
//! - *closed*: the next request goes out when the last is answered; shows what a request costs and
//!   how many a saturated server answers;
//! - *at a rate*: requests are due at fixed moments, and a latency counts from the moment at which
//!   its request was due, whenever a connection was free to send it. A stall thus shows in every
//!   request that it delayed, not in one (coordinated omission).
//!
//! - `target.rs`: URL and fields to the bytes of a request · `engine.rs`: one thread's event loop ·
//!   `http2.rs`: the same for HTTP/2 · `pace.rs`: when requests are due · `head.rs`: as much HTTP/1.1 as it takes ·
//!   `link.rs`: connections, with TLS or without · `tally.rs`: what is counted, as JSON · `table.rs`: the same for
//!   people · `sockets.rs`, `histogram.rs`.
//!
//! Not here: flags, signals and progress (`main`), a server (the benches have their own).

mod engine;
pub mod head;
mod histogram;
mod http2;
mod link;
mod pace;
mod slot;
pub mod sockets;
mod table;
mod tally;
mod target;

pub use engine::{Edge, run_here};
pub use link::{Agreed, Tls};
pub use table::table;
pub use tally::{Fault, Outcome};
pub use target::{Request, Target};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// One load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to ask.
    pub target: SocketAddr,
    /// Requests in flight at most; connections when they are kept.
    pub connections: usize,
    /// Whether each request takes a connection of its own.
    pub per_request: bool,
    /// Requests due per second; none: the next as soon as the last is answered.
    pub rate: Option<u64>,
    /// Runs before anything counts.
    pub warmup: Duration,
    /// Runs and counts, no longer than this.
    pub window: Duration,
    /// Ends sooner when so many requests have ended. Not together with a warm-up.
    pub requests: Option<u64>,
    /// A request that waits so long for the rest of its answer is given up.
    pub timeout: Duration,
    /// TLS, if it is to be spoken.
    pub tls: Option<Tls>,
    /// What is asked.
    pub request: Request,
    /// What is a good answer.
    pub expected: Expected,
    /// What follows on a connection when its first request was answered with 101.
    pub tunnel: Option<Tunnel>,
}

/// Which complete answers are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A status from 200 to 399.
    Success,
    /// 200 with a body of this length, on a connection that is there: what a kept connection loses
    /// between two requests is a fault too, and not asked again.
    Exactly(u64),
}

/// Messages on a connection that is no longer HTTP.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// What is sent each time.
    pub message: Arc<[u8]>,
    /// Length of what comes back.
    pub reply_bytes: u64,
}

/// The part of one thread among several in a load.
#[derive(Clone, Copy, Debug)]
struct Share {
    index: u64,
    of: u64,
}

/// What a running load shows, and how it is told to end.
#[derive(Debug, Default)]
pub struct Live {
    /// Ends the load soon; what was counted stays.
    pub stop: AtomicBool,
    /// Requests that have ended in the window.
    ended: AtomicU64,
    /// Those of them that went wrong.
    failed: AtomicU64,
}

impl Live {
    /// Requests that have ended so far, and how many of them went wrong.
    pub fn counts(&self) -> (u64, u64) {
        (self.ended.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Runs one load to its end, on so many threads of its own; no more than there are connections.
pub fn run(plan: &Plan, threads: usize, live: &Live) -> std::io::Result<Outcome> {
    let of = threads.clamp(1, plan.connections.max(1));
    std::thread::scope(|scope| {
        let mut running = Vec::with_capacity(of);
        for index in 0..of {
            let (plan, share) = plan.share(index as u64, of as u64);
            let thread = std::thread::Builder::new().name(format!("load {index}"));
            let body = move || engine::run(&plan, share, live, &mut |_| {});
            running.push(thread.spawn_scoped(scope, body)?);
        }
        let mut whole = Outcome::new();
        for thread in running {
            let part = thread.join().map_err(|_| std::io::Error::other("a thread panicked"))?;
            whole.add(&part?);
        }
        Ok(whole)
    })
}

impl Plan {
    /// The plan of one thread: its connections and requests. The rate stays whole, since due
    /// moments are dealt out one by one.
    fn share(&self, index: u64, of: u64) -> (Self, Share) {
        let part = |whole: u64| whole / of + u64::from(index < whole % of);
        let connections = part(self.connections as u64);
        let plan = Self {
            connections: usize::try_from(connections).unwrap_or(usize::MAX),
            requests: self.requests.map(part),
            ..self.clone()
        };
        (plan, Share { index, of })
    }
}

#[cfg(test)]
mod tests;
