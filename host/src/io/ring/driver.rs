//! A worker's ring, and the task that keeps it turning.
//!
//! Not here: what a socket does with it (`stream`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, Waker};

use rustix::event::Timespec;
use rustix::io::Errno;

use super::stream::{RingStream, Socket};
use crate::io::RingCounts;
use crate::sys::Watched;
use crate::sys::uring::{Arrived, Ended, Key, Ring};

/// What one turn of a busy worker asks for. More wait outside of the ring.
const ENTRIES: u32 = 1024;

/// Of the ring that is made to see whether one can be made: the kernel takes its memory back a moment
/// later, and there may be little of it.
const PROBE_ENTRIES: u32 = 4;

/// Messages that it must be woken by, and how long each may take: less than a millisecond where all is well.
const PROBES: usize = 3;
const PROBE_TIME_MAX: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Ticks that a send may go on after its stream was dropped: ten seconds. The kernel would keep the
/// rest of a closed connection as well.
pub(super) const ORPHAN_TICKS_MAX: u32 = 200;

/// Sends that may go on so; beyond, the oldest is cancelled.
const ORPHANS_MAX: usize = 1024;

thread_local! {
    /// The ring of this worker.
    static CURRENT: RefCell<Option<Rc<Driver>>> = const { RefCell::new(None) };
}

/// A worker's ring and what belongs to it.
pub(in crate::io) struct Driver {
    ring: RefCell<Ring<Rc<Socket>>>,
    /// What has ended and was not passed on yet; kept for its memory.
    ended: RefCell<Vec<(Rc<Socket>, Ended)>>,
    /// Wakes [`drive`](Self::drive).
    waker: RefCell<Option<Waker>>,
    /// It will run again without being woken by the eventfd.
    scheduled: Cell<bool>,
    eventfd: RefCell<Option<OwnedFd>>,
    orphans: RefCell<VecDeque<(Key, u32)>>,
    ticks: Cell<u32>,
    pub(super) sockets: Cell<usize>,
}

/// A ring for the calling thread; without this value there is none.
#[derive(Debug)]
pub(in crate::io) struct Guard(());

/// Makes a ring for the calling thread, which is to drive it.
pub(in crate::io) fn install() -> io::Result<Guard> {
    let mut ring = Ring::new(ENTRIES)?;
    let eventfd = eventfd()?;
    ring.register_wake(&eventfd)?;
    let driver = Driver {
        ring: RefCell::new(ring),
        ended: RefCell::default(),
        waker: RefCell::default(),
        scheduled: Cell::new(false),
        eventfd: RefCell::new(Some(eventfd)),
        orphans: RefCell::default(),
        ticks: Cell::new(0),
        sockets: Cell::new(0),
    };
    CURRENT.set(Some(Rc::new(driver)));
    Ok(Guard(()))
}

impl Drop for Guard {
    /// With the last stream the ring goes, after everything has ended.
    fn drop(&mut self) {
        CURRENT.take();
    }
}

/// The ring of this thread.
pub(in crate::io) fn current() -> Option<Rc<Driver>> {
    CURRENT.with_borrow(Option::clone)
}

/// Whether this process may use io_uring and is woken by it, tried with messages from the network.
///
/// Linux 6.12.115 and some after it put off signals that come from the network, and forget that they have
/// sent the first: whoever sleeps is woken once. So more than one is tried.
pub(in crate::io) fn probe() -> io::Result<()> {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    let mut ring = Ring::new(PROBE_ENTRIES)?;
    let eventfd = eventfd()?;
    ring.register_wake(&eventfd)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut far = TcpStream::connect(listener.local_addr()?)?;
    let mut near = listener.accept()?.0;
    let mut ended = Vec::new();
    for _ in 0..PROBES {
        ring.receive(near);
        ring.turn(&mut ended);
        let sleeps = ended.is_empty() && ring.sleep();
        far.write_all(b"?")?;
        if !(sleeps && is_signalled(&eventfd)?) {
            return Err(io::Error::other("this kernel loses wake-ups of io_uring"));
        }
        ring.turn(&mut ended);
        near = match ended.pop() {
            Some((near, Ended::Read(Ok(Arrived::Bytes(bytes, _))))) if *bytes == *b"?" => near,
            Some((_, Ended::Read(Err(error)))) => return Err(error),
            _ => return Err(io::Error::other("it does not receive")),
        };
    }
    Ok(())
}

