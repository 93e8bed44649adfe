//! Reads a whole body, for a plugin that wants to see all of it or has put another in its place.
//!
//! The chain has stopped behind that plugin; nothing of the message has gone on. Plugins before it
//! are shown the chunks as they come. What is read is bounded by what the plugin asked for.
//!
//! Cancel safety: none. What has been read of a body is nowhere else.
//!
//! Not here: what plugins ask for (`plugin::body`), and bodies that are not held (`relay`).

use std::future::poll_fn;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};

use super::Client;
use super::context::Context;
use super::forward::{Answered, upload_time};
use super::relay::{Lanes, Place};
use super::shown::stopped;
use crate::error::RequestError;
use crate::http::body::{BodyReader, Form};
use crate::http::connection::{consume, poll_fill};
use crate::http::parse::{Framing, RequestFacts};
use crate::http::{Name, ResponseHead};
use crate::io::{Buffer, Reader};
use crate::plugin::body::CHUNK_BYTES_MAX;
use crate::plugin::callout::{Outside, Scope};
use crate::plugin::{BodyFilter, BodyStop, Chain, Exchange, Flow, Halt, Hook, Wish};

/// Chunks in one go before other connections get their turn.
const ROUNDS_MAX: usize = 16;

/// A body of an upstream that nobody wants is read up to this size, to keep the connection.
const FORGOTTEN_BYTES_MAX: u64 = 64 * 1024;

/// Why a response was not held.
const TOO_LONG: &str = "a body longer than its plugin holds";

/// What has been collected of a body.
struct Held {
    filter: Option<Box<BodyFilter>>,
    whole: Vec<u8>,
    bytes_max: usize,
    /// Nobody wants it: it is read and forgotten.
    forgets: bool,
}

impl Held {
    /// Nothing yet, for what a plugin wishes.
    fn new(filter: Option<Box<BodyFilter>>, wish: &Wish) -> Self {
        let forgets = matches!(wish, Wish::Replace(_));
        let bytes_max = if let Wish::Hold(bytes_max) = wish { *bytes_max } else { 0 };
        Self { filter, whole: Vec::new(), bytes_max, forgets }
    }

    fn add(&mut self, chunk: &[u8], end: bool, place: &mut Place) -> Result<(), RequestError> {
        if self.forgets {
            return Ok(());
        }
        match &mut self.filter {
            None => self.whole.extend_from_slice(chunk),
            Some(_) if chunk.is_empty() && !end => {}
            Some(filter) => {
                filter.show(place, chunk, end, &mut self.whole).map_err(stopped)?;
            }
        }
        if self.whole.len() > self.bytes_max {
            return Err(RequestError::BodyTooLarge);
        }
        Ok(())
    }

    /// Adds a body that has been held once already.
    fn add_all(mut self, body: &[u8], place: &mut Place) -> Result<Vec<u8>, RequestError> {
        let mut chunks = body.chunks(CHUNK_BYTES_MAX).peekable();
        while let Some(chunk) = chunks.next() {
            self.add(chunk, chunks.peek().is_none(), place)?;
        }
        Ok(self.whole)
    }
}

/// A body that is being collected from its sender.
struct Collector {
    reader: BodyReader,
    held: Held,
}

impl Collector {
    /// Takes what is in `inbox`.
    fn take(&mut self, inbox: &mut Option<Buffer>, place: &mut Place) -> Result<(), RequestError> {
        let (mut pieces, mut tail) = (Vec::new(), Vec::new());
        while let Some(buffer) = inbox
            && !self.reader.is_done()
        {
            pieces.clear();
            let part = &buffer.filled()[..buffer.len().min(CHUNK_BYTES_MAX)];
            let step = self.reader.advance(part, &mut pieces, &mut tail)?;
            let chunk: Vec<u8> =
                pieces.iter().flat_map(|piece| &part[piece.clone()]).copied().collect();
            self.held.add(&chunk, step.done, place)?;
            consume(inbox, step.consumed);
        }
        Ok(())
    }

