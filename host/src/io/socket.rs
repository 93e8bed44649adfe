//! A connected stream socket as the kernel has it: TCP or Unix, driven by epoll through tokio, or by a
//! worker's ring (`ring`).
//!
//! With epoll, reading goes through `poll_read`, which sees from a short read that the socket is empty and saves
//! the `recv` that would only say so (`ARCHITECTURE.md`, "Reading"). Writing is tried at once; only
//! what does not fit waits.
//!
//! Not here: TLS (`secure`), and what everybody uses (`stream`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::Pipe;
use super::ring::{self, RingStream};

/// A connected stream socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Ring(RingStream),
}

/// The receiving side of a [`Socket`].
#[derive(Debug)]
pub(super) enum ReadHalf<'a> {
    Tcp(tcp::ReadHalf<'a>),
    Unix(unix::ReadHalf<'a>),
    Ring(&'a RingStream),
}

/// The sending side of a [`Socket`].
#[derive(Debug)]
pub(super) enum WriteHalf<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Unix(unix::WriteHalf<'a>),
    Ring(&'a RingStream),
}

impl Socket {
    /// Takes over a connected socket that does not block; `tcp` says what it is.
    pub(super) fn new(socket: OwnedFd, tcp: bool) -> io::Result<Self> {
        Ok(match ring::current() {
            Some(ring) => Self::Ring(ring.stream(socket)),
            None if tcp => Self::Tcp(TcpStream::from_std(socket.into())?),
            None => Self::Unix(UnixStream::from_std(socket.into())?),
        })
    }

    pub(super) async fn connect_tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(match ring::current() {
            Some(ring) => Self::Ring(ring.connect(address).await?),
            None => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
        })
    }

    pub(super) async fn connect_unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        if ring::current().is_none() {
            return Ok(Self::Unix(stream));
        }
        Self::new(stream.into_std()?.into(), false)
    }

    /// Both sides, to be used at the same time.
    pub(super) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.split();
                (ReadHalf::Tcp(reader), WriteHalf::Tcp(writer))
            }
            Self::Unix(stream) => {
                let (reader, writer) = stream.split();
                (ReadHalf::Unix(reader), WriteHalf::Unix(writer))
            }
            Self::Ring(stream) => (ReadHalf::Ring(stream), WriteHalf::Ring(stream)),
        }
    }

    /// Writes what fits of several parts, together where that can be done.
    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Ring(stream) => {
                let first = parts.iter().find(|part| !part.is_empty());
                first.map_or(Poll::Ready(Ok(0)), |first| stream.poll_write(cx, first))
            }
        }
    }

    /// Whether it can.
    pub(super) fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }

    /// Whether something has happened on the receiving side. Costs no system call where nothing was
    /// heard of since the last read that found nothing.
    pub(super) fn is_readable(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let heard = match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx).is_ready(),
            Self::Unix(stream) => stream.poll_read_ready(cx).is_ready(),
            Self::Ring(stream) => return stream.event().is_ready(),
        };
        if !heard {
            return false;
        }
        // It may have been the last bytes that were taken. Looking makes the runtime forget them.
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let mut look = || socket2::SockRef::from(self).peek(&mut byte);
        let looked = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, look),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, look),
            Self::Ring(_) => look(),
        };
        !matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// How many bytes there are at least; 0 means that the peer has finished sending.
    pub(super) fn look(&self) -> io::Result<usize> {
        match self {
            Self::Ring(stream) => stream.look(),
            Self::Tcp(_) | Self::Unix(_) => {
                socket2::SockRef::from(self).peek(&mut [std::mem::MaybeUninit::uninit()])
            }
        }
    }

    /// Takes what is there, without waiting and without being told later.
    pub(super) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        if let Self::Ring(stream) = self {
            return match stream.poll_read(&mut Context::from_waker(Waker::noop()), bytes) {
                Poll::Ready(read) => read,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        Ok(rustix::net::recv(self, bytes, RecvFlags::DONTWAIT)?.1)
    }

    /// Sends what fits, without waiting and without being told later.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Ring(stream) => try_write_ring(stream, bytes),
            Self::Tcp(_) | Self::Unix(_) => try_send(self, bytes),
        }
    }
}

fn try_send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// By way of the ring, since bytes may be on their way there already.
fn try_write_ring(stream: &RingStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
        Poll::Ready(written) => written,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Ring(stream) => stream.as_fd(),
        }
    }
}

impl ReadHalf<'_> {
    /// Reads what is there; 0 bytes mean that the peer has finished sending.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(bytes);
        match self {
            Self::Tcp(half) => ready!(Pin::new(half).poll_read(cx, &mut buffer))?,
            Self::Unix(half) => ready!(Pin::new(half).poll_read(cx, &mut buffer))?,
            Self::Ring(stream) => return stream.poll_read(cx, bytes),
        }
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Moves up to `max` bytes that are there into an empty pipe. 0 means that the peer has finished
    /// sending.
    pub(super) fn poll_splice(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let moved = match self {
                Self::Tcp(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || pipe.fill(stream, max))
                }
                Self::Unix(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || pipe.fill(stream, max))
                }
                Self::Ring(stream) => ready!(stream.poll_splice_from(cx, pipe, max)),
            };
            // The readiness was old; asking again waits for a new one.
            if !matches!(&moved, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(moved);
            }
        }
    }

    /// Waits until something happens on the receiving side: bytes, an end, an error. Takes no bytes.
    pub(super) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        loop {
            let looked = match self {
                Self::Tcp(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    let look = || socket2::SockRef::from(stream).peek(&mut byte);
                    stream.try_io(Interest::READABLE, look)
                }
                Self::Unix(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    let look = || socket2::SockRef::from(stream).peek(&mut byte);
                    stream.try_io(Interest::READABLE, look)
                }
                Self::Ring(stream) => return stream.poll_event(cx),
            };
            // The readiness was old, left behind by splicing; asking again waits for a new one.
            if !matches!(&looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(looked.map(drop));
            }
        }
    }

    /// The error that the socket has met, such as a reset.
    pub(super) fn error(&self) -> Option<io::Error> {
        match self {
            Self::Tcp(half) => half.as_ref().take_error().ok().flatten(),
            Self::Unix(half) => half.as_ref().take_error().ok().flatten(),
            Self::Ring(stream) => stream.error(),
        }
    }

    /// Sends what fits, without waiting and without being told later.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => try_send(half.as_ref(), bytes),
            Self::Unix(half) => try_send(half.as_ref(), bytes),
            Self::Ring(stream) => try_write_ring(stream, bytes),
        }
    }
}

impl WriteHalf<'_> {
    /// Writes what fits.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            // Most of what is written fits, and asking the runtime whether it will costs more than trying.
            // What was tried in vain it has to find out by itself, to wait for it.
            Self::Tcp(half) => match try_send(half.as_ref(), bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Pin::new(half).poll_write(cx, bytes)
                }
                sent => Poll::Ready(sent),
            },
            Self::Unix(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Ring(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// Moves what is in the pipe, as far as it fits.
    pub(super) fn poll_splice(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        loop {
            let moved = match self {
                Self::Tcp(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_io(Interest::WRITABLE, || pipe.empty(stream))
                }
                Self::Unix(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_io(Interest::WRITABLE, || pipe.empty(stream))
                }
                Self::Ring(stream) => return stream.poll_splice_to(cx, pipe),
            };
            if !matches!(&moved, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(moved);
            }
        }
    }

    /// Finishes sending; the peer sees the end and can still be read from.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
            Self::Ring(stream) => {
                stream.shutdown();
                Poll::Ready(Ok(()))
            }
        }
    }
}
