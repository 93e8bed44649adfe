//! Responses kept for later.
//!
//! ```text
//!   keep ─► Capture ─ write, write, … end ─► Stored ─ lookup, serve ─► a body that is shared, not copied
//!               │  └─ published: found while it arrives, read along by others
//!               └─ dropped: cut off, too large, no room
//! ```
//!
//! What is being captured is charged as well, to a quarter of the budget of its own, so that many large
//! responses on their way cannot take more. A body that is being sent lives until that is done, whatever
//! becomes of its entry; when it is forgotten by then, it is charged to that quarter.
//!
//! Tags are groups that entries point to: to remove a group is to mark it, however many it has, and
//! what is in a marked group is not there any more. Its memory goes with the next look at it, or when
//! there is need of it. URLs are looked for in all keys, of which they are the beginning: that is for
//! operators, and reads one shard after another.
//!
//! Layout: `stored` is an entry, `capture` one on its way, `coming` its body, `charges` what bodies take outside
//! of the store, `flight` who fetches what others wait for, `removals`, `tags` and `outcome` what their names say.
//!
//! Not here: what may be stored and for how long (RFC 9111: the plugin), and how bodies move (`proxy`).

mod capture;
mod charges;
mod coming;
mod flight;
mod outcome;
mod removals;
mod stored;
mod tags;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub use capture::Capture;
use charges::{Charges, Kept};
pub use coming::{Broken, Follow};
use crossbeam::utils::CachePadded;
use flight::Flights;
pub use flight::{Fetch, Flight, Turn};
pub use outcome::Outcome;
use outcome::Tally;
use removals::Removals;
pub use stored::Stored;
use stored::{Content, describes_body, push};
use tags::Groups;

use super::store::Store;
use super::{Now, lock};
use crate::http::Fields;

/// Bytes of a key, and of a note.
pub const KEY_BYTES_MAX: usize = 4096;
/// Bytes of a note.
pub const NOTE_BYTES_MAX: usize = 4096;
/// Tags of a response,
pub const TAGS_MAX: usize = 32;
/// and bytes of each.
pub const TAG_BYTES_MAX: usize = 256;

/// Of so many that were not used for longest the largest goes: `benches/stores` says what that is worth.
const CANDIDATES: usize = 32;

/// The responses of one plugin.
pub struct Cache {
    store: Store<Kept>,
    arriving: Arriving,
    flights: Arc<Flights>,
    groups: Arc<Groups>,
    removals: Removals,
    charges: Arc<Charges>,
    tally: Tally,
    bytes_max: AtomicUsize,
    object_bytes_max: AtomicUsize,
}

/// What is on its way and can be read along. Usually little or nothing, which costs one look at a number.
#[derive(Default)]
struct Arriving {
    count: CachePadded<AtomicUsize>,
    entries: Mutex<HashMap<Box<[u8]>, Arc<Stored>>>,
}

impl Arriving {
    fn get(&self, key: &[u8]) -> Option<Arc<Stored>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        lock(&self.entries).get(key).cloned()
    }

    fn insert(&self, key: &[u8], stored: &Arc<Stored>) {
        let mut entries = lock(&self.entries);
        entries.insert(key.into(), Arc::clone(stored));
        self.count.store(entries.len(), Ordering::Release);
    }

    /// Removes `stored`, unless another one has taken its place.
    fn remove(&self, key: &[u8], stored: &Arc<Stored>) {
        let mut entries = lock(&self.entries);
        if entries.get(key).is_some_and(|known| Arc::ptr_eq(known, stored)) {
            entries.remove(key);
        }
        self.count.store(entries.len(), Ordering::Release);
    }

    /// Those who read along get it to its end, but it is not kept and nobody else finds it.
    fn doom(&self, condemned: impl Fn(&[u8]) -> bool) -> usize {
        let mut entries = lock(&self.entries);
        let before = entries.len();
        entries.retain(|key, stored| {
            let goes = condemned(key);
            if goes {
                stored.doomed.store(true, Ordering::Release);
            }
            !goes
        });
        self.count.store(entries.len(), Ordering::Release);
        before - entries.len()
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            store: Store::new(CANDIDATES),
            arriving: Arriving::default(),
            flights: Arc::default(),
            groups: Arc::default(),
            removals: Removals::default(),
            charges: Arc::default(),
            tally: Tally::default(),
            bytes_max: AtomicUsize::new(0),
            object_bytes_max: AtomicUsize::new(0),
        }
    }
}

impl Cache {
    /// Memory for all of them, and for the body of one, from now on.
    pub fn limit(&self, bytes_max: usize, object_bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.object_bytes_max.store(object_bytes_max, Ordering::Relaxed);
        self.store.limit(bytes_max);
    }

    /// Entries and bytes, those of bodies on their way or on their way out among them.
    pub fn usage(&self) -> (usize, usize) {
        let (entries, bytes) = self.store.usage();
        (entries, bytes + self.charges.outside())
    }

    /// Of the budget, what bodies outside of the store may have.
    fn outside_max(&self) -> usize {
        self.bytes_max.load(Ordering::Relaxed) / 4
    }

