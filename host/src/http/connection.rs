//! A connection that carries messages, from either side: a socket and the bytes received too early.
//!
//! It speaks HTTP/1, or is one stream of HTTP/2, which carries one message each way. Heads differ then,
//! and are prepared here for whichever it is; bodies do not.
//!
//! Not here: what the messages mean (`proxy`), which connections there are (`upstream`).

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::head::{RequestHead, ResponseHead};
use super::parse::{self, Framing, HeadLimits, RequestFacts};
use super::write::{self, ConnectionField};
use super::{Name, h2};
use crate::error::RequestError;
use crate::io::{Buffer, BufferPool, Reader, Stream, Timer};

/// A socket, and what was received from it and not yet used.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: Stream,
    /// Bytes received and not yet used; never an empty buffer.
    pub inbox: Option<Buffer>,
}

/// Why no more bytes come.
#[derive(Debug)]
pub enum ReadError {
    /// The peer has finished sending.
    End,
    /// There were empty lines and nothing after them, so that no message has begun.
    Blank,
    /// The deadline has passed.
    TimedOut,
    /// The socket failed.
    Io(io::Error),
    /// The bytes are no message.
    Bad(RequestError),
}

/// A head that is ready to be sent: as bytes, which are somewhere else, or as a message of HTTP/2.
#[derive(Debug)]
#[must_use]
pub struct Opening<T> {
    /// Apart, so that a head of bytes is not moved about with room for one.
    message: Option<Box<T>>,
    /// Bytes that it takes up, or those of its fields.
    pub bytes: u64,
}

impl<T> Opening<T> {
    fn of(bytes: u64, message: T) -> Self {
        Self { message: Some(Box::new(message)), bytes }
    }
}

/// Reads what is there into `inbox`. 0 means that the peer has finished sending.
pub fn poll_fill(
    cx: &mut Context<'_>,
    reader: &mut Reader<'_>,
    inbox: &mut Option<Buffer>,
    pool: &Rc<BufferPool>,
) -> Poll<io::Result<usize>> {
    let mut buffer = match inbox.take() {
        Some(buffer) => buffer.grow(),
        None => pool.take(),
    };
    let read = reader.poll_read(cx, buffer.room());
    if let Poll::Ready(Ok(count)) = &read {
        buffer.add(*count);
    }
    *inbox = match read {
        _ if buffer.is_empty() => None,
        // Held while the connection waits, so no larger than it must be.
        Poll::Pending => Some(buffer.settle()),
        Poll::Ready(_) => Some(buffer),
    };
    read
}

/// Uses up the first `count` bytes of `inbox`.
pub fn consume(inbox: &mut Option<Buffer>, count: usize) {
    if let Some(buffer) = inbox {
        buffer.consume(count);
        if buffer.is_empty() {
            *inbox = None;
        }
    }
}

/// Puts bytes that were taken from `inbox` back in front of what is there.
pub fn put_back(inbox: &mut Option<Buffer>, bytes: &[u8], pool: &Rc<BufferPool>) {
    if !bytes.is_empty() {
        let rest = inbox.take();
        let rest = rest.as_ref().map_or(&[][..], Buffer::filled);
        let mut all = pool.sized(bytes.len() + rest.len());
        all.push(bytes);
        all.push(rest);
        *inbox = Some(all);
    }
}

impl Connection {
    /// A connection on which nothing has been received yet.
    pub fn new(stream: Stream) -> Self {
        Self { stream, inbox: None }
    }

    /// Waits for more bytes.
    pub async fn fill(&mut self, pool: &Rc<BufferPool>, timer: &Timer) -> Result<(), ReadError> {
        let Self { stream, inbox } = self;
        let (mut reader, _) = stream.split();
        poll_fn(|cx| {
            if timer.is_due() {
                return Poll::Ready(Err(ReadError::TimedOut));
            }
            Poll::Ready(match ready!(poll_fill(cx, &mut reader, inbox, pool)) {
                Ok(0) => Err(ReadError::End),
                Ok(_) => Ok(()),
                Err(error) => Err(ReadError::Io(error)),
            })
        })
        .await
    }

