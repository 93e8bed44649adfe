//! Accepts connections, and goes on accepting whatever happens.
//!
//! A connection that was gone before it was accepted is no error. When the process or the machine runs
//! out of something, accepting again at once would fail again at once: the loop waits, longer each
//! time, and says so once in a while.
//!
//! Not here: sockets that listen (`listen`), what becomes of a connection (`connection`).

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;

use super::listen::Listening;
use crate::sys::{self, Watched};

/// The first pause after running out of something, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// How long handshakes that have begun may take to end, and first bytes to follow them, when no more
/// may begin: a round trip across an ocean. New clients ask again after a second anyway.
const LAST_HANDSHAKES: Duration = Duration::from_millis(200);

/// Connections taken out of the queue at the very end. More than any backlog holds.
const LAST_CONNECTIONS_MAX: usize = 65_536;

/// What to do after an accept has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFailure {
    /// It was that connection's failure: take the next.
    Connection,
    /// Something has run out: wait.
    Exhausted,
}

/// Tells the failures of `accept(2)` apart.
#[must_use]
pub fn classify(error: &io::Error) -> AcceptFailure {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
            AcceptFailure::Exhausted
        }
        // ECONNABORTED, EPROTO, EPERM (a firewall), and network errors that were pending on the new
        // socket, which accept(2) hands over.
        Some(_) => AcceptFailure::Connection,
        None => AcceptFailure::Exhausted,
    }
}

/// A socket that listens.
struct Socket {
    socket: Watched,
    tcp: bool,
}

/// A connection that was accepted; of no runtime yet, and does not block.
#[derive(Debug)]
pub struct Connected {
    /// The socket.
    pub socket: OwnedFd,
    /// Whether it is a TCP socket.
    pub tcp: bool,
    /// Whom it is with.
    pub peer: Option<IpAddr>,
}

impl Socket {
    fn new(listening: Listening) -> io::Result<Self> {
        let (socket, tcp): (OwnedFd, bool) = match listening {
            Listening::Tcp(socket) => (socket.into(), true),
            Listening::Unix(socket) => (socket.into(), false),
        };
        Ok(Self { socket: Watched::new(socket)?, tcp })
    }

    async fn accept(&self) -> io::Result<Connected> {
        let accept = |socket: &OwnedFd| accept_one(socket, self.tcp);
        self.socket.read(accept).await
    }

    /// Lets no more connections begin. Those that have begun can still be accepted, and from now on
    /// before their first bytes have come.
    fn ignore_new(&self) {
        if !self.tcp {
            // Nobody finds it any more: its path is gone since the drain began.
            return;
        }
        let socket = self.socket.get();
        for done in [sys::set_tcp_defer_accept(socket, 0), sys::ignore_new_connections(socket)] {
            if let Err(error) = done {
                // Then a client that connects in the moment of the close is reset.
                log::debug!(target: "worker", "the end of accepting: {error}");
            }
        }
    }

    /// Takes what is in the queue and closes the socket, without a moment in between: the kernel
    /// resets what it finds in the queue of a socket that is closed.
    fn close(self, mut take: impl FnMut(Connected)) {
        let socket = self.socket.into_inner();
        for _ in 0..LAST_CONNECTIONS_MAX {
            match accept_one(&socket, self.tcp) {
                Ok(connected) => take(connected),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if classify(&error) == AcceptFailure::Connection => {}
                Err(_) => break,
            }
        }
    }
}

fn accept_one(socket: &OwnedFd, tcp: bool) -> io::Result<Connected> {
    let (socket, peer) = sys::accept(socket)?;
    Ok(Connected { socket, tcp, peer: peer.map(|peer| peer.to_canonical()) })
}

/// Accepts until `stop` is true (or its sender is gone), then takes what the kernel has accepted
/// already, and closes the socket. To a client whose handshake is complete the connection is there,
/// and its request may be on the way, so the end has three steps:
///
/// 1. no handshake begins any more: a client that tries is ignored, tries again after a second, and
///    is refused then;
/// 2. those that have begun get `LAST_HANDSHAKES` to end;
/// 3. what is in the queue then is taken, and the socket closed, at once.
///
/// # Errors
///
/// The socket cannot be registered with the runtime.
pub async fn accept(
    listening: Listening,
    mut stop: watch::Receiver<bool>,
    mut take: impl FnMut(Connected),
    mut failed: impl FnMut(&io::Error),
) -> io::Result<()> {
    let socket = Socket::new(listening)?;
    let stopped = async move {
        // An error: whoever could have said it is gone.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    accept_until(&socket, stopped, &mut take, &mut failed).await;
    socket.ignore_new();
    accept_until(&socket, tokio::time::sleep(LAST_HANDSHAKES), &mut take, &mut failed).await;
    socket.close(take);
    Ok(())
}

async fn accept_until(
    socket: &Socket,
    end: impl Future<Output = ()>,
    take: &mut impl FnMut(Connected),
    failed: &mut impl FnMut(&io::Error),
) {
    let mut end = pin!(end);
    let mut pause = BACK_OFF.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut end => return,
            accepted = socket.accept() => accepted,
        };
        match accepted.map_err(|error| (classify(&error), error)) {
            Ok(connected) => {
                pause = BACK_OFF.0;
                take(connected);
            }
            Err((AcceptFailure::Exhausted, error)) => {
                failed(&error);
                tokio::select! {
                    biased;
                    () = &mut end => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(BACK_OFF.1);
            }
            Err((AcceptFailure::Connection, error)) => {
                failed(&error);
                // A queue full of dead connections must not keep the others waiting.
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn only_exhaustion_makes_the_loop_wait() {
        let of = |errno: Errno| classify(&io::Error::from(errno));

        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(of(errno), AcceptFailure::Exhausted, "{errno}");
        }
        for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::PERM, Errno::NETDOWN] {
            assert_eq!(of(errno), AcceptFailure::Connection, "{errno}");
        }
    }
}
