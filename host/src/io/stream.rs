//! A connected stream socket: TCP or Unix, driven by epoll through tokio, or by a worker's ring
//! (`ring`).
//!
//! With epoll, reading goes through `poll_read`, which sees from a short read that the socket is empty and saves
//! the `recv` that would only say so (`ARCHITECTURE.md`, "Reading"). Writing is tried at once; only
//! what does not fit waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::Pipe;
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
}

/// The sending side of a [`Stream`].
#[derive(Debug)]
pub struct Writer<'a>(WriteHalf<'a>);

#[derive(Debug)]
enum WriteHalf<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Unix(unix::WriteHalf<'a>),
    Ring(&'a RingStream),
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
        };
        if !heard {
            return false;
        }
        // It may have been the last bytes that were taken. Looking makes the runtime forget them.
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let mut look = || socket2::SockRef::from(self).peek(&mut byte);
        let looked = match &self.socket {
            Socket::Tcp(stream) => stream.try_io(Interest::READABLE, look),
            Socket::Unix(stream) => stream.try_io(Interest::READABLE, look),
            Socket::Ring(_) => look(),
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
            Socket::Tcp(_) | Socket::Unix(_) => {
                socket2::SockRef::from(self).peek(&mut [std::mem::MaybeUninit::uninit()])
            }
        }
    }

    /// Makes the end of the connection a reset, which the peer cannot take for an orderly end.
    pub fn reset_at_end(&self) {
        // Fails only on a socket that has ended already.
        let linger = Some(std::time::Duration::ZERO);
        let _ = socket2::SockRef::from(self).set_linger(linger);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Ring(stream) => stream.as_fd(),
        }
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
                    let look = || socket2::SockRef::from(stream).peek(&mut byte);
                    stream.try_io(Interest::READABLE, look)
                }
                ReadHalf::Unix(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    let look = || socket2::SockRef::from(stream).peek(&mut byte);
                    stream.try_io(Interest::READABLE, look)
                }
                ReadHalf::Ring(stream) => return stream.poll_event(cx),
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
        }
    }
}
