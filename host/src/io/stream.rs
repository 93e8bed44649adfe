//! A connected stream: a socket, with or without TLS over it.
//!
//! Whoever reads and writes does not see which it is, but for splicing, which needs bytes as they are
//! ([`Reader::splices`]).
//!
//! Not here: the kernel's side (`socket`), TLS itself (`secure`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Pipe;
use super::multiplexed::{Multiplexed, ReceivedHead};
use super::secure::{HandshakeError, Secure, TlsFacts};
use super::socket::{ReadHalf, Socket, WriteHalf};

/// A connected stream.
#[derive(Debug)]
pub struct Stream {
    lower: Lower,
    received: u64,
}

/// What carries the bytes.
#[derive(Debug)]
enum Lower {
    /// A socket, with TLS or without.
    Socket(Socket, Option<Box<Secure>>),
    /// A stream of an HTTP/2 connection.
    Multiplexed(Box<Multiplexed>),
}

/// The receiving side of a [`Stream`].
#[derive(Debug)]
pub struct Reader<'a> {
    half: ReaderHalf<'a>,
    received: &'a mut u64,
}

#[derive(Debug)]
enum ReaderHalf<'a> {
    Socket(ReadHalf<'a>, Option<&'a Secure>),
    Multiplexed(&'a Multiplexed),
}

/// The sending side of a [`Stream`].
#[derive(Debug)]
pub struct Writer<'a>(WriterHalf<'a>);

#[derive(Debug)]
enum WriterHalf<'a> {
    Socket(WriteHalf<'a>, Option<&'a Secure>),
    Multiplexed(&'a Multiplexed),
}

impl Stream {
    /// Takes over a connected socket that does not block; `tcp` says what it is. To be called on the
    /// worker's thread.
    ///
    /// # Errors
    ///
    /// It cannot be registered with the runtime.
    pub fn new(socket: OwnedFd, tcp: bool) -> io::Result<Self> {
        Socket::new(socket, tcp).map(Self::over)
    }

