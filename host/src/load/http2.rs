//! A load over HTTP/2: the slots of a load are streams, and share connections.
//!
//! Each slot is a task that takes a request when one is due, sends it on its connection and waits for the
//! whole answer. A connection that is lost is made anew by the first slot that misses it.
//!
//! Not here: when requests are due (`pace`), what is counted and how it is written (`tally`); HTTP/1.1, whose
//! engine spends far less a request (`engine`).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Mutex;

use super::engine::{self, Edge, nanoseconds};
use super::pace::Pace;
use super::tally::{Fault, Outcome};
use super::target::Http2;
use super::{Expected, Live, Plan, Share, Tls};
use crate::io::Stream;
use crate::sys::Watched;

/// How often the ends of the window are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a server may send before it is read: never what is waited for.
const WINDOW: u32 = 16 << 20;

/// One thread's part of a load.
struct Run {
    plan: Plan,
    request: Http2,
    clock: Instant,
    pace: RefCell<Pace>,
    tally: RefCell<Outcome>,
    /// Nanoseconds of the run between which requests begin that count.
    window_ns: Cell<(u64, u64)>,
    /// The window has ended.
    over: Cell<bool>,
    /// By slot: when its request was sent, or due.
    began_ns: RefCell<Vec<Option<u64>>>,
    /// Slots for which no request is due yet.
    waiting: RefCell<Vec<Waker>>,
    links: Vec<Link>,
    /// Bytes in and out.
    moved: Rc<(Cell<u64>, Cell<u64>)>,
}

/// A connection that slots share, and how often it was made.
#[derive(Default)]
struct Link(Mutex<(u64, Option<SendRequest<Bytes>>)>);

/// Runs one thread's part of a load.
pub(super) fn run(
    plan: &Plan,
    request: &Http2,
    share: Share,
    live: &Live,
    edge: &mut dyn FnMut(Edge),
) -> io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    let run = Rc::new(Run::new(plan, request, share));
    tasks.block_on(&runtime, run.drive(live, edge))?;
    run.count_unanswered();
    Ok(run.tally.replace(Outcome::new()))
}

impl Run {
    #[expect(clippy::disallowed_methods, reason = "a load runs on the real clock")]
    fn new(plan: &Plan, request: &Http2, share: Share) -> Self {
        let links = plan.connections.div_ceil(request.streams);
        Self {
            plan: plan.clone(),
            request: request.clone(),
            clock: Instant::now(),
            pace: RefCell::new(Pace::new(plan.rate, share, plan.requests)),
            tally: RefCell::new(Outcome::new()),
            window_ns: Cell::new((u64::MAX, u64::MAX)),
            over: Cell::new(false),
            began_ns: RefCell::new(vec![None; plan.connections]),
            waiting: RefCell::default(),
            links: (0..links).map(|_| Link::default()).collect(),
            moved: Rc::default(),
        }
    }

    fn now(&self) -> u64 {
        nanoseconds(self.clock.elapsed())
    }

    /// From the warm-up to the end of the window, and of what has begun in it.
    async fn drive(self: &Rc<Self>, live: &Live, edge: &mut dyn FnMut(Edge)) -> io::Result<()> {
        let interval = self.pace.borrow().interval_ns();
        if let Some(interval) = interval {
            let timer = Watched::new(engine::pace_maker(interval)?)?;
            let due_per_tick = engine::TICK_NS.div_ceil(interval.max(1));
            let due_per_tick = usize::try_from(due_per_tick).unwrap_or(usize::MAX);
            tokio::task::spawn_local(Rc::clone(self).keep_pace(timer, due_per_tick));
        }
        let slots = (0..self.plan.connections).map(|place| Rc::clone(self).ask_again(place));
        slots.for_each(|slot| drop(tokio::task::spawn_local(slot)));
        let starts = nanoseconds(self.plan.warmup);
        self.wait(live, |now| now >= starts).await;
        self.tally.replace(Outcome::new());
        self.moved.0.take();
        self.moved.1.take();
        let starts = if starts == 0 { 0 } else { self.now() };
        let ends = self.now().saturating_add(nanoseconds(self.plan.window));
        self.window_ns.set((starts, ends));
        edge(Edge::Begins);
        self.wait(live, |now| {
            let spent = self.pace.borrow().is_spent();
            now >= ends || spent && self.outstanding() == 0 || live.stop.load(Ordering::Relaxed)
        })
        .await;
        edge(Edge::Ends);
        let ended = self.now();
        self.window_ns.set((starts, ends.min(ended)));
        {
            let mut tally = self.tally.borrow_mut();
            tally.window_ns = ended.saturating_sub(starts);
            (tally.bytes_received, tally.bytes_sent) = (self.moved.0.get(), self.moved.1.get());
        }
        self.over.set(true);
        if self.plan.rate.is_some() {
            let all_back = || self.outstanding() == 0 && !self.is_behind();
            self.wait(live, |now| all_back() || now >= ended + engine::GRACE_NS).await;
        }
        Ok(())
    }

