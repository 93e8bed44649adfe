//! One stream of an HTTP/2 connection, to be read and written as a socket is.
//!
//! What is read and written is content. What HTTP/2 has besides (heads, the end of a message, trailers,
//! resets) has functions of its own here, and is nothing on a socket.
//!
//! Flow control is passed on: bytes are acknowledged to the sender when they are read from here, and
//! taken for sending only as far as the receiver's window lets them go at once. So neither direction
//! holds more than a window.
//!
//! Cancel safety: dropping it resets a stream that has not ended.
//!
//! Not here: the connection that carries it (`connection`, `upstream`), what heads mean (`http::h2`).

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use super::secure::TlsFacts;

/// The head of a response, and whether nothing follows it.
pub type ReceivedHead = Result<(Response<()>, bool), h2::Error>;

/// A piece of content that is worth a frame though it is not all that there is.
const PIECE_BYTES_MIN: usize = 512;

/// So much content is worth as much as another piece: whoever takes it answers with frames of its own, and
/// is no flood.
const WORK_BYTES: usize = 8 * 1024;

/// One stream of an HTTP/2 connection, from either side.
#[derive(Debug)]
pub struct Multiplexed {
    receiving: RefCell<Receiving>,
    sending: RefCell<Sending>,
    /// Why the other side has given up what it was sending.
    given_up: Cell<Option<Reason>>,
    /// Bytes of content that have been read.
    taken: Cell<u64>,
    /// Pieces of content that its connection has carried, on all of its streams.
    work: Rc<Cell<u64>>,
    /// What its connection's handshake came to.
    tls: Option<Arc<TlsFacts>>,
}

/// ```text
///   server:                                  Content
///   client:  Nothing ─ask─► Head ─poll_head─► Content
/// ```
#[derive(Debug)]
enum Receiving {
    Nothing,
    Head(ResponseFuture),
    Content {
        stream: RecvStream,
        /// Received and not yet read.
        rest: Bytes,
    },
}

/// ```text
///   server:  Respond ─respond─► Content ─end─► Ended
///   client:  Ask ──────ask────► Content ─end─► Ended
/// ```
#[derive(Debug)]
enum Sending {
    Respond(SendResponse<Bytes>),
    Ask(SendRequest<Bytes>),
    Content(SendStream<Bytes>),
    Ended(SendStream<Bytes>),
    /// Without a head there is nothing to be sent.
    Failed,
}

impl Multiplexed {
    /// A request that a client has sent.
    pub fn asked(
        stream: RecvStream,
        respond: SendResponse<Bytes>,
        work: Rc<Cell<u64>>,
        tls: Option<Arc<TlsFacts>>,
    ) -> Self {
        Self {
            given_up: Cell::default(),
            taken: Cell::new(0),
            work,
            tls,
            receiving: RefCell::new(Receiving::Content { stream, rest: Bytes::new() }),
            sending: RefCell::new(Sending::Respond(respond)),
        }
    }

    /// A request to be sent to a server.
    pub fn asking(
        connection: SendRequest<Bytes>,
        work: Rc<Cell<u64>>,
        tls: Option<Arc<TlsFacts>>,
    ) -> Self {
        Self {
            given_up: Cell::default(),
            taken: Cell::new(0),
            work,
            tls,
            receiving: RefCell::new(Receiving::Nothing),
            sending: RefCell::new(Sending::Ask(connection)),
        }
    }

    /// What the handshake of its connection came to; [`None`] without TLS.
    pub fn tls(&self) -> Option<&Arc<TlsFacts>> {
        self.tls.as_ref()
    }

    /// Sends the head of a request; with `end`, that is all.
    ///
    /// # Errors
    ///
    /// The connection takes no more requests: the server knows nothing of this one.
    pub fn ask(&self, head: Request<()>, end: bool) -> Result<(), h2::Error> {
        let mut sending = self.sending.borrow_mut();
        if let Sending::Ask(connection) = &mut *sending {
            let (response, stream) = connection.send_request(head, end)?;
            *sending = if end { Sending::Ended(stream) } else { Sending::Content(stream) };
            *self.receiving.borrow_mut() = Receiving::Head(response);
        }
        Ok(())
    }

