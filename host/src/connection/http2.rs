//! One client connection that speaks HTTP/2: many requests at a time, each a task of its own.
//!
//! ```text
//!   preface ─► settings ─► streams ──┬─► the last one ends, silence ─► GOAWAY ─► closed
//!                             ▲      ├─► drain ─► GOAWAY, GOAWAY ─► the last one ends ─► closed
//!                             └──────┘─► flood ─► GOAWAY(ENHANCE_YOUR_CALM) ─► closed
//! ```
//!
//! The connection's own task drives crate `h2`, watches time and what the client does besides asking
//! (`http::h2::Watch`), and gives every request to a task; that has a timer and takes the current
//! generation of the configuration as a request of HTTP/1 does.
//!
//! Limits: streams at a time and sizes of heads are told to the client and enforced by crate `h2`, which
//! also bounds what can be queued of resets, CONTINUATION and small DATA frames. A client that gets more than
//! its share of refusals is closed by it.
//!
//! Not here: how it was found out that the client speaks HTTP/2, by its preface or by ALPN (`connection`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};

use super::DRAIN_IDLE;
use crate::http::connection::poll_fill;
use crate::http::h2::{self as heads, Account, Alive, Offence, Outlet, Watch, Wire};
use crate::http::{Connection, Framing};
use crate::io::{Multiplexed, Stream, Timer, TlsFacts};
use crate::proxy::client::ClientFacts;
use crate::proxy::{self, After, Client, Context, Home};

/// What a client may send of one request before it is read. Of all requests it may send so much of each:
/// one whose upstream is slow must not hold up the others.
const STREAM_WINDOW: u32 = 128 * 1024;

/// More streams than this share what so many may have sent, so that the product is a window still.
const STREAMS_MAX: u32 = 4096;

/// A closed connection gets this long to take its last bytes.
const FAREWELL: Duration = Duration::from_secs(1);

/// A client that has sent all that it has announced gets this long to say that nothing follows.
const END_WITHIN: Duration = Duration::from_secs(5);

/// What is held of one response that the client does not take, whatever its window allows.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// Requests that the client has given up before they were begun.
const RESET_BEFORE_BEGIN_MAX: usize = 64;

/// What the requests of a connection share.
struct Shared {
    home: Rc<Home>,
    account: Rc<Account>,
    facts: ClientFacts,
    tls: Option<Arc<TlsFacts>>,
    listener: usize,
    /// Requests that are being answered.
    active: Cell<usize>,
    /// Requests so far.
    begun: Cell<u64>,
    /// The connection's own task, when it has to hear of the last request's end.
    waker: RefCell<Option<Waker>>,
}

/// Counts a request as long as it is there.
struct Open(Rc<Shared>);

