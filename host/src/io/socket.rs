//! A connected stream socket as the kernel has it: TCP or Unix, driven by epoll through tokio, or by a
//! worker's ring (`ring`). A stream of an HTTP/2 connection (`multiplexed`) passes for one.
//!
//! With epoll, reading goes through `poll_read`, which sees from a short read that the socket is empty and saves
//! the `recv` that would only say so (`ARCHITECTURE.md`, "Reading"). Writing is tried at once; only
//! what does not fit waits.
//!
//! Not here: TLS (`secure`), and what everybody uses (`stream`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::Pipe;
use super::multiplexed::Multiplexed;
use super::ring::{self, RingStream};

/// A connected stream socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Ring(RingStream),
    Multiplexed(Box<Multiplexed>),
}

/// The receiving side of a [`Socket`].
#[derive(Debug)]
pub(super) enum ReadHalf<'a> {
    Tcp(tcp::ReadHalf<'a>),
    Unix(unix::ReadHalf<'a>),
    Ring(&'a RingStream),
    Multiplexed(&'a Multiplexed),
}

/// The sending side of a [`Socket`].
#[derive(Debug)]
pub(super) enum WriteHalf<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Unix(unix::WriteHalf<'a>),
    Ring(&'a RingStream),
    Multiplexed(&'a Multiplexed),
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
            Self::Multiplexed(stream) => {
                (ReadHalf::Multiplexed(stream), WriteHalf::Multiplexed(stream))
            }
        }
    }

    /// Whether something has happened on the receiving side. Costs no system call where nothing was
    /// heard of since the last read that found nothing.
    pub(super) fn is_readable(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let heard = match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx).is_ready(),
            Self::Unix(stream) => stream.poll_read_ready(cx).is_ready(),
            Self::Ring(stream) => return stream.event().is_ready(),
            Self::Multiplexed(_) => false,
        };
        if !heard {
            return false;
        }
        // It may have been the last bytes that were taken. Looking makes the runtime forget them.
        let looked = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || peek(stream)),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || peek(stream)),
            Self::Ring(_) | Self::Multiplexed(_) => return false,
        };
        !matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// How many bytes there are at least; 0 means that the peer has finished sending.
    pub(super) fn look(&self) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => peek(stream),
            Self::Unix(stream) => peek(stream),
            Self::Ring(stream) => stream.look(),
            Self::Multiplexed(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Makes the end of the connection a reset, which the peer cannot take for an orderly end.
    pub(super) fn reset_at_end(&self) {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
            Self::Ring(stream) => SockRef::from(stream),
            Self::Multiplexed(stream) => return stream.reset(h2::Reason::INTERNAL_ERROR),
        };
        // Fails only on a socket that has ended already.
        let _ = socket.set_linger(Some(std::time::Duration::ZERO));
    }

    /// Takes what is there, without waiting and without being told later.
    pub(super) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let cx = &mut Context::from_waker(Waker::noop());
        let polled = match self {
            Self::Tcp(stream) => return try_receive(stream, bytes),
            Self::Unix(stream) => return try_receive(stream, bytes),
            Self::Ring(stream) => stream.poll_read(cx, bytes),
            Self::Multiplexed(stream) => stream.poll_read(cx, bytes),
        };
        at_once(polled)
    }

    /// Sends what fits, without waiting and without being told later.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let cx = &mut Context::from_waker(Waker::noop());
        match self {
            Self::Tcp(stream) => try_send(stream, bytes),
            Self::Unix(stream) => try_send(stream, bytes),
            Self::Ring(stream) => at_once(stream.poll_write(cx, bytes)),
            Self::Multiplexed(stream) => at_once(stream.poll_write(cx, bytes, false)),
        }
    }
}

fn peek(socket: impl AsFd) -> io::Result<usize> {
    SockRef::from(&socket).peek(&mut [std::mem::MaybeUninit::uninit()])
}

fn try_receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, bytes, RecvFlags::DONTWAIT)?.1)
}

fn try_send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// What was asked by way of something that may have to wait, and must not.
fn at_once(polled: Poll<io::Result<usize>>) -> io::Result<usize> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
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
            Self::Multiplexed(stream) => return stream.poll_read(cx, bytes),
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
                Self::Multiplexed(_) => Err(io::ErrorKind::InvalidInput.into()),
            };
            // The readiness was old; asking again waits for a new one.
            if !matches!(&moved, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(moved);
            }
        }
    }

    /// Waits until something happens on the receiving side: bytes, an end, an error. Takes no bytes.
    pub(super) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let looked = match self {
                Self::Tcp(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || peek(stream))
                }
                Self::Unix(half) => {
                    let stream = half.as_ref();
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || peek(stream))
                }
                Self::Ring(stream) => return stream.poll_event(cx),
                Self::Multiplexed(stream) => {
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
    pub(super) fn error(&self) -> Option<io::Error> {
        match self {
            Self::Tcp(half) => half.as_ref().take_error().ok().flatten(),
            Self::Unix(half) => half.as_ref().take_error().ok().flatten(),
            Self::Ring(stream) => stream.error(),
            Self::Multiplexed(_) => None,
        }
    }

    /// Sends what fits, without waiting and without being told later.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => try_send(half.as_ref(), bytes),
            Self::Unix(half) => try_send(half.as_ref(), bytes),
            Self::Ring(stream) => {
                at_once(stream.poll_write(&mut Context::from_waker(Waker::noop()), bytes))
            }
            // There is no TLS on it.
            Self::Multiplexed(_) => Err(io::ErrorKind::InvalidInput.into()),
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
            Self::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Unix(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Ring(stream) => stream.poll_write(cx, bytes),
            Self::Multiplexed(stream) => stream.poll_write(cx, bytes, false),
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
                Self::Multiplexed(_) => Err(io::ErrorKind::InvalidInput.into()),
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
            Self::Multiplexed(stream) => Poll::Ready(stream.end(None)),
        }
    }
}
