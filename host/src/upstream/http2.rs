//! Connections to servers that speak HTTP/2: few, with many requests on each.
//!
//! ```text
//!   dial ─► settings heard ─► open ──┬─► GOAWAY, a time-out, no identifiers left ─► takes no more ─► closed
//!                              ▲     │                                              (with its last stream)
//!                              └─────┴─► no streams for as long as idle connections are kept ─► closed
//! ```
//!
//! With `keepalive.ping_interval_ms` a silent server is asked for a sign of life, and given up without one.
//!
//! A request takes a place on the first connection that has one: as many as the server allows at a time,
//! which it says in its settings, so nobody asks before these have come. When all are full, one request makes
//! another connection and the others wait for it.
//!
//! Not here: what is sent on a stream (`proxy`), making a socket (`connect`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};

use super::connect::DialError;
use crate::config::Pings;
use crate::error::RequestError;
use crate::http::h2::{Account, Alive, Outlet, Watch, Wire};
use crate::io::{Multiplexed, Stream, Timer, TlsFacts};

/// What a server may send of one response before it is read: as much as a buffer holds. Of all responses
/// it may send so much of each: one whose client is slow must not hold up the others.
const STREAM_WINDOW: u32 = 256 * 1024;

/// What is held of one request that the server does not take.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// Streams of one connection that this side opens at a time, whatever the server allows.
const STREAMS_MAX: u32 = 1024;

type Connection = h2::client::Connection<Wire<Stream>, Bytes>;

/// A worker's connections to one server.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Somebody is making one.
    dialing: Cell<bool>,
    known: Rc<Known>,
}

/// What connections and those who want one know of each other.
#[derive(Debug, Default)]
struct Known {
    /// Connections until they are closed, those included that take no more requests.
    list: RefCell<Vec<Rc<Session>>>,
    /// Tasks that want to hear of the next change.
    waiting: RefCell<Vec<Waker>>,
}

impl Known {
    fn add(&self, cx: &Context<'_>) {
        self.waiting.borrow_mut().push(cx.waker().clone());
    }

    fn wake(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

/// One connection.
#[derive(Debug)]
struct Session {
    /// `None`: it takes no more requests.
    requests: RefCell<Option<SendRequest<Bytes>>>,
    account: Rc<Account>,
    tls: Option<Arc<TlsFacts>>,
    streams: Cell<usize>,
    /// When a sweep first saw it without streams.
    idle_since: Cell<Option<Instant>>,
    known: Rc<Known>,
}

/// A place on a connection, for one request.
#[derive(Debug)]
pub(super) struct Slot(Rc<Session>);

/// What a request gets.
#[derive(Debug)]
pub(super) enum Taken {
    /// A place on a connection of HTTP/2; true: that was there already.
    Place(Slot, bool),
    /// A connection to a server that has chosen HTTP/1.1.
    Alone(Stream),
    /// The server has chosen HTTP/1.1 on another connection.
    Neither,
}

/// Says that somebody makes a connection, as long as that is so.
struct Dialing<'a>(&'a Sessions);

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.0.dialing.set(false);
        self.0.known.wake();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.known.wake();
    }
}

impl Slot {
    /// The stream for the request.
    pub(super) fn stream(&self) -> Option<Stream> {
        let requests = self.0.requests.borrow().clone()?;
        let work = Rc::clone(self.0.account.work());
        let stream = Multiplexed::asking(requests, work, self.0.tls.clone());
        Some(Stream::multiplexed(stream, 0))
    }

    /// The connection answers no more: nobody else shall wait for it.
    pub(super) fn suspect(&self) {
        self.0.retire();
    }
}

impl Session {
    fn is_open(&self) -> bool {
        self.requests.borrow().is_some() && !self.account.is_going_away()
    }

    /// Places that are free.
    fn room(&self) -> usize {
        let requests = self.requests.borrow();
        let Some(requests) = requests.as_ref().filter(|_| self.is_open()) else { return 0 };
        requests
            .current_max_send_streams()
            .min(STREAMS_MAX as usize)
            .saturating_sub(self.streams.get())
    }

    /// Takes no more requests; those that are here go on.
    fn retire(&self) {
        self.requests.take();
        self.known.wake();
    }

    fn take(self: &Rc<Self>) -> Slot {
        self.streams.set(self.streams.get() + 1);
        self.idle_since.set(None);
        Slot(Rc::clone(self))
    }
}

impl Sessions {
    /// A place on a connection that is there, or on one that `dial` makes and says to be of HTTP/2.
    /// Neither, if whoever has dialled meanwhile found that this server speaks another protocol, which
    /// `is_alone` tells.
    pub(super) async fn take(
        &self,
        wait: Duration,
        pings: Option<Pings>,
        timer: &Timer,
        is_alone: impl Fn() -> bool,
        dial: impl AsyncFnOnce() -> Result<(Stream, bool), DialError>,
    ) -> Result<Taken, DialError> {
        let mut waits = false;
        loop {
            if let Some(slot) = self.free() {
                return Ok(Taken::Place(slot, true));
            }
            if !self.dialing.get() {
                break;
            }
            if !waits {
                timer.arm(wait);
                waits = true;
            }
            self.changed(timer).await?;
            if is_alone() {
                return Ok(Taken::Neither);
            }
        }
        self.dialing.set(true);
        let dialing = Dialing(self);
        let (stream, shared) = dial().await?;
        if !shared {
            return Ok(Taken::Alone(stream));
        }
        timer.arm(wait);
        let session = self.begin(stream, timer, pings).await?;
        drop(dialing);
        // A server that allows none has no use for another connection.
        if session.room() == 0 {
            session.retire();
            return Err(RequestError::Closed.into());
        }
        Ok(Taken::Place(session.take(), false))
    }

