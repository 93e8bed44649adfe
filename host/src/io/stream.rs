//! A connected stream socket: TCP or Unix, driven by epoll through tokio.
//!
//! Reading goes through `poll_read`, which sees from a short read that the socket is empty and saves
//! the `recv` that would only say so (`ARCHITECTURE.md`, "Reading"). Writing is tried at once; only
//! what does not fit waits.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// A connected stream socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// The receiving side of a [`Stream`].
#[derive(Debug)]
pub enum Reader<'a> {
    /// Over TCP.
    Tcp(tcp::ReadHalf<'a>),
    /// Over a Unix socket.
    Unix(unix::ReadHalf<'a>),
}

/// The sending side of a [`Stream`].
#[derive(Debug)]
pub enum Writer<'a> {
    /// Over TCP.
    Tcp(tcp::WriteHalf<'a>),
    /// Over a Unix socket.
    Unix(unix::WriteHalf<'a>),
}

impl Stream {
    /// Both sides, to be used at the same time.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            Self::Unix(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Unix(reader), Writer::Unix(writer))
            }
        }
    }

    /// Reads what is there; 0 bytes mean that the peer has finished sending.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(bytes);
        ready!(match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes what fits.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Finishes sending; the peer sees the end and can still be read from.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Whether something has happened on the receiving side: bytes, an end, an error. Costs no
    /// system call. A connection that should be silent and is not cannot be used any more.
    pub fn is_readable(&self) -> bool {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx).is_ready(),
            Self::Unix(stream) => stream.poll_read_ready(cx).is_ready(),
        }
    }

    /// Looks whether the peer has gone, without taking bytes. One system call.
    pub fn is_dead(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        !matches!(self.socket().peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether bytes have been received that nobody has read. One system call.
    pub fn holds_bytes(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        matches!(self.socket().peek(&mut byte), Ok(1..))
    }

    /// Makes the end of the connection a reset, which the peer cannot take for an orderly end.
    pub fn reset_at_end(&self) {
        // Fails only on a socket that has ended already.
        let _ = self.socket().set_linger(Some(std::time::Duration::ZERO));
    }

    fn socket(&self) -> socket2::SockRef<'_> {
        match self {
            Self::Tcp(stream) => socket2::SockRef::from(stream),
            Self::Unix(stream) => socket2::SockRef::from(stream),
        }
    }
}

impl Reader<'_> {
    /// As [`Stream::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(bytes);
        ready!(match self {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, &mut buffer),
            Self::Unix(half) => Pin::new(half).poll_read(cx, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Waits until something happens on the receiving side; takes no bytes.
    pub fn poll_event(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_read_ready(cx).map(drop),
            Self::Unix(half) => half.as_ref().poll_read_ready(cx).map(drop),
        }
    }

    /// The error that the socket has met, such as a reset.
    pub fn error(&self) -> Option<io::Error> {
        match self {
            Self::Tcp(half) => half.as_ref().take_error().ok().flatten(),
            Self::Unix(half) => half.as_ref().take_error().ok().flatten(),
        }
    }
}

impl Writer<'_> {
    /// As [`Stream::poll_write`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Unix(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    /// As [`Stream::poll_shutdown`].
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
