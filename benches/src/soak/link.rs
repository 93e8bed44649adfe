//! A client's connection, with or without TLS.
//!
//! Not here: what is said on it (`client`).

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Longest wait for anything.
const WITHIN: Duration = Duration::from_secs(30);

/// Whom the certificate is for; nobody looks.
const NAME: &str = "bench.example";

/// A socket, or a session over one.
#[derive(Debug)]
pub(super) enum Link {
    Plain(TcpStream),
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Link {
    /// Connects.
    pub(super) fn plain(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, WITHIN)?;
        stream.set_read_timeout(Some(WITHIN))?;
        stream.set_write_timeout(Some(WITHIN))?;
        stream.set_nodelay(true)?;
        Ok(Self::Plain(stream))
    }

    /// Connects and shakes hands; the configuration remembers sessions.
    pub(super) fn secure(target: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let Self::Plain(mut stream) = Self::plain(target)? else {
            return Err(io::ErrorKind::Other.into());
        };
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let mut session =
            ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self::Secure(Box::new(StreamOwned::new(session, stream))))
    }

    /// The socket below.
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(session) => &session.sock,
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if let Self::Secure(session) = self {
            session.conn.send_close_notify();
            session.flush()?;
        }
        self.socket().shutdown(Shutdown::Write)
    }
}

impl Read for Link {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(bytes),
            Self::Secure(session) => session.read(bytes),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Secure(session) => session.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secure(session) => session.flush(),
        }
    }
}
