//! A socket driven by a ring: what has arrived, what waits, what is being sent.
//!
//! Not here: when the kernel is asked (`driver`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::task::coop;

use super::Driver;
use crate::io::Pipe;
use crate::sys::uring::{Arrived, BUFFER_BYTES, Key, Received, Ring};

/// The longest piece that is copied and sent by the ring.
const SEND_BYTES_MAX: usize = 16 * 1024;

/// So much is sent by the ring to a peer from which nothing has come since. Less than the smallest
/// buffer of a socket, so a peer that follows HTTP never keeps such a send waiting.
const UNHEARD_MAX: usize = 16 * 1024;

/// A socket driven by the ring.
pub(in crate::io) struct RingStream {
    driver: Rc<Driver>,
    socket: Rc<Socket>,
}

/// What stays until the last operation on the socket has ended.
pub(super) struct Socket {
    descriptor: OwnedFd,
    read: RefCell<ReadState>,
    write: Cell<WriteState>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    /// Bytes sent since bytes last came.
    unheard: Cell<usize>,
    /// The last read was larger than a buffer of the ring.
    bulk: Cell<bool>,
    /// The end follows what is being sent.
    ends: Cell<bool>,
}

enum ReadState {
    /// There may be something in the socket.
    Unknown,
    /// An operation waits for bytes, and takes them.
    Receiving(Key),
    /// An operation waits for bytes, and leaves them.
    Watching(Key),
    /// These have arrived; perhaps there are more in the socket.
    Arrived(Received, bool),
    /// The peer has finished sending.
    Ended,
    Failed(i32),
}

#[derive(Clone, Copy)]
enum WriteState {
    Idle,
    Sending(Key),
    Watching(Key),
    Failed(i32),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Socket {
    pub(super) fn take_read(&self, end: io::Result<Arrived>) -> bool {
        self.read.replace(match end {
            Ok(Arrived::Bytes(bytes, more)) => ReadState::Arrived(bytes, more),
            Ok(Arrived::End) => ReadState::Ended,
            Ok(Arrived::Something) => ReadState::Unknown,
            Err(error) => ReadState::of(&error),
        });
        wake(&self.reader)
    }

    pub(super) fn take_write(&self, end: io::Result<()>) -> bool {
        self.write.set(match end {
            Ok(()) => WriteState::Idle,
            Err(error) => WriteState::Failed(number(&error)),
        });
        if self.ends.get() {
            self.end();
        }
        wake(&self.writer)
    }

    fn end(&self) {
        // Fails only when the connection has ended already.
        let _ = rustix::net::shutdown(&self.descriptor, Shutdown::Write);
    }

    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        retry(|| Ok(rustix::net::recv(&self.descriptor, &mut *bytes, RecvFlags::DONTWAIT)?.1))
    }

    fn peek(&self) -> io::Result<usize> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        retry(|| Ok(rustix::net::recv(&self.descriptor, &mut [0_u8], flags)?.1))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        retry(|| Ok(rustix::net::send(&self.descriptor, bytes, flags)?))
    }
}

impl ReadState {
    fn of(error: &io::Error) -> Self {
        Self::Failed(number(error))
    }
}

impl RingStream {
    pub(super) fn new(driver: Rc<Driver>, descriptor: OwnedFd) -> Self {
        let socket = Socket {
            descriptor,
            read: RefCell::new(ReadState::Unknown),
            write: Cell::new(WriteState::Idle),
            reader: RefCell::default(),
            writer: RefCell::default(),
            unheard: Cell::new(0),
            bulk: Cell::new(false),
            ends: Cell::new(false),
        };
        Self { driver, socket: Rc::new(socket) }
    }

    fn ask<R>(&self, what: impl FnOnce(&mut Ring<Rc<Socket>>, Rc<Socket>) -> R) -> R {
        self.driver.ask(|ring| what(ring, Rc::clone(&self.socket)))
    }

    /// Waits for what comes next. After much it is probably much, which is received in one piece: by
    /// the ring it would be a little first and then the rest.
    fn waiting(&self) -> ReadState {
        if self.socket.bulk.get() {
            ReadState::Watching(self.ask(Ring::watch_read))
        } else {
            ReadState::Receiving(self.ask(Ring::receive))
        }
    }