    /// When an exchange that looks here now has begun, for [`Label::since`].
    pub fn begun() -> u64 {
        removals::now()
    }

    /// What is stored under `key`, or on its way there.
    pub fn lookup(&self, key: &[u8], now: Now) -> Option<Arc<Stored>> {
        if let Some(stored) = self.arriving.get(key)
            && stored.is_there(now)
        {
            return Some(stored);
        }
        let (found, gone) = self.store.with(key, |slot| match slot.get() {
            Some(kept) if kept.stored().is_there(now) => (Some(Arc::clone(kept.stored())), None),
            Some(_) => (None, slot.remove()),
            None => (None, None),
        });
        drop(gone);
        found
    }

    /// Keeps a note alone, in place of what is there.
    pub fn mark(&self, key: &[u8], note: &[u8], ttl_ms: u32, now: Now) {
        let ends_us = now.monotonic_us.saturating_add(u64::from(ttl_ms) * 1000);
        let stored = Arc::new(Stored::note(&self.charges, note, now.monotonic_us, ends_us));
        let heap = stored.heap_bytes();
        drop(self.store.with(key, |slot| slot.set(Kept::new(stored), heap)));
    }

    /// Takes the fields of a response over that says that `old`, which is stored under `key`, is still
    /// good (RFC 9111 §4.3.4). What it is then, and whether it is stored: it may have been forgotten or
    /// removed in the meantime. `None` while its body is on its way.
    pub fn refresh(
        &self,
        key: &[u8],
        old: &Arc<Stored>,
        fields: &Fields,
        (note, ttl_ms): (&[u8], u32),
        now: Now,
    ) -> Option<(Arc<Stored>, bool)> {
        let body = old.body()?;
        let mut merged = Fields::default();
        let replaces = |name: &[u8]| {
            fields.iter().any(|(new, _)| new.eq_ignore_ascii_case(name)) && !describes_body(name)
        };
        for (name, value) in old.fields.iter().filter(|(name, _)| !replaces(name)) {
            push(&mut merged, name, value);
        }
        // A cookie is for the client that the server was asked for, and this is for all.
        let is_shared =
            |name: &[u8]| !describes_body(name) && !name.eq_ignore_ascii_case(b"set-cookie");
        for (name, value) in fields.iter().filter(|(name, _)| is_shared(name)) {
            push(&mut merged, name, value);
        }
        let new = Arc::new(Stored {
            status: old.status,
            fields: merged,
            length: old.length,
            content: Content::Whole(body.clone()),
            note: note.into(),
            tags: old.tags.clone(),
            stored_us: now.monotonic_us,
            ends_us: now.monotonic_us.saturating_add(u64::from(ttl_ms) * 1000),
            doomed: AtomicBool::new(false),
            charges: Arc::clone(&self.charges),
        });
        let heap = new.heap_bytes();
        let (there, gone) = self.store.with(key, |slot| match slot.get() {
            Some(kept) if Arc::ptr_eq(kept.stored(), old) => {
                (true, slot.set(Kept::new(Arc::clone(&new)), heap))
            }
            // Somebody was faster, and no older.
            Some(_) => (true, None),
            None => (false, None),
        });
        drop(gone);
        Some((new, there))
    }

    /// Forgets what is stored under `key`, and does not keep what is on its way to its URL. Whether there was
    /// something.
    pub fn remove(&self, key: &[u8], now: Now) -> bool {
        // First, so that what is stored in between is found and removed.
        self.removals.note(removals::url(key));
        let arriving = self.arriving.doom(|other| removals::url(other) == removals::url(key)) > 0;
        let stored = self.store.with(key, |slot| slot.remove());
        stored.is_some_and(|kept| kept.stored().is_there(now)) || arriving
    }

    /// The same for every key that `condemned` says yes to. How many there were.
    pub fn remove_if(&self, condemned: impl Fn(&[u8]) -> bool) -> usize {
        self.removals.note_all();
        self.arriving.doom(&condemned) + self.store.remove_if(&condemned)
    }

    /// Forgets everything that was stored with `tag`. How much that was.
    pub fn remove_tagged(&self, tag: &str) -> usize {
        self.removals.note(tag.as_bytes());
        self.groups.remove(tag)
    }

    /// Whose turn it is to fetch what belongs under `key`.
    pub fn claim(&self, key: &[u8]) -> Turn {
        self.flights.claim(key)
    }

    /// Counts what became of a request.
    pub fn count(&self, outcome: Outcome) {
        self.tally.count(outcome);
    }

    /// What became of the requests so far.
    pub fn outcomes(&self) -> [(Outcome, u64); Outcome::ALL.len()] {
        self.tally.read()
    }
}

/// Under what a response is kept, with what, and for how long.
#[derive(Clone, Copy)]
pub struct Label<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// What the plugin wants to remember.
    pub note: &'a [u8],
    /// How long.
    pub ttl_ms: u32,
    /// Names to remove it by.
    pub tags: &'a [String],
    /// The largest body, if less than any may have.
    pub body_bytes_max: usize,
    /// Names of fields to leave out.
    pub without: &'a [String],
    /// When who fetched it had begun: of what was removed since, nothing is kept.
    pub since: u64,
}

#[cfg(test)]
mod tests;
