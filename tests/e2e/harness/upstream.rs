//! Servers behind the gateway: each does on every connection what a closure says.
//!
//! Not here: reading and writing (`wire`).

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::eventually;
use super::message::Message;
use super::wire::{Wire, WireError};

/// A server. Stops listening when dropped; fails the test when the gateway sent it something that
/// is not HTTP.
pub struct Upstream {
    address: Address,
    shared: Arc<Shared>,
}

enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    /// Bytes received, by connection.
    received: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    /// Whole requests in the order in which they were complete.
    requests: Mutex<Vec<Message>>,
    /// Connections that are closed because their script has ended.
    ended: Mutex<usize>,
    /// What the gateway should not have sent; panics of scripts too.
    malformed: Mutex<Vec<String>>,
}

/// A connection that the gateway has opened.
pub struct Connection {
    wire: Wire,
    shared: Arc<Shared>,
}

impl Upstream {
    /// On a port of its own. An error ends the script of a connection and closes it; so does the
    /// end of the closure.
    pub fn start(
        script: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let accept = move || listener.accept().map(|(socket, _)| Wire::tcp(socket));
        Self::serve(address, accept, script)
    }

    /// On a port of its own, by TLS.
    pub fn secure(
        config: Arc<ServerConfig>,
        script: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let accept = move || {
            let (socket, _) = listener.accept()?;
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            Ok(Wire::tls(StreamOwned::new(session, socket)))
        };
        Self::serve(address, accept, script)
    }

    /// On a Unix socket.
    pub fn unix(
        path: &Path,
        script: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let accept = move || listener.accept().map(|(socket, _)| Wire::unix(socket));
        Self::serve(Address::Unix(path.to_owned()), accept, script)
    }

    /// Answers every request with this text, on connections that stay open.
    pub fn answering(text: &str) -> Self {
        let length = text.len();
        Self::sending(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"))
    }

    /// Answers every request with these bytes, on connections that stay open.
    pub fn sending(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |connection| {
            loop {
                connection.request()?;
                connection.try_send(&response)?;
            }
        })
    }

    /// Answers the first request of a connection with these bytes, and closes.
    pub fn sending_and_closing(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |connection| {
            connection.request()?;
            connection.try_send(&response)
        })
    }

    /// Answers with the request's body.
    pub fn echoing() -> Self {
        Self::start(|connection| {
            loop {
                let request = connection.request()?;
                let length = request.body.len();
                connection
                    .try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"))?;
                connection.try_send(&request.body)?;
            }
        })
    }

    fn serve(
        address: Address,
        accept: impl Fn() -> io::Result<Wire> + Send + 'static,
        script: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let (all, script) = (Arc::clone(&shared), Arc::new(script));
        std::thread::spawn(move || {
            while let Ok(mut wire) = accept() {
                if all.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let record = Arc::default();
                wire.record(Arc::clone(&record));
                let mut received = all.received.lock().unwrap();
                received.push(record);
                let mut connection = Connection { wire, shared: Arc::clone(&all) };
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    // The script's error is the way in which it ends; its panic is the test's.
                    let run = AssertUnwindSafe(|| script(&mut connection));
                    let panicked = std::panic::catch_unwind(run).is_err();
                    let Connection { wire, shared } = connection;
                    drop(wire);
                    if panicked {
                        shared.malformed.lock().unwrap().push("a panic".into());
                    }
                    *shared.ended.lock().unwrap() += 1;
                });
            }
        });
        Self { address, shared }
    }

    /// `ip:port` or `unix:/path`.
    pub fn address(&self) -> String {
        match &self.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// `http://ip:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    /// Connections so far that are closed because their script has ended.
    pub fn ended(&self) -> usize {
        *self.shared.ended.lock().unwrap()
    }

    /// All bytes of all connections so far, as text.
    pub fn received_text(&self) -> String {
        let all = self.shared.received.lock().unwrap();
        all.iter().map(|one| String::from_utf8_lossy(&one.lock().unwrap()).into_owned()).collect()
    }

    /// Whole requests received so far.
    pub fn requests(&self) -> Vec<Message> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The only request so far; waits for it.
    pub fn request(&self) -> Message {
        eventually("a request upstream", || self.requests().into_iter().next())
    }

    /// The last request so far.
    pub fn last_request(&self) -> Message {
        self.requests().pop().expect("a request upstream")
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        match &self.address {
            Address::Tcp(address) => drop(TcpStream::connect(address)),
            Address::Unix(path) => drop(UnixStream::connect(path)),
        }
        let malformed = self.shared.malformed.lock().unwrap().clone();
        if !std::thread::panicking() {
            assert!(malformed.is_empty(), "an upstream got what it should not: {malformed:?}");
        }
    }
}

impl Connection {
    /// The next request with its body. An error when there is none, whole.
    pub fn request(&mut self) -> io::Result<Message> {
        let request = self.wire.try_request();
        let request = self.checked(request)?;
        Ok(self.whole(request))
    }

    /// The head of the next request; nothing of the body is waited for.
    pub fn request_head(&mut self) -> io::Result<Message> {
        let head = self.wire.try_request_head();
        self.checked(head)
    }

    /// The body of a request whose head has been read.
    pub fn rest_of(&mut self, head: Message) -> io::Result<Message> {
        let request = self.wire.take_body(head);
        let request = self.checked(request)?;
        Ok(self.whole(request))
    }

    /// Sends a response with this body.
    pub fn answer(&mut self, text: &str) -> io::Result<()> {
        let length = text.len();
        self.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"))
    }

    fn checked(&mut self, message: Result<Message, WireError>) -> io::Result<Message> {
        message.map_err(|error| {
            if let WireError::Malformed(what) = &error {
                self.shared.malformed.lock().unwrap().push(what.clone());
            }
            io::Error::other(format!("{error:?}"))
        })
    }

    fn whole(&mut self, request: Message) -> Message {
        self.shared.requests.lock().unwrap().push(request.clone());
        request
    }
}

impl Deref for Connection {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

/// An address that never answers a connection attempt, until the value is dropped.
///
/// A listener that nobody accepts from, its backlog full: the kernel drops further SYNs.
pub fn full_backlog() -> (SocketAddr, impl Sized) {
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        held.push(socket);
    }
    (address, (listener, held))
}
