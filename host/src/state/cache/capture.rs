//! A response on its way to its client and into the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::charges::Kept;
use super::coming::{Coming, Follow};
use super::stored::{Content, Stored, copy};
use super::{Cache, Label, removals};
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
    /// When who fetches it had begun.
    since: u64,
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
    /// Begins to keep a response with these fields. `None` when its body is known to be too large, it was removed
    /// since it was asked for, or there is no room for more on the way.
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
        if length.is_some_and(|length| length > bytes_max)
            || self.charges.outside() > self.outside_max()
            || self.is_removed(&label)
        {
            return None;
        }
        let coming = Arc::new(Coming::new(Arc::clone(&self.charges)));
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
            charges: Arc::clone(&self.charges),
        };
        Some(Capture {
            cache: Arc::clone(self),
            key: label.key.into(),
            stored: Arc::new(stored),
            coming,
            bytes: 0,
            bytes_max,
            length: length.unwrap_or(0),
            since: label.since,
            published: false,
            state: State::Kept,
        })
    }

    fn is_removed(&self, label: &Label<'_>) -> bool {
        let url = removals::url(label.key);
        let mut names = label.tags.iter().map(|tag| tag.as_bytes()).chain([url]);
        names.any(|name| self.removals.since(label.since, name))
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

    /// Whether some who read along wait for others that are slower.
    pub fn is_held_up(&self) -> bool {
        self.state == State::Passing && self.coming.is_held_up()
    }

    /// Gives those up for whom others wait.
    pub fn leave_slowest(&self) {
        self.coming.leave_slowest();
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
        let wanted = self.bytes.max(self.length);
        let fits = wanted <= self.bytes_max;
        if self.state == State::Kept
            && !(fits && self.coming.reserve(wanted, self.cache.outside_max()))
        {
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
        if heap > self.cache.bytes_max.load(Ordering::Relaxed) {
            return;
        }
        let kept = Kept::new(Arc::clone(&self.stored));
        let old = self.cache.store.with(&self.key, |slot| {
            // With the key locked: whoever removes it from now on finds it.
            let url = removals::url(&self.key);
            match self.stored.is_removed() || self.cache.removals.since(self.since, url) {
                true => Some(kept),
                false => slot.set(kept, heap),
            }
        });
        drop(old);
    }

    /// Nobody new finds it.
    fn withdraw(&mut self) {
        if std::mem::take(&mut self.published) {
            self.cache.arriving.remove(&self.key, &self.stored);
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.withdraw();
        self.coming.give_up();
    }
}