    /// Reads a whole request head. `timeout` begins with its first byte.
    ///
    /// `ReadError::End` means that the client left between two requests.
    pub async fn read_request(
        &mut self,
        head: &mut RequestHead,
        limits: &HeadLimits,
        pool: &Rc<BufferPool>,
        timer: &Timer,
        timeout: Duration,
    ) -> Result<RequestFacts, ReadError> {
        let mut searched = 0;
        let mut begun = false;
        loop {
            // A head never begins with an empty line, so as long as one is there, it has not begun.
            let blank = self.inbox.as_ref().map_or(0, |b| parse::leading_empty_lines(b.filled()));
            if blank > 0 {
                if blank > limits.bytes_max {
                    return Err(ReadError::Bad(RequestError::HeadTooLarge));
                }
                consume(&mut self.inbox, blank);
                searched = 0;
                if self.inbox.is_none() {
                    return Err(ReadError::Blank);
                }
            }
            if let Some(buffer) = &self.inbox {
                let bytes = buffer.filled();
                if let Some(end) = parse::find_end(bytes, searched).map_err(ReadError::Bad)? {
                    if end > limits.bytes_max {
                        return Err(ReadError::Bad(too_large(bytes, limits)));
                    }
                    let facts = parse::request(&bytes[..end], head, limits);
                    consume(&mut self.inbox, end);
                    timer.disarm();
                    return facts.map_err(ReadError::Bad);
                }
                if bytes.len() > limits.bytes_max {
                    return Err(ReadError::Bad(too_large(bytes, limits)));
                }
                searched = bytes.len();
                if !begun {
                    begun = true;
                    timer.arm(timeout);
                }
            }
            match self.fill(pool, timer).await {
                Err(ReadError::End) if begun => {
                    return Err(ReadError::Bad(RequestError::Malformed("unfinished request")));
                }
                Err(ReadError::TimedOut) if begun => {
                    return Err(ReadError::Bad(RequestError::ClientTimeout));
                }
                other => other?,
            }
        }
    }

    /// Prepares the head of a request; `out` receives its bytes. `server` is who is asked where the head
    /// does not say.
    pub fn prepare_request(
        &self,
        out: &mut Vec<u8>,
        head: &mut RequestHead,
        framing: Framing,
        upgrade: Option<&[u8]>,
        server: &str,
    ) -> Result<Opening<::http::Request<()>>, RequestError> {
        if self.stream.is_multiplexed() {
            write::frame(&mut head.fields, framing);
            let scheme = if self.stream.tls().is_some() { "https" } else { "http" };
            let message = h2::write_request(head, scheme, server)?;
            return Ok(Opening::of(h2::size(message.headers()), message));
        }
        write::request(out, head, framing, upgrade);
        Ok(Opening { message: None, bytes: out.len() as u64 })
    }

    /// Sends the head of a request, unless it is sent with the bytes that were prepared. `ends`: nothing
    /// follows.
    ///
    /// # Errors
    ///
    /// The server has closed the connection to new requests.
    pub fn open_request(
        &self,
        opening: Opening<::http::Request<()>>,
        ends: bool,
    ) -> Result<(), ::h2::Error> {
        match (self.stream.as_multiplexed(), opening.message) {
            (Some(stream), Some(message)) => stream.ask(*message, ends),
            _ => Ok(()),
        }
    }

    /// Prepares the head of a response; `out` receives its bytes.
    pub fn prepare_response(
        &self,
        out: &mut Vec<u8>,
        head: &mut ResponseHead,
        framing: Framing,
        field: ConnectionField,
    ) -> Opening<::http::Response<()>> {
        if self.stream.is_multiplexed() {
            write::frame(&mut head.fields, framing);
            let message = h2::write_response(head);
            return Opening::of(h2::size(message.headers()), message);
        }
        write::response(out, head, framing, field);
        Opening { message: None, bytes: out.len() as u64 }
    }