    fn free(&self) -> Option<Slot> {
        let list = self.known.list.borrow();
        list.iter().find(|session| session.room() > 0).map(Session::take)
    }

    /// Waits until something has changed.
    async fn changed(&self, timer: &Timer) -> Result<(), RequestError> {
        let mut asked = false;
        poll_fn(|cx| {
            if timer.is_due() {
                return Poll::Ready(Err(RequestError::ConnectTimeout));
            }
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(Ok(()));
            }
            self.known.add(cx);
            Poll::Pending
        })
        .await
    }

    /// Makes a connection of a socket. Returns when the server has said how many streams it allows.
    async fn begin(
        &self,
        stream: Stream,
        timer: &Timer,
        pings: Option<Pings>,
    ) -> Result<Rc<Session>, RequestError> {
        let account = Account::new(Watch::server, timer.deadlines());
        let tls = stream.tls().cloned();
        let wire = Wire::new(stream, None, Rc::clone(&account));
        let outlet = wire.outlet();
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .max_send_buffer_size(SEND_BYTES_MAX)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * STREAMS_MAX)
            .max_header_list_size(HEADER_LIST_BYTES_MAX);
        let mut handshake = pin!(builder.handshake::<_, Bytes>(wire));
        let mut made = None;
        poll_fn(|cx| {
            if timer.is_due() {
                return Poll::Ready(Err(RequestError::ConnectTimeout));
            }
            if made.is_none() {
                match outlet.poll(cx, |cx| handshake.as_mut().poll(cx)) {
                    Poll::Ready(Ok(both)) => made = Some(both),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(RequestError::Closed)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let Some((_, connection)) = &mut made else { return Poll::Pending };
            match outlet.poll(cx, |cx| Pin::new(&mut *connection).poll(cx)) {
                Poll::Ready(_) => {
                    Poll::Ready(Err(RequestError::BadResponse("no HTTP/2 from this server")))
                }
                Poll::Pending if account.has_heard_settings() => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        let Some((requests, mut connection)) = made else { return Err(RequestError::Closed) };
        let pong = pings.and_then(|_| connection.ping_pong());
        let alive = Alive::new(pong, pings, timer.deadlines());
        let session = Rc::new(Session {
            requests: RefCell::new(Some(requests)),
            account,
            tls,
            streams: Cell::new(0),
            idle_since: Cell::new(None),
            known: Rc::clone(&self.known),
        });
        self.known.list.borrow_mut().push(Rc::clone(&session));
        tokio::task::spawn_local(drive(connection, outlet, Rc::clone(&session), alive));
        Ok(session)
    }

    /// Closes connections that have had no stream for so long.
    pub(super) fn sweep(&self, now: Instant, limit: Duration) {
        let list = self.known.list.borrow();
        for session in list.iter().filter(|session| session.streams.get() == 0) {
            let since = session.idle_since.get().unwrap_or(now);
            session.idle_since.set(Some(since));
            if now.saturating_duration_since(since) >= limit {
                session.retire();
            }
        }
    }

    /// Closes every connection that has no stream, and the others with their last.
    pub(super) fn close(&self) {
        self.known.list.borrow().iter().for_each(|session| session.retire());
    }

    /// Connections with streams, and without.
    pub(super) fn count(&self) -> (usize, usize) {
        let list = self.known.list.borrow();
        let active = list.iter().filter(|session| session.streams.get() > 0).count();
        (active, list.len() - active)
    }
}

/// Head of a response that crate `h2` reads; what is too large for the gateway's own limit is refused
/// when it is known whose it is.
const HEADER_LIST_BYTES_MAX: u32 = 256 * 1024;

/// Drives a connection to its end.
async fn drive(
    mut connection: Connection,
    outlet: Outlet<Stream>,
    session: Rc<Session>,
    mut alive: Option<Alive>,
) {
    poll_fn(|cx| {
        let polled = outlet.poll(cx, |cx| Pin::new(&mut connection).poll(cx));
        if session.account.is_going_away() {
            session.retire();
        }
        if let Some(alive) = &mut alive
            && alive.poll_gone(cx, &session.account).is_ready()
        {
            log::debug!(target: "upstream", "HTTP/2: no answer to a ping");
            return Poll::Ready(());
        }
        match polled {
            Poll::Pending if session.account.offence().is_some() => Poll::Ready(()),
            polled => polled.map(drop),
        }
    })
    .await;
    let others = |one: &Rc<Session>| !Rc::ptr_eq(one, &session);
    session.known.list.borrow_mut().retain(others);
    session.retire();
}
