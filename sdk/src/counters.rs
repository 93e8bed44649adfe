//! Counts and quotas that hold over all workers of the gateway.
//!
//! A capability: the operator writes `"allow": {"counters": true}`.
//!
//! ```
//! use std::time::Duration;
//! use zproxy_sdk::counters::{self, Quota};
//! use zproxy_sdk::{Flow, Reply, Request};
//!
//! fn on_request(request: &mut Request) -> Flow {
//!     let client = request.client_ip();
//!     let decision = counters::take(client.as_bytes(), Quota::new(60, Duration::from_secs(60)), 1);
//!     if decision.allowed { Flow::Next } else { Flow::Reply(Reply::status(429)) }
//! }
//! # let _ = on_request;
//! ```
//!
//! Keys are up to 256 bytes, more make the hook fail. When the memory that was granted is full, quotas that are
//! whole again are forgotten, which changes nothing, then keys that were used once or not for longest.

use std::time::Duration;

use crate::bindings::imports::zproxy::gateway::counters as bindings;
use crate::{host, milliseconds};

/// Adds to the count under `key` in the current window of this length, and returns the new count.
/// [`Duration::ZERO`] is one window for ever.
pub fn add(key: impl AsRef<[u8]>, delta: i64, window: Duration) -> i64 {
    host::counters::add(key.as_ref(), delta, milliseconds(window))
}

/// The count in the current window; 0 when there is none.
#[must_use]
pub fn get(key: impl AsRef<[u8]>, window: Duration) -> i64 {
    host::counters::get(key.as_ref(), milliseconds(window))
}

/// How much may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// So many
    pub count: u32,
    /// in so long,
    pub period: Duration,
    /// of these so many at once.
    pub burst: u32,
}

impl Quota {
    /// `count` in every `period`, all of them at once if need be.
    #[must_use]
    pub fn new(count: u32, period: Duration) -> Self {
        Self { count, period, burst: count }
    }

    fn given(self) -> bindings::Quota {
        let Self { count, period, burst } = self;
        bindings::Quota { count, period_ms: milliseconds(period), burst }
    }
}

/// What came of an attempt to take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it was taken. When not, nothing was.
    pub allowed: bool,
    /// What could be taken at once right after.
    pub remaining: u32,
    /// Until the same could be taken; zero when it was, [`Duration::MAX`] when it never can.
    pub retry_after: Duration,
    /// Until the full burst is there again.
    pub reset_after: Duration,
}

impl From<bindings::Decision> for Decision {
    fn from(decision: bindings::Decision) -> Self {
        let duration = |ms: u32| match ms {
            u32::MAX => Duration::MAX,
            ms => Duration::from_millis(ms.into()),
        };
        Self {
            allowed: decision.allowed,
            remaining: decision.remaining,
            retry_after: duration(decision.retry_after_ms),
            reset_after: duration(decision.reset_after_ms),
        }
    }
}

/// Takes `cost` from the quota under `key`, or nothing. Of requests that come at once on different
/// workers, no more than the quota are allowed.
#[must_use]
pub fn take(key: impl AsRef<[u8]>, quota: Quota, cost: u32) -> Decision {
    host::counters::take(key.as_ref(), quota.given(), cost).into()
}

/// One of several attempts to take something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Under this key,
    pub key: Vec<u8>,
    /// of which there is so much,
    pub quota: Quota,
    /// so much.
    pub cost: u32,
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The first of those wanted that there is not enough of.
    pub index: usize,
    /// What is to be said about it.
    pub decision: Decision,
}

/// Takes from all of these quotas, or from none. At most 64, more make the hook fail.
///
/// # Errors
/// There is not enough of one.
pub fn take_all(wanted: impl IntoIterator<Item = Wanted>) -> Result<Vec<Decision>, Shortage> {
    let wanted = wanted.into_iter().map(|Wanted { key, quota, cost }| {
        let quota = quota.given();
        bindings::Wanted { key, quota, cost }
    });
    let wanted: Vec<_> = wanted.collect();
    match host::counters::take_all(&wanted) {
        Ok(decisions) => Ok(decisions.into_iter().map(Decision::from).collect()),
        Err(shortage) => Err(Shortage {
            index: usize::try_from(shortage.index).unwrap_or(0),
            decision: shortage.decision.into(),
        }),
    }
}

/// Puts back what [`take`] has taken under the same quota, as when a second limit refuses the request.
pub fn give_back(key: impl AsRef<[u8]>, quota: Quota, cost: u32) {
    host::counters::give_back(key.as_ref(), quota.given(), cost);
}