    /// Whether a request was due in the window that nobody has sent.
    fn is_behind(&self) -> bool {
        self.pace.borrow().is_behind(self.window_ns.get().1.saturating_sub(1))
    }

    fn outstanding(&self) -> usize {
        self.began_ns.borrow().iter().flatten().count()
    }

    /// Waits until something is so, and shows meanwhile how it goes.
    async fn wait(&self, live: &Live, done: impl Fn(u64) -> bool) {
        let mut shown = (0, 0);
        while !done(self.now()) {
            tokio::time::sleep(LOOK_EVERY).await;
            let counts = (self.tally.borrow().requests(), self.tally.borrow().failures());
            live.ended.fetch_add(counts.0.saturating_sub(shown.0), Ordering::Relaxed);
            live.failed.fetch_add(counts.1.saturating_sub(shown.1), Ordering::Relaxed);
            shown = counts;
        }
    }

    /// Wakes as many slots with every tick as requests are due between two.
    async fn keep_pace(self: Rc<Self>, timer: Watched, due_per_tick: usize) {
        let read = |timer: &OwnedFd| {
            let mut ticks = [0; 8];
            rustix::io::read(timer, &mut ticks)?;
            Ok(u64::from_ne_bytes(ticks))
        };
        while let Ok(ticks) = timer.read(read).await {
            let due = usize::try_from(ticks).unwrap_or(usize::MAX).saturating_mul(due_per_tick);
            let mut waiting = self.waiting.borrow_mut();
            let first = waiting.len().saturating_sub(due);
            waiting.drain(first..).for_each(Waker::wake);
        }
    }

    /// The life of a slot.
    async fn ask_again(self: Rc<Self>, place: usize) {
        while let Some(began_ns) = self.next().await {
            self.began_ns.borrow_mut()[place] = Some(began_ns);
            let asked = tokio::time::timeout(self.plan.timeout, self.ask(place)).await;
            self.began_ns.borrow_mut()[place] = None;
            let failed = self.count(began_ns, asked.unwrap_or(Err(Fault::Timeout)));
            if failed && self.plan.rate.is_none() {
                tokio::time::sleep(Duration::from_nanos(engine::RETRY_PAUSE_NS)).await;
            }
        }
    }

