//! TLS over a socket: rustls works on records in memory, and this moves them.
//!
//! ```text
//!   socket ─► scratch ─► decrypted in place ─► the reader's bytes    (a record's beginning waits in `incoming`)
//!   the writer's bytes ─► records in scratch ─► socket               (what does not fit waits in `outgoing`)
//! ```
//!
//! The scratch memory is the worker's. A connection that is silent holds what rustls needs for its keys and
//! nothing else.
//!
//! A write is done when the kernel has all of its records, so nobody has to flush. A write that is pending
//! has been encrypted already: the next one must begin with the same bytes, and is done when they are.
//!
//! The session's tickets leave with the first response, or when the client is waited for.
//!
//! Layout: the session itself is in `session`.
//!
//! Not here: certificates and what is agreed to (`tls`), how long a handshake may take (`connection`,
//! `upstream`).

mod session;

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};

pub use session::TlsFacts;
use session::{Session, Wait};

use super::socket::{ReadHalf, Socket, WriteHalf};
use crate::tls::Hello;

/// A record with all that it may be longer than its content (RFC 5246 §6.2.3).
const RECORD_BYTES_MAX: usize = 5 + 16 * 1024 + 2048;

/// Most that is received in one go. More does not fit the cache that is nearest to the cipher.
const RECEIVED_BYTES_MAX: usize = 128 * 1024;

/// Content that is encrypted and sent in one go; what a receiver that has stopped holds here at most.
const SENT_BYTES_MAX: usize = 64 * 1024;

/// What records add to so much content.
const OVERHEAD_BYTES_MAX: usize = 1024;

/// Memory that every poll of a worker uses and none keeps.
#[derive(Default)]
struct Scratch {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket failed, or the peer left.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer and we did not agree, or one of us has lied.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The client speaks HTTP without TLS.
    #[error("HTTP without TLS")]
    PlainHttp,
}

/// A session over a socket.
#[derive(Debug)]
pub(super) struct Secure {
    state: RefCell<State>,
    facts: Option<Arc<TlsFacts>>,
    /// The connection does not end in good order.
    cut: Cell<bool>,
}

struct State {
    session: Session,
    /// The beginning of a record.
    incoming: Vec<u8>,
    /// Content that nobody has taken yet, from `taken` on.
    plain: Vec<u8>,
    taken: usize,
    /// Records that the kernel has not taken yet, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// So much content of a write is in `outgoing`.
    accepted: usize,
    end: End,
    /// Why it failed.
    failure: Option<Box<rustls::Error>>,
    hello: Option<Hello>,
    /// The peer has been told that nothing comes after what it has.
    said_goodbye: bool,
}

/// Whether more comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The peer has said goodbye.
    Orderly,
    /// It is gone without.
    Cut,
    /// What came was no TLS, or not from the peer.
    Failed,
}