    /// Reads until the end of the body.
    fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        from: &mut Reader<'_>,
        inbox: &mut Option<Buffer>,
        lanes: &Lanes<'_>,
        place: &mut Place,
    ) -> Poll<Result<(), RequestError>> {
        for _ in 0..ROUNDS_MAX {
            self.take(inbox, place)?;
            if self.reader.is_done() {
                return Poll::Ready(Ok(()));
            }
            match ready!(poll_fill(cx, from, inbox, lanes.pool)) {
                Ok(0) if self.reader.ends_at_close() => {
                    return Poll::Ready(self.held.add(&[], true, place));
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(RequestError::Closed)),
                Ok(_) => lanes.timer.arm(lanes.idle),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What a halted request needs.
pub struct Request<'a> {
    /// The worker.
    pub context: &'a Context,
    /// The chain that has stopped.
    pub chain: &'a Chain,
    /// Largest body.
    pub body_bytes_max: u64,
    /// Longest time for it.
    pub timeout: Duration,
    /// When callouts must have ended.
    pub until: Instant,
}

impl Request<'_> {
    /// Does what the chain has stopped for. `body` is the request's, `None` while it is with the
    /// client; afterwards it is there.
    ///
    /// [`Flow::Respond`]: a plugin has broken the request off, and its answer is in the exchange.
    pub async fn hold(
        &self,
        client: &mut Client,
        place: &mut Place,
        facts: &mut RequestFacts,
        body: &mut Option<Vec<u8>>,
        halt: Halt,
    ) -> Result<Flow, RequestError> {
        let Some(wish) = halt.wish else {
            return call(
                self.context,
                self.chain,
                client,
                place,
                halt.link,
                Hook::Request,
                self.until,
            )
            .await;
        };
        let whole = self.collect(client, place, facts, body.take(), &wish).await?;
        *body = Some(match wish {
            Wish::Replace(bytes) => bytes,
            _ => {
                let mut gone = gone(client);
                let mut scope = scope(self.context, &mut gone, self.until);
                let hook = Hook::RequestBody;
                match self.chain.show_whole(halt.link, hook, place, whole, &mut scope).await {
                    Ok(whole) => whole,
                    Err(stop) => return answer_of(stop, place),
                }
            }
        });
        Ok(Flow::Next)
    }

    async fn collect(
        &self,
        client: &mut Client,
        place: &mut Place,
        facts: &mut RequestFacts,
        body: Option<Vec<u8>>,
        wish: &Wish,
    ) -> Result<Vec<u8>, RequestError> {
        let filter = place.as_deref_mut().and_then(|it| self.chain.request_filter(it));
        let context = self.context;
        if let Some(body) = body {
            return Held::new(filter, wish).add_all(&body, place);
        }
        if facts.framing == Framing::None {
            return Ok(Vec::new());
        }
        let Client { connection, timer, .. } = client;
        timer.limit(Some(self.timeout));
        timer.arm(context.idle_timeout());
        if facts.expects_continue && connection.inbox.is_none() {
            let mut go_on = ResponseHead::default();
            go_on.assign(100);
            let written = connection.inform(&go_on, timer).await;
            written.map_err(|_| RequestError::ClientGone)?;
        }
        let limits = &context.head_limits;
        let reader = BodyReader::new(facts.framing, Form::Content, self.body_bytes_max, limits);
        let mut collector = Collector { reader, held: Held::new(filter, wish) };
        let lanes = context.lanes(timer, context.idle_timeout());
        let (mut from, _) = connection.stream.split();
        let inbox = &mut connection.inbox;
        let began = context.clock.now();
        let mut received = 0;
        let read = poll_fn(|cx| {
            if timer.is_due() {
                return Poll::Ready(Err(RequestError::ClientTimeout));
            }
            let polled = collector.poll(cx, &mut from, inbox, &lanes, place);
            if polled.is_pending() && collector.reader.received() > received {
                received = collector.reader.received();
                let passed = context.clock.now().saturating_duration_since(began);
                timer.limit(Some(upload_time(self.timeout, received, passed)));
            }
            polled
        })
        .await;
        read.map_err(|error| match error {
            RequestError::Closed => RequestError::ClientGone,
            error => error,
        })?;
        timer.limit(None);
        timer.disarm();
        facts.framing = Framing::None;
        facts.expects_continue = false;
        Ok(collector.held.whole)
    }
}

/// Calls a head hook that may wait.
pub async fn call(
    context: &Context,
    chain: &Chain,
    client: &mut Client,
    place: &mut Place,
    link: usize,
    hook: Hook,
    until: Instant,
) -> Result<Flow, RequestError> {
    let mut gone = gone(client);
    let mut scope = scope(context, &mut gone, until);
    let called = chain.call_waiting(link, hook, place, &mut scope).await;
    called.map_err(|_| RequestError::Plugin)
}

fn scope<'a>(
    context: &'a Context,
    gone: &'a mut dyn FnMut(&mut TaskContext<'_>) -> Poll<()>,
    until: Instant,
) -> Scope<'a> {
    let outside = Outside::World {
        callouts: &context.callouts,
        upstreams: &context.upstreams,
        tls: context.snapshot.tls.callouts.as_ref(),
    };
    Scope { outside, until, gone }
}

