//! Read buffers, pooled per worker and by size.
//!
//! A buffer is taken when bytes are there and given back when they have been forwarded, so a
//! connection that waits for bytes holds none. What must be kept over a wait is copied to the
//! smallest size that holds it by [`Buffer::settle`].
//!
//! ```text
//!   reads ── 256 KiB ──┐                       ┌─► written: back to the pool
//!         (16 KiB when │──► bytes ─► forward ──┤
//!          much waits) ┘                       └─► waits:   4, 16, 64 or 256 KiB, as it takes
//! ```
//!
//! Reads take the largest size, so that a body of 100 KiB takes one read (`ARCHITECTURE.md`, "Read
//! size"). While [`LENT_BYTES_MAX`] of a worker's buffers wait for slow receivers, reads take
//! [`CROWDED_READ_BYTES`], and so a further slow receiver holds no more than that.
//!
//! Free buffers that nobody has needed for a while go back to the system ([`BufferPool::trim`]).

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use super::FreeList;

/// Sizes of buffers; one read takes at most the largest.
const SIZES: [usize; 4] = [4 * 1024, 16 * 1024, 64 * 1024, 256 * 1024];

const LARGEST: usize = SIZES[SIZES.len() - 1];

// A read takes at most a buffer, so every head that is allowed must end within one.
const _: () = assert!(crate::config::HEAD_BYTES_MAX + 2 * MARGIN < LARGEST);

/// So much may wait in buffers before reads become short: what 64 slow receivers of large bodies
/// hold, and far more than fast ones ever do.
const LENT_BYTES_MAX: usize = 64 * LARGEST;

/// A short read. What HAProxy gives a connection too.
const CROWDED_READ_BYTES: usize = SIZES[1];

/// Free buffers of each size that are kept, altogether.
const FREE_BYTES_MAX: usize = 16 * LARGEST;

/// Room at both ends of a read, so that a message head, a chunk's size and its end fit around the
/// data in place. A forwarded head is a little longer than the received one, whose place it takes.
const MARGIN: usize = 512;

/// A worker's buffers.
#[derive(Debug, Default)]
pub struct BufferPool {
    free: [RefCell<FreeList<Box<[u8]>>>; SIZES.len()],
    /// Bytes of all buffers that are in use.
    lent: Cell<usize>,
}

/// Bytes that were received and not yet used up.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// Where room for reading ends.
    limit: usize,
    pool: Rc<BufferPool>,
}

/// Index of the smallest size that holds so much.
fn size_for(bytes: usize) -> Option<usize> {
    SIZES.iter().position(|size| bytes <= *size)
}

impl BufferPool {
    /// An empty buffer to read into.
    pub fn take(self: &Rc<Self>) -> Buffer {
        self.for_reading(self.read_bytes())
    }

    /// Bytes of all buffers that are in use.
    pub fn lent(&self) -> usize {
        self.lent.get()
    }

    /// Size of the buffer for the next read.
    fn read_bytes(&self) -> usize {
        if self.lent.get() < LENT_BYTES_MAX { LARGEST } else { CROWDED_READ_BYTES }
    }

    fn for_reading(self: &Rc<Self>, bytes: usize) -> Buffer {
        let mut buffer = self.sized(bytes);
        (buffer.start, buffer.end) = (MARGIN, MARGIN);
        buffer.limit = buffer.bytes.len() - MARGIN;
        buffer
    }

    /// An empty buffer with room for `bytes`, without margins.
    pub fn sized(self: &Rc<Self>, bytes: usize) -> Buffer {
        let size = size_for(bytes);
        let free = size.and_then(|size| self.free[size].borrow_mut().take());
        let bytes = free
            .unwrap_or_else(|| vec![0; size.map_or(bytes, |size| SIZES[size])].into_boxed_slice());
        self.lent.set(self.lent.get() + bytes.len());
        let limit = bytes.len();
        Buffer { bytes, start: 0, end: 0, limit, pool: Rc::clone(self) }
    }

    /// A buffer that holds a copy of `bytes`, and has no room for more.
    pub fn copy_of(self: &Rc<Self>, bytes: &[u8]) -> Buffer {
        let mut buffer = self.sized(bytes.len());
        buffer.push(bytes);
        buffer.limit = buffer.end;
        buffer
    }

    /// A buffer that holds `bytes` themselves, and has no room for more.
    pub fn hold(self: &Rc<Self>, bytes: Vec<u8>) -> Buffer {
        let bytes = bytes.into_boxed_slice();
        self.lent.set(self.lent.get() + bytes.len());
        let end = bytes.len();
        Buffer { bytes, start: 0, end, limit: end, pool: Rc::clone(self) }
    }

