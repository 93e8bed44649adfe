//! Read buffers, pooled per worker.
//!
//! A buffer is taken when bytes are there and given back when they have been forwarded, so a
//! connection that waits holds none. One size: large enough that a body of 100 KiB takes one read
//! (`ARCHITECTURE.md`, "Read size"), and few enough are in use at a time that smaller classes
//! would save nothing. What must be kept over a wait is copied to its own size by
//! [`Buffer::settle`].

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// One read takes at most this much.
const BUFFER_BYTES: usize = 256 * 1024;

// A read takes at most a buffer, so every head that is allowed must end within one.
const _: () = assert!(crate::config::HEAD_BYTES_MAX < BUFFER_BYTES);

/// Free buffers kept. More are needed only while many peers are slow at once.
const FREE_MAX: usize = 16;

/// Room at both ends of a read, so that a message head, a chunk's size and its end fit around the
/// data in place. A forwarded head is a little longer than the received one, whose place it takes.
const MARGIN: usize = 512;

/// Below this, what waits is copied out and the large buffer is given back.
const SETTLE_BYTES_MAX: usize = 64 * 1024;

/// A worker's free buffers.
#[derive(Debug, Default)]
pub struct BufferPool {
    free: RefCell<Vec<Box<[u8]>>>,
}

/// Bytes that were received and not yet used up.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    pool: Option<Rc<BufferPool>>,
}

impl BufferPool {
    /// A buffer that holds `bytes`.
    pub fn filled(self: &Rc<Self>, bytes: &[u8]) -> Buffer {
        let mut buffer = self.take();
        let room = buffer.room();
        if bytes.len() > room.len() {
            return Buffer::copy_of(bytes);
        }
        room[..bytes.len()].copy_from_slice(bytes);
        buffer.add(bytes.len());
        buffer
    }

    /// An empty buffer.
    pub fn take(self: &Rc<Self>) -> Buffer {
        let free = self.free.borrow_mut().pop();
        let bytes = free.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Buffer { bytes, start: MARGIN, end: MARGIN, pool: Some(Rc::clone(self)) }
    }

    fn give_back(&self, bytes: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        if free.len() < FREE_MAX {
            free.push(bytes);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

impl Buffer {
    /// A buffer of its own size that holds a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), start: 0, end: bytes.len(), pool: None }
    }

    /// What is there.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Where the next bytes can be read into; empty when there is no room.
    pub fn room(&mut self) -> &mut [u8] {
        let limit = if self.pool.is_some() { self.bytes.len() - MARGIN } else { self.end };
        &mut self.bytes[self.end..limit.max(self.end)]
    }

    /// Takes note of `count` bytes read into [`room`](Self::room).
    pub fn add(&mut self, count: usize) {
        debug_assert!(self.end + count <= self.bytes.len(), "read into the room");
        self.end += count;
    }

    /// Uses up the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(self.start + count <= self.end, "only what is there");
        self.start = (self.start + count).min(self.end);
    }

    /// Number of bytes there.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets what follows the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
    }

    /// Makes the buffer hold `before`, then a piece of what it holds, then `after`: around the piece
    /// in place. False, and nothing changed, when there is no room.
    #[must_use]
    pub fn wrap(&mut self, piece: Range<usize>, before: &[u8], after: &[u8]) -> bool {
        let (piece_start, piece_end) = (self.start + piece.start, self.start + piece.end);
        let Some(from) = piece_start.checked_sub(before.len()) else { return false };
        let to = piece_end + after.len();
        if to > self.bytes.len() {
            return false;
        }
        self.bytes[from..piece_start].copy_from_slice(before);
        self.bytes[piece_end..to].copy_from_slice(after);
        (self.start, self.end) = (from, to);
        true
    }

    /// Makes the buffer fit to be held while its connection waits.
    pub fn settle(self) -> Self {
        if self.pool.is_some() && self.len() <= SETTLE_BYTES_MAX {
            Self::copy_of(self.filled())
        } else {
            self
        }
    }

    /// Makes room for more, keeping what is there.
    pub fn grow(self, pool: &Rc<BufferPool>) -> Self {
        if self.pool.is_some() && self.end + MARGIN < self.bytes.len() {
            return self;
        }
        let mut larger = pool.take();
        let held = self.filled();
        let room = larger.room();
        let kept = held.len().min(room.len());
        room[..kept].copy_from_slice(&held[..kept]);
        larger.add(kept);
        larger
    }
}
