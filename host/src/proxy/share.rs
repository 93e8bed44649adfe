//! One upstream's response for many clients: it is fetched into a cache, and everybody reads it from
//! there, the client who asked first like all others.
//!
//! ```text
//!   upstream ─► fill ─► Capture ═► deliver ─► client
//!                                ╚► deliver ─► client, also on other workers
//! ```
//!
//! So a slow client slows nobody, and one that leaves takes nothing along. A fetch is a task of its own,
//! unless all of the body is there with its head.
//!
//! Cancel safety: dropping a delivery leaves half a message on the client's connection, which must be
//! closed then; the fetch goes on. Dropping a fetch breaks the body off for everybody.
//!
//! Not here: what is kept (`state::cache`), bodies that are one client's alone (`relay`).

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use super::context::{Context, Own};
use super::deliver::{self, Delivered, after_local, connection_field, drain, unread};
use super::forward::{Answered, Times};
use super::relay::Place;
use super::{After, Client};
use crate::error::RequestError;
use crate::http::body::{BodyReader, Form};
use crate::http::connection::{consume, poll_fill};
use crate::http::parse::{Framing, RequestFacts};
use crate::http::{Connection, Method, Name, Version};
use crate::io::{TICK, Timer};
use crate::plugin::Exchange;
use crate::plugin::exchange::Waiting;
use crate::state::cache::{Broken, Capture, Follow};
use crate::upstream::Lease;

/// So much is put together before it is written.
const RUN_BYTES_MAX: usize = 256 * 1024;