impl Open {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.active.set(shared.active.get() + 1);
        if shared.active.get() == 1 {
            shared.home.telemetry.connection_active(shared.listener);
        }
        Self(Rc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let shared = &self.0;
        shared.active.set(shared.active.get() - 1);
        if shared.active.get() == 0 {
            shared.home.telemetry.connection_idle(shared.listener);
            if let Some(waker) = &*shared.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }
}

/// Serves a connection until it is done.
pub(super) async fn serve(home: &Rc<Home>, client: &mut Client) {
    let shared = Rc::new(Shared {
        home: Rc::clone(home),
        account: Account::new(Watch::client, &home.deadlines),
        facts: client.facts,
        tls: client.connection.stream.tls().cloned(),
        listener: client.listener,
        active: Cell::new(0),
        begun: Cell::new(0),
        waker: RefCell::default(),
    });
    // Nothing is asked yet.
    home.telemetry.connection_idle(client.listener);
    let orderly = run(&shared, client).await;
    client.timer.disarm();
    // The requests have heard of the end, and record theirs.
    poll_fn(|cx| {
        shared.waker.replace(Some(cx.waker().clone()));
        if shared.active.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    home.telemetry.connection_active(client.listener);
    let refused = shared.account.requests().saturating_sub(shared.begun.get());
    if refused > 0 {
        log::debug!(target: "connection", "HTTP/2: {refused} requests that were none, or too many");
        home.telemetry.streams_refused(client.listener, refused);
    }
    if !orderly {
        // What the client has sent and nobody has read must not destroy the words of farewell.
        client.connection.linger(&home.pool, &client.timer).await;
    }
}

/// Drives the connection. Says whether it has ended in order.
async fn run(shared: &Rc<Shared>, client: &mut Client) -> bool {
    let Client { connection: Connection { stream, inbox }, timer, .. } = client;
    let wire = Wire::new(stream, inbox.take(), Rc::clone(&shared.account));
    let outlet = wire.outlet();
    let handshake_timeout = shared.home.current().limits().header_timeout;
    timer.limit(None);
    timer.arm(handshake_timeout);
    let Some(mut connection) = greet(shared, wire, &outlet, timer).await else { return false };
    shared.waker.replace(Some(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await));
    let (mut phase, mut hostile) = (Phase::Handshake, false);
    let pings = shared.home.current().limits().h2_pings;
    let pong = pings.and_then(|_| connection.ping_pong());
    let mut alive = Alive::new(pong, pings, timer.deadlines());
    loop {
        let accepted = poll_fn(|cx| {
            // As many as there are, before the clock is looked at.
            if let Poll::Ready(accepted) = outlet.poll(cx, |cx| connection.poll_accept(cx)) {
                return Poll::Ready(Some(accepted));
            }
            phase.follow(shared, timer);
            if let Some(alive) = &mut alive
                && alive.poll_gone(cx, &shared.account).is_ready()
            {
                phase = Phase::Gone;
                return Poll::Ready(None);
            }
            if phase != Phase::Ending && shared.account.offence().is_some() {
                return Poll::Ready(None);
            }
            if shared.home.draining.get() && !phase.is_last() {
                return Poll::Ready(None);
            }
            if timer.is_due() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        match accepted {
            Some(Some(Ok((request, respond)))) => {
                shared.begun.set(shared.begun.get() + 1);
                begin(shared, request, respond);
            }
            // The client has left, or both have said farewell.
            Some(None) => return !hostile,
            Some(Some(Err(error))) => {
                log::debug!(target: "connection", "HTTP/2: {error}");
                return false;
            }
            None if phase == Phase::Ending => return false,
            None if phase == Phase::Gone => {
                log::debug!(target: "connection", "HTTP/2: no answer to a ping");
                return true;
            }
            None if let Some(offence) = phase.offence(shared, timer) => {
                (phase, hostile) = (Phase::Ending, true);
                timer.arm(FAREWELL);
                log::debug!(target: "connection", "HTTP/2: {offence:?}");
                connection.abrupt_shutdown(offence.reason());
            }
            // RFC 9113 §6.8: first that there will be an end, and when that is known to have arrived, which
            // stream is the last.
            None if shared.home.draining.get() && !phase.is_last() => {
                phase = Phase::Draining { silent: false };
                timer.disarm();
                connection.graceful_shutdown();
            }
            None => {
                let before = phase;
                phase = Phase::Ending;
                timer.arm(FAREWELL);
                if before == Phase::Handshake {
                    return false;
                }
                connection.abrupt_shutdown(Reason::NO_ERROR);
            }
        }
    }
}

/// Exchanges the first words. Apart, so that its room is not kept for as long as the connection is there.
async fn greet<'a>(
    shared: &Shared,
    wire: Wire<&'a mut Stream>,
    outlet: &Outlet<&'a mut Stream>,
    timer: &Timer,
) -> Option<h2::server::Connection<Wire<&'a mut Stream>, Bytes>> {
    let mut handshake = pin!(builder(&shared.home.current()).handshake::<_, Bytes>(wire));
    poll_fn(|cx| match outlet.poll(cx, |cx| handshake.as_mut().poll(cx)) {
        Poll::Pending if timer.is_due() => Poll::Ready(None),
        polled => polled.map(Result::ok),
    })
    .await
}

/// What a connection is waiting for, and its timer for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client's settings.
    Handshake,
    /// Requests, while some are being answered: they have timers of their own.
    Active,
    /// A first or another request.
    Idle,
    /// The rest of a head.
    Head,
    /// The last request, after a first GOAWAY; `silent`: or the client's leaving, if there is none.
    Draining { silent: bool },
    /// The last GOAWAY to be written.
    Ending,
    /// Nothing: the client does not answer any more.
    Gone,
}

impl Phase {
    /// What the client has done that ends its connection.
    fn offence(self, shared: &Shared, timer: &Timer) -> Option<Offence> {
        // A head that does not end is a flood, if a slow one.
        let endless = self == Self::Head && timer.is_due();
        shared.account.offence().or(endless.then_some(Offence::Flood))
    }

    /// Whether no more than what has begun will be answered.
    fn is_last(self) -> bool {
        matches!(self, Self::Draining { .. } | Self::Ending)
    }

    /// Arms the timer when something else is waited for from now on.
    fn follow(&mut self, shared: &Shared, timer: &Timer) {
        let silent = shared.active.get() == 0;
        let next = match *self {
            Self::Ending | Self::Gone => return,
            Self::Draining { .. } => Self::Draining { silent },
            Self::Handshake if !shared.account.has_heard_settings() => return,
            _ if shared.account.is_in_block() => Self::Head,
            _ if silent => Self::Idle,
            _ => Self::Active,
        };
        if next == *self {
            return;
        }
        *self = next;
        let context = shared.home.current();
        match next {
            Self::Idle => timer.arm(context.idle_timeout()),
            Self::Head => timer.arm(context.limits().header_timeout),
            Self::Draining { silent: true } => timer.arm(DRAIN_IDLE),
            _ => timer.disarm(),
        }
    }
}

fn builder(context: &Context) -> Builder {
    let limits = context.limits();
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * limits.h2_streams_max.min(STREAMS_MAX))
        .max_concurrent_streams(limits.h2_streams_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max * 2).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_BEFORE_BEGIN_MAX)
        .max_send_buffer_size(SEND_BYTES_MAX)
        .enable_connect_protocol();
    builder
}