    /// Lets go of free buffers that nobody has needed since the last call.
    pub fn trim(&self) {
        for free in &self.free {
            free.borrow_mut().trim(1);
        }
    }

    fn give_back(&self, bytes: Box<[u8]>) {
        self.lent.set(self.lent.get() - bytes.len());
        let Some(size) = SIZES.iter().position(|size| *size == bytes.len()) else { return };
        let mut free = self.free[size].borrow_mut();
        if free.count() * bytes.len() < FREE_BYTES_MAX {
            free.put(bytes);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Buffer {
    /// What is there.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Where the next bytes can be read into; empty when there is no room.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..self.limit.max(self.end)]
    }

    /// Takes note of `count` bytes read into [`room`](Self::room).
    pub fn add(&mut self, count: usize) {
        debug_assert!(self.end + count <= self.bytes.len(), "read into the room");
        self.end += count;
    }

    /// Adds a copy of `bytes`, for which there must be room.
    pub fn push(&mut self, bytes: &[u8]) {
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
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
        let smaller = size_for(self.len()).is_some_and(|size| SIZES[size] < self.bytes.len());
        if smaller { self.pool.copy_of(self.filled()) } else { self }
    }

    /// Makes room for more, keeping what is there.
    pub fn grow(self) -> Self {
        if self.end < self.limit {
            return self;
        }
        // What is there may be larger than any buffer of the pool: a body that was put back.
        let least = self.len() + 2 * MARGIN + CROWDED_READ_BYTES / 2;
        let mut larger = self.pool.for_reading(least.max(self.pool.read_bytes()));
        larger.push(self.filled());
        larger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Rc<BufferPool> {
        Rc::default()
    }

    fn kept(pool: &BufferPool) -> usize {
        pool.free.iter().zip(SIZES).map(|(free, size)| free.borrow().count() * size).sum()
    }

    #[test]
    fn what_waits_is_held_in_the_smallest_buffer_that_holds_it() {
        let pool = pool();
        for (count, held) in [(10, SIZES[0]), (SIZES[0] + 1, SIZES[1]), (SIZES[2] + 1, SIZES[3])] {
            let mut buffer = pool.take();
            buffer.room()[..count].fill(7);
            buffer.add(count);

            let buffer = buffer.settle();

            assert_eq!((buffer.len(), pool.lent()), (count, held));
            assert!(buffer.filled().iter().all(|byte| *byte == 7));
        }
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn what_is_there_stays_when_a_buffer_grows() {
        let pool = pool();
        for count in [1, SIZES[1], LARGEST - 2 * MARGIN, LARGEST, LARGEST * 2] {
            let bytes: Vec<u8> = (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect();

            let mut buffer = pool.copy_of(&bytes).grow();

            assert!(!buffer.room().is_empty(), "{count}");
            assert_eq!(buffer.filled(), bytes);
        }
    }

    /// A thousand receivers that have stopped reading in the middle of a read of the largest size.
    #[test]
    fn many_slow_receivers_hold_little() {
        let pool = pool();
        let stalled: Vec<Buffer> = (0..1_000)
            .map(|_| {
                let mut buffer = pool.take();
                let count = buffer.room().len();
                buffer.add(count);
                buffer.settle()
            })
            .collect();

        assert!(pool.lent() <= LENT_BYTES_MAX + 1_000 * CROWDED_READ_BYTES, "{}", pool.lent());
        drop(stalled);
        assert!(pool.take().room().len() > LARGEST - 3 * MARGIN, "reads are long again");
    }

    #[test]
    fn the_memory_of_a_burst_is_let_go() {
        let pool = pool();
        drop((0..100).map(|_| pool.take()).collect::<Vec<_>>());
        assert!(kept(&pool) >= FREE_BYTES_MAX, "{}", kept(&pool));
        assert!(kept(&pool) <= 2 * FREE_BYTES_MAX, "{}", kept(&pool));

        for _ in 0..20 {
            drop(pool.take());
            pool.trim();
        }

        assert!(kept(&pool) <= SIZES.iter().sum::<usize>(), "{}", kept(&pool));
    }

    #[test]
    fn what_is_in_use_is_not_taken_for_a_leftover() {
        let pool = pool();
        for _ in 0..20 {
            drop((0..8).map(|_| pool.take()).collect::<Vec<_>>());
            pool.trim();
        }

        assert_eq!(kept(&pool), 8 * LARGEST);
    }

    #[test]
    fn a_head_is_put_around_what_was_read() {
        let pool = pool();
        let mut buffer = pool.take();
        buffer.push(b"old body");

        assert!(buffer.wrap(4..8, b"a longer head ", b" and an end"));
        assert_eq!(buffer.filled(), b"a longer head body and an end");
        assert!(!pool.copy_of(b"body").wrap(0..4, b"head", b""));
    }
}
