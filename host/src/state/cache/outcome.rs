//! What became of the requests that a cache was asked about.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with what is stored and fresh.
    Hit,
    /// Answered with what another request was just fetching.
    Collapsed,
    /// Answered with what is stored and no longer fresh.
    Stale,
    /// Answered with what is stored, after the upstream had said that it is still good.
    Revalidated,
    /// What was stored was no longer good.
    Expired,
    /// Nothing was stored that fits.
    Miss,
    /// Not the cache's business.
    Bypass,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Hit,
        Self::Collapsed,
        Self::Stale,
        Self::Revalidated,
        Self::Expired,
        Self::Miss,
        Self::Bypass,
    ];

    /// As metrics and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Collapsed => "collapsed",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Expired => "expired",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// Lanes of a tally. Workers beyond that share.
const LANES: usize = 16;

/// Counts by outcome, in lanes, so that workers do not write to the same memory.
#[derive(Default)]
pub(super) struct Tally([CachePadded<[AtomicU64; Outcome::ALL.len()]>; LANES]);

thread_local! {
    static LANE: Cell<Option<usize>> = const { Cell::new(None) };
}

fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    LANE.get().unwrap_or_else(|| {
        let lane = NEXT.fetch_add(1, Ordering::Relaxed) % LANES;
        LANE.set(Some(lane));
        lane
    })
}

impl Tally {
    pub(super) fn count(&self, outcome: Outcome) {
        self.0[lane()][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> [(Outcome, u64); Outcome::ALL.len()] {
        Outcome::ALL.map(|outcome| {
            let lanes = self.0.iter().map(|lane| lane[outcome as usize].load(Ordering::Relaxed));
            (outcome, lanes.sum())
        })
    }
}
