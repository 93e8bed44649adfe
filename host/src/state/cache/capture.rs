//! A response on its way to its client and into the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::coming::{Coming, Follow};
use super::stored::{Content, Stored, copy};
use super::{Cache, Label};
use crate::http::{Fields, Name};
use crate::state::Now;

/// A response on its way to the client and into the cache. Dropping it keeps nothing.
pub struct Capture {
    cache: Arc<Cache>,
    key: Box<[u8]>,
    stored: Arc<Stored>,
    coming: Arc<Coming>,
    /// What has come of the body.
    bytes: usize,
    bytes_max: usize,
    /// What the body is said to have.
    length: usize,
    reserved: usize,
    published: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// To be kept.
    Kept,
    /// Too large to be kept; there are some who read along.
    Passing,
    /// Nobody wants it.
    GivenUp,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Cache {
    /// Begins to keep a response with these fields. `None` when its body is known to be too large.
    pub fn capture(
        self: &Arc<Self>,
        head: (u16, &Fields),
        label: Label<'_>,
        now: Now,
    ) -> Option<Capture> {
        let length = head.1.known(Name::ContentLength).next();
        let length: Option<usize> =
            length.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        let bytes_max = self.object_bytes_max.load(Ordering::Relaxed).min(label.body_bytes_max);
        if length.is_some_and(|length| length > bytes_max) {
            return None;
        }
        let coming = Arc::<Coming>::default();
        let stored = Stored {
            status: head.0,
            fields: copy(head.1, label.without),
            length: length.map(|length| length as u64),
            content: Content::Coming(Arc::clone(&coming)),
            note: label.note.into(),
            tags: label.tags.iter().map(|tag| self.groups.of(tag)).collect(),
            stored_us: now.monotonic_us,
            ends_us: now.monotonic_us.saturating_add(u64::from(label.ttl_ms) * 1000),
            doomed: AtomicBool::new(false),
        };
        Some(Capture {
            cache: Arc::clone(self),
            key: label.key.into(),
            stored: Arc::new(stored),
            coming,
            bytes: 0,
            bytes_max,
            length: length.unwrap_or(0),
            reserved: 0,
            published: false,
            state: State::Kept,
        })
    }
}

impl Capture {
    /// Lets others read along: it can be looked up from now on.
    pub fn publish(&mut self) {
        self.published = true;
        self.cache.arriving.insert(&self.key, &self.stored);
    }

    /// Reads along from the first byte; `None` when that is gone.
    pub fn follow(&self) -> Option<Follow> {
        self.stored.follow()
    }

    /// Waits until there is room for more. False when nobody wants it.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<bool> {
        match self.state {
            State::Kept => Poll::Ready(true),
            State::Passing => self.coming.poll_room(cx),
            State::GivenUp => Poll::Ready(false),
        }
    }

    /// Keeps a piece of the body, unless it becomes too much.
    pub fn write(&mut self, piece: &[u8]) {
        if piece.is_empty() || self.state == State::GivenUp {
            return;
        }
        self.bytes = self.bytes.saturating_add(piece.len());
        if self.state == State::Kept && !self.reserve(self.bytes.max(self.length)) {
            self.withdraw();
            self.state = if self.coming.pass() { State::Passing } else { State::GivenUp };
        }
        if self.state != State::GivenUp {
            self.coming.push(Bytes::copy_from_slice(piece));
        }
    }

    /// The body has arrived in whole.
    pub fn end(mut self) {
        match self.state {
            State::GivenUp => {}
            State::Passing => drop(self.coming.finish()),
            State::Kept if self.coming.finish().is_some() => self.store(),
            State::Kept => {}
        }
    }

    /// The body is this one.
    pub fn end_with(mut self, body: &Bytes) {
        if self.state != State::GivenUp && body.len() <= self.bytes_max {
            self.coming.finish_with(body);
            self.store();
        }
    }

    fn store(&mut self) {
        let heap = self.stored.heap_bytes();
        if heap <= self.cache.bytes_max.load(Ordering::Relaxed) && !self.stored.is_removed() {
            let stored = Arc::clone(&self.stored);
            drop(self.cache.store.with(&self.key, |slot| slot.set(stored, heap)));
        }
    }

    /// Takes so much of what there is for bodies on their way.
    fn reserve(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes_max {
            return false;
        }
        let more = bytes.saturating_sub(self.reserved);
        let before = self.cache.captured.fetch_add(more, Ordering::Relaxed);
        self.reserved += more;
        before + more <= self.cache.bytes_max.load(Ordering::Relaxed) / 4
    }

    /// Nobody new finds it, and it is charged no longer.
    fn withdraw(&mut self) {
        if std::mem::take(&mut self.published) {
            self.cache.arriving.remove(&self.key, &self.stored);
        }
        self.cache.captured.fetch_sub(self.reserved, Ordering::Relaxed);
        self.reserved = 0;
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.withdraw();
        self.coming.give_up();
    }
}
