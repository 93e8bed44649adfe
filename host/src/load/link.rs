//! A connection of a load: a socket, or a TLS session over one.
//!
//! Each call does what can be done at once; an event of the socket says when there is more. A receive that fills
//! less than its room has emptied the socket, with TLS as without.
//!
//! Not here: HTTP/2, whose connections are tasks (`http2`).

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::sockets::{self, Moved};

/// TLS to the server that is asked. Sessions are not resumed: a new connection is a whole handshake.
#[derive(Clone, Debug)]
pub struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

/// What a server and a load agree to.
#[derive(Clone, Copy, Debug)]
pub struct Agreed {
    /// Such as `TLSv1.3`.
    pub version: &'static str,
    /// IANA's name, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
}

impl Tls {
    /// TLS to a server of this name, which has to be vouched for: by the roots in `ca`, by those that this system
    /// trusts, or with `insecure` by nobody.
    pub fn new(host: &str, http2: bool, ca: Option<&Path>, insecure: bool) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| format!("`{host}` is no name that a certificate can have"))?;
        let protocol = if http2 { "h2" } else { "http/1.1" };
        let mut config = crate::tls::client(ca, !insecure, &[protocol])?;
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name })
    }

    /// Begins one session, to know what it will be or why there is none. [`None`]: nobody accepts connections.
    pub fn look(&self, target: SocketAddr, timeout: Duration) -> Result<Option<Agreed>, String> {
        let Ok(mut socket) = TcpStream::connect_timeout(&target, timeout) else { return Ok(None) };
        let both =
            [socket.set_read_timeout(Some(timeout)), socket.set_write_timeout(Some(timeout))];
        both.into_iter().collect::<io::Result<()>>().map_err(|error| error.to_string())?;
        let mut session = self.session().map_err(|error| error.to_string())?;
        while session.is_handshaking() {
            session.complete_io(&mut socket).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => "the handshake takes too long".to_owned(),
                _ => error.to_string(),
            })?;
        }
        let wanted = self.config.alpn_protocols.first();
        if wanted.is_some_and(|wanted| wanted == b"h2") && session.alpn_protocol() != Some(b"h2") {
            return Err("the server does not speak HTTP/2 over TLS".to_owned());
        }
        let agreed = Agreed {
            version: crate::tls::version_name(session.protocol_version()),
            cipher: session
                .negotiated_cipher_suite()
                .and_then(|it| it.suite().as_str())
                .unwrap_or_default(),
        };
        session.send_close_notify();
        // It may have gone.
        let _ = session.write_tls(&mut socket);
        Ok(Some(agreed))
    }

    fn session(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(Arc::clone(&self.config), self.name.clone())
    }
}

/// A connection.
#[derive(Debug)]
pub(super) enum Link {
    Plain(OwnedFd),
    Secure(Box<Secure>),
}

/// A session, from the handshake on.
#[derive(Debug)]
pub(super) struct Secure {
    socket: OwnedFd,
    session: ClientConnection,
    /// Bytes that the session has taken and the kernel has not, in part or whole.
    accepted: usize,
    /// Nothing more comes.
    ended: bool,
}

impl Link {
    /// A connection on its way to `target`; the first send tells whether it has arrived.
    pub(super) fn connect(target: SocketAddr, tls: Option<&Tls>) -> io::Result<Self> {
        let socket = sockets::connect(target)?;
        Ok(match tls {
            None => Self::Plain(socket),
            Some(tls) => {
                let session = tls.session().map_err(io::Error::other)?;
                Self::Secure(Box::new(Secure { socket, session, accepted: 0, ended: false }))
            }
        })
    }

    /// Sends what can be sent now. `Bytes` says how much of `bytes` is with the kernel.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Moved {
        match self {
            Self::Plain(socket) => sockets::send(socket, bytes),
            Self::Secure(secure) => secure.send(bytes),
        }
    }

    /// Receives what is there.
    pub(super) fn receive(&mut self, room: &mut [u8]) -> Moved {
        match self {
            Self::Plain(socket) => sockets::receive(socket, room),
            Self::Secure(secure) => secure.receive(room),
        }
    }

    /// Whether the server has said goodbye, which no event of the socket may tell.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Secure(secure) if secure.ended)
    }

    /// Receives what is there and is not looked at.
    pub(super) fn discard(&mut self, room: &mut [u8]) -> Moved {
        match self {
            Self::Plain(socket) => sockets::discard(socket, room),
            Self::Secure(secure) => secure.receive(room),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Secure(secure) => secure.socket.as_fd(),
        }
    }
}

impl Secure {
    fn send(&mut self, bytes: &[u8]) -> Moved {
        while self.session.is_handshaking() {
            match self.pull() {
                // What the handshake has to say to that goes out before more is waited for.
                Moved::Bytes(_) => {}
                Moved::Later if self.session.wants_write() => match self.push() {
                    Moved::Bytes(_) => {}
                    stopped => return stopped,
                },
                Moved::Later if self.session.is_handshaking() => return Moved::Later,
                Moved::Later => {}
                stopped => return stopped,
            }
        }
        if self.accepted == 0 {
            match self.session.writer().write(bytes) {
                Ok(count) => self.accepted = count,
                Err(_) => return Moved::Broken,
            }
        }
        match self.push() {
            Moved::Bytes(_) => Moved::Bytes(std::mem::take(&mut self.accepted)),
            stopped => stopped,
        }
    }

    /// Sends all that the session has to say; `Bytes` when it has nothing more.
    fn push(&mut self) -> Moved {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Raw(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Later,
                Err(_) => return Moved::Broken,
            }
        }
        Moved::Bytes(0)
    }

    /// Takes in records that are there.
    fn pull(&mut self) -> Moved {
        match self.session.read_tls(&mut Raw(&self.socket)) {
            Ok(0) => return Moved::End,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Later,
            Err(_) => return Moved::Broken,
        }
        match self.session.process_new_packets() {
            Ok(_) => Moved::Bytes(0),
            Err(_) => {
                // The server should know why; it may have gone.
                let _ = self.push();
                Moved::Broken
            }
        }
    }

    fn receive(&mut self, room: &mut [u8]) -> Moved {
        let mut filled = 0;
        let stopped = loop {
            match self.session.reader().read(&mut room[filled..]) {
                Ok(0) => break Moved::End,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.pull() {
                    Moved::Bytes(_) => {}
                    stopped => break stopped,
                },
                // The end without a goodbye.
                Err(_) => break Moved::End,
            }
            if filled == room.len() {
                return Moved::Bytes(filled);
            }
        };
        self.ended |= stopped == Moved::End;
        // The end is told by the next call.
        if filled > 0 { Moved::Bytes(filled) } else { stopped }
    }
}

impl Drop for Secure {
    /// A goodbye, so that the server does not take the end for a cut.
    fn drop(&mut self) {
        if !self.session.is_handshaking() && self.accepted == 0 {
            self.session.send_close_notify();
            self.push();
        }
    }
}

/// A socket as rustls takes it.
struct Raw<'a>(&'a OwnedFd);

impl io::Read for Raw<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match sockets::receive(self.0, room) {
            Moved::Bytes(count) => Ok(count),
            Moved::End => Ok(0),
            Moved::Later => Err(io::ErrorKind::WouldBlock.into()),
            Moved::Broken => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

impl io::Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match sockets::send(self.0, bytes) {
            Moved::Bytes(count) => Ok(count),
            Moved::Later => Err(io::ErrorKind::WouldBlock.into()),
            Moved::End | Moved::Broken => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
