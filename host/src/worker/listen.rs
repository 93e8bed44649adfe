//! Listening sockets.
//!
//! Made by the control thread before any worker starts, so that what cannot be bound is an error at
//! the start and not a worker's problem. Every worker gets a socket of its own on the same TCP port
//! (SO_REUSEPORT): the kernel deals connections out, and no worker wakes for another's. A Unix
//! socket exists once and is shared.
//!
//! Not here: accepting (`accept`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::{Address, Listener};
use crate::sys;

/// How long the kernel keeps a connection that sends nothing from waking a worker.
const DEFER_ACCEPT_SECONDS: u16 = 5;

/// A listening socket that no runtime has taken over yet.
#[derive(Debug)]
pub enum Listening {
    /// On TCP.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

/// Binds one listener `count` times; returns the address, with the port that was chosen for port 0.
///
/// # Errors
///
/// The address is in use, not of this machine, or not permitted; the message says which.
pub fn bind(listener: &Listener, count: usize) -> anyhow::Result<(Address, Vec<Listening>)> {
    match &listener.address {
        Address::Tcp(address) => {
            let bound = bind_tcp(*address, listener, count);
            let (address, sockets) =
                bound.with_context(|| format!("cannot listen on {address}"))?;
            Ok((Address::Tcp(address), sockets))
        }
        Address::Unix(path) => {
            let bound = bind_unix(path, listener.backlog, count);
            let sockets =
                bound.with_context(|| format!("cannot listen on unix:{}", path.display()))?;
            Ok((listener.address.clone(), sockets))
        }
    }
}

/// The longest queue of connections that the kernel grants, if it says so.
#[must_use]
pub fn somaxconn() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

/// What people should know about a backlog that they asked for.
#[must_use]
pub fn warning(listener: &Listener, somaxconn: Option<u32>) -> Option<String> {
    let granted = somaxconn.filter(|granted| *granted < listener.backlog)?;
    let Listener { address, backlog, .. } = listener;
    Some(format!(
        "{address}: the kernel cuts the backlog of {backlog} to {granted}, and ignores connections beyond \
         it until their clients try again; run `sysctl -w net.core.somaxconn={backlog}`"
    ))
}

fn bind_tcp(
    address: SocketAddr,
    listener: &Listener,
    count: usize,
) -> anyhow::Result<(SocketAddr, Vec<Listening>)> {
    // With SO_REUSEPORT two gateways of one user would share a port without noticing. A socket
    // without it finds out whether somebody is there.
    let probe = tcp_socket(address, listener.only_v6)?;
    probe.bind(&address.into())?;
    let bound = probe.local_addr()?.as_socket().ok_or_else(|| anyhow!("not an IP socket"))?;
    drop(probe);
    let sockets = (0..count.max(1)).map(|_| {
        let socket = tcp_socket(bound, listener.only_v6)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        socket.listen(i32::try_from(listener.backlog).unwrap_or(i32::MAX))?;
        // Accepted sockets inherit both.
        socket.set_tcp_nodelay(true)?;
        if let Err(error) = sys::set_tcp_defer_accept(&socket, DEFER_ACCEPT_SECONDS) {
            log::debug!(target: "worker", "TCP_DEFER_ACCEPT: {error}");
        }
        Ok(Listening::Tcp(socket.into()))
    });
    Ok((bound, sockets.collect::<io::Result<_>>()?))
}

fn tcp_socket(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    Ok(socket)
}

fn bind_unix(path: &Path, backlog: u32, count: usize) -> anyhow::Result<Vec<Listening>> {
    let address = SockAddr::unix(path)?;
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        // Without waiting: who listens there may be stuck, with its queue full.
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        probe.set_nonblocking(true)?;
        match probe.connect(&address) {
            // Left behind by a process that is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(error).context("somebody else's socket is there already");
            }
            Ok(()) | Err(_) => return Err(anyhow!("somebody listens there already")),
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    let socket = UnixListener::from(socket);
    let copies = (1..count.max(1)).map(|_| socket.try_clone().map(Listening::Unix));
    let mut sockets = copies.collect::<io::Result<Vec<_>>>()?;
    sockets.push(Listening::Unix(socket));
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_backlog_that_is_cut_is_warned_about_with_the_cure() {
        let address = Address::Tcp("127.0.0.1:8080".parse().unwrap());
        let protocols = crate::config::Protocols::default();
        let (tls, proxy_protocol) = (None, false);
        let listener =
            Listener { address, protocols, backlog: 4096, only_v6: false, tls, proxy_protocol };

        assert_eq!(warning(&listener, Some(4096)), None);
        assert_eq!(warning(&listener, None), None);
        let text = warning(&listener, Some(128)).unwrap();
        assert!(text.contains("4096 to 128") && text.contains("somaxconn=4096"), "{text}");
    }

    /// A gateway that hangs still owns its socket; finding that out must not hang, too.
    #[test]
    fn a_socket_with_an_owner_is_not_taken_even_if_the_owner_is_stuck() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("s");
        let owner = bind_unix(&path, 1, 1).unwrap();

        assert!(bind_unix(&path, 1, 1).is_err());

        // Fill its queue.
        let address = SockAddr::unix(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            if client.connect(&address).is_err() {
                break;
            }
            waiting.push(client);
        }
        assert!(waiting.len() < 10, "the backlog is heeded: {}", waiting.len());
        assert!(bind_unix(&path, 1, 1).is_err());
        drop(owner);
        let _successor = bind_unix(&path, 1, 1).unwrap();
        UnixStream::connect(&path).unwrap();
    }
}
