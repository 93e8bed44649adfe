//! A connected stream socket: TCP or Unix, driven by epoll through tokio.
//!
//! Reading goes through `poll_read`, which sees from a short read that the socket is empty and saves
//! the `recv` that would only say so (`ARCHITECTURE.md`, "Reading"). Writing is tried at once; only
//! what does not fit waits.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::Pipe;

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
}

/// The sending side of a [`Stream`].
#[derive(Debug)]
pub enum Writer<'a> {
    /// Over TCP.
    Tcp(tcp::WriteHalf<'a>),
    /// Over a Unix socket.
    Unix(unix::WriteHalf<'a>),
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self { socket: Socket::Tcp(socket), received: 0 }
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Self { socket: Socket::Unix(socket), received: 0 }
    }
}

impl Stream {
    /// Both sides, to be used at the same time.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        let received = &mut self.received;
        match &mut self.socket {
            Socket::Tcp(stream) => {
                let (reader, writer) = stream.split();
                (Reader { half: ReadHalf::Tcp(reader), received }, Writer::Tcp(writer))
            }
            Socket::Unix(stream) => {
                let (reader, writer) = stream.split();
                (Reader { half: ReadHalf::Unix(reader), received }, Writer::Unix(writer))
            }
        }
    }

    /// Takes the socket from the runtime. True: it is a TCP socket.
    ///
    /// # Errors
    ///
    /// The runtime cannot let go of it.
    pub fn into_descriptor(self) -> io::Result<(OwnedFd, bool)> {
        match self.socket {
            Socket::Tcp(stream) => Ok((stream.into_std()?.into(), true)),
            Socket::Unix(stream) => Ok((stream.into_std()?.into(), false)),
        }
    }

    /// Bytes read so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Reads what is there; 0 bytes mean that the peer has finished sending.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(bytes);
        ready!(match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
        })?;
        self.received += buffer.filled().len() as u64;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes what fits.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Finishes sending; the peer sees the end and can still be read from.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
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
        };
        if !heard {
            return false;
        }
        // It may have been the last bytes that were taken. Looking makes the runtime forget them.
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let looked = match &self.socket {
            Socket::Tcp(stream) => {
                let look = || socket2::SockRef::from(stream).peek(&mut byte);
                stream.try_io(Interest::READABLE, look)
            }
            Socket::Unix(stream) => {
                let look = || socket2::SockRef::from(stream).peek(&mut byte);
                stream.try_io(Interest::READABLE, look)
            }
        };
        !matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
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
        match &self.socket {
            Socket::Tcp(stream) => socket2::SockRef::from(stream),
            Socket::Unix(stream) => socket2::SockRef::from(stream),
        }
    }
}

impl Reader<'_> {
    /// As [`Stream::poll_read`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(bytes);
        ready!(match &mut self.half {
            ReadHalf::Tcp(half) => Pin::new(half).poll_read(cx, &mut buffer),
            ReadHalf::Unix(half) => Pin::new(half).poll_read(cx, &mut buffer),
        })?;
        *self.received += buffer.filled().len() as u64;
        Poll::Ready(Ok(buffer.filled().len()))
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

    /// Moves what is in the pipe, as far as it fits.
    pub fn poll_splice(
        &mut self,
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
            };
            if !matches!(&moved, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(moved);
            }
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
