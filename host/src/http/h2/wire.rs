//! The socket below an HTTP/2 connection, as crate `h2` wants it, and under [`Watch`].
//!
//! Crate `h2` writes frame by frame, of large ones each by itself. What it writes is put together here and goes
//! out when it has no more to write: by [`Outlet`], which whoever drives the connection has. 1 MiB over TLS takes
//! 17 calls in the place of 128, and records that are full.
//!
//! Cancel safety: bytes that were read are with the reader or still here.

use std::borrow::BorrowMut;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watch::{Offence, Watch};
use crate::io::{Buffer, Deadlines, Stream};

/// What is written before it goes out, at most. As much as TLS sends by one call.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// What is read in one go, at most. Crate `h2` has room for half of it as long as frames are small.
const IN_BYTES_MAX: usize = 16 * 1024;

thread_local! {
    /// What has been read, until it is where crate `h2` wants it. Reading to there would begin with making all of
    /// that memory zeros: more work than the copy, and pages that an idle connection does not need.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };

    /// What is written hardly ever waits for longer than it takes to write it: one buffer does for all.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A socket, from the side of crate `h2`.
#[derive(Debug)]
pub struct Wire<S>(Rc<RefCell<Line<S>>>);

/// A socket, from the side of who drives the connection.
#[derive(Debug)]
pub struct Outlet<S>(Rc<RefCell<Line<S>>>);

#[derive(Debug)]
struct Line<S> {
    stream: S,
    /// Was received from it too early.
    early: Option<Buffer>,
    account: Rc<Account>,
    /// Written, and not sent yet.
    out: Vec<u8>,
    /// There was no room for something.
    is_stuck: bool,
    /// The peer takes nothing any more.
    is_broken: bool,
}

/// What a connection and the streams on it know of each other.
#[derive(Debug)]
pub struct Account {
    watch: RefCell<Watch>,
    deadlines: Rc<Deadlines>,
    offence: Cell<Option<Offence>>,
    /// Times that something has been received.
    heard: Cell<u64>,
    work: Rc<Cell<u64>>,
}

impl Account {
    /// For a connection whose peer is watched by `watch`.
    pub fn new(watch: fn(u64) -> Watch, deadlines: &Rc<Deadlines>) -> Rc<Self> {
        Rc::new(Self {
            watch: RefCell::new(watch(deadlines.now())),
            deadlines: Rc::clone(deadlines),
            offence: Cell::new(None),
            heard: Cell::new(0),
            work: Rc::default(),
        })
    }

    /// Where useful work is counted.
    pub fn work(&self) -> &Rc<Cell<u64>> {
        &self.work
    }

    /// Why the connection must end, if it must. Nothing more is read from it then.
    pub fn offence(&self) -> Option<Offence> {
        self.offence.get()
    }

    /// Changes when something has been received.
    pub fn heard(&self) -> u64 {
        self.heard.get()
    }

    /// See [`Watch::requests`].
    pub fn requests(&self) -> u64 {
        self.watch.borrow().requests()
    }

    /// See [`Watch::has_heard_settings`].
    pub fn has_heard_settings(&self) -> bool {
        self.watch.borrow().has_heard_settings()
    }

    /// See [`Watch::is_going_away`].
    pub fn is_going_away(&self) -> bool {
        self.watch.borrow().is_going_away()
    }

    /// See [`Watch::is_in_block`].
    pub fn is_in_block(&self) -> bool {
        self.watch.borrow().is_in_block()
    }

    fn see(&self, bytes: &[u8]) {
        let seen = self.watch.borrow_mut().see(bytes, self.deadlines.now(), self.work.get());
        self.offence.set(self.offence.get().or(seen.err()));
        self.heard.set(self.heard.get().wrapping_add(1));
    }
}

impl<S> Wire<S> {
    /// A wire; `early` has been received and not been used.
    pub fn new(stream: S, early: Option<Buffer>, account: Rc<Account>) -> Self {
        let out = Vec::new();
        let line = Line { stream, early, account, out, is_stuck: false, is_broken: false };
        Self(Rc::new(RefCell::new(line)))
    }

    /// The other end of what is written.
    pub fn outlet(&self) -> Outlet<S> {
        Outlet(Rc::clone(&self.0))
    }
}

impl<S: BorrowMut<Stream> + Unpin> Outlet<S> {
    /// Drives the connection, and then sends what it has written, again as long as it has more to write. To be
    /// asked in the place of `drive`, which is.
    pub fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut drive: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        loop {
            let driven = drive(cx);
            if driven.is_ready() {
                return driven;
            }
            let line = &mut *RefCell::borrow_mut(&self.0);
            match line.poll_send(cx) {
                Poll::Ready(Ok(())) if std::mem::take(&mut line.is_stuck) => {}
                // Crate `h2` finds it when it reads.
                Poll::Ready(Err(_)) => {}
                Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<S: BorrowMut<Stream>> Line<S> {
    /// Takes what there is room for.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if self.out.capacity() == 0 {
            self.out = SPARE.take();
            self.out.reserve(OUT_BYTES_MAX);
        }
        let count = bytes.len().min(OUT_BYTES_MAX - self.out.len());
        self.out.extend_from_slice(&bytes[..count]);
        count
    }

    /// Receives what there is room for.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|read| {
            read.resize(IN_BYTES_MAX, 0);
            let room = into.remaining().min(IN_BYTES_MAX);
            let count = ready!(self.stream.borrow_mut().poll_read(cx, &mut read[..room]))?;
            into.put_slice(&read[..count]);
            Poll::Ready(Ok(()))
        })
    }

    /// Sends what has been written.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let ended = loop {
            if sent == self.out.len() {
                break Ok(());
            }
            match self.stream.borrow_mut().poll_write(cx, &self.out[sent..]) {
                Poll::Ready(Ok(0)) => break Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Pending => {
                    // What waits takes the room that it needs.
                    if sent > 0 || self.out.capacity() == OUT_BYTES_MAX {
                        let rest = self.out[sent..].to_vec();
                        self.spare(rest);
                    }
                    return Poll::Pending;
                }
            }
        };
        self.is_broken |= ended.is_err();
        if self.out.capacity() > 0 {
            self.spare(Vec::new());
        }
        Poll::Ready(ended)
    }

    fn spare(&mut self, rest: Vec<u8>) {
        let mut out = std::mem::replace(&mut self.out, rest);
        if out.capacity() == OUT_BYTES_MAX {
            out.clear();
            SPARE.set(out);
        }
    }
}

