//! Stands in for `ring` where there is no io_uring: nothing of this can exist.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::{Pipe, RingCounts};

/// A worker's ring.
pub(super) struct Driver(Infallible);

/// A ring for the calling thread.
#[derive(Debug)]
pub(super) struct Guard(Infallible);

/// A socket driven by the ring.
#[derive(Debug)]
pub(super) struct RingStream(Infallible);

pub(super) fn install() -> io::Result<Guard> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn probe() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn current() -> Option<Rc<Driver>> {
    None
}

impl Driver {
    pub(super) async fn drive(self: Rc<Self>) -> io::Result<()> {
        match self.0 {}
    }

    pub(super) fn tick(&self) {
        match self.0 {}
    }

    pub(super) fn counts(&self) -> RingCounts {
        match self.0 {}
    }

    pub(super) async fn connect(self: Rc<Self>, _address: SocketAddr) -> io::Result<RingStream> {
        match self.0 {}
    }

    pub(super) fn stream(self: Rc<Self>, _descriptor: OwnedFd) -> RingStream {
        match self.0 {}
    }
}

impl RingStream {
    pub(super) fn poll_read(&self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    pub(super) fn poll_splice_from(
        &self,
        _: &mut Context<'_>,
        _: &mut Pipe,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    pub(super) fn poll_splice_to(
        &self,
        _: &mut Context<'_>,
        _: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    pub(super) fn poll_event(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    pub(super) fn event(&self) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    pub(super) fn look(&self) -> io::Result<usize> {
        match self.0 {}
    }

    pub(super) fn error(&self) -> Option<io::Error> {
        match self.0 {}
    }

    pub(super) fn poll_write(&self, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    pub(super) fn shutdown(&self) {
        match self.0 {}
    }
}

impl AsFd for RingStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}