fn eventfd() -> io::Result<OwnedFd> {
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    Ok(rustix::event::eventfd(0, flags)?)
}

/// Waits for a signal, and takes it.
fn is_signalled(eventfd: &OwnedFd) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, poll};

    let polled = poll(&mut [PollFd::new(eventfd, PollFlags::IN)], Some(&PROBE_TIME_MAX))?;
    if polled > 0 {
        rustix::io::read(eventfd, &mut [0; 8])?;
    }
    Ok(polled > 0)
}

impl Driver {
    /// Keeps the ring turning. Runs in the order of the tasks, so that all of them have had their turn,
    /// and what they ask for is handed over at once.
    pub(in crate::io) async fn drive(self: Rc<Self>) -> io::Result<()> {
        let Some(eventfd) = self.eventfd.take() else { return Ok(()) };
        let wake = Watched::new(eventfd)?;
        poll_fn(|cx| {
            // Edges are what counts; the number in the eventfd is never looked at.
            while let Poll::Ready(edge) = wake.poll_edge(cx) {
                if edge.is_err() {
                    return Poll::Ready(edge);
                }
            }
            self.waker.borrow_mut().get_or_insert_with(|| cx.waker().clone());
            self.scheduled.set(true);
            if self.turn() || !self.ring.borrow_mut().sleep() {
                self.ring.borrow_mut().wake_up();
                cx.waker().wake_by_ref();
            } else {
                self.scheduled.set(false);
            }
            Poll::Pending
        })
        .await
    }

    /// True: somebody was woken, and will ask for more.
    fn turn(&self) -> bool {
        let mut ended = self.ended.take();
        self.ring.borrow_mut().turn(&mut ended);
        let mut woken = false;
        for (socket, end) in ended.drain(..) {
            woken |= match end {
                Ended::Read(end) => socket.take_read(end),
                Ended::Write(end) => socket.take_write(end),
            };
        }
        self.ended.replace(ended);
        woken
    }

    pub(super) fn ask<R>(&self, what: impl FnOnce(&mut Ring<Rc<Socket>>) -> R) -> R {
        let mut ring = self.ring.borrow_mut();
        if !self.scheduled.replace(true) {
            ring.wake_up();
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
        what(&mut ring)
    }

    /// Moves time on, for sends whose stream is gone. Makes up for a wake-up that the kernel has lost.
    pub(in crate::io) fn tick(&self) {
        if !self.scheduled.get() && !self.ring.borrow_mut().sleep() {
            self.ask(|_| ());
        }
        let now = self.ticks.get().wrapping_add(1);
        self.ticks.set(now);
        let mut orphans = self.orphans.borrow_mut();
        while let Some((key, since)) = orphans.front()
            && now.wrapping_sub(*since) > ORPHAN_TICKS_MAX
        {
            self.ask(|ring| ring.cancel(*key));
            orphans.pop_front();
        }
    }

    /// From now on it is not woken, if it sleeps: true.
    #[cfg(test)]
    pub(super) fn is_deafened(&self) -> bool {
        if !self.scheduled.get() {
            self.ring.borrow_mut().wake_up();
        }
        !self.scheduled.get()
    }

    pub(super) fn orphan(&self, key: Key) {
        let mut orphans = self.orphans.borrow_mut();
        if orphans.len() >= ORPHANS_MAX
            && let Some((oldest, _)) = orphans.pop_front()
        {
            self.ask(|ring| ring.cancel(oldest));
        }
        orphans.push_back((key, self.ticks.get()));
    }

    pub(in crate::io) fn counts(&self) -> RingCounts {
        let ring = self.ring.borrow();
        RingCounts {
            sockets: self.sockets.get(),
            operations: ring.in_flight(),
            buffers: ring.buffers_held(),
        }
    }

    /// Connects over TCP. Dropping the future closes the socket.
    pub(in crate::io) async fn connect(
        self: Rc<Self>,
        address: SocketAddr,
    ) -> io::Result<RingStream> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        let begun = socket.connect(&address.into());
        let stream = self.stream(socket.into());
        match begun {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {
                stream.connected().await?;
            }
            Err(error) => return Err(error),
        }
        Ok(stream)
    }

    /// Takes over a connected socket, or one that connects.
    pub(in crate::io) fn stream(self: Rc<Self>, descriptor: OwnedFd) -> RingStream {
        self.sockets.set(self.sockets.get() + 1);
        RingStream::new(self, descriptor)
    }
}