    /// A socket whose peer says nothing and is there as long as the second half of the pair.
    ///
    /// # Errors
    ///
    /// There is no socket to be had.
    pub fn silent() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self::new(ours.into(), false)?, theirs.into()))
    }

    /// Connects over TCP. Dropping the future closes the socket.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    pub async fn connect_tcp(address: SocketAddr) -> io::Result<Self> {
        Socket::connect_tcp(address).await.map(Self::over)
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        Socket::connect_unix(path).await.map(Self::over)
    }

    fn over(socket: Socket) -> Self {
        Self { lower: Lower::Socket(socket, None), received: 0 }
    }

    /// A stream of an HTTP/2 connection, on which so many bytes have been received already.
    pub fn multiplexed(stream: Multiplexed, received: u64) -> Self {
        Self { lower: Lower::Multiplexed(Box::new(stream)), received }
    }

    /// This, if it is a stream of an HTTP/2 connection.
    pub fn as_multiplexed(&self) -> Option<&Multiplexed> {
        match &self.lower {
            Lower::Multiplexed(stream) => Some(stream),
            Lower::Socket(..) => None,
        }
    }

    /// Whether messages end by themselves here, and say so beside their content.
    pub fn is_multiplexed(&self) -> bool {
        self.as_multiplexed().is_some()
    }

    /// Begins TLS as a server; [`poll_handshake`](Self::poll_handshake) goes on. `received` has been
    /// read from the stream already.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used.
    pub fn begin_server(
        &mut self,
        config: Arc<ServerConfig>,
        received: &[u8],
    ) -> Result<(), HandshakeError> {
        if let Lower::Socket(_, secure) = &mut self.lower {
            *secure = Some(Box::new(Secure::server(config, received)?));
        }
        Ok(())
    }

    /// Begins TLS as a client of the server of this name.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used.
    pub fn begin_client(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<(), HandshakeError> {
        if let Lower::Socket(_, secure) = &mut self.lower {
            *secure = Some(Box::new(Secure::client(config, name)?));
        }
        Ok(())
    }

    /// Goes on with a handshake until it is done. Nothing else may be done with the stream before.
    ///
    /// After an error the peer has been told, and the stream is one without TLS again: good for an answer
    /// to a client that does not speak it, and else for nothing.
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        let Lower::Socket(socket, begun) = &mut self.lower else { return Poll::Ready(Ok(())) };
        let Some(secure) = begun else { return Poll::Ready(Ok(())) };
        let (mut reader, mut writer) = socket.split();
        let done = ready!(secure.poll_handshake(cx, &mut reader, &mut writer));
        if done.is_err() {
            *begun = None;
        }
        Poll::Ready(done)
    }

    /// What the handshake came to; [`None`] without TLS.
    pub fn tls(&self) -> Option<&Arc<TlsFacts>> {
        match &self.lower {
            Lower::Socket(_, secure) => secure.as_ref()?.facts(),
            Lower::Multiplexed(stream) => stream.tls(),
        }
    }

    /// The protocol that was agreed on by ALPN (RFC 7301), such as `h2`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls()?.alpn.as_deref()
    }

    /// Both sides, to be used at the same time.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        let (reader, writer) = match &mut self.lower {
            Lower::Socket(socket, secure) => {
                let (reader, writer) = socket.split();
                let secure = secure.as_deref();
                (ReaderHalf::Socket(reader, secure), WriterHalf::Socket(writer, secure))
            }
            Lower::Multiplexed(stream) => {
                (ReaderHalf::Multiplexed(stream), WriterHalf::Multiplexed(stream))
            }
        };
        (Reader { half: reader, received: &mut self.received }, Writer(writer))
    }

    /// Bytes read so far, as the reader got them.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Reads what is there; 0 bytes mean that the peer has finished sending. With TLS, an end without its
    /// goodbye is an error: somebody may have cut the connection.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        self.split().0.poll_read(cx, bytes)
    }

    /// Writes what fits. Once this was pending, the next write must begin with the same bytes: with TLS,
    /// some of them may be on their way already.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.split().1.poll_write(cx, bytes)
    }

    /// Writes what fits of several parts, together where the socket can.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.lower {
            Lower::Socket(socket, None) => socket.poll_write_vectored(cx, parts),
            Lower::Socket(_, Some(_)) | Lower::Multiplexed(_) => {
                let first = parts.iter().find(|part| !part.is_empty());
                first.map_or(Poll::Ready(Ok(0)), |first| self.poll_write(cx, first))
            }
        }
    }

    /// Whether several parts are written by one call.
    pub fn is_write_vectored(&self) -> bool {
        matches!(&self.lower, Lower::Socket(socket, None) if socket.is_write_vectored())
    }

    /// Finishes sending; the peer sees the end and can still be read from.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.split().1.poll_shutdown(cx)
    }

    /// Whether something has happened on the receiving side: bytes, an end, an error. A connection that
    /// should be silent and is not cannot be used any more.
    ///
    /// Costs no system call where nothing was heard of since the last read that found nothing.
    pub fn is_readable(&self) -> bool {
        match &self.lower {
            Lower::Socket(socket, None) => socket.is_readable(),
            Lower::Socket(socket, Some(secure)) => {
                secure.has_news() || socket.is_readable() && secure.hears(socket)
            }
            Lower::Multiplexed(_) => false,
        }
    }

    /// Looks whether the peer has gone, without taking bytes. One system call.
    pub fn is_dead(&self) -> bool {
        let silent = |looked: io::Result<usize>| matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        match &self.lower {
            Lower::Socket(socket, None) => !silent(socket.look()),
            Lower::Socket(socket, Some(secure)) => {
                secure.has_news() || !silent(socket.look()) && secure.hears(socket)
            }
            Lower::Multiplexed(_) => false,
        }
    }

    /// Whether the kernel has bytes that nobody has read, which make closing a reset. One system call.
    pub fn holds_bytes(&self) -> bool {
        match &self.lower {
            Lower::Socket(socket, _) => matches!(socket.look(), Ok(1..)),
            Lower::Multiplexed(_) => false,
        }
    }

    /// Why the peer has given up what it was sending, where it can say so.
    pub fn given_up(&self) -> Option<h2::Reason> {
        match &self.lower {
            Lower::Socket(..) => None,
            Lower::Multiplexed(stream) => stream.given_up(),
        }
    }

    /// Makes the end of the connection a reset, which the peer cannot take for an orderly end. `why` is what another
    /// peer has said; it is passed on where it means the same to this one.
    pub fn reset_at_end(&self, why: Option<h2::Reason>) {
        let known =
            |why: &h2::Reason| matches!(*why, h2::Reason::CANCEL | h2::Reason::ENHANCE_YOUR_CALM);
        let (socket, secure) = match &self.lower {
            Lower::Socket(socket, secure) => (socket, secure),
            Lower::Multiplexed(stream) => {
                return stream.reset(why.filter(known).unwrap_or(h2::Reason::INTERNAL_ERROR));
            }
        };
        if let Some(secure) = secure {
            secure.say_no_goodbye();
        }
        // Fails only on a socket that has ended already.
        let linger = Some(std::time::Duration::ZERO);
        let _ = socket2::SockRef::from(socket).set_linger(linger);
    }
}

impl Drop for Stream {
    /// RFC 8446 §6.1: who closes says so, or the peer cannot tell it from being cut off.
    fn drop(&mut self) {
        if let Lower::Socket(socket, Some(secure)) = &self.lower {
            secure.say_goodbye(socket);
        }
    }
}

