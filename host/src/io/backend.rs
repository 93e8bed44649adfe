//! How a worker talks to the kernel: readiness by epoll, or operations by io_uring.
//!
//! io_uring is never required. Containers often forbid it, old kernels do not have what is used of it,
//! and a user may lock only so much memory; `auto` takes epoll then and says why.
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

/// The oldest Linux on which this gateway is tested with io_uring, and measured. On 6.12, in an emulated machine,
/// the second request on a connection was not answered (`tests/idle/run`); nobody has looked at those between.
const TESTED_SINCE: (u32, u32) = (6, 18);

/// Chooses. With epoll comes the reason why it is not io_uring, unless epoll was asked for. `auto` takes
/// io_uring only where it is known to work.
///
/// # Errors
///
/// io_uring was asked for and cannot be had.
pub fn choose(wanted: Io) -> io::Result<(Backend, Option<io::Error>)> {
    if wanted == Io::Epoll {
        return Ok((Backend::Epoll, None));
    }
    let known = || if wanted == Io::Auto { is_tested(&kernel()) } else { Ok(()) };
    match ring::probe().and_then(|()| known()) {
        Ok(()) => Ok((Backend::Uring, None)),
        Err(error) if wanted == Io::Auto => Ok((Backend::Epoll, Some(error))),
        Err(error) => Err(error),
    }
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}

/// Whether a release such as `6.12.57+deb13-amd64` is one of those that are tested.
fn is_tested(release: &str) -> io::Result<()> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut next = || numbers.next()?.parse::<u32>().ok();
    if let (Some(major), Some(minor)) = (next(), next())
        && (major, minor) >= TESTED_SINCE
    {
        return Ok(());
    }
    let (major, minor) = TESTED_SINCE;
    let release = release.trim();
    Err(io::Error::other(format!(
        "Linux {release} is older than {major}.{minor}, since which it is tested"
    )))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_io_uring_on_kernels_that_are_known() {
        for known in ["6.18.44-fc-v509\n", "6.18.0", "6.19-rc1", "7.0.1", "10.2"] {
            assert!(is_tested(known).is_ok(), "{known}");
        }
        for other in ["6.12.57+deb13-amd64\n", "6.17.9", "5.19", "6", "", "six.18"] {
            assert!(is_tested(other).is_err(), "{other}");
        }
    }
}
