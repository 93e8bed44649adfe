//! A connection in the hands of a test: any bytes out, whole messages in.
//!
//! Not here: reading heads (`message`), and who is at the other end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::message::{Body, Message, field};
use super::tls::Session;

/// Longest head that is read. Above every limit under test.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Nobody looks further back than this.
const RECORD_BYTES_MAX: usize = 8 << 20;

/// One end of a connection.
pub struct Wire {
    socket: Socket,
    /// Received and not yet taken.
    buffer: Vec<u8>,
    /// Everything received, for those who want to see it later.
    record: Option<Arc<Mutex<Vec<u8>>>>,
    /// Longest wait for one message.
    pub deadline: Duration,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<dyn Session>),
}

/// Why there is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The other end closed before the first byte of a message.
    Closed,
    /// The other end closed in the middle of a message.
    Truncated(Vec<u8>),
    /// The other end of a TLS connection is gone without a goodbye.
    Cut,
    /// One end does not agree with the other's TLS.
    Refused(String),
    /// The other end reset the connection.
    Reset,
    /// Nothing came in time.
    Late(Vec<u8>),
    /// What came is not a message.
    Malformed(String),
}

impl Wire {
    /// Over TCP.
    pub fn tcp(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        Self { socket: Socket::Tcp(socket), buffer: Vec::new(), record: None, deadline: DEADLINE }
    }

    /// Over a Unix socket.
    pub fn unix(socket: UnixStream) -> Self {
        Self { socket: Socket::Unix(socket), buffer: Vec::new(), record: None, deadline: DEADLINE }
    }

    /// Over TLS.
    pub fn tls(session: impl Session + 'static) -> Self {
        let socket = Socket::Tls(Box::new(session));
        Self { socket, buffer: Vec::new(), record: None, deadline: DEADLINE }
    }

    /// Writes down everything received from now on.
    pub fn record(&mut self, record: Arc<Mutex<Vec<u8>>>) {
        self.record = Some(record);
    }