impl Reader<'_> {
    /// As [`Stream::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = match &mut self.half {
            ReaderHalf::Socket(half, None) => ready!(half.poll_read(cx, bytes))?,
            ReaderHalf::Socket(half, Some(secure)) => ready!(secure.poll_read(cx, half, bytes))?,
            ReaderHalf::Multiplexed(stream) => ready!(stream.poll_read(cx, bytes))?,
        };
        *self.received += count as u64;
        Poll::Ready(Ok(count))
    }

    /// Whether bytes can be spliced: not what TLS or HTTP/2 has to work on.
    pub fn splices(&self) -> bool {
        matches!(self.half, ReaderHalf::Socket(_, None))
    }

    /// Moves up to `max` bytes that are there into an empty pipe. 0 means that the peer has finished
    /// sending.
    pub fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let ReaderHalf::Socket(half, _) = &mut self.half else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let moved = ready!(half.poll_splice(cx, pipe, max))?;
        *self.received += moved as u64;
        Poll::Ready(Ok(moved))
    }

    /// Waits until something happens on the receiving side, bytes, an end or an error, and says whether it means
    /// that nobody waits for an answer any more. An error does; an end alone does not: a peer may finish sending and
    /// still listen (RFC 9112 §9.6). Takes no bytes.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let (half, event) = match &mut self.half {
            ReaderHalf::Socket(half, None) => (&*half, ready!(half.poll_event(cx))),
            ReaderHalf::Socket(half, Some(secure)) => {
                let event = ready!(secure.poll_event(cx, half));
                (&*half, event)
            }
            ReaderHalf::Multiplexed(stream) => return stream.poll_gone(cx).map(|()| true),
        };
        Poll::Ready(event.is_err() || half.error().is_some())
    }

    /// As [`Writer::poll_gone`].
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.half {
            ReaderHalf::Multiplexed(stream) => stream.poll_gone(cx),
            ReaderHalf::Socket(..) => Poll::Pending,
        }
    }

    /// Waits for the trailers of a message that ends by itself, once its content has been read.
    pub fn poll_trailers(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>> {
        match &self.half {
            ReaderHalf::Multiplexed(stream) => stream.poll_trailers(cx),
            ReaderHalf::Socket(..) => Poll::Ready(Ok(None)),
        }
    }

    /// Waits for the head of a response, where that is not made of bytes; and says whether nothing
    /// follows it.
    pub fn poll_head(&self, cx: &mut Context<'_>) -> Option<Poll<ReceivedHead>> {
        match &self.half {
            ReaderHalf::Multiplexed(stream) => Some(stream.poll_head(cx)),
            ReaderHalf::Socket(..) => None,
        }
    }
}

impl Writer<'_> {
    /// As [`Stream::poll_write`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_part(cx, bytes, false)
    }

    /// As [`poll_write`](Self::poll_write). `last`: the message ends with these bytes.
    pub fn poll_write_part(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            WriterHalf::Socket(half, None) => half.poll_write(cx, bytes),
            WriterHalf::Socket(half, Some(secure)) => secure.poll_write(cx, half, bytes),
            WriterHalf::Multiplexed(stream) => stream.poll_write(cx, bytes, last),
        }
    }

    /// Ends the message, where that is not done by its bytes.
    pub fn end(&self, trailers: impl FnOnce() -> Option<HeaderMap>) -> io::Result<()> {
        match &self.0 {
            WriterHalf::Multiplexed(stream) => stream.end(trailers()),
            WriterHalf::Socket(..) => Ok(()),
        }
    }

    /// Waits until the receiver has given up one message of many. Whoever leaves as a whole is noticed
    /// by writing.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            WriterHalf::Multiplexed(stream) => stream.poll_gone(cx),
            WriterHalf::Socket(..) => Poll::Pending,
        }
    }

    /// As [`Reader::splices`].
    pub fn splices(&self) -> bool {
        matches!(self.0, WriterHalf::Socket(_, None))
    }

    /// Moves what is in the pipe, as far as it fits.
    pub fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            WriterHalf::Socket(half, _) => half.poll_splice(cx, pipe),
            WriterHalf::Multiplexed(_) => Poll::Ready(Err(io::ErrorKind::InvalidInput.into())),
        }
    }

    /// As [`Stream::poll_shutdown`].
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            WriterHalf::Socket(half, secure) => {
                if let Some(secure) = secure {
                    ready!(secure.poll_goodbye(cx, half))?;
                }
                half.poll_shutdown(cx)
            }
            WriterHalf::Multiplexed(stream) => Poll::Ready(stream.end(None)),
        }
    }
}

/// For libraries that bring their own protocol.
impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = ready!(Stream::poll_read(self.get_mut(), cx, buffer.initialize_unfilled()))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Stream::poll_write(self.get_mut(), cx, bytes)
    }

    /// What was written is with the kernel.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Stream::poll_shutdown(self.get_mut(), cx)
    }
}
