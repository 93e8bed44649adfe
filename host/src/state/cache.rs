//! Responses kept for later.
//!
//! ```text
//!   store ─► Capture ─ write, write, … end ─► Stored ─ lookup, serve ─► a body that is shared, not copied
//!               └─ dropped: cut off, too large, no room
//! ```
//!
//! What is being captured is charged as well, to a quarter of the budget of its own, so that many large
//! responses on their way cannot take more. A body that is being sent lives until that is done, whatever
//! becomes of its entry.
//!
//! Tags are groups that entries point to: to remove a group is to mark it, however many it has, and
//! what is in a marked group is not there any more. Its memory goes with the next look at it, or when
//! there is need of it.
//!
//! Not here: what may be stored and for how long (RFC 9111: the plugin), and how bodies move (`proxy`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use super::store::Store;
use super::table::heap_bytes;
use super::{Now, lock};
use crate::http::{Fields, Name};

/// Bytes of a key, and of a note.
pub const KEY_BYTES_MAX: usize = 4096;
/// Bytes of a note.
pub const NOTE_BYTES_MAX: usize = 4096;
/// Tags of a response,
pub const TAGS_MAX: usize = 32;
/// and bytes of each.
pub const TAG_BYTES_MAX: usize = 256;

/// What an entry takes besides what it holds: counts, lengths, a place in each of its groups.
const ENTRY_BYTES: usize = 256;

/// A stored response.
pub struct Stored {
    /// Its status.
    pub status: u16,
    /// Its fields, without those that frame a message.
    pub fields: Fields,
    /// Its whole body.
    pub body: Bytes,
    /// What the plugin wants to remember of it.
    pub note: Box<[u8]>,
    tags: Box<[Arc<Group>]>,
    stored_us: u64,
    ends_us: u64,
}

impl Stored {
    /// Since it was stored or refreshed, in milliseconds.
    pub fn age_ms(&self, now: Now) -> u64 {
        now.monotonic_us.saturating_sub(self.stored_us) / 1000
    }

    /// Until it is forgotten, in milliseconds.
    pub fn ttl_ms(&self, now: Now) -> u64 {
        self.ends_us.saturating_sub(now.monotonic_us) / 1000
    }

    fn is_there(&self, now: Now) -> bool {
        now.monotonic_us < self.ends_us
            && !self.tags.iter().any(|group| group.removed.load(Ordering::Acquire))
    }

    fn heap_bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|group| heap_bytes(group.name.len())).sum();
        // Bytes and their index, each in a vector that has grown by doubling.
        let fields = 2 * (self.fields.written_len() + 32 * self.fields.len());
        let held = [fields, self.body.len(), self.note.len()];
        ENTRY_BYTES + tags + held.map(heap_bytes).iter().sum::<usize>()
    }
}

/// What was stored with one tag.
struct Group {
    name: Box<str>,
    removed: AtomicBool,
    groups: Arc<Groups>,
}

/// Groups by tag; each goes with the last that is in it.
#[derive(Default)]
struct Groups(Mutex<HashMap<Box<str>, Weak<Group>>>);

impl Groups {
    fn of(self: &Arc<Self>, tag: &str) -> Arc<Group> {
        let mut groups = lock(&self.0);
        if let Some(group) = groups.get(tag).and_then(Weak::upgrade) {
            return group;
        }
        let removed = AtomicBool::new(false);
        let group = Arc::new(Group { name: tag.into(), removed, groups: Arc::clone(self) });
        groups.insert(tag.into(), Arc::downgrade(&group));
        group
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut groups = lock(&self.groups.0);
        // Another one may have taken the name.
        if groups.get(&self.name).is_some_and(|group| group.strong_count() == 0) {
            groups.remove(&self.name);
        }
    }
}

/// The responses of one plugin.
#[derive(Default)]
pub struct Cache {
    store: Store<Arc<Stored>>,
    groups: Arc<Groups>,
    bytes_max: AtomicUsize,
    object_bytes_max: AtomicUsize,
    /// Of bodies on their way.
    captured: AtomicUsize,
}

impl Cache {
    /// Memory for all of them, and for the body of one, from now on.
    pub fn limit(&self, bytes_max: usize, object_bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.object_bytes_max.store(object_bytes_max, Ordering::Relaxed);
        self.store.limit(bytes_max);
    }

    /// Entries and bytes, those of bodies on their way among them.
    pub fn usage(&self) -> (usize, usize) {
        let (entries, bytes) = self.store.usage();
        (entries, bytes + self.captured.load(Ordering::Relaxed))
    }

    /// What is stored under `key`.
    pub fn lookup(&self, key: &[u8], now: Now) -> Option<Arc<Stored>> {
        let (found, gone) = self.store.with(key, |slot| match slot.get() {
            Some(stored) if stored.is_there(now) => (Some(Arc::clone(stored)), None),
            Some(_) => (None, slot.remove()),
            None => (None, None),
        });
        drop(gone);
        found
    }

    /// Begins to keep a response with these fields. `None` when its body is known to be too large.
    pub fn capture(
        self: &Arc<Self>,
        head: (u16, &Fields),
        label: Label<'_>,
        now: Now,
    ) -> Option<Capture> {
        let length = head.1.known(Name::ContentLength).next();
        let length = length.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        if length
            .is_some_and(|length: usize| length > self.object_bytes_max.load(Ordering::Relaxed))
        {
            return None;
        }
        Some(Capture {
            cache: Arc::clone(self),
            key: label.key.into(),
            stored: Stored {
                status: head.0,
                fields: copy(head.1),
                body: Bytes::new(),
                note: label.note.into(),
                tags: label.tags.iter().map(|tag| self.groups.of(tag)).collect(),
                stored_us: now.monotonic_us,
                ends_us: now.monotonic_us.saturating_add(u64::from(label.ttl_ms) * 1000),
            },
            body: Vec::new(),
            length: length.unwrap_or(0),
            reserved: 0,
            given_up: false,
        })
    }

