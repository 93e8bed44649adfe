//! The few socket and epoll calls of a load generator, and of the servers that benches put behind
//! what they load.
//!
//! Everything is edge-triggered: a socket is registered once and read until a short read, so that a
//! request costs two system calls and the machine is left to whom it loads.
//!
//! Not here: what is said over the sockets.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// What one attempt to move bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// Not now: an event will tell.
    Later,
    /// The peer has ended its side.
    End,
    /// The connection is broken.
    Broken,
}

/// Events of many sockets, each known by a number.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
}

/// Which events a socket is registered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to read, or the end.
    Read,
    /// Also room to write.
    ReadWrite,
}

impl Interest {
    fn flags(self) -> EventFlags {
        let read = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        match self {
            Self::Read => read,
            Self::ReadWrite => read | EventFlags::OUT,
        }
    }
}

impl Poll {
    /// An epoll instance with nothing in it.
    pub fn new() -> rustix::io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Registers a socket; closing it takes it out again.
    pub fn add(&self, fd: impl AsFd, key: u64, interest: Interest) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(key), interest.flags())
    }

    /// Changes what a socket is registered for.
    pub fn modify(&self, fd: impl AsFd, key: u64, interest: Interest) -> rustix::io::Result<()> {
        epoll::modify(&self.epoll, fd, EventData::new_u64(key), interest.flags())
    }

    /// Waits for events, at most `timeout_ms` when given, and puts them into `events`.
    pub fn wait(&self, events: &mut Vec<Event>, timeout_ms: Option<u64>) -> rustix::io::Result<()> {
        events.clear();
        let timeout = timeout_ms.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ms % 1_000 * 1_000_000).unwrap_or(0),
        });
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A listener on 127.0.0.1 whose accepted sockets send at once. No SO_REUSEPORT: a second
/// listener on the port must fail, not share it.
pub fn listen(port: u16) -> rustix::io::Result<(OwnedFd, SocketAddr)> {
    let listener = stream_socket(AddressFamily::INET)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    rustix::net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    rustix::net::listen(&listener, 4_096)?;
    let address = SocketAddr::try_from(rustix::net::getsockname(&listener)?)?;
    Ok((listener, address))
}

/// The next waiting connection, if any.
pub fn accept(listener: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    match rustix::net::accept_with(listener, flags) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN) => Ok(None),
        // The client has gone before it was met; the next may be there already.
        Err(Errno::CONNABORTED | Errno::INTR) => accept(listener),
        Err(error) => Err(error),
    }
}

/// A connection on its way to `target`; the first send tells whether it has arrived.
pub fn connect(target: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = stream_socket(family)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn stream_socket(family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None)
}

/// Sends what the kernel takes now.
pub fn send(socket: &OwnedFd, bytes: &[u8]) -> Moved {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(count) => Moved::Bytes(count),
        Err(Errno::AGAIN | Errno::INTR) => Moved::Later,
        Err(_) => Moved::Broken,
    }
}

/// Receives what is there.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Moved {
    moved(rustix::net::recv(socket, buffer, RecvFlags::empty()))
}

/// Takes up to `room.len()` received bytes away without copying them: the kernel drops what
/// MSG_TRUNC asks it to truncate. Makes a large body nearly free for whoever only counts it.
pub fn discard(socket: &OwnedFd, room: &mut [u8]) -> Moved {
    moved(rustix::net::recv(socket, room, RecvFlags::TRUNC))
}

fn moved<T>(result: rustix::io::Result<(T, usize)>) -> Moved {
    match result {
        Ok((_, 0)) => Moved::End,
        Ok((_, count)) => Moved::Bytes(count),
        Err(Errno::AGAIN | Errno::INTR) => Moved::Later,
        Err(_) => Moved::Broken,
    }
}
