//! How a worker talks to the kernel: readiness by epoll, or operations by io_uring.
//!
//! io_uring is never required. Containers often forbid it, old kernels do not have what is used of it, some lose
//! wake-ups, and a user may lock only so much memory; `auto` takes epoll then and says why.
//!
//! Not here: what either does (`stream`, `ring`).

use std::fmt;
use std::io;

use super::ring;
use crate::config::Io;

/// What a worker talks to the kernel with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Readiness by epoll.
    Epoll,
    /// Operations by io_uring.
    Uring,
}

/// What a ring has in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounts {
    /// Sockets that somebody has.
    pub sockets: usize,
    /// Operations that have not ended.
    pub operations: usize,
    /// Buffers with bytes that nobody has taken yet.
    pub buffers: usize,
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Epoll => "epoll",
            Self::Uring => "uring",
        })
    }
}

/// Chooses. With epoll comes the reason why it is not io_uring, unless epoll was asked for.
///
/// # Errors
///
/// io_uring was asked for and cannot be had.
pub fn choose(wanted: Io) -> io::Result<(Backend, Option<io::Error>)> {
    if wanted == Io::Epoll {
        return Ok((Backend::Epoll, None));
    }
    match ring::probe() {
        Ok(()) => Ok((Backend::Uring, None)),
        Err(error) if wanted == Io::Auto => Ok((Backend::Epoll, Some(error))),
        Err(error) => Err(error),
    }
}

/// What a worker has of its back end, as long as it runs. Outlives the runtime: streams end first.
#[derive(Debug)]
pub struct Attached(Option<ring::Guard>);

impl Attached {
    /// Makes what the back end needs for the calling thread: streams are of this back end from now on.
    ///
    /// # Errors
    ///
    /// There is no memory for another ring.
    pub fn new(backend: Backend) -> io::Result<Self> {
        Ok(Self(match backend {
            Backend::Epoll => None,
            Backend::Uring => Some(ring::install()?),
        }))
    }

    /// What the thread has.
    #[must_use]
    pub fn backend(&self) -> Backend {
        if self.0.is_some() { Backend::Uring } else { Backend::Epoll }
    }

    /// Sets it going; to be called within the worker's runtime.
    pub fn start(&self) {
        if let Some(driver) = ring::current() {
            tokio::task::spawn_local(async {
                if let Err(error) = driver.drive().await {
                    log::error!(target: "io", "io_uring: {error}");
                }
            });
        }
    }
}

/// Moves time on; to be called with every [`TICK`](super::TICK).
pub fn tick() {
    if let Some(driver) = ring::current() {
        driver.tick();
    }
}

/// What the ring of the calling thread has in use, if it has one.
#[must_use]
pub fn ring_counts() -> Option<RingCounts> {
    ring::current().map(|driver| driver.counts())
}
