//! What was removed when, so that what was fetched before is not kept after.
//!
//! A response may say what was true before somebody changed it: one that is asked for, then removed, then
//! arrives. Who fetches it need not have said so (it may know only later under which key it will keep what
//! comes), so each exchange remembers the time when it looked, and what is about to be kept is held
//! against the removals since. Time is a count of removals.
//!
//! Removals are remembered by the first line of a key, the URL, of which a response may have many
//! variants: the last few of each of so many digests, and of what was before those only when the last of them
//! was. So what is removed here costs nothing there, unless very much is removed at once.

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::state::lock;

/// Places: 18 KiB altogether.
const PLACES: usize = 256;

/// Removals that a place remembers one by one.
const LAST: usize = 4;

/// Of all caches: an exchange may meet several.
static REMOVALS: AtomicU64 = AtomicU64::new(0);

/// The last removals of a cache.
pub(super) struct Removals {
    places: Box<[Mutex<Place>]>,
    /// Of all that there was.
    all: AtomicU64,
    hasher: RandomState,
}

#[derive(Default)]
struct Place {
    /// Digests of names, and when they were removed last.
    last: [(u64, u64); LAST],
    /// The last of those that are forgotten.
    before: u64,
}

impl Default for Removals {
    fn default() -> Self {
        Self {
            places: (0..PLACES).map(|_| Mutex::default()).collect(),
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
    fn digest(&self, name: &[u8]) -> (u64, &Mutex<Place>) {
        let digest = self.hasher.hash_one(name);
        (digest, &self.places[usize::from((digest >> 48) as u16) % PLACES])
    }

    /// What belongs under this name (a URL, or a tag) is being removed.
    pub(super) fn note(&self, name: &[u8]) {
        let (digest, place) = self.digest(name);
        let mut place = lock(place);
        let Place { last, before } = &mut *place;
        let known = last.iter().position(|(known, _)| *known == digest);
        let oldest =
            || (1..LAST).fold(0, |old, at| if last[at].1 < last[old].1 { at } else { old });
        let at = known.unwrap_or_else(oldest);
        if known.is_none() {
            *before = last[at].1.max(*before);
        }
        last[at] = (digest, next());
    }

    /// Everything is being looked through for what is to be removed.
    pub(super) fn note_all(&self) {
        self.all.fetch_max(next(), Ordering::AcqRel);
    }

    /// Whether something of that name may have been removed since.
    pub(super) fn since(&self, then: u64, name: &[u8]) -> bool {
        let (digest, place) = self.digest(name);
        let place = lock(place);
        let known = place.last.iter().find(|(known, _)| *known == digest);
        let last = known.map_or(place.before, |(_, when)| *when);
        last.max(self.all.load(Ordering::Acquire)) > then
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One site's writes must not keep another's pages out of the cache.
    #[test]
    fn what_was_removed_is_known_and_hardly_anything_else() {
        let removals = Removals::default();
        let names = |of: &str| (0..500).map(move |n| format!("{of}{n}")).collect::<Vec<_>>();
        let then = now();

        names("gone").iter().for_each(|name| removals.note(name.as_bytes()));

        assert!(names("gone").iter().all(|name| removals.since(then, name.as_bytes())));
        let suspected =
            names("here").iter().filter(|name| removals.since(then, name.as_bytes())).count();
        assert!(suspected < 150, "{suspected}");
        assert!(!removals.since(now(), b"gone1"));
        removals.note_all();
        assert!(removals.since(then, b"here1"));
    }
}
