//! Accepts connections, and goes on accepting whatever happens.
//!
//! A connection that was gone before it was accepted is no error. When the process or the machine runs
//! out of something, accepting again at once would fail again at once: the loop waits, longer each
//! time, and says so once in a while.
//!
//! Not here: sockets that listen (`listen`), what becomes of a connection (`connection`).

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;

use super::listen::Listening;
use crate::io::Stream;

/// The first pause after running out of something, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// Connections taken out of the queue when a worker stops accepting. More than any backlog holds.
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

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    fn new(listening: Listening) -> io::Result<Self> {
        Ok(match listening {
            Listening::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        Ok(match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                (Stream::Tcp(stream), Some(peer.ip().to_canonical()))
            }
            Self::Unix(socket) => (Stream::Unix(socket.accept().await?.0), None),
        })
    }
}

/// Accepts until `stop`, then takes what the kernel has already accepted, and closes the socket.
///
/// # Errors
///
/// The socket cannot be registered with the runtime.
pub async fn accept(
    listening: Listening,
    stop: Rc<Notify>,
    mut take: impl FnMut(Stream, Option<IpAddr>),
    mut failed: impl FnMut(&io::Error),
) -> io::Result<()> {
    let socket = Socket::new(listening)?;
    let mut pause = BACK_OFF.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.notified() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = BACK_OFF.0;
                take(stream, peer);
            }
            Err(error) => {
                failed(&error);
                if classify(&error) == AcceptFailure::Exhausted {
                    tokio::select! {
                        biased;
                        () = stop.notified() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(BACK_OFF.1);
                } else {
                    // A queue full of dead connections must not keep the others waiting.
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    // Their handshake is complete: to these clients the connection is accepted.
    for _ in 0..LAST_CONNECTIONS_MAX {
        let next = socket.accept();
        match tokio::time::timeout(Duration::from_millis(1), next).await {
            Ok(Ok((stream, peer))) => take(stream, peer),
            Ok(Err(error)) if classify(&error) == AcceptFailure::Connection => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok(())
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