/// So long altogether, those who share a body too large to be kept wait for those among them who are slower.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until what another request fetches can be looked at, or has taken too long.
pub async fn wait(client: &Client, mut waiting: Waiting) {
    client.timer.arm(Duration::from_micros(waiting.rest_us));
    poll_fn(|cx| match waiting.flight.poll_over(cx) {
        Poll::Pending if !client.timer.is_due() => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
    client.timer.disarm();
}

/// All of a body, for plugins that want to see it.
pub async fn collect(mut follow: Follow) -> Result<Vec<u8>, RequestError> {
    let mut whole = Vec::new();
    loop {
        match poll_fn(|cx| follow.poll_next(cx)).await {
            Ok(Some(piece)) => whole.extend_from_slice(&piece),
            Ok(None) => return Ok(whole),
            Err(_) => return Err(RequestError::BadResponse("body")),
        }
    }
}

/// An upstream's body on its way to those who keep it.
struct Source {
    lease: Lease,
    reader: BodyReader,
    captures: Vec<Capture>,
    keep_alive: bool,
    bodiless: bool,
}

impl Source {
    fn new(answered: Answered, captures: Vec<Capture>, context: &Context) -> Self {
        let Answered { lease, facts, .. } = answered;
        let reader =
            BodyReader::new(facts.framing, Form::Content, u64::MAX, &context.response_limits);
        let (keep_alive, bodiless) = (facts.keep_alive, facts.bodiless);
        Self { lease, reader, captures, keep_alive, bodiless }
    }

    /// Takes what has been received.
    fn take(&mut self) -> Result<(), RequestError> {
        let (mut pieces, mut tail) = (Vec::new(), Vec::new());
        if let Some(buffer) = &self.lease.connection.inbox
            && !self.reader.is_done()
        {
            let step = self.reader.advance(buffer.filled(), &mut pieces, &mut tail)?;
            for piece in pieces {
                let piece = &buffer.filled()[piece];
                self.captures.iter_mut().for_each(|capture| capture.write(piece));
            }
            consume(&mut self.lease.connection.inbox, step.consumed);
        }
        Ok(())
    }

    /// All of it has come.
    fn end(self, own: &Own) {
        self.captures.into_iter().for_each(Capture::end);
        if self.keep_alive {
            self.lease.give_back(self.bodiless, own.clock.now());
        }
    }

    /// Reads the rest. Whatever goes wrong is told those who read along by their captures.
    async fn fill(mut self, own: Rc<Own>, idle: Duration) {
        let timer = own.deadlines.timer();
        poll_fn(|cx| {
            timer.bind(cx);
            Poll::Ready(())
        })
        .await;
        let mut patience = PATIENCE;
        while !self.reader.is_done() {
            if !self.is_wanted(&own, &timer, &mut patience).await {
                return;
            }
            timer.arm(idle);
            let filled = self.read(&own, &timer).await;
            if filled == Some(0) && self.reader.ends_at_close() {
                break;
            }
            if filled.is_none_or(|count| count == 0) || self.take().is_err() {
                return;
            }
        }
        self.end(&own);
    }

    /// Waits until all who keep it have room for more. False: nobody wants it any longer.
    async fn is_wanted(&self, own: &Own, timer: &Timer, patience: &mut Duration) -> bool {
        let room = |cx: &Task<'_>| {
            let mut wanted = false;
            for capture in &self.captures {
                match capture.poll_room(cx) {
                    Poll::Ready(more) => wanted |= more,
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(wanted)
        };
        if let Poll::Ready(wanted) = poll_fn(|cx| Poll::Ready(room(cx))).await {
            return wanted;
        }
        let began = own.clock.now();
        timer.arm(*patience);
        let wanted = poll_fn(|cx| {
            if timer.is_due() {
                let held_up = self.captures.iter().filter(|capture| capture.is_held_up());
                held_up.for_each(Capture::leave_slowest);
                // All of them may be slow, and somebody get on in a moment.
                timer.arm(TICK);
            }
            room(cx)
        })
        .await;
        *patience = patience.saturating_sub(own.clock.now() - began);
        wanted
    }

    async fn read(&mut self, own: &Own, timer: &Timer) -> Option<usize> {
        let Connection { stream, inbox } = &mut self.lease.connection;
        let (mut reader, _) = stream.split();
        poll_fn(|cx| {
            if timer.is_due() {
                return Poll::Ready(None);
            }
            poll_fill(cx, &mut reader, inbox, &own.pool).map(Result::ok)
        })
        .await
    }
}

/// Whether the body of the answer is on its way into a cache.
pub fn is_coming(place: &Place) -> bool {
    place.as_deref().is_some_and(|exchange| exchange.coming.is_some())
}

/// Whether an upstream's response is kept in a cache, and everybody reads it from there.
pub fn is_shared(place: &Place, answered: &Answered) -> bool {
    let keeps = place.as_deref().is_some_and(|exchange| !exchange.captures.is_empty());
    keeps && answered.upload.is_none()
}

/// Fetches an upstream's response into the caches that keep it, and sends it to this client as it comes.
pub async fn upstream(
    context: &Context,
    client: &mut Client,
    exchange: &mut Exchange,
    facts: &RequestFacts,
    answered: Answered,
    times: Times,
) -> Delivered {
    let untouched = facts.framing == Framing::None;
    let mut captures = std::mem::take(&mut exchange.captures);
    let follow = captures.first().and_then(Capture::follow);
    captures.iter_mut().for_each(Capture::publish);
    exchange.fetches.clear();
    let mut source = Source::new(answered, captures, context);
    match source.take() {
        Ok(()) if source.reader.is_done() => source.end(context),
        Ok(()) => {
            tokio::task::spawn_local(source.fill(Rc::clone(&context.own), times.idle));
        }
        // Whoever reads along is told by this.
        Err(_) => drop(source),
    }
    exchange.coming = follow;
    coming(context, client, exchange, facts, untouched).await
}

/// Fetches an upstream's response into the caches that keep it, and sends it to nobody.
pub async fn upstream_to_nobody(
    context: &Context,
    exchange: &mut Exchange,
    answered: Answered,
    times: Times,
) {
    let mut captures = std::mem::take(&mut exchange.captures);
    captures.iter_mut().for_each(Capture::publish);
    exchange.fetches.clear();
    let mut source = Source::new(answered, captures, context);
    if source.take().is_err() {
        return;
    }
    if source.reader.is_done() {
        source.end(context);
    } else if !source.captures.is_empty() {
        source.fill(Rc::clone(&context.own), times.idle).await;
    }
}

/// Sends a response whose body may still be on its way into a cache.
pub async fn coming(
    context: &Context,
    client: &mut Client,
    exchange: &mut Exchange,
    facts: &RequestFacts,
    untouched: bool,
) -> Delivered {
    let Some(follow) = exchange.coming.take() else {
        return deliver::local(context, client, exchange, facts, untouched).await;
    };
    if let Some(whole) = follow.whole() {
        exchange.body = Some(whole);
        return deliver::local(context, client, exchange, facts, untouched).await;
    }
    exchange.sent = true;
    exchange.body = None;
    let version = exchange.request.version;
    let response = &mut exchange.response;
    let empty = exchange.request.method == Method::Head || response.is_bodiless();
    response.fields.remove_known(Name::ContentLength);
    response.fields.remove_known(Name::TransferEncoding);
    let framing = match (follow.length(), version) {
        _ if response.is_bodiless() => Framing::None,
        (Some(length), _) => Framing::Length(length),
        (None, _) if empty => Framing::None,
        (None, Version::Http11) => Framing::Chunked,
        (None, Version::Http10 | Version::Http2) => Framing::UntilClose,
    };
    let rest = unread(context, client, facts, untouched);
    let mut after = match after_local(context, facts, rest.as_ref()) {
        After::KeepAlive if framing == Framing::UntilClose => After::Close,
        after => after,
    };
    let mut run = Vec::new();
    let field = connection_field(version, after);
    let opening = client.connection.prepare_response(&mut run, response, framing, field);
    let head = opening.bytes;
    client.timer.limit(None);
    if client.connection.open_response(opening, empty).is_err() {
        return Delivered::nothing(context);
    }
    let chunked = framing == Framing::Chunked;
    let written = head - run.len() as u64;
    let mut out = Out { context, client: &mut *client, run, written, chunked };
    let poured = if empty { out.end().await } else { out.pour(follow).await };
    let written = out.written;
    match poured {
        Ok(()) => {}
        Err(Stopped::Client) => return Delivered::nothing(context),
        Err(Stopped::Source(broken)) => {
            // An orderly end could be taken for the end of the body.
            client.connection.stream.reset_at_end(None);
            let delivered = Delivered::new(context, After::Abort, written, head);
            let broken = match broken {
                Broken::Source => "upstream left",
                Broken::TooSlow => "client too slow for others",
            };
            return Delivered { broken: Some(broken), ..delivered };
        }
    }
    if after == After::KeepAlive
        && let Some(rest) = rest
        && drain(context, client, rest).await.is_err()
    {
        after = After::Close;
    }
    Delivered::new(context, after, written, head)
}

/// Why a body was not sent to its end.
enum Stopped {
    /// The client takes no more.
    Client,
    /// There is no more.
    Source(Broken),
}

/// A response on its way to a client.
struct Out<'a> {
    context: &'a Context,
    client: &'a mut Client,
    /// What is put together for the next write.
    run: Vec<u8>,
    written: u64,
    chunked: bool,
}

impl Out<'_> {
    /// Sends a body as it comes.
    async fn pour(&mut self, mut follow: Follow) -> Result<(), Stopped> {
        loop {
            // What is there already goes with one write.
            let next = match poll_fn(|cx| Poll::Ready(follow.poll_next(cx))).await {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    self.send().await?;
                    self.client.timer.disarm();
                    poll_fn(|cx| follow.poll_next(cx)).await
                }
            };
            match next {
                Ok(Some(piece)) => self.frame(&piece),
                Ok(None) => break,
                Err(broken) => return Err(Stopped::Source(broken)),
            }
            if self.run.len() >= RUN_BYTES_MAX {
                self.send().await?;
            }
        }
        if self.chunked {
            self.run.extend_from_slice(b"0\r\n\r\n");
        }
        self.end().await
    }

    /// Appends a piece of a body.
    fn frame(&mut self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        if self.chunked {
            self.run.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        }
        self.run.extend_from_slice(piece);
        if self.chunked {
            self.run.extend_from_slice(b"\r\n");
        }
    }

    /// Writes what has been put together.
    async fn send(&mut self) -> Result<(), Stopped> {
        let Client { connection, timer, .. } = &mut *self.client;
        let idle = self.context.idle_timeout();
        let sent = connection.write_all(&self.run, timer, idle).await;
        self.written += self.run.len() as u64;
        self.run.clear();
        sent.map_err(|_| Stopped::Client)
    }

    /// Writes the last of it.
    async fn end(&mut self) -> Result<(), Stopped> {
        let Client { connection, timer, .. } = &mut *self.client;
        let idle = self.context.idle_timeout();
        self.written += self.run.len() as u64;
        connection.write_end(&self.run, timer, idle).await.map_err(|_| Stopped::Client)
    }
}