/// Tells when the client has left.
fn gone(client: &mut Client) -> impl FnMut(&mut TaskContext<'_>) -> Poll<()> + '_ {
    let (mut reader, _) = client.connection.stream.split();
    let mut watching = true;
    move |cx| {
        if !watching {
            return Poll::Pending;
        }
        if ready!(reader.poll_left(cx)) {
            return Poll::Ready(());
        }
        watching = false;
        Poll::Pending
    }
}

/// Makes the head say what is sent now that the body is `body`.
pub fn fit_request(exchange: &mut Exchange, body: &[u8]) {
    let head = &mut exchange.request;
    let said = head.fields.has(Name::ContentLength) || head.fields.has(Name::TransferEncoding);
    head.fields.remove_known(Name::ContentLength);
    head.fields.remove_known(Name::TransferEncoding);
    head.fields.remove_known(Name::Trailer);
    head.fields.remove_known(Name::Expect);
    if said && body.is_empty() {
        // RFC 9110 §8.6: a method that expects a body says that there is none.
        head.fields.push("Content-Length", b"0");
    }
}

/// What a plugin left behind that broke a message off, or failed.
fn answer_of(stop: BodyStop, place: &mut Place) -> Result<Flow, RequestError> {
    let answered = place.as_deref().is_some_and(|exchange| exchange.body.is_some());
    match stop {
        BodyStop::Aborted if answered => Ok(Flow::Respond),
        stop => Err(stopped(stop)),
    }
}

/// What a halted response needs.
pub struct Response<'a> {
    /// The worker.
    pub context: &'a Context,
    /// The chain that has stopped.
    pub chain: &'a Chain,
    /// Longest silence of the upstream.
    pub idle: Duration,
    /// When callouts must have ended.
    pub until: Instant,
}

impl Response<'_> {
    /// Does what the chain has stopped for. `answered` is where the body is, unless it is in the
    /// exchange; afterwards it is there, or the answer that a plugin has made in its place.
    pub async fn hold(
        &self,
        client: &mut Client,
        place: &mut Place,
        facts: &mut RequestFacts,
        answered: Option<Answered>,
        (link, wish): (usize, Wish),
    ) -> Result<(), RequestError> {
        let Some(exchange) = place.as_deref_mut() else { return Err(RequestError::Plugin) };
        let filter = self.chain.response_filter(exchange);
        let whole = match (exchange.body.take(), answered) {
            (Some(body), _) => Held::new(filter, &wish).add_all(&body, place),
            (None, Some(answered)) => {
                let held = Held::new(filter, &wish);
                self.collect(client, place, facts, answered, held).await
            }
            (None, None) => Ok(Vec::new()),
        };
        let whole = whole.map_err(|error| match error {
            RequestError::BodyTooLarge => RequestError::BadResponse(TOO_LONG),
            RequestError::Malformed(what) => RequestError::BadResponse(what),
            error => error,
        })?;
        let body = match wish {
            Wish::Replace(bytes) => bytes,
            _ => {
                let mut gone = gone(client);
                let mut scope = scope(self.context, &mut gone, self.until);
                let hook = Hook::ResponseBody;
                match self.chain.show_whole(link, hook, place, whole, &mut scope).await {
                    Ok(whole) => whole,
                    Err(stop) => return answer_of(stop, place).map(drop),
                }
            }
        };
        if let Some(exchange) = place {
            exchange.response.fields.remove_known(Name::Trailer);
            exchange.body = Some(body.into());
            // As for a body on its way: it may be another now.
            exchange.captures.clear();
        }
        Ok(())
    }

    /// Reads an upstream's body, while the rest of the request goes on to it.
    async fn collect(
        &self,
        client: &mut Client,
        place: &mut Place,
        facts: &mut RequestFacts,
        answered: Answered,
        held: Held,
    ) -> Result<Vec<u8>, RequestError> {
        let Answered { mut lease, facts: answer, mut upload } = answered;
        let short = match answer.framing {
            Framing::None => true,
            Framing::Length(length) => length <= FORGOTTEN_BYTES_MAX,
            Framing::Chunked | Framing::UntilClose => false,
        };
        if held.forgets && !short {
            return Ok(Vec::new());
        }
        let context = self.context;
        let limits = &context.response_limits;
        let reader = BodyReader::new(answer.framing, Form::Content, u64::MAX, limits);
        let mut collector = Collector { reader, held };
        let Client { connection, timer, .. } = client;
        timer.limit(None);
        timer.arm(self.idle);
        let lanes = context.lanes(timer, self.idle);
        let (mut from_client, _) = connection.stream.split();
        let (mut from_server, mut to_server) = lease.connection.stream.split();
        let (client_inbox, server_inbox) = (&mut connection.inbox, &mut lease.connection.inbox);
        let mut failed = false;
        poll_fn(|cx| {
            if timer.is_due() {
                return Poll::Ready(Err(RequestError::ResponseTimeout));
            }
            if from_client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(RequestError::ClientGone));
            }
            if let Some(pump) = upload.as_mut().filter(|_| !failed) {
                match pump.poll(cx, &mut from_client, client_inbox, &mut to_server, &lanes, place) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => upload = None,
                    // The response may still arrive whole.
                    Poll::Ready(Err(_)) => failed = true,
                }
            }
            collector.poll(cx, &mut from_server, server_inbox, &lanes, place)
        })
        .await?;
        timer.disarm();
        if upload.is_none() {
            facts.framing = Framing::None;
            if answer.keep_alive {
                lease.give_back(answer.bodiless, context.clock.now());
            }
        }
        Ok(collector.held.whole)
    }
}