    pub(in crate::io) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.socket.read.borrow_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Before anything is taken: who has had enough for now must not lose it.
        let coop = ready!(coop::poll_proceed(cx));
        let (mut taken, mut more) = (0, true);
        match state {
            ReadState::Receiving(_) | ReadState::Watching(_) => {
                wait(&self.socket.reader, cx);
                return Poll::Pending;
            }
            ReadState::Ended => return Poll::Ready(Ok(0)),
            ReadState::Failed(number) => {
                return Poll::Ready(Err(io::Error::from_raw_os_error(*number)));
            }
            ReadState::Unknown => {}
            ReadState::Arrived(arrived, beyond) => {
                taken = arrived.len().min(bytes.len());
                bytes[..taken].copy_from_slice(&arrived[..taken]);
                arrived.consume(taken);
                coop.made_progress();
                if !arrived.is_empty() {
                    return Poll::Ready(Ok(taken));
                }
                more = *beyond;
            }
        }
        *state = ReadState::Unknown;
        if more && taken < bytes.len() {
            match self.socket.receive(&mut bytes[taken..]) {
                Ok(0) => *state = ReadState::Ended,
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => more = false,
                Err(error) => *state = ReadState::of(&error),
            }
            more &= taken == bytes.len();
        }
        if taken > 0 {
            self.socket.unheard.set(0);
            self.socket.bulk.set(taken > BUFFER_BYTES);
        }
        // Found less than there was room for: the socket is empty, and what comes next is waited for.
        if !more && matches!(state, ReadState::Unknown) {
            *state = self.waiting();
        }
        let read = match state {
            _ if taken > 0 => Ok(taken),
            ReadState::Ended => Ok(0),
            ReadState::Failed(number) => Err(io::Error::from_raw_os_error(*number)),
            _ => {
                wait(&self.socket.reader, cx);
                return Poll::Pending;
            }
        };
        coop.made_progress();
        Poll::Ready(read)
    }

    /// Moves what is there into an empty pipe.
    pub(in crate::io) fn poll_splice_from(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.socket.read.borrow_mut();
        match state {
            ReadState::Receiving(_) | ReadState::Watching(_) => {}
            ReadState::Ended => return Poll::Ready(Ok(0)),
            ReadState::Failed(number) => {
                return Poll::Ready(Err(io::Error::from_raw_os_error(*number)));
            }
            ReadState::Arrived(arrived, _) => {
                let count = pipe.put(&arrived[..arrived.len().min(max)])?;
                arrived.consume(count);
                self.socket.unheard.set(0);
                if arrived.is_empty() {
                    *state = ReadState::Unknown;
                }
                return Poll::Ready(Ok(count));
            }
            ReadState::Unknown => {
                let coop = ready!(coop::poll_proceed(cx));
                match pipe.fill(&self.socket.descriptor, max) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        *state = ReadState::Watching(self.ask(Ring::watch_read));
                    }
                    moved => {
                        coop.made_progress();
                        self.socket.unheard.set(0);
                        return Poll::Ready(moved);
                    }
                }
            }
        }
        wait(&self.socket.reader, cx);
        Poll::Pending
    }

    /// Waits until something happens on the receiving side.
    pub(in crate::io) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let event = self.event();
        if event.is_pending() {
            wait(&self.socket.reader, cx);
        }
        event
    }

    /// Whether something has happened on the receiving side. Costs a system call only after bytes
    /// were taken past the ring.
    pub(in crate::io) fn event(&self) -> Poll<io::Result<()>> {
        let state = &mut *self.socket.read.borrow_mut();
        if let ReadState::Unknown = state {
            match self.socket.peek() {
                Ok(0) => *state = ReadState::Ended,
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *state = self.waiting();
                }
                Err(error) => *state = ReadState::of(&error),
            }
        }
        match state {
            ReadState::Failed(number) => Poll::Ready(Err(io::Error::from_raw_os_error(*number))),
            ReadState::Ended | ReadState::Arrived(..) => Poll::Ready(Ok(())),
            ReadState::Unknown | ReadState::Receiving(_) | ReadState::Watching(_) => Poll::Pending,
        }
    }

    /// What a look at the socket finds, and before that what was taken from it already.
    pub(in crate::io) fn look(&self) -> io::Result<usize> {
        match &*self.socket.read.borrow() {
            ReadState::Arrived(bytes, _) => Ok(bytes.len()),
            ReadState::Ended => Ok(0),
            ReadState::Failed(number) => Err(io::Error::from_raw_os_error(*number)),
            ReadState::Unknown | ReadState::Receiving(_) | ReadState::Watching(_) => {
                self.socket.peek()
            }
        }
    }

    /// The error that the receiving side has met.
    pub(in crate::io) fn error(&self) -> Option<io::Error> {
        match &*self.socket.read.borrow() {
            ReadState::Failed(number) => Some(io::Error::from_raw_os_error(*number)),
            _ => socket2::SockRef::from(self).take_error().ok().flatten(),
        }
    }

    pub(in crate::io) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if ready!(self.poll_writer(cx)).is_err() || bytes.is_empty() {
            return Poll::Ready(self.written().map(|()| 0));
        }
        let coop = ready!(coop::poll_proceed(cx));
        let unheard = self.socket.unheard.get().saturating_add(bytes.len());
        self.socket.unheard.set(unheard);
        if bytes.len() <= SEND_BYTES_MAX && unheard <= UNHEARD_MAX {
            let key = self.ask(|ring, socket| ring.send(socket, bytes));
            self.socket.write.set(WriteState::Sending(key));
            coop.made_progress();
            return Poll::Ready(Ok(bytes.len()));
        }
        let sent = self.socket.send(bytes);
        self.after(cx, sent, coop)
    }

    /// Moves what is in the pipe, as far as it fits.
    pub(in crate::io) fn poll_splice_to(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_writer(cx))?;
        let coop = ready!(coop::poll_proceed(cx));
        let moved = pipe.empty(&self.socket.descriptor);
        self.after(cx, moved, coop)
    }

    fn after(
        &self,
        cx: &mut Context<'_>,
        moved: io::Result<usize>,
        coop: coop::RestoreOnPending,
    ) -> Poll<io::Result<usize>> {
        if matches!(&moved, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.watch_write();
            wait(&self.socket.writer, cx);
            return Poll::Pending;
        }
        coop.made_progress();
        Poll::Ready(moved)
    }

    /// Finishes sending, after what is being sent.
    pub(in crate::io) fn shutdown(&self) {
        match self.socket.write.get() {
            WriteState::Sending(_) => self.socket.ends.set(true),
            WriteState::Idle | WriteState::Watching(_) | WriteState::Failed(_) => self.socket.end(),
        }
    }

    /// Waits for the end of a `connect(2)` that was begun.
    pub(super) async fn connected(&self) -> io::Result<()> {
        self.watch_write();
        poll_fn(|cx| self.poll_writer(cx)).await?;
        match socket2::SockRef::from(self).take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn watch_write(&self) {
        self.socket.write.set(WriteState::Watching(self.ask(Ring::watch_write)));
    }

    /// Waits until the last write is done.
    fn poll_writer(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let WriteState::Sending(_) | WriteState::Watching(_) = self.socket.write.get() {
            wait(&self.socket.writer, cx);
            return Poll::Pending;
        }
        Poll::Ready(self.written())
    }

    fn written(&self) -> io::Result<()> {
        match self.socket.write.get() {
            WriteState::Failed(number) => Err(io::Error::from_raw_os_error(number)),
            _ => Ok(()),
        }
    }
}

impl AsFd for RingStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for RingStream {
    fn drop(&mut self) {
        let Self { driver, socket } = self;
        driver.sockets.set(driver.sockets.get() - 1);
        match &*socket.read.borrow() {
            ReadState::Receiving(key) | ReadState::Watching(key) => {
                driver.ask(|ring| ring.cancel(*key));
            }
            _ => {}
        }
        match socket.write.get() {
            WriteState::Watching(key) => driver.ask(|ring| ring.cancel(key)),
            WriteState::Sending(key) => driver.orphan(key),
            WriteState::Idle | WriteState::Failed(_) => {}
        }
        // Nobody is there to be woken.
        socket.reader.take();
        socket.writer.take();
    }
}

impl std::fmt::Debug for RingStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("RingStream").field(&self.socket.descriptor).finish()
    }
}

/// Names the task to wake.
fn wait(place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut waker = place.borrow_mut();
    if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

fn wake(place: &RefCell<Option<Waker>>) -> bool {
    place.take().map(Waker::wake).is_some()
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::PIPE.raw_os_error())
}

/// Again when a signal came in between.
fn retry<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
