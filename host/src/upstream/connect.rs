//! Makes connections to servers.
//!
//! Names are looked up when a connection is made, so a change of DNS needs no reload; answers are
//! used for a few seconds, so that a burst of connections is not a burst of look-ups.
//!
//! Not here: when a connection is needed (`upstream`).

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};

use crate::config::ServerAddress;
use crate::error::RequestError;
use crate::io::Stream;

/// How long the answer to a look-up is used.
const LOOKUP_TTL: Duration = Duration::from_secs(5);

/// Where a server is, and what its name meant last.
#[derive(Debug)]
pub struct Dialer {
    address: ServerAddress,
    known: RefCell<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Dialer {
    /// A dialer for one server.
    pub fn new(address: ServerAddress) -> Self {
        Self { address, known: RefCell::new(None) }
    }

    /// Connects; tries each address of a name in turn. The caller limits the time.
    pub async fn connect(&self, now: Instant) -> Result<Stream, RequestError> {
        match &self.address {
            ServerAddress::Ip(address) => connect_tcp(*address).await.map_err(|e| failure(&e)),
            ServerAddress::Unix(path) => {
                UnixStream::connect(path).await.map(Stream::from).map_err(|e| failure(&e))
            }
            ServerAddress::Name { host, port } => {
                let mut last = RequestError::Dns;
                for address in self.look_up(host, *port, now).await? {
                    match connect_tcp(address).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => last = failure(&error),
                    }
                }
                Err(last)
            }
        }
    }

    async fn look_up(
        &self,
        host: &str,
        port: u16,
        now: Instant,
    ) -> Result<Vec<SocketAddr>, RequestError> {
        if let Some((when, addresses)) = &*self.known.borrow()
            && now.saturating_duration_since(*when) < LOOKUP_TTL
        {
            return Ok(addresses.clone());
        }
        let found = tokio::net::lookup_host((host, port)).await.map_err(|error| {
            log::warn!(target: "upstream", "cannot resolve `{host}`: {error}");
            RequestError::Dns
        })?;
        let addresses: Vec<SocketAddr> = found.collect();
        *self.known.borrow_mut() = Some((now, addresses.clone()));
        Ok(addresses)
    }
}

async fn connect_tcp(address: SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream.into())
}

fn failure(error: &io::Error) -> RequestError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => RequestError::Refused,
        io::ErrorKind::TimedOut => RequestError::ConnectTimeout,
        _ => RequestError::Connect,
    }
}