    /// Waits until a request is due; when it was.
    async fn next(&self) -> Option<u64> {
        std::future::poll_fn(|cx| {
            let over = self.over.get();
            // Nothing new after the window, but what was due in it and found no slot yet: the end may be seen
            // before the tick.
            let until = if over { self.window_ns.get().1.saturating_sub(1) } else { u64::MAX };
            let now = self.now().min(until);
            let begins = !over || self.plan.rate.is_some();
            if let Some(due_ns) = begins.then(|| self.pace.borrow_mut().take(now)).flatten() {
                return Poll::Ready(Some(due_ns));
            }
            if over || self.pace.borrow().is_spent() {
                return Poll::Ready(None);
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Whether a request that began then is one of the window.
    fn counts(&self, began_ns: u64) -> bool {
        let (starts_ns, ends_ns) = self.window_ns.get();
        (starts_ns..ends_ns).contains(&began_ns)
    }

    /// Counts the end of a request; says whether it went wrong.
    fn count(&self, began_ns: u64, asked: Result<(u16, u64), Fault>) -> bool {
        let now = self.now();
        let judged = asked.and_then(|(status, length)| {
            match self.plan.expected {
                Expected::Success if !(200..400).contains(&status) => Err((status, Fault::Status)),
                Expected::Exactly(_) if status != 200 => Err((status, Fault::Status)),
                Expected::Exactly(expected) if expected != length => Err((status, Fault::Length)),
                _ => Ok(status),
            }
            .map_err(|(status, fault)| {
                self.tally.borrow_mut().status(status);
                fault
            })
        });
        let mut tally = self.tally.borrow_mut();
        if !self.counts(began_ns) {
            return judged.is_err();
        }
        match judged {
            Ok(status) => {
                tally.status(status);
                tally.good(now - began_ns);
                tally.answered += u64::from(!self.over.get());
            }
            Err(Fault::Timeout) => tally.given_up(Fault::Timeout, now - began_ns),
            Err(fault) => tally.bad(fault),
        }
        judged.is_err()
    }

    /// Sends a request and takes its answer: the status, and the length of the body.
    async fn ask(&self, place: usize) -> Result<(u16, u64), Fault> {
        if self.plan.per_request {
            return self.exchange(self.connect().await?).await;
        }
        let link = &self.links[place / self.request.streams];
        let (made, requests) = {
            let mut link = link.0.lock().await;
            if link.1.is_none() {
                link.1 = Some(self.connect().await?);
                self.tally.borrow_mut().reconnects += u64::from(link.0 > 0);
                link.0 += 1;
            }
            (link.0, link.1.clone())
        };
        let answered = self.exchange(requests.ok_or(Fault::Connect)?).await;
        if matches!(answered, Err(Fault::Reset | Fault::Truncated)) {
            let mut link = link.0.lock().await;
            if link.0 == made {
                link.1 = None;
            }
        }
        answered
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>, Fault> {
        let began = self.now();
        self.tally.borrow_mut().connects += 1;
        let stream = Stream::connect_tcp(self.plan.target).await;
        let mut stream = stream.map_err(|_| Fault::Connect)?;
        if let Some(Tls { config, name }) = &self.plan.tls {
            let begun = stream.begin_client(Arc::clone(config), name.clone());
            begun.map_err(|_| Fault::Connect)?;
            let shaken = std::future::poll_fn(|cx| stream.poll_handshake(cx)).await;
            shaken.map_err(|_| Fault::Connect)?;
        }
        self.tally.borrow_mut().connects_ns.record(self.now() - began);
        let socket = Counted { stream, moved: Rc::clone(&self.moved) };
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .initial_max_send_streams(self.request.streams);
        let made = builder.handshake(socket).await.map_err(|_| Fault::Connect)?;
        let (requests, connection) = made;
        // How it ends, its requests tell.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(requests)
    }

    async fn exchange(&self, requests: SendRequest<Bytes>) -> Result<(u16, u64), Fault> {
        let fault = |error: h2::Error| {
            if error.is_reset() && !error.is_library() { Fault::Truncated } else { Fault::Reset }
        };
        let mut requests = requests.ready().await.map_err(fault)?;
        let Http2 { head, body, .. } = &self.request;
        let sent = requests.send_request(head.clone(), body.is_empty());
        let (response, mut stream) = sent.map_err(fault)?;
        let mut rest = body.clone();
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(room)) => {
                    let part = rest.split_to(room.min(rest.len()));
                    if stream.send_data(part, rest.is_empty()).is_err() {
                        break;
                    }
                }
                // It may have been answered all the same.
                _ => break,
            }
        }
        let (head, mut answer) = response.await.map_err(fault)?.into_parts();
        let mut length = 0;
        while let Some(data) = answer.data().await {
            let data = data.map_err(fault)?;
            length += data.len() as u64;
            // Fails only on a stream that has ended.
            let _ = answer.flow_control().release_capacity(data.len());
        }
        Ok((head.status.as_u16(), length))
    }

    /// What is still out when the run ends has waited too long.
    fn count_unanswered(&self) {
        let now = self.now();
        let mut tally = self.tally.borrow_mut();
        for began_ns in self.began_ns.borrow().iter().flatten() {
            let counts = match self.plan.rate {
                None => now - began_ns >= engine::UNANSWERED_AFTER_NS,
                Some(_) => self.counts(*began_ns),
            };
            if counts {
                tally.given_up(Fault::Unanswered, now - began_ns);
            }
        }
        let (_, ends_ns) = self.window_ns.get();
        let mut pace = self.pace.borrow_mut();
        while self.plan.rate.is_some()
            && let Some(due_ns) = pace.take(ends_ns.saturating_sub(1))
        {
            if self.counts(due_ns) {
                tally.given_up(Fault::Unanswered, now - due_ns);
            }
        }
    }
}

/// A connection that counts what passes, with TLS the content of its records.
struct Counted {
    stream: Stream,
    moved: Rc<(Cell<u64>, Cell<u64>)>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = ready!(self.stream.poll_read(cx, into.initialize_unfilled()))?;
        into.advance(count);
        self.moved.0.set(self.moved.0.get() + count as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream.poll_write(cx, bytes))?;
        self.moved.1.set(self.moved.1.get() + written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream.poll_write_vectored(cx, parts))?;
        self.moved.1.set(self.moved.1.get() + written as u64);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown(cx)
    }
}