    /// Prepares the head of the response with which a tunnel begins.
    pub fn prepare_tunnel(
        &self,
        out: &mut Vec<u8>,
        head: &mut ResponseHead,
        protocol: &[u8],
    ) -> Opening<::http::Response<()>> {
        if self.stream.is_multiplexed() {
            // RFC 8441 §5: what proves a switch in HTTP/1 has no meaning here.
            head.status = 200;
            head.fields.remove_if(|name, _| name.eq_ignore_ascii_case(b"sec-websocket-accept"));
            head.fields.remove_known(Name::ContentLength);
            let message = h2::write_response(head);
            return Opening::of(h2::size(message.headers()), message);
        }
        write::switching_protocols(out, head, protocol);
        Opening { message: None, bytes: out.len() as u64 }
    }

    /// Sends the head of a response, unless it is sent with the bytes that were prepared. `ends`: nothing
    /// follows.
    ///
    /// # Errors
    ///
    /// The client has left.
    pub fn open_response(
        &self,
        opening: Opening<::http::Response<()>>,
        ends: bool,
    ) -> io::Result<()> {
        match (self.stream.as_multiplexed(), opening.message) {
            (Some(stream), Some(message)) => stream.respond(*message, ends),
            _ => Ok(()),
        }
    }

    /// Sends an interim response.
    pub async fn inform(&mut self, head: &ResponseHead, timer: &Timer) -> io::Result<()> {
        if let Some(stream) = self.stream.as_multiplexed() {
            return stream.inform(h2::write_response(head));
        }
        let mut bytes = Vec::new();
        write::interim(&mut bytes, head);
        self.write(&bytes, false, timer, None).await
    }

    /// Writes everything, or fails: when the peer takes nothing for as long as `idle`.
    pub async fn write_all(
        &mut self,
        bytes: &[u8],
        timer: &Timer,
        idle: Duration,
    ) -> io::Result<()> {
        self.write(bytes, false, timer, Some(idle)).await
    }

    /// Writes the end of a message, or fails: as [`write_all`](Self::write_all).
    pub async fn write_end(
        &mut self,
        bytes: &[u8],
        timer: &Timer,
        idle: Duration,
    ) -> io::Result<()> {
        self.write(bytes, true, timer, Some(idle)).await?;
        self.stream.split().1.end(|| None)
    }

    async fn write(
        &mut self,
        mut bytes: &[u8],
        last: bool,
        timer: &Timer,
        idle: Option<Duration>,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            if let Some(idle) = idle {
                timer.arm(idle);
            }
            let count = poll_fn(|cx| {
                if timer.is_due() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                self.stream.split().1.poll_write_part(cx, bytes, last)
            })
            .await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Says that nothing follows, and waits until that is on its way.
    pub async fn finish(&mut self, timer: &Timer) {
        const FINISH: Duration = Duration::from_secs(2);
        timer.limit(Some(FINISH));
        timer.disarm();
        poll_fn(|cx| match timer.is_due() {
            true => Poll::Ready(()),
            // A peer that has gone does not hear it.
            false => self.stream.poll_shutdown(cx).map(drop),
        })
        .await;
    }

    /// Ends the connection so that the peer gets what was written last.
    ///
    /// Closing with unread bytes makes the kernel send a reset, which can destroy a response that the
    /// peer has not read yet (RFC 9112 §9.6). So: finish sending, then read and forget for a moment.
    pub async fn linger(&mut self, pool: &Rc<BufferPool>, timer: &Timer) {
        const LINGER: Duration = Duration::from_secs(2);
        const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
        self.inbox = None;
        timer.limit(Some(LINGER));
        timer.disarm();
        let mut taken = 0;
        // With TLS the goodbye has to be taken by a peer that may read nothing.
        let ended = poll_fn(|cx| match timer.is_due() {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => self.stream.poll_shutdown(cx),
        });
        if ended.await.is_err() {
            return;
        }
        while taken < LINGER_BYTES_MAX && self.fill(pool, timer).await.is_ok() {
            taken += self.inbox.take().map_or(0, |buffer| buffer.len());
        }
    }
}

/// Which part of an unfinished head is to blame: a request line that never ends, or its fields.
fn too_large(bytes: &[u8], limits: &HeadLimits) -> RequestError {
    let line = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    if line > limits.target_bytes_max {
        RequestError::TargetTooLong
    } else {
        RequestError::HeadTooLarge
    }
}