/// A request that waits for somebody to answer it.
struct Job {
    open: Open,
    request: ::http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

/// A task that answers one request after the other: it is large, and making one for each request costs as much
/// as all of its parsing.
#[derive(Default)]
struct Runner {
    job: Cell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
}

/// Tasks without a request are kept up to this number.
const IDLE_RUNNERS_MAX: usize = 128;

thread_local! {
    /// A worker's tasks without a request, the one used last first.
    static IDLE: RefCell<Vec<Rc<Runner>>> = const { RefCell::new(Vec::new()) };
}

fn begin(shared: &Rc<Shared>, request: ::http::Request<RecvStream>, respond: SendResponse<Bytes>) {
    let job = Some(Job { open: Open::new(shared), request, respond });
    if let Some(runner) = IDLE.with_borrow_mut(Vec::pop) {
        runner.job.set(job);
        if let Some(waker) = &*runner.waker.borrow() {
            waker.wake_by_ref();
        }
        return;
    }
    let runner = Rc::new(Runner { job: Cell::new(job), waker: RefCell::default() });
    tokio::task::spawn_local(async move {
        loop {
            let Job { open, request, respond } = poll_fn(|cx| match runner.job.take() {
                Some(job) => Poll::Ready(job),
                None => {
                    runner.waker.borrow_mut().get_or_insert_with(|| cx.waker().clone());
                    Poll::Pending
                }
            })
            .await;
            // A request that is given up earns nothing: asking and giving up would pay for itself.
            if answer(&open.0, request, respond).await {
                let work = open.0.account.work();
                work.set(work.get() + 1);
            }
            drop(open);
            let kept = IDLE.with_borrow_mut(|idle| {
                let kept = idle.len() < IDLE_RUNNERS_MAX;
                if kept {
                    idle.push(Rc::clone(&runner));
                }
                kept
            });
            if !kept {
                return;
            }
        }
    });
}

/// Answers one request. Whether the client has taken the answer.
async fn answer(
    shared: &Shared,
    request: ::http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> bool {
    let home = &*shared.home;
    let context = home.current();
    let mut exchange = home.take_exchange();
    let (parts, body) = request.into_parts();
    let ended = body.is_end_stream();
    let head = &mut exchange.request;
    let facts = heads::request(&parts, ended, head, &context.head_limits);
    let received = heads::size(&parts.headers);
    drop(parts);
    let work = Rc::clone(shared.account.work());
    let stream = Multiplexed::asked(body, respond, work, shared.tls.clone());
    let mut client = Client {
        connection: Connection::new(Stream::multiplexed(stream, received)),
        timer: home.deadlines.timer(),
        facts: shared.facts,
        listener: shared.listener,
        counted: 0,
    };
    poll_fn(|cx| {
        client.timer.bind(cx);
        if !ended {
            // What has come already goes on together with the head. How it ends will be heard later.
            let Connection { stream, inbox } = &mut client.connection;
            let _ = poll_fill(cx, &mut stream.split().0, inbox, &home.pool);
        }
        Poll::Ready(())
    })
    .await;
    match facts {
        Ok(facts) => {
            if facts.wants_upgrade {
                // A client of HTTP/2 has no use for a key, and the server insists on one (RFC 6455 §4.1).
                let key: [u8; 16] = std::array::from_fn(|_| home.random.borrow_mut().u8(..));
                let key = base64::engine::general_purpose::STANDARD.encode(key);
                let fields = &mut exchange.request.fields;
                fields.remove_if(|name, _| name.eq_ignore_ascii_case(b"sec-websocket-key"));
                fields.push("Sec-WebSocket-Key", key.as_bytes());
            }
            let (exchange, after) = proxy::handle(&context, &mut client, exchange, &facts).await;
            home.give_back(exchange);
            if let Framing::Length(length) = facts.framing
                && after != After::Abort
            {
                await_end(&mut client, length).await;
            }
            after != After::Abort
        }
        Err(error) => {
            proxy::refuse(&context, &mut client, exchange, error).await;
            false
        }
    }
}

/// Waits for the end of a request that is whole, if it is: its server could count, and may have answered before
/// the client said that nothing follows. It is about to say so, and some clients take a reset instead of
/// that for an error of their own (Python's httpcore).
async fn await_end(client: &mut Client, length: u64) {
    let Client { connection, timer, .. } = client;
    let Some(stream) = connection.stream.as_multiplexed() else { return };
    if stream.taken() < length {
        return;
    }
    timer.limit(None);
    timer.arm(END_WITHIN);
    poll_fn(|cx| match stream.poll_read(cx, &mut [0]) {
        Poll::Pending if !timer.is_due() => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
    timer.disarm();
}

/// Whether `bytes` begin an HTTP/2 connection; `None` as long as they may.
pub(super) fn is_preface(bytes: &[u8]) -> Option<bool> {
    let seen = bytes.len().min(heads::PREFACE.len());
    if bytes[..seen] != heads::PREFACE[..seen] {
        return Some(false);
    }
    (seen == heads::PREFACE.len()).then_some(true)
}
