//! The socket below an HTTP/2 connection, as crate `h2` wants it, and under [`Watch`].
//!
//! Cancel safety: bytes that were read are with the reader or still here.

use std::borrow::BorrowMut;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watch::{Offence, Watch};
use crate::io::{Buffer, Deadlines, Stream};

/// A socket with what was received from it too early.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    early: Option<Buffer>,
    account: Rc<Account>,
}

/// What a connection and the streams on it know of each other.
#[derive(Debug)]
pub struct Account {
    watch: RefCell<Watch>,
    deadlines: Rc<Deadlines>,
    offence: Cell<Option<Offence>>,
    /// Times that something has been received.
    heard: Cell<u64>,
    work: Rc<Cell<u64>>,
}

impl Account {
    /// For a connection whose peer is watched by `watch`.
    pub fn new(watch: fn(u64) -> Watch, deadlines: &Rc<Deadlines>) -> Rc<Self> {
        Rc::new(Self {
            watch: RefCell::new(watch(deadlines.now())),
            deadlines: Rc::clone(deadlines),
            offence: Cell::new(None),
            heard: Cell::new(0),
            work: Rc::default(),
        })
    }

    /// Where useful work is counted.
    pub fn work(&self) -> &Rc<Cell<u64>> {
        &self.work
    }

    /// Why the connection must end, if it must. Nothing more is read from it then.
    pub fn offence(&self) -> Option<Offence> {
        self.offence.get()
    }

    /// Changes when something has been received.
    pub fn heard(&self) -> u64 {
        self.heard.get()
    }

    /// See [`Watch::requests`].
    pub fn requests(&self) -> u64 {
        self.watch.borrow().requests()
    }

    /// See [`Watch::has_heard_settings`].
    pub fn has_heard_settings(&self) -> bool {
        self.watch.borrow().has_heard_settings()
    }

    /// See [`Watch::is_going_away`].
    pub fn is_going_away(&self) -> bool {
        self.watch.borrow().is_going_away()
    }

    /// See [`Watch::is_in_block`].
    pub fn is_in_block(&self) -> bool {
        self.watch.borrow().is_in_block()
    }

    fn see(&self, bytes: &[u8]) {
        let seen = self.watch.borrow_mut().see(bytes, self.deadlines.now(), self.work.get());
        self.offence.set(self.offence.get().or(seen.err()));
        self.heard.set(self.heard.get().wrapping_add(1));
    }
}

impl<S> Wire<S> {
    /// A wire; `early` has been received and not been used.
    pub fn new(stream: S, early: Option<Buffer>, account: Rc<Account>) -> Self {
        Self { stream, early, account }
    }
}

impl<S: BorrowMut<Stream> + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.account.offence().is_some() {
            return Poll::Pending;
        }
        let before = into.filled().len();
        if let Some(early) = &mut this.early {
            let count = early.len().min(into.remaining());
            into.put_slice(&early.filled()[..count]);
            crate::http::connection::consume(&mut this.early, count);
        } else {
            let count = ready!(this.stream.borrow_mut().poll_read(cx, into.initialize_unfilled()))?;
            into.advance(count);
        }
        this.account.see(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: BorrowMut<Stream> + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream.borrow_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream.borrow_mut().poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.borrow_mut().poll_shutdown(cx)
    }
}