    /// Sends all of it, or says why not.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(socket) => {
                socket.set_write_timeout(Some(DEADLINE))?;
                socket.write_all(bytes.as_ref())
            }
            Socket::Unix(socket) => {
                socket.set_write_timeout(Some(DEADLINE))?;
                socket.write_all(bytes.as_ref())
            }
            Socket::Tls(session) => {
                session.tcp().set_write_timeout(Some(DEADLINE))?;
                session.write_all(bytes.as_ref())?;
                session.flush()
            }
        }
    }

    /// Sends all of it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the other end takes what is sent");
    }

    /// Sends what the other end takes at once, without waiting; how much that was.
    pub fn send_some(&mut self, bytes: &[u8]) -> usize {
        let Socket::Tcp(socket) = &mut self.socket else { panic!("for TCP only") };
        socket.set_nonblocking(true).unwrap();
        let sent = socket.write(bytes).unwrap_or(0);
        socket.set_nonblocking(false).unwrap();
        sent
    }

    /// Says that nothing more will be sent; goes on receiving.
    pub fn finish(&mut self) {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Write).unwrap(),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Write).unwrap(),
            Socket::Tls(session) => session.say_goodbye(),
        }
    }

    /// When dropped, this end closes with a reset instead of an orderly end.
    pub fn reset_at_end(&mut self) {
        socket2::SockRef::from(&*self).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Makes the kernel's receive buffer small, so that a slow reader is felt soon.
    pub fn receive_little(&mut self) {
        socket2::SockRef::from(&*self).set_recv_buffer_size(16 * 1024).unwrap();
    }

    /// The next request.
    pub fn try_request(&mut self) -> Result<Message, WireError> {
        let mut message = self.take_head()?;
        message.framing = message.request_framing().map_err(WireError::Malformed)?;
        self.take_body(message)
    }

    /// The next response, to a request other than HEAD; 1xx are responses too.
    pub fn try_response(&mut self) -> Result<Message, WireError> {
        self.try_response_to("GET")
    }

    /// The next response, to a request of this method.
    pub fn try_response_to(&mut self, method: &str) -> Result<Message, WireError> {
        let message = self.try_response_head(method)?;
        self.take_body(message)
    }

    /// The head of the next response; the body is still to come.
    pub fn try_response_head(&mut self, method: &str) -> Result<Message, WireError> {
        let mut message = self.take_head()?;
        message.framing = message.response_framing(method).map_err(WireError::Malformed)?;
        Ok(message)
    }

    /// The head of the next request; the body is still to come.
    pub fn try_request_head(&mut self) -> Result<Message, WireError> {
        let mut message = self.take_head()?;
        message.framing = message.request_framing().map_err(WireError::Malformed)?;
        Ok(message)
    }

    /// The next response; fails the test when there is none.
    #[track_caller]
    pub fn response(&mut self) -> Message {
        self.try_response().expect("a response")
    }

    /// The next response to a request of this method; fails the test when there is none.
    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Message {
        self.try_response_to(method).expect("a response")
    }

    /// Sends a request and takes its response.
    #[track_caller]
    pub fn exchange(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request);
        self.response()
    }

    /// Exactly this many bytes.
    pub fn take(&mut self, count: usize) -> Result<Vec<u8>, WireError> {
        let end = Instant::now() + self.deadline;
        while self.buffer.len() < count {
            self.fill(end)?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Whatever has come, at least one byte; empty at the end of the connection.
    pub fn take_some(&mut self) -> Result<Vec<u8>, WireError> {
        let end = Instant::now() + self.deadline;
        if self.buffer.is_empty() {
            match self.fill(end) {
                Ok(()) => {}
                Err(WireError::Closed) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Everything up to the end of the connection.
    pub fn take_rest(&mut self) -> Result<Vec<u8>, WireError> {
        let end = Instant::now() + self.deadline;
        loop {
            match self.fill(end) {
                Ok(()) => {}
                Err(WireError::Closed | WireError::Truncated(_)) => {
                    return Ok(std::mem::take(&mut self.buffer));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Fails the test unless the other end closes now, without another byte.
    ///
    /// A reset counts as an end: what was still on its way to a closed socket causes one.
    #[track_caller]
    pub fn closed(&mut self) {
        match self.take_rest() {
            Ok(rest) if rest.is_empty() => {}
            Err(WireError::Reset) if self.buffer.is_empty() => {}
            other => panic!("instead of the end: {}", show(&other)),
        }
    }

    /// Whether nothing comes for this long, and the connection stays open.
    pub fn is_silent(&mut self, span: Duration) -> bool {
        let end = Instant::now() + span;
        self.buffer.is_empty() && matches!(self.fill(end), Err(WireError::Late(_)))
    }

    /// Takes a chunked body or one of known length; returns the message with it.
    pub fn take_body(&mut self, mut message: Message) -> Result<Message, WireError> {
        match message.framing {
            Body::None => {}
            Body::Length(length) => message.body = self.take(usize::try_from(length).unwrap())?,
            Body::Close => message.body = self.take_rest()?,
            Body::Chunked => loop {
                let size = self.take_chunk_size()?;
                if size == 0 {
                    message.trailers = self.take_trailers()?;
                    break;
                }
                message.body.extend(self.take(size)?);
                if self.take(2)? != b"\r\n" {
                    return Err(WireError::Malformed("no CRLF after a chunk".into()));
                }
            },
        }
        Ok(message)
    }

    fn take_chunk_size(&mut self) -> Result<usize, WireError> {
        let line = self.take_line()?;
        let good = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(&line, 16).ok().filter(|_| good);
        size.ok_or_else(|| WireError::Malformed(format!("chunk size {line:?}")))
    }

    fn take_trailers(&mut self) -> Result<Vec<(String, String)>, WireError> {
        let mut trailers = Vec::new();
        loop {
            let line = self.take_line()?;
            if line.is_empty() {
                return Ok(trailers);
            }
            trailers.push(field(&line).map_err(WireError::Malformed)?);
        }
    }

    fn take_line(&mut self) -> Result<String, WireError> {
        let line = self.take_until(b"\r\n")?;
        let line: String = line[..line.len() - 2].iter().map(|byte| char::from(*byte)).collect();
        let good = !line.contains(['\r', '\n']);
        if good { Ok(line) } else { Err(WireError::Malformed(format!("line {line:?}"))) }
    }

    fn take_head(&mut self) -> Result<Message, WireError> {
        let head = self.take_until(b"\r\n\r\n")?;
        Message::parse(&head).map_err(WireError::Malformed)
    }

    fn take_until(&mut self, mark: &[u8]) -> Result<Vec<u8>, WireError> {
        let end = Instant::now() + self.deadline;
        loop {
            let found = self.buffer.windows(mark.len()).position(|window| window == mark);
            if let Some(at) = found {
                return Ok(self.buffer.drain(..at + mark.len()).collect());
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(WireError::Malformed("a head without end".into()));
            }
            self.fill(end)?;
        }
    }

    /// Receives at least one more byte.
    fn fill(&mut self, end: Instant) -> Result<(), WireError> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut chunk = vec![0; 64 * 1024];
        let result = match &mut self.socket {
            Socket::Tcp(socket) => {
                socket.set_read_timeout(Some(left)).unwrap();
                socket.read(&mut chunk)
            }
            Socket::Unix(socket) => {
                socket.set_read_timeout(Some(left)).unwrap();
                socket.read(&mut chunk)
            }
            Socket::Tls(session) => {
                session.tcp().set_read_timeout(Some(left)).unwrap();
                session.read(&mut chunk)
            }
        };
        match result {
            Ok(0) if self.buffer.is_empty() => Err(WireError::Closed),
            Ok(0) => Err(WireError::Truncated(self.buffer.clone())),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                if let Some(record) = &self.record {
                    let mut record = record.lock().unwrap();
                    let room = RECORD_BYTES_MAX.saturating_sub(record.len());
                    record.extend_from_slice(&chunk[..count.min(room)]);
                }
                Ok(())
            }
            Err(error) => Err(match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    WireError::Late(self.buffer.clone())
                }
                io::ErrorKind::Interrupted => return Ok(()),
                io::ErrorKind::UnexpectedEof => WireError::Cut,
                io::ErrorKind::InvalidData => WireError::Refused(error.to_string()),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => WireError::Reset,
                _ => panic!("{error}"),
            }),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tls(session) => session.tcp().as_fd(),
        }
    }
}

fn show(result: &Result<Vec<u8>, WireError>) -> String {
    match result {
        Ok(bytes) | Err(WireError::Truncated(bytes) | WireError::Late(bytes)) => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
            let late = matches!(result, Err(WireError::Late(_)));
            format!("{text:?}{}", if late { ", and still open at the deadline" } else { "" })
        }
        Err(error) => format!("{error:?}"),
    }
}