impl Secure {
    pub(super) fn server(
        config: Arc<ServerConfig>,
        received: &[u8],
    ) -> Result<Self, rustls::Error> {
        let session = Session::Server(UnbufferedServerConnection::new(config)?);
        Ok(Self::new(session, received))
    }

    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let session = Session::Client(UnbufferedClientConnection::new(config, name)?);
        Ok(Self::new(session, &[]))
    }

    fn new(session: Session, received: &[u8]) -> Self {
        let state = State {
            session,
            incoming: received.to_vec(),
            plain: Vec::new(),
            taken: 0,
            outgoing: Vec::new(),
            sent: 0,
            accepted: 0,
            end: End::Open,
            failure: None,
            hello: None,
            said_goodbye: false,
        };
        Self { state: RefCell::new(state), facts: None, cut: Cell::new(false) }
    }

    pub(super) fn facts(&self) -> Option<&Arc<TlsFacts>> {
        self.facts.as_ref()
    }

    pub(super) fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut ReadHalf<'_>,
        writer: &mut WriteHalf<'_>,
    ) -> Poll<Result<(), HandshakeError>> {
        let state = self.state.get_mut();
        loop {
            if state.has_outgoing() {
                ready!(state.poll_flush(cx, writer))?;
            }
            // What has come already, at first; after that, nothing new.
            let wait = state.digest();
            let server = state.session.is_server();
            match wait {
                Ok(Wait::Nothing) => {
                    // A server's tickets can wait for its first response; a client's last flight cannot.
                    if !server && state.has_outgoing() {
                        ready!(state.poll_flush(cx, writer))?;
                    }
                    self.facts = Some(Arc::new(state.session.facts(state.hello.take())));
                    return Poll::Ready(Ok(()));
                }
                Ok(Wait::Handshake) => {}
                Err(error) => {
                    // The peer should know why. It may be gone.
                    let _ = writer.poll_write(cx, &state.outgoing[state.sent..]);
                    return Poll::Ready(Err(error));
                }
            }
            if state.has_outgoing() {
                continue;
            }
            let read = |bytes: &mut [u8]| reader.poll_read(cx, bytes);
            if ready!(state.receive(read, RECORD_BYTES_MAX))? == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
        }
    }

    /// As [`Stream::poll_read`](super::Stream::poll_read).
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        reader: &mut ReadHalf<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let taken = state.take(bytes);
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
            if let Some(end) = state.ended() {
                return Poll::Ready(end.map(|()| 0));
            }
            match state.fill(|place| reader.poll_read(cx, place), bytes) {
                Poll::Ready(Ok(0)) => {}
                Poll::Ready(read) => return Poll::Ready(read),
                Poll::Pending => {
                    // Tickets, answers to a change of keys, a last word.
                    state.try_flush(|records| reader.try_write(records));
                    return Poll::Pending;
                }
            }
        }
    }

    /// As [`Reader::poll_left`](super::Reader::poll_left), with an error for a peer that has left.
    pub(super) fn poll_event(
        &self,
        cx: &mut Context<'_>,
        reader: &mut ReadHalf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        while !state.has_news() {
            match state.fill(|place| reader.poll_read(cx, place), &mut []) {
                Poll::Ready(read) => _ = read?,
                Poll::Pending => {
                    state.try_flush(|records| reader.try_write(records));
                    return Poll::Pending;
                }
            }
        }
        // RFC 8446 §6.1: who only finishes sending says so; who is gone without a word has left.
        let end = if state.taken < state.plain.len() { None } else { state.ended() };
        Poll::Ready(end.unwrap_or(Ok(())))
    }

    /// Whether there is content that nobody has taken, or an end.
    pub(super) fn has_news(&self) -> bool {
        self.state.borrow().has_news()
    }

    /// Takes in what the socket has, and says whether that is news: content, an end, an error. Tickets and
    /// changes of keys are none.
    pub(super) fn hears(&self, socket: &Socket) -> bool {
        let state = &mut *self.state.borrow_mut();
        while !state.has_news() {
            let read = |place: &mut [u8]| match socket.try_read(place) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                read => Poll::Ready(read),
            };
            match state.fill(read, &mut []) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        true
    }

    /// As [`Stream::poll_write`](super::Stream::poll_write).
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        writer: &mut WriteHalf<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        let mut done = 0;
        if state.accepted > 0 {
            ready!(state.poll_flush(cx, writer))?;
            done = std::mem::take(&mut state.accepted);
            debug_assert!(done <= bytes.len(), "a write that was pending is repeated");
            return Poll::Ready(Ok(done.min(bytes.len())));
        }
        while done < bytes.len() {
            let piece = &bytes[done..];
            let piece = &piece[..piece.len().min(SENT_BYTES_MAX)];
            match state.send(cx, writer, piece)? {
                true => done += piece.len(),
                false if done > 0 => break,
                false => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(done))
    }

    /// Says that nothing follows, and sends all there is.
    pub(super) fn poll_goodbye(
        &self,
        cx: &mut Context<'_>,
        writer: &mut WriteHalf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        if !self.cut.get() {
            state.queue_goodbye();
        }
        state.poll_flush(cx, writer)
    }

    /// From now on the connection does not end in good order, whatever becomes of it.
    pub(super) fn say_no_goodbye(&self) {
        self.cut.set(true);
    }

    /// Says that nothing follows, if that can be done at once.
    pub(super) fn say_goodbye(&self, socket: &Socket) {
        let Ok(mut state) = self.state.try_borrow_mut() else { return };
        let in_order = self.facts.is_some() && !self.cut.get() && state.accepted == 0;
        if in_order && !state.said_goodbye {
            state.queue_goodbye();
        }
        if in_order {
            state.try_flush(|records| socket.try_write(records));
        }
    }
}

impl State {
    fn has_news(&self) -> bool {
        self.taken < self.plain.len() || self.end != End::Open
    }

    fn has_outgoing(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    fn ended(&self) -> Option<io::Result<()>> {
        match self.end {
            End::Open => None,
            End::Orderly => Some(Ok(())),
            End::Cut => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            End::Failed => Some(Err(match &self.failure {
                Some(error) => io::Error::new(io::ErrorKind::InvalidData, (**error).clone()),
                None => io::ErrorKind::InvalidData.into(),
            })),
        }
    }

    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let rest = &self.plain[self.taken..];
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.plain.len() {
            (self.plain, self.taken) = (Vec::new(), 0);
        }
        count
    }