    /// Waits for the head of a response, and says whether nothing follows it. Interim ones come first,
    /// each by itself.
    pub fn poll_head(&self, cx: &mut Context<'_>) -> Poll<ReceivedHead> {
        let mut receiving = self.receiving.borrow_mut();
        let Receiving::Head(response) = &mut *receiving else { return Poll::Pending };
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            return Poll::Ready(interim.map(|head| (head, false)));
        }
        let (head, stream) = ready!(std::pin::Pin::new(response).poll(cx))?.into_parts();
        let ended = stream.is_end_stream();
        *receiving = Receiving::Content { stream, rest: Bytes::new() };
        Poll::Ready(Ok((Response::from_parts(head, ()), ended)))
    }

    /// Sends an interim response.
    ///
    /// # Errors
    ///
    /// The client has left.
    pub fn inform(&self, head: Response<()>) -> io::Result<()> {
        match &mut *self.sending.borrow_mut() {
            Sending::Respond(respond) => respond.send_informational(head).map_err(io::Error::other),
            _ => Ok(()),
        }
    }

    /// Sends the head of the response; with `end`, that is all.
    ///
    /// # Errors
    ///
    /// The client has left.
    pub fn respond(&self, head: Response<()>, end: bool) -> io::Result<()> {
        let mut sending = self.sending.borrow_mut();
        let Sending::Respond(respond) = &mut *sending else { return Ok(()) };
        let sent = respond.send_response(head, end).map_err(io::Error::other);
        let stream = sent.inspect_err(|_| *sending = Sending::Failed)?;
        *sending = if end { Sending::Ended(stream) } else { Sending::Content(stream) };
        Ok(())
    }

    /// Reads content; 0 bytes mean that there is no more, and that trailers may be asked for.
    pub fn poll_read(&self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut receiving = self.receiving.borrow_mut();
        let Receiving::Content { stream, rest } = &mut *receiving else { return Poll::Pending };
        let mut count = 0;
        while count < bytes.len() {
            if rest.is_empty() {
                match stream.poll_data(cx) {
                    Poll::Ready(Some(Ok(data))) => {
                        // Content that comes byte by byte is no work, either.
                        let useful = u64::from(data.len() >= PIECE_BYTES_MIN);
                        self.work.set(self.work.get() + useful);
                        *rest = data;
                    }
                    Poll::Ready(Some(Err(error))) if count == 0 => {
                        self.given_up.set(error.reason().filter(|_| error.is_remote()));
                        return Poll::Ready(Err(io::Error::other(error)));
                    }
                    Poll::Pending if count == 0 => return Poll::Pending,
                    // What there is comes first; asking again tells the rest again.
                    Poll::Ready(None | Some(Err(_))) | Poll::Pending => break,
                }
            }
            let part = rest.len().min(bytes.len() - count);
            rest.copy_to_slice(&mut bytes[count..count + part]);
            count += part;
            self.taken.set(self.taken.get() + part as u64);
            // Fails only when the stream is gone, which the next read will tell.
            let _ = stream.flow_control().release_capacity(part);
        }
        Poll::Ready(Ok(count))
    }

    /// Bytes of content that have been read so far.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Waits for the trailers after the last of the content.
    pub fn poll_trailers(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>> {
        match &mut *self.receiving.borrow_mut() {
            Receiving::Content { stream, .. } => stream.poll_trailers(cx).map_err(io::Error::other),
            _ => Poll::Ready(Ok(None)),
        }
    }

    /// Sends what the receiver's window has room for. `last`: the message ends with these bytes.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        let mut sending = self.sending.borrow_mut();
        let Sending::Content(stream) = &mut *sending else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        stream.reserve_capacity(bytes.len());
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = bytes.len().min(stream.capacity());
        // A receiver that opens its window byte by byte does no work.
        if count == bytes.len() || count >= PIECE_BYTES_MIN {
            self.work.set(self.work.get() + 1 + (count / WORK_BYTES) as u64);
        }
        let ends = last && count == bytes.len();
        let part = Bytes::copy_from_slice(&bytes[..count]);
        stream.send_data(part, ends).map_err(io::Error::other)?;
        if ends {
            sending.end();
        }
        Poll::Ready(Ok(count))
    }

    /// Ends the message, with trailers if there are any, unless it has ended.
    ///
    /// # Errors
    ///
    /// The receiver has left.
    pub fn end(&self, trailers: Option<HeaderMap>) -> io::Result<()> {
        let mut sending = self.sending.borrow_mut();
        if let Sending::Content(stream) = &mut *sending {
            match trailers {
                Some(trailers) => stream.send_trailers(trailers),
                None => stream.send_data(Bytes::new(), true),
            }
            .map_err(io::Error::other)?;
            sending.end();
        }
        Ok(())
    }

    /// Waits until the other side has given the stream up while something was still to be sent.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.sending.borrow_mut() {
            Sending::Respond(respond) => respond.poll_reset(cx).map(drop),
            Sending::Content(stream) => stream.poll_reset(cx).map(drop),
            Sending::Ask(_) | Sending::Ended(_) | Sending::Failed => Poll::Pending,
        }
    }

    /// Why the other side has given up what it was sending, if a read has told.
    pub fn given_up(&self) -> Option<Reason> {
        self.given_up.get()
    }

    /// Gives the stream up.
    pub fn reset(&self, reason: Reason) {
        match &mut *self.sending.borrow_mut() {
            Sending::Respond(respond) => respond.send_reset(reason),
            Sending::Content(stream) | Sending::Ended(stream) => stream.send_reset(reason),
            Sending::Ask(_) | Sending::Failed => {}
        }
    }
}

impl Sending {
    fn end(&mut self) {
        if let Self::Content(stream) = std::mem::replace(self, Self::Failed) {
            *self = Self::Ended(stream);
        }
    }
}
