//! One stored response.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::charges::Charges;
use super::coming::{Coming, Follow};
use super::tags::Group;
use crate::http::{Fields, Name};
use crate::state::Now;
use crate::state::table::heap_bytes;

/// What an entry takes besides what it holds: counts, lengths, a place in each of its groups.
const ENTRY_BYTES: usize = 256;

/// A stored response.
pub struct Stored {
    /// Its status; 0 when it is a note alone.
    pub status: u16,
    /// Its fields, without those that frame a message.
    pub fields: Fields,
    /// What the plugin wants to remember of it.
    pub note: Box<[u8]>,
    /// What its body is said to have.
    pub(super) length: Option<u64>,
    pub(super) content: Content,
    pub(super) tags: Box<[Arc<Group>]>,
    pub(super) stored_us: u64,
    pub(super) ends_us: u64,
    /// It was removed while it was on its way.
    pub(super) doomed: AtomicBool,
    pub(super) charges: Arc<Charges>,
}

/// A body.
#[derive(Clone)]
pub(super) enum Content {
    Whole(Bytes),
    Coming(Arc<Coming>),
}

impl Stored {
    /// A note alone.
    pub(super) fn note(charges: &Arc<Charges>, note: &[u8], stored_us: u64, ends_us: u64) -> Self {
        Self {
            status: 0,
            fields: Fields::default(),
            note: note.into(),
            length: None,
            content: Content::Whole(Bytes::new()),
            tags: Box::default(),
            stored_us,
            ends_us,
            doomed: AtomicBool::new(false),
            charges: Arc::clone(charges),
        }
    }

    /// Its whole body; `None` while that is on its way.
    pub fn body(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Whole(body) => Some(body),
            Content::Coming(coming) => coming.whole(),
        }
    }

    /// Reads its body along, while that is on its way; `None` when its beginning is gone.
    pub fn follow(&self) -> Option<Follow> {
        match &self.content {
            Content::Coming(coming) => coming.follow(self.length),
            Content::Whole(_) => None,
        }
    }

    /// Since it was stored or refreshed, in milliseconds.
    pub fn age_ms(&self, now: Now) -> u64 {
        now.monotonic_us.saturating_sub(self.stored_us) / 1000
    }

    /// Until it is forgotten, in milliseconds.
    pub fn ttl_ms(&self, now: Now) -> u64 {
        self.ends_us.saturating_sub(now.monotonic_us) / 1000
    }

    pub(super) fn is_there(&self, now: Now) -> bool {
        now.monotonic_us < self.ends_us && !self.is_removed()
    }

    pub(super) fn is_removed(&self) -> bool {
        self.doomed.load(Ordering::Acquire) || self.tags.iter().any(|group| group.is_removed())
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|group| heap_bytes(group.name.len())).sum();
        // Bytes and their index, each in a vector that has grown by doubling.
        let fields = 2 * (self.fields.written_len() + 32 * self.fields.len());
        let held = [fields, self.body().map_or(0, Bytes::len), self.note.len()];
        ENTRY_BYTES + tags + held.map(heap_bytes).iter().sum::<usize>()
    }
}

/// The fields that a stored response has.
pub(super) fn copy(fields: &Fields, without: &[String]) -> Fields {
    let mut kept = Fields::default();
    for (name, value) in fields.iter() {
        if !without.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes())) {
            push(&mut kept, name, value);
        }
    }
    kept
}

pub(super) fn push(fields: &mut Fields, name: &[u8], value: &[u8]) {
    if let (false, Ok(name)) = (Name::of(name).is_framing(), std::str::from_utf8(name)) {
        fields.push(name, value);
    }
}

/// Fields about the body that is stored, which a response without one cannot change (RFC 9111 §3.2):
/// whoever sends them for another body would make the stored one unreadable.
pub(super) fn describes_body(name: &[u8]) -> bool {
    let known = [
        &b"content-encoding"[..],
        b"content-length",
        b"content-range",
        b"content-md5",
        b"content-digest",
        b"etag",
    ];
    known.iter().any(|known| known.eq_ignore_ascii_case(name))
}
