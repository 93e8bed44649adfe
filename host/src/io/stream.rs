//! A connected stream socket: TCP or Unix, driven by epoll through tokio, or by a worker's ring
//! (`ring`). A stream of an HTTP/2 connection (`multiplexed`) passes for one.
//!
//! With epoll, reading goes through `poll_read`, which sees from a short read that the socket is empty and saves
//! the `recv` that would only say so (`ARCHITECTURE.md`, "Reading"). Writing is tried at once; only
//! what does not fit waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::Pipe;
use super::multiplexed::Multiplexed;
use super::ring::{self, RingStream};

/// A connected stream socket.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    received: u64,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Ring(RingStream),
    Multiplexed(Box<Multiplexed>),
}

/// The receiving side of a [`Stream`].
#[derive(Debug)]
pub struct Reader<'a> {
    half: ReadHalf<'a>,
    received: &'a mut u64,
}

#[derive(Debug)]
enum ReadHalf<'a> {
    Tcp(tcp::ReadHalf<'a>),
    Unix(unix::ReadHalf<'a>),
    Ring(&'a RingStream),
    Multiplexed(&'a Multiplexed),
}

/// The sending side of a [`Stream`].
#[derive(Debug)]
pub struct Writer<'a>(WriteHalf<'a>);

#[derive(Debug)]
enum WriteHalf<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Unix(unix::WriteHalf<'a>),
    Ring(&'a RingStream),
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
        let socket = match ring::current() {
            Some(ring) => Socket::Ring(ring.stream(socket)),
            None if tcp => Socket::Tcp(TcpStream::from_std(socket.into())?),
            None => Socket::Unix(UnixStream::from_std(socket.into())?),
        };
        Ok(Self { socket, received: 0 })
    }

    /// A stream of an HTTP/2 connection, on which so many bytes have been received already.
    pub fn multiplexed(stream: Multiplexed, received: u64) -> Self {
        Self { socket: Socket::Multiplexed(Box::new(stream)), received }
    }

    /// This, if it is a stream of an HTTP/2 connection.
    pub fn as_multiplexed(&self) -> Option<&Multiplexed> {
        match &self.socket {
            Socket::Multiplexed(stream) => Some(stream),
            Socket::Tcp(_) | Socket::Unix(_) | Socket::Ring(_) => None,
        }
    }

    /// Whether messages end by themselves here, and say so beside their content.
    pub fn is_multiplexed(&self) -> bool {
        self.as_multiplexed().is_some()
    }

    /// Connects over TCP. Dropping the future closes the socket.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    pub async fn connect_tcp(address: SocketAddr) -> io::Result<Self> {
        let socket = match ring::current() {
            Some(ring) => Socket::Ring(ring.connect(address).await?),
            None => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
        };
        Ok(Self { socket, received: 0 })
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        if ring::current().is_none() {
            return Ok(Self { socket: Socket::Unix(stream), received: 0 });
        }
        Self::new(stream.into_std()?.into(), false)
    }

    /// Both sides, to be used at the same time.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        let received = &mut self.received;
        let (reader, writer) = match &mut self.socket {
            Socket::Tcp(stream) => {
                let (reader, writer) = stream.split();
                (ReadHalf::Tcp(reader), WriteHalf::Tcp(writer))
            }
            Socket::Unix(stream) => {
                let (reader, writer) = stream.split();
                (ReadHalf::Unix(reader), WriteHalf::Unix(writer))
            }
            Socket::Ring(stream) => (ReadHalf::Ring(stream), WriteHalf::Ring(stream)),
            Socket::Multiplexed(stream) => {
                (ReadHalf::Multiplexed(stream), WriteHalf::Multiplexed(stream))
            }
        };
        (Reader { half: reader, received }, Writer(writer))
    }

    /// Bytes read so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Reads what is there; 0 bytes mean that the peer has finished sending.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        self.split().0.poll_read(cx, bytes)
    }

    /// Writes what fits.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.split().1.poll_write(cx, bytes)
    }

    /// Writes what fits of several parts, together where the socket can.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Socket::Ring(_) | Socket::Multiplexed(_) => {
                let first = parts.iter().find(|part| !part.is_empty());
                first.map_or(Poll::Ready(Ok(0)), |first| self.poll_write(cx, first))
            }
        }
    }

    /// Whether several parts are written by one call.
    pub fn is_write_vectored(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_) | Socket::Unix(_))
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
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let heard = match &self.socket {
            Socket::Tcp(stream) => stream.poll_read_ready(cx).is_ready(),
            Socket::Unix(stream) => stream.poll_read_ready(cx).is_ready(),
            Socket::Ring(stream) => return stream.event().is_ready(),
            Socket::Multiplexed(_) => false,
        };
        if !heard {
            return false;
        }
        // It may have been the last bytes that were taken. Looking makes the runtime forget them.
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let looked = match &self.socket {
            Socket::Tcp(stream) => {
                stream.try_io(Interest::READABLE, || SockRef::from(stream).peek(&mut byte))
            }
            Socket::Unix(stream) => {
                stream.try_io(Interest::READABLE, || SockRef::from(stream).peek(&mut byte))
            }
            Socket::Ring(_) | Socket::Multiplexed(_) => return false,
        };
        !matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Looks whether the peer has gone, without taking bytes. One system call.
    pub fn is_dead(&self) -> bool {
        !matches!(self.look(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether bytes have been received that nobody has read. One system call.
    pub fn holds_bytes(&self) -> bool {
        matches!(self.look(), Ok(1..))
    }

    /// How many bytes there are at least; 0 means that the peer has finished sending.
    fn look(&self) -> io::Result<usize> {
        match &self.socket {
            Socket::Ring(stream) => stream.look(),
            Socket::Tcp(stream) => {
                SockRef::from(stream).peek(&mut [std::mem::MaybeUninit::uninit()])
            }
            Socket::Unix(stream) => {
                SockRef::from(stream).peek(&mut [std::mem::MaybeUninit::uninit()])
            }
            Socket::Multiplexed(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Makes the end of the connection a reset, which the peer cannot take for an orderly end.
    pub fn reset_at_end(&self) {
        let socket = match &self.socket {
            Socket::Tcp(stream) => SockRef::from(stream),
            Socket::Unix(stream) => SockRef::from(stream),
            Socket::Ring(stream) => SockRef::from(stream),
            Socket::Multiplexed(stream) => return stream.reset(h2::Reason::INTERNAL_ERROR),
        };
        // Fails only on a socket that has ended already.
        let _ = socket.set_linger(Some(std::time::Duration::ZERO));
    }
}

impl Reader<'_> {
    /// As [`Stream::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(bytes);
        let count = match &mut self.half {
            ReadHalf::Tcp(half) => {
                ready!(Pin::new(half).poll_read(cx, &mut buffer))?;
                buffer.filled().len()
            }
            ReadHalf::Unix(half) => {
                ready!(Pin::new(half).poll_read(cx, &mut buffer))?;
                buffer.filled().len()
            }
            ReadHalf::Ring(stream) => ready!(stream.poll_read(cx, bytes))?,
            ReadHalf::Multiplexed(stream) => ready!(stream.poll_read(cx, bytes))?,
        };
        *self.received += count as u64;
        Poll::Ready(Ok(count))
    }

    /// Moves up to `max` bytes that are there into an empty pipe. 0 means that the peer has finished
    /// sending.
    pub fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let moved = match &self.half {
                ReadHalf::Tcp(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || pipe.fill(stream, max))
                }
                ReadHalf::Unix(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || pipe.fill(stream, max))
                }
                ReadHalf::Ring(stream) => ready!(stream.poll_splice_from(cx, pipe, max)),
                ReadHalf::Multiplexed(_) => Err(io::ErrorKind::InvalidInput.into()),
            };
            // The readiness was old; asking again waits for a new one.
            if !matches!(&moved, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                *self.received += *moved.as_ref().unwrap_or(&0) as u64;
                return Poll::Ready(moved);
            }
        }
    }

    /// Waits until something happens on the receiving side: bytes, an end, an error. Takes no bytes.
    pub fn poll_event(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        loop {
            let looked = match &self.half {
                ReadHalf::Tcp(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    let look = || SockRef::from(stream).peek(&mut byte);
                    stream.try_io(Interest::READABLE, look)
                }
                ReadHalf::Unix(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    let look = || SockRef::from(stream).peek(&mut byte);
                    stream.try_io(Interest::READABLE, look)
                }
                ReadHalf::Ring(stream) => return stream.poll_event(cx),
                ReadHalf::Multiplexed(stream) => {
                    ready!(stream.poll_gone(cx));
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
            };
            // The readiness was old, left behind by splicing; asking again waits for a new one.
            if !matches!(&looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(looked.map(drop));
            }
        }
    }

    /// The error that the socket has met, such as a reset.
    pub fn error(&self) -> Option<io::Error> {
        match &self.half {
            ReadHalf::Tcp(half) => half.as_ref().take_error().ok().flatten(),
            ReadHalf::Unix(half) => half.as_ref().take_error().ok().flatten(),
            ReadHalf::Ring(stream) => stream.error(),
            ReadHalf::Multiplexed(_) => None,
        }
    }

    /// As [`Writer::poll_gone`].
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.half {
            ReadHalf::Multiplexed(stream) => stream.poll_gone(cx),
            ReadHalf::Tcp(_) | ReadHalf::Unix(_) | ReadHalf::Ring(_) => Poll::Pending,
        }
    }

    /// Waits for the trailers of a message that ends by itself, once its content has been read.
    pub fn poll_trailers(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>> {
        match &self.half {
            ReadHalf::Multiplexed(stream) => stream.poll_trailers(cx),
            ReadHalf::Tcp(_) | ReadHalf::Unix(_) | ReadHalf::Ring(_) => Poll::Ready(Ok(None)),
        }
    }

    /// Waits for the head of a response, where that is not made of bytes; and says whether nothing
    /// follows it.
    pub fn poll_head(
        &self,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<(http::Response<()>, bool), h2::Error>>> {
        match &self.half {
            ReadHalf::Multiplexed(stream) => Some(stream.poll_head(cx)),
            ReadHalf::Tcp(_) | ReadHalf::Unix(_) | ReadHalf::Ring(_) => None,
        }
    }
}

impl Writer<'_> {
    /// As [`Stream::poll_write`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            WriteHalf::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
            WriteHalf::Unix(half) => Pin::new(half).poll_write(cx, bytes),
            WriteHalf::Ring(stream) => stream.poll_write(cx, bytes),
            WriteHalf::Multiplexed(stream) => stream.poll_write(cx, bytes, false),
        }
    }

    /// As [`poll_write`](Self::poll_write). `last`: the message ends with these bytes.
    pub fn poll_write_part(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        match &self.0 {
            WriteHalf::Multiplexed(stream) => stream.poll_write(cx, bytes, last),
            _ => self.poll_write(cx, bytes),
        }
    }

    /// Ends the message, where that is not done by its bytes.
    pub fn end(&self, trailers: impl FnOnce() -> Option<HeaderMap>) -> io::Result<()> {
        match &self.0 {
            WriteHalf::Multiplexed(stream) => stream.end(trailers()),
            WriteHalf::Tcp(_) | WriteHalf::Unix(_) | WriteHalf::Ring(_) => Ok(()),
        }
    }

    /// Waits until the receiver has given up one message of many. Whoever leaves as a whole is noticed
    /// by writing.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            WriteHalf::Multiplexed(stream) => stream.poll_gone(cx),
            WriteHalf::Tcp(_) | WriteHalf::Unix(_) | WriteHalf::Ring(_) => Poll::Pending,
        }
    }

    /// Moves what is in the pipe, as far as it fits.
    pub fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        loop {
            let moved = match &self.0 {
                WriteHalf::Tcp(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_io(Interest::WRITABLE, || pipe.empty(stream))
                }
                WriteHalf::Unix(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_io(Interest::WRITABLE, || pipe.empty(stream))
                }
                WriteHalf::Ring(stream) => return stream.poll_splice_to(cx, pipe),
                WriteHalf::Multiplexed(_) => Err(io::ErrorKind::InvalidInput.into()),
            };
            if !matches!(&moved, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(moved);
            }
        }
    }

    /// As [`Stream::poll_shutdown`].
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            WriteHalf::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            WriteHalf::Unix(half) => Pin::new(half).poll_shutdown(cx),
            WriteHalf::Ring(stream) => {
                stream.shutdown();
                Poll::Ready(Ok(()))
            }
            WriteHalf::Multiplexed(stream) => Poll::Ready(stream.end(None)),
        }
    }
}
