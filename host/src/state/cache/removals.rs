//! What was removed when, so that what was fetched before is not kept after.
//!
//! A response may say what was true before somebody changed it: one that is asked for, then removed, then
//! arrives. Who fetches it need not have said so (it may know only later under which key it will keep what
//! comes), so each exchange remembers the time when it looked, and what is about to be kept is held
//! against the removals since. Time is a count of removals.
//!
//! Removals are remembered by the first line of a key, the URL, of which a response may have many
//! variants, in a table of fixed size: two URLs that share a place cost each other a response that could have
//! been kept, and nothing else.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Places, of 8 bytes each.
const PLACES: usize = 1024;

/// Of all caches: an exchange may meet several.
static REMOVALS: AtomicU64 = AtomicU64::new(0);

/// The last removals of a cache.
pub(super) struct Removals {
    places: Box<[AtomicU64]>,
    /// Of all that there was.
    all: AtomicU64,
    hasher: RandomState,
}

impl Default for Removals {
    fn default() -> Self {
        Self {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            all: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }
}

/// The removals so far.
pub(super) fn now() -> u64 {
    REMOVALS.load(Ordering::Acquire)
}

fn next() -> u64 {
    REMOVALS.fetch_add(1, Ordering::AcqRel) + 1
}

/// The first line of a key, which is the URL.
pub(super) fn url(key: &[u8]) -> &[u8] {
    key.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

impl Removals {
    fn place(&self, name: &[u8]) -> &AtomicU64 {
        &self.places[usize::from((self.hasher.hash_one(name) >> 48) as u16) % PLACES]
    }

    /// What belongs under this name (a URL, or a tag) is being removed.
    pub(super) fn note(&self, name: &[u8]) {
        self.place(name).fetch_max(next(), Ordering::AcqRel);
    }

    /// Everything is being looked through for what is to be removed.
    pub(super) fn note_all(&self) {
        self.all.fetch_max(next(), Ordering::AcqRel);
    }

    /// Whether something of that name may have been removed since.
    pub(super) fn since(&self, then: u64, name: &[u8]) -> bool {
        let last = self.place(name).load(Ordering::Acquire).max(self.all.load(Ordering::Acquire));
        last > then
    }
}