impl<S: BorrowMut<Stream> + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = &mut *RefCell::borrow_mut(&self.0);
        if line.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if line.account.offence().is_some() {
            return Poll::Pending;
        }
        let before = into.filled().len();
        if let Some(early) = &mut line.early {
            let count = early.len().min(into.remaining());
            into.put_slice(&early.filled()[..count]);
            crate::http::connection::consume(&mut line.early, count);
        } else {
            ready!(line.poll_read(cx, into))?;
        }
        line.account.see(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: BorrowMut<Stream> + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    /// Nobody is waked when there is room again: whoever makes it drives the connection.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let line = &mut *RefCell::borrow_mut(&self.0);
        if line.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = parts.iter().map(|part| line.take(part)).sum();
        line.is_stuck |= taken == 0;
        if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is written goes out together with what follows it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = &mut *RefCell::borrow_mut(&self.0);
        ready!(line.poll_send(cx))?;
        line.stream.borrow_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::net::UnixStream;

    use super::*;
    use crate::io::Multiplexed;

    /// A client's socket that now and then has nothing though something is there, and else a little.
    struct Slow(UnixStream, fastrand::Rng);

    impl AsyncRead for Slow {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Self(socket, random) = &mut *self;
            if random.u8(..4) == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let room = random.usize(1..20_000).min(into.remaining());
            let mut some = ReadBuf::new(into.initialize_unfilled_to(room));
            ready!(Pin::new(socket).poll_read(cx, &mut some))?;
            let count = some.filled().len();
            into.advance(count);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Answers every request with as much as its path says, as the gateway does: by tasks of their own.
    async fn serve(stream: Stream) {
        let account = Account::new(Watch::client, &Rc::default());
        let wire = Wire::new(stream, None, account);
        let outlet = wire.outlet();
        let mut handshake = std::pin::pin!(h2::server::Builder::new().handshake::<_, Bytes>(wire));
        let made = poll_fn(|cx| outlet.poll(cx, |cx| handshake.as_mut().poll(cx))).await;
        let mut connection = made.unwrap();
        while let Some(asked) = poll_fn(|cx| outlet.poll(cx, |cx| connection.poll_accept(cx))).await
        {
            let Ok((request, respond)) = asked else { return };
            let bytes = vec![b'x'; request.uri().path()[1..].parse().unwrap()];
            let stream = Multiplexed::asked(request.into_body(), respond, Rc::default(), None);
            tokio::task::spawn_local(async move {
                stream.respond(http::Response::new(()), bytes.is_empty()).unwrap();
                let mut sent = 0;
                while sent < bytes.len() {
                    let write = |cx: &mut Context<'_>| stream.poll_write(cx, &bytes[sent..], true);
                    sent += poll_fn(write).await.unwrap();
                }
            });
        }
    }

    /// Asks for so many pieces at a time, and takes them.
    async fn ask(socket: UnixStream, mut random: fastrand::Rng) {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(random.u32(1..300_000))
            .initial_connection_window_size(random.u32(65_535..2_000_000))
            .max_frame_size(random.u32(16_384..100_000));
        let socket = Slow(socket, random.fork());
        let (requests, connection) = builder.handshake::<_, Bytes>(socket).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut running = Vec::new();
        for _ in 0..random.usize(1..60) {
            let mut requests = requests.clone();
            let wanted = if random.bool() { random.usize(..200) } else { random.usize(..200_000) };
            running.push(tokio::task::spawn_local(async move {
                let request = http::Request::get(format!("http://a/{wanted}")).body(()).unwrap();
                let (response, _) = requests.send_request(request, true).unwrap();
                let mut body = response.await.unwrap().into_body();
                let mut got = 0;
                while let Some(data) = body.data().await {
                    let count = data.unwrap().len();
                    body.flow_control().release_capacity(count).unwrap();
                    got += count;
                }
                assert_eq!(got, wanted);
            }));
        }
        for one in running {
            one.await.unwrap();
        }
    }

    /// Whatever the sizes of buffers, windows and frames, and however slowly the client reads: nothing that has
    /// been written stays, for want of somebody who is waked.
    #[test]
    fn all_that_is_written_arrives() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        for seed in 0..60 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
            for socket in [&near, &far] {
                socket.set_nonblocking(true).unwrap();
                let socket = socket2::SockRef::from(socket);
                socket.set_send_buffer_size(random.usize(1..100_000)).unwrap();
            }
            runtime.block_on(async {
                let stream = Stream::new(near.into(), false).unwrap();
                tokio::task::spawn_local(serve(stream));
                let asking = ask(UnixStream::from_std(far).unwrap(), random);
                let ended = tokio::time::timeout(Duration::from_secs(60), asking).await;
                assert!(ended.is_ok(), "seed {seed}: something has not arrived");
            });
        }
    }
}