    /// Takes the fields of a response that says that what is stored is still good (RFC 9111 §4.3.4) over.
    /// Whether there is such a thing.
    pub fn refresh(&self, key: &[u8], fields: &Fields, note: &[u8], ttl_ms: u32, now: Now) -> bool {
        let Some(old) = self.lookup(key, now) else { return false };
        let mut merged = Fields::default();
        let replaces = |name: &[u8]| {
            fields.iter().any(|(new, _)| new.eq_ignore_ascii_case(name)) && !describes_body(name)
        };
        for (name, value) in old.fields.iter().filter(|(name, _)| !replaces(name)) {
            push(&mut merged, name, value);
        }
        for (name, value) in fields.iter().filter(|(name, _)| !describes_body(name)) {
            push(&mut merged, name, value);
        }
        let new = Arc::new(Stored {
            status: old.status,
            fields: merged,
            body: old.body.clone(),
            note: note.into(),
            tags: old.tags.clone(),
            stored_us: now.monotonic_us,
            ends_us: now.monotonic_us.saturating_add(u64::from(ttl_ms) * 1000),
        });
        let heap = new.heap_bytes();
        let (done, gone) = self.store.with(key, |slot| match slot.get() {
            Some(stored) if Arc::ptr_eq(stored, &old) => (true, slot.set(new, heap)),
            // Somebody was faster, and no older.
            Some(_) => (true, None),
            None => (false, None),
        });
        drop(gone);
        done
    }

    /// Forgets what is stored under `key`. Whether there was something.
    pub fn remove(&self, key: &[u8], now: Now) -> bool {
        self.store.with(key, |slot| slot.remove()).is_some_and(|stored| stored.is_there(now))
    }

    /// Forgets everything that was stored with `tag`. How much that was.
    pub fn remove_tagged(&self, tag: &str) -> usize {
        let group = lock(&self.groups.0).remove(tag).and_then(|group| group.upgrade());
        let Some(group) = group else { return 0 };
        group.removed.store(true, Ordering::Release);
        Arc::strong_count(&group) - 1
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
}

/// A response on its way to the client and into the cache. Dropping it keeps nothing.
pub struct Capture {
    cache: Arc<Cache>,
    key: Box<[u8]>,
    stored: Stored,
    body: Vec<u8>,
    /// What the body is said to have.
    length: usize,
    reserved: usize,
    given_up: bool,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

impl Capture {
    /// Keeps a piece of the body, unless it becomes too much.
    pub fn write(&mut self, piece: &[u8]) {
        let wanted = self.body.len() + piece.len();
        if self.given_up || !self.reserve(wanted.max(self.length)) {
            self.give_up();
            return;
        }
        if self.body.capacity() == 0 {
            self.body.reserve_exact(self.length.max(piece.len()));
        }
        self.body.extend_from_slice(piece);
    }

    /// The body has arrived in whole.
    pub fn end(mut self) {
        let body = std::mem::take(&mut self.body);
        self.end_with(Bytes::from(body.into_boxed_slice()));
    }

    /// The body is this one.
    pub fn end_with(mut self, body: Bytes) {
        let max = self.cache.object_bytes_max.load(Ordering::Relaxed);
        if self.given_up || body.len() > max {
            return;
        }
        let empty = Stored {
            status: 0,
            fields: Fields::default(),
            body: Bytes::new(),
            note: Box::default(),
            tags: Box::default(),
            stored_us: 0,
            ends_us: 0,
        };
        let mut stored = std::mem::replace(&mut self.stored, empty);
        stored.body = body;
        let heap = stored.heap_bytes();
        if heap > self.cache.bytes_max.load(Ordering::Relaxed) {
            return;
        }
        let stored = Arc::new(stored);
        drop(self.cache.store.with(&self.key, |slot| slot.set(stored, heap)));
    }

    /// Takes so much of what there is for bodies on their way.
    fn reserve(&mut self, bytes: usize) -> bool {
        if bytes > self.cache.object_bytes_max.load(Ordering::Relaxed) {
            return false;
        }
        // A vector grows by doubling.
        let bytes = if bytes <= self.length { bytes } else { bytes.next_power_of_two() };
        let more = bytes.saturating_sub(self.reserved);
        let before = self.cache.captured.fetch_add(more, Ordering::Relaxed);
        self.reserved += more;
        before + more <= self.cache.bytes_max.load(Ordering::Relaxed) / 4
    }

    fn give_up(&mut self) {
        self.given_up = true;
        self.body = Vec::new();
        self.cache.captured.fetch_sub(self.reserved, Ordering::Relaxed);
        self.reserved = 0;
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The fields that a stored response has.
fn copy(fields: &Fields) -> Fields {
    let mut kept = Fields::default();
    for (name, value) in fields.iter() {
        push(&mut kept, name, value);
    }
    kept
}

fn push(fields: &mut Fields, name: &[u8], value: &[u8]) {
    if let (false, Ok(name)) = (Name::of(name).is_framing(), std::str::from_utf8(name)) {
        fields.push(name, value);
    }
}

/// Fields about the body that is stored, which a 304 without one cannot change (RFC 9111 §3.2).
fn describes_body(name: &[u8]) -> bool {
    let known = [&b"content-encoding"[..], b"content-length", b"content-range"];
    known.iter().any(|known| known.eq_ignore_ascii_case(name))
}
