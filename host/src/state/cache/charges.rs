//! What bodies take besides those in the store: they are on their way, or forgotten while somebody still
//! reads them.
//!
//! ```text
//!   reserved (Coming) ─► whole: live ─┬─ in the store: stored, and charged there
//!                                     └─ forgotten, and still being sent: live, not stored
//! ```
//!
//! So who reads slowly takes nothing that nobody counts: what is outside of the store has a quarter of the
//! budget, and while that is used up nothing new is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::stored::Stored;

/// Bytes of bodies.
#[derive(Default)]
pub(super) struct Charges {
    /// Promised to those on their way.
    arriving: AtomicUsize,
    /// Of those that are whole, for as long as anybody has them,
    live: AtomicUsize,
    /// and of those among them that are in the store.
    stored: AtomicUsize,
}

impl Charges {
    /// Bytes that the store does not account for.
    pub(super) fn outside(&self) -> usize {
        let live = self.live.load(Ordering::Relaxed);
        let forgotten = live.saturating_sub(self.stored.load(Ordering::Relaxed));
        self.arriving.load(Ordering::Relaxed).saturating_add(forgotten)
    }

    /// Promises more to a body on its way, unless all of them would then have more than `max`.
    pub(super) fn reserve(&self, more: usize, max: usize) -> bool {
        self.arriving.fetch_add(more, Ordering::Relaxed);
        let fits = more == 0 || self.outside() <= max;
        if !fits {
            self.release(more);
        }
        fits
    }

    /// Takes note of bytes that are there whether there is room or not.
    pub(super) fn add(&self, bytes: usize) {
        self.arriving.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: usize) {
        self.arriving.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A whole body, charged until the last who has it is done.
    pub(super) fn body(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.live.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Body { bytes, charges: Arc::clone(self) })
    }
}

struct Body {
    bytes: Bytes,
    charges: Arc<Charges>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.charges.live.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// What the store has: a response whose body is charged there.
pub(super) struct Kept(Arc<Stored>);

impl Kept {
    pub(super) fn new(stored: Arc<Stored>) -> Self {
        stored.charges.stored.fetch_add(body_bytes(&stored), Ordering::Relaxed);
        Self(stored)
    }

    pub(super) fn stored(&self) -> &Arc<Stored> {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.charges.stored.fetch_sub(body_bytes(&self.0), Ordering::Relaxed);
    }
}

fn body_bytes(stored: &Stored) -> usize {
    stored.body().map_or(0, Bytes::len)
}
