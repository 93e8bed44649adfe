//! Pipes that bytes pass through on their way from one socket to another, without being copied.
//!
//! `splice(2)` moves pages between a socket and a pipe, so two of them move bytes from socket to
//! socket and this process never touches them. That pays from about a megabyte on
//! (`ARCHITECTURE.md`, "Large bodies").
//!
//! A pipe belongs to its worker and serves one transfer at a time, from fill to empty. One that
//! still holds bytes when its transfer ends is closed: they are somebody's, and must never reach
//! anybody else.
//!
//! Not here: sockets (`stream`), when a body goes this way (`proxy::relay`).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::FreeList;
use crate::sys;

/// Asked for; the system gives less when this user's pipes take much of its memory already,
const PIPE_BYTES: usize = 1024 * 1024;

/// and then so little that copying costs less.
const PIPE_BYTES_MIN: usize = 64 * 1024;

/// Free pipes kept, two descriptors each.
const FREE_MAX: usize = 16;

/// Pipes in use at a time. A receiver that has stopped holds a full one; beyond this number of them
/// bodies are copied, where buffers bound what waits.
const LENT_MAX: usize = 64;

/// A worker's pipes.
#[derive(Debug, Default)]
pub struct PipePool {
    free: RefCell<FreeList<Pipe>>,
    /// How many there are, free ones among them.
    count: Rc<Cell<usize>>,
}

/// A pipe, and how much is in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    count: Rc<Cell<usize>>,
}

impl PipePool {
    /// An empty pipe.
    ///
    /// # Errors
    ///
    /// Too many are in use, no descriptors are left, or the system cannot splice.
    pub fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.free.borrow_mut().take() {
            return Ok(pipe);
        }
        if self.count.get() >= LENT_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let (read, write) = sys::pipe(PIPE_BYTES, PIPE_BYTES_MIN)?;
        self.count.set(self.count.get() + 1);
        Ok(Pipe { read, write, held: 0, count: Rc::clone(&self.count) })
    }

    /// Closes free pipes that nobody has needed since the last call.
    pub fn trim(&self) {
        self.free.borrow_mut().trim(0);
    }

    /// Takes a pipe back. One that is not empty is closed.
    pub fn give_back(&self, pipe: Pipe) {
        let mut free = self.free.borrow_mut();
        if pipe.is_empty() && free.count() < FREE_MAX {
            free.put(pipe);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

impl Pipe {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves up to `max` bytes from a socket into the pipe, which must be empty: a full one looks
    /// like a socket that has nothing. 0 means that the peer has finished sending.
    pub(super) fn fill(&mut self, from: impl AsFd, max: usize) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "one transfer at a time");
        let count = sys::splice(from, &self.write, max.min(PIPE_BYTES))?;
        self.held += count;
        Ok(count)
    }

    /// Copies the beginning of `bytes` into the pipe, which must be empty.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "one transfer at a time");
        let count = rustix::io::write(&self.write, bytes)?;
        self.held += count;
        Ok(count)
    }

    /// Moves what is in the pipe to a socket, as far as that takes it.
    pub(super) fn empty(&mut self, to: impl AsFd) -> io::Result<usize> {
        let count = sys::splice(&self.read, to, self.held)?;
        self.held -= count.min(self.held);
        Ok(count)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let pool = PipePool::default();
        let mut pipe = pool.take().unwrap();
        let (mut sender, from) = UnixStream::pair().unwrap();
        let (to, mut receiver) = UnixStream::pair().unwrap();
        sender.write_all(b"body and more").unwrap();

        assert_eq!(pipe.fill(&from, 4).unwrap(), 4);
        assert_eq!(pipe.empty(&to).unwrap(), 4);

        let mut body = [0; 4];
        receiver.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"body");
        assert!(pipe.is_empty());
    }

    #[test]
    fn only_an_empty_pipe_is_used_again() {
        let pool = PipePool::default();
        let mut pipe = pool.take().unwrap();
        let (mut sender, from) = UnixStream::pair().unwrap();
        sender.write_all(b"one client's bytes").unwrap();
        pipe.fill(&from, 100).unwrap();

        pool.give_back(pipe);
        assert_eq!(pool.free.borrow().count(), 0);
        pool.give_back(pool.take().unwrap());
        assert_eq!(pool.free.borrow().count(), 1);
    }

    #[test]
    fn pipes_are_few_and_those_that_nobody_needs_are_closed() {
        let pool = PipePool::default();
        let lent: Vec<Pipe> = (0..LENT_MAX).map(|_| pool.take().unwrap()).collect();
        assert!(pool.take().is_err());

        lent.into_iter().for_each(|pipe| pool.give_back(pipe));
        assert_eq!(pool.count.get(), FREE_MAX);
        pool.take().unwrap();
        for _ in 0..10 {
            pool.trim();
        }
        assert_eq!(pool.count.get(), 0);
    }

    #[test]
    fn an_end_is_told_from_silence() {
        let pool = PipePool::default();
        let mut pipe = pool.take().unwrap();
        let (sender, from) = UnixStream::pair().unwrap();
        from.set_nonblocking(true).unwrap();

        assert_eq!(pipe.fill(&from, 9).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(sender);
        assert_eq!(pipe.fill(&from, 9).unwrap(), 0);
    }
}
