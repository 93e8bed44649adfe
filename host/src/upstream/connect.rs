//! Makes connections to servers.
//!
//! Names are looked up when a connection is made (`names`), so a change of DNS needs no reload. Of the
//! addresses of a name the one that worked last comes first; the next gets its chance when the one
//! before has failed or taken long (RFC 8305 in spirit), and whoever answers first is taken.
//!
//! Not here: when a connection is needed, and how long it may take (`upstream`).

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::names::Names;
use crate::config::ServerAddress;
use crate::error::RequestError;
use crate::io::{HandshakeError, Stream};

/// An address that has not answered for this long is no reason to wait with the next.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Where a server is.
#[derive(Debug)]
pub struct Dialer {
    address: ServerAddress,
    secure: Option<Secure>,
    names: Rc<Names>,
    /// Of the addresses of a name, the one that worked last.
    best: Cell<Option<SocketAddr>>,
}

/// How to speak TLS with a server.
#[derive(Clone, Debug)]
pub struct Secure {
    /// Whom to believe, and sessions.
    pub config: Arc<ClientConfig>,
    /// Whom the server must be.
    pub name: ServerName<'static>,
}

/// Why there is no connection.
#[derive(Debug)]
pub struct DialError {
    /// What the client hears of it.
    pub error: RequestError,
    /// What the operator does.
    pub detail: Option<String>,
}

impl From<RequestError> for DialError {
    fn from(error: RequestError) -> Self {
        Self { error, detail: None }
    }
}

impl Secure {
    /// Does the handshake. The caller limits the time.
    ///
    /// # Errors
    ///
    /// The server is not who it must be, or does not agree.
    pub async fn shake(&self, stream: &mut Stream) -> Result<(), HandshakeError> {
        stream.begin_client(Arc::clone(&self.config), self.name.clone())?;
        poll_fn(|cx| stream.poll_handshake(cx)).await
    }
}

/// What a failed handshake is called.
fn handshake_failure(error: &HandshakeError) -> DialError {
    use rustls::Error;
    let called = match error {
        HandshakeError::Tls(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
            RequestError::TlsCertificate
        }
        HandshakeError::Tls(Error::AlertReceived(_)) => RequestError::TlsAlert,
        _ => RequestError::TlsProtocol,
    };
    DialError { error: called, detail: Some(error.to_string()) }
}

impl Dialer {
    /// A dialer for one server.
    pub fn new(address: ServerAddress, secure: Option<Secure>) -> Self {
        Self { address, secure, names: Rc::default(), best: Cell::new(None) }
    }

    /// How to speak TLS with it.
    pub fn secure(&self) -> Option<&Secure> {
        self.secure.as_ref()
    }

    /// Connects. The caller limits the time.
    pub async fn connect(&self) -> Result<Stream, DialError> {
        self.connect_with(self.secure()).await
    }

    /// Connects, with TLS in another way than usual.
    pub async fn connect_with(&self, secure: Option<&Secure>) -> Result<Stream, DialError> {
        let mut stream = self.reach().await?;
        if let Some(secure) = secure {
            secure.shake(&mut stream).await.map_err(|error| handshake_failure(&error))?;
        }
        Ok(stream)
    }

    async fn reach(&self) -> Result<Stream, RequestError> {
        let connected = match &self.address {
            ServerAddress::Ip(address) => Stream::connect_tcp(*address).await,
            ServerAddress::Unix(path) => Stream::connect_unix(path).await,
            ServerAddress::Name { host, port } => {
                let found = self.names.addresses(|| look_up(host.to_string(), *port)).await;
                let (address, stream) = self.race(&found.ok_or(RequestError::Dns)?).await?;
                self.best.set(Some(address));
                return Ok(stream);
            }
        };
        connected.map_err(|error| failure(&error))
    }

    /// Connects to the address that is reached first.
    async fn race(&self, addresses: &[SocketAddr]) -> Result<(SocketAddr, Stream), RequestError> {
        let best = self.best.get().filter(|best| addresses.contains(best));
        let others = addresses.iter().copied().filter(|address| Some(*address) != best);
        let mut waiting = best.into_iter().chain(others).peekable();
        let mut running = Vec::new();
        let mut last = RequestError::Dns;
        loop {
            match waiting.next() {
                Some(address) => running.push(Box::pin(async move {
                    Stream::connect_tcp(address).await.map(|stream| (address, stream))
                })),
                None if running.is_empty() => return Err(last),
                None => {}
            }
            let more = waiting.peek().is_some();
            let mut pause = pin!(tokio::time::sleep(NEXT_ADDRESS_AFTER));
            let reached = poll_fn(|cx| {
                let mut place = 0;
                let before = running.len();
                while let Some(connecting) = running.get_mut(place) {
                    match connecting.as_mut().poll(cx) {
                        Poll::Pending => place += 1,
                        Poll::Ready(Ok(reached)) => return Poll::Ready(Some(reached)),
                        Poll::Ready(Err(error)) => {
                            last = failure(&error);
                            drop(running.swap_remove(place));
                        }
                    }
                }
                let failed = running.len() < before;
                if failed || (more && pause.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(None);
                }
                Poll::Pending
            })
            .await;
            if let Some(reached) = reached {
                return Ok(reached);
            }
        }
    }
}

async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    if let Err(error) = &found {
        log::warn!(target: "upstream", "cannot resolve `{host}`: {error}");
    }
    Ok(found?.collect())
}

fn failure(error: &io::Error) -> RequestError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => RequestError::Refused,
        io::ErrorKind::TimedOut => RequestError::ConnectTimeout,
        _ => RequestError::Connect,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::upstream::names::tests::block_on;

    fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Nobody answers here: the kernel drops what comes to a full backlog.
    fn black_hole() -> (SocketAddr, impl Sized) {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        let wait = Duration::from_millis(100);
        while let Ok(one) = std::net::TcpStream::connect_timeout(&address, wait) {
            held.push(one);
        }
        (address, (socket, held))
    }

    fn dialer() -> Dialer {
        Dialer::new(ServerAddress::Name { host: "test.invalid".into(), port: 1 }, None)
    }

    #[test]
    fn an_address_that_does_not_answer_hides_no_other() {
        let (hole, _held) = black_hole();
        let (_listener, good) = listening();
        let dialer = dialer();

        let (reached, _) = block_on(dialer.race(&[hole, good])).unwrap();

        assert_eq!(reached, good);
    }

    #[test]
    fn an_address_that_refuses_makes_room_at_once_and_the_last_failure_is_told() {
        let gone = listening().1;
        let (_listener, good) = listening();
        let dialer = dialer();

        assert_eq!(block_on(dialer.race(&[gone, gone, good])).unwrap().0, good);
        assert_eq!(block_on(dialer.race(&[gone, gone])).unwrap_err(), RequestError::Refused);
        assert_eq!(block_on(dialer.race(&[])).unwrap_err(), RequestError::Dns);
    }

    #[test]
    fn the_address_that_worked_last_comes_first_while_the_name_has_it() {
        let ((_one, one), (_two, two)) = (listening(), listening());
        let dialer = dialer();

        assert_eq!(block_on(dialer.race(&[one, two])).unwrap().0, one);
        dialer.best.set(Some(two));
        assert_eq!(block_on(dialer.race(&[one, two])).unwrap().0, two);
        assert_eq!(block_on(dialer.race(&[one])).unwrap().0, one);
    }
}