    /// Receives once and decrypts what is whole: into `bytes`, and what they do not hold into `plain`. How
    /// much has got into `bytes`; an end is in `end`.
    fn fill(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let (held, room) = self.lay_out(&mut scratch.incoming, bytes.len());
            let count = ready!(read(&mut scratch.incoming[held..room]))?;
            if count == 0 {
                self.end = End::Cut;
                return Poll::Ready(Ok(0));
            }
            let mut filled = 0;
            let plain = &mut self.plain;
            let sink = |content: &[u8]| {
                let fits = content.len().min(bytes.len() - filled);
                bytes[filled..filled + fits].copy_from_slice(&content[..fits]);
                filled += fits;
                plain.extend_from_slice(&content[fits..]);
            };
            let records = &mut scratch.incoming[..held + count];
            let (used, done) = self.session.digest(records, &mut self.outgoing, sink);
            self.incoming = records[used..].to_vec();
            match done {
                Ok((_, true)) => self.end = End::Orderly,
                Ok((_, false)) => {}
                Err(error) => {
                    log::debug!(target: "tls", "{error}");
                    self.end = End::Failed;
                    self.failure = Some(Box::new(error));
                }
            }
            Poll::Ready(Ok(filled))
        })
    }

    /// Puts what is there of a record at the beginning of `scratch`; how much that is, and where the room
    /// for more ends, for a reader that wants so much.
    fn lay_out(&self, scratch: &mut Vec<u8>, wanted: usize) -> (usize, usize) {
        let held = self.incoming.len();
        let room = wanted.clamp(RECORD_BYTES_MAX, RECEIVED_BYTES_MAX).max(held + RECORD_BYTES_MAX);
        if scratch.len() < room {
            scratch.resize(room.max(RECEIVED_BYTES_MAX), 0);
        }
        scratch[..held].copy_from_slice(&self.incoming);
        (held, room)
    }

    /// Receives once, behind what is there, without looking at it.
    fn receive(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let (held, room) = self.lay_out(&mut scratch.incoming, wanted);
            let count = ready!(read(&mut scratch.incoming[held..room]))?;
            self.incoming.extend_from_slice(&scratch.incoming[held..held + count]);
            Poll::Ready(Ok(count))
        })
    }

    /// Lets a handshake go on with what is there.
    fn digest(&mut self) -> Result<Wait, HandshakeError> {
        let server = self.session.is_server();
        // RFC 8446 §5.1: a record begins with its type, none of which is a letter.
        if server && self.incoming.first().is_some_and(u8::is_ascii_uppercase) {
            return Err(HandshakeError::PlainHttp);
        }
        let mut incoming = std::mem::take(&mut self.incoming);
        let plain = &mut self.plain;
        let sink = |content: &[u8]| plain.extend_from_slice(content);
        let (used, done) = self.session.digest(&mut incoming, &mut self.outgoing, sink);
        self.hello = Hello::take().or(self.hello.take());
        incoming.drain(..used);
        if !incoming.is_empty() {
            self.incoming = incoming;
        }
        let (wait, closed) = done?;
        if closed {
            self.end = End::Orderly;
            if wait == Wait::Handshake {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(wait)
    }

    /// Encrypts `content` and sends it behind what waits. False: some of it waits, and is done when
    /// `accepted` says so.
    fn send(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut WriteHalf<'_>,
        content: &[u8],
    ) -> io::Result<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            let out = &mut scratch.outgoing;
            let before = self.outgoing.len() - self.sent;
            let room = before + content.len() + OVERHEAD_BYTES_MAX;
            if out.len() < room {
                out.resize(room, 0);
            }
            out[..before].copy_from_slice(&self.outgoing[self.sent..]);
            (self.outgoing, self.sent) = (Vec::new(), 0);
            let length = before + self.session.encrypt(content, out, before)?;
            let mut sent = 0;
            while sent < length {
                match writer.poll_write(cx, &out[sent..length]) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(count)) => sent += count,
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => {
                        self.outgoing = out[sent..length].to_vec();
                        self.accepted = content.len();
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        })
    }

    /// Sends what waits.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut WriteHalf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.has_outgoing() {
            match ready!(writer.poll_write(cx, &self.outgoing[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        (self.outgoing, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Sends what waits and belongs to nobody's write, as far as that can be done at once.
    fn try_flush(&mut self, write: impl FnOnce(&[u8]) -> io::Result<usize>) {
        if self.has_outgoing() && self.accepted == 0 {
            // A failure shows in the next read or write.
            self.sent += write(&self.outgoing[self.sent..]).unwrap_or(0);
            if !self.has_outgoing() {
                (self.outgoing, self.sent) = (Vec::new(), 0);
            }
        }
    }

    fn queue_goodbye(&mut self) {
        if !std::mem::replace(&mut self.said_goodbye, true) && self.end != End::Failed {
            self.session.say_goodbye(&mut self.outgoing);
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("State").field("incoming", &self.incoming.len()).finish()
    }
}
