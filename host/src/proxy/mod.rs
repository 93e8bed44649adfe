//! The life of one request.
//!
//! [`handle`] is the whole story, in the order in which it happens:
//!
//! ```text
//! route ─► sanitize ─► plugins, in order ─► upstream ─► plugins, in reverse ─► deliver ─► record
//!                            └─ a plugin answers ─────────────┘
//! ```
//!
//! All of it runs on one worker thread and touches only what that worker owns, so it takes no
//! lock and waits for no other worker. The snapshot in [`Context`] cannot change under a
//! request: a reload replaces it for requests that start later.
//!
//! Cancel safety: none. Dropping the future closes both connections.
//!
//! Not here: sockets and request heads (`connection`), wasm (`plugin`), dialing and pooling
//! (`upstream`), framing (`http`).

mod admit;
mod back;
pub mod client;
pub mod context;
pub mod deliver;
pub mod forward;
mod grpc;
pub mod headers;
pub mod held;
mod record;
mod refetch;
pub mod relay;
pub mod reply;
pub mod share;
mod shown;
pub mod tally;
mod target;
pub mod trace;
mod tunnel;
mod websocket;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use admit::{admit, find_route, is_misdirected};
use back::{response, response_filter};
use bytes::Bytes;
use client::ClientFacts;
pub use context::{Clock, Context, Home, Own, RoutePlan, Snapshot};
use deliver::Delivered;
use forward::{Answered, Forward, Journey, Times};
use record::record;
use tally::{Entry, Tally};
use target::{redirect, rewrite};

use crate::config::Target;
use crate::error::RequestError;
use crate::http::parse::{self, Framing, RequestFacts};
use crate::http::websocket::{check_switch, is_websocket, withhold_extensions};
use crate::http::{Connection, Method, Name, Version};
use crate::io::Timer;
use crate::plugin::Exchange;
use crate::route::Params;

/// A client's connection and what is known about the client.
#[derive(Debug)]
pub struct Client {
    /// The connection.
    pub connection: Connection,
    /// Its deadline.
    pub timer: Timer,
    /// Whom the connection is with.
    pub facts: ClientFacts,
    /// Index of the listener.
    pub listener: usize,
    /// Bytes of earlier requests.
    pub counted: u64,
}

impl Client {
    /// Does not count what has come so far as part of a request.
    pub fn skip_received(&mut self) {
        self.take_received();
    }

    /// Bytes taken in since this was called last: those of the request that is done.
    fn take_received(&mut self) -> u64 {
        let unused = self.connection.inbox.as_ref().map_or(0, |inbox| inbox.len() as u64);
        let used = self.connection.stream.received().saturating_sub(unused);
        let before = std::mem::replace(&mut self.counted, used);
        used.saturating_sub(before)
    }
}

/// An upstream has answered a request for a tunnel as if it were any other.
const NOT_SWITCHED: RequestError = RequestError::BadResponse("no switch of protocols");

/// What may follow a response on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Another request.
    KeepAlive,
    /// Nothing. What was sent must arrive, also when the client has sent more than was read.
    Close,
    /// Nothing, and the client may still be sending.
    Linger,
    /// Nothing, and there is nothing that would have to arrive.
    Abort,
}

/// How far a request has come, for the response's way back and for the record.
#[derive(Default)]
struct Progress {
    route: Option<usize>,
    params: Params,
    /// The path that `params` are found in, when the route's rewrite or redirect needs them.
    routed: Option<Box<str>>,
    entered: usize,
    /// Links of the chain that have seen the request: the first so many.
    reached: usize,
    /// The last of those has answered it.
    answered: bool,
    allow: Option<String>,
    /// Index of the upstream that the request went to.
    upstream: Option<usize>,
    upstream_status: Option<u16>,
    /// What the answer was before it was said in another protocol's words.
    said: Option<u16>,
    journey: Journey,
    error: Option<RequestError>,
    waited: Option<Duration>,
    trace: Option<trace::Trace>,
    /// Something of the request's body has been read.
    touched: bool,
    /// Its place among the WebSockets of its route, if it asks to become one.
    websocket: Option<Entry>,
    /// The answer's head is in the exchange, its body still with the upstream. `None`: all of it is in the
    /// exchange. It stays in this place, because it is large.
    remote: Option<(Answered, Times)>,
}

/// Answers one request. Cannot fail: an error becomes a response in one place, `reply`.
pub async fn handle(
    context: &Rc<Context>,
    client: &mut Client,
    exchange: Box<Exchange>,
    facts: &RequestFacts,
) -> (Box<Exchange>, After) {
    let started = context.clock.now();
    let mut progress = Progress::default();
    let protocol = tunnel_protocol(&exchange, facts);
    // A body that a plugin holds is read before its time.
    let has_body = facts.framing != Framing::None;
    let facts = &mut facts.clone();
    let (mut exchange, passed) =
        request(context, client, exchange, facts, protocol.as_deref(), started, &mut progress)
            .await;
    match passed {
        Ok(()) => {}
        Err(RequestError::ClientGone) => {
            exchange.response.assign(RequestError::ClientGone.status());
            progress.error = Some(RequestError::ClientGone);
            let gone = Delivered::nothing(context);
            let summary = record(context, client, &exchange, &progress, &gone, started);
            if let Some(index) = progress.route {
                exchange = context.chains[index].on_log(exchange, progress.reached, &summary);
            }
            return (exchange, gone.after);
        }
        Err(error) => fail(context, &mut exchange, error, &mut progress),
    }
    exchange = response(context, client, exchange, facts, &mut progress).await;
    if pretends_to_switch(&exchange, protocol.is_some()) {
        fail(context, &mut exchange, NOT_SWITCHED, &mut progress);
    }
    if progress.remote.is_none() && exchange.coming.is_none() {
        speak(&mut exchange, &mut progress);
    }
    let filter = response_filter(context, &mut exchange, &progress);
    if has_body && matches!(exchange.request.method, Method::Get | Method::Head) {
        // What a body has to do with the answer is not in any key (RFC 9110 §9.3.1).
        exchange.captures.clear();
    }
    if progress.remote.is_none() || exchange.captures.is_empty() || filter.is_some() {
        // There is nothing that others could read along.
        exchange.fetches.clear();
    }
    let switches = exchange.response.status == 101;
    let mut place = Some(exchange);
    let untouched = !progress.touched;
    let shared = progress.remote.take_if(|(answered, _)| {
        !switches && filter.is_none() && share::is_shared(&place, answered)
    });
    let delivered = if let Some((answered, times)) = shared {
        let exchange = place.get_or_insert_default();
        Ok(share::upstream(context, client, exchange, facts, answered, times).await)
    } else if let Some((answered, times)) = &mut progress.remote {
        if switches {
            let protocol = protocol.as_deref().unwrap_or_default();
            let route = progress.route.unwrap_or_default();
            // Apart: it is large, and what most requests come to is not this.
            let switched =
                websocket::switch(context, client, &mut place, answered, protocol, *times, route);
            Ok(Box::pin(switched).await)
        } else {
            deliver::upstream(context, client, &mut place, facts, answered, *times, filter)
                .await
                .map_err(Some)
        }
    } else if share::is_coming(&place) {
        let exchange = place.get_or_insert_default();
        Ok(share::coming(context, client, exchange, facts, untouched).await)
    } else if let Some(filter) = filter {
        let shown = deliver::shown(context, client, &mut place, facts, untouched, filter);
        shown.await.map_err(Some)
    } else {
        Err(None)
    };
    // A hook's exchange is put back before its call returns.
    exchange = place.unwrap_or_default();
    let delivered = match delivered {
        Ok(delivered) => delivered,
        // Nothing has been sent yet.
        Err(error) => {
            if let Some(error) = error {
                give_up(context, &mut exchange, error, &mut progress);
            }
            progress.remote = None;
            deliver::local(context, client, &mut exchange, facts, untouched).await
        }
    };
    if delivered.reusable
        && let Some((Answered { lease, facts, .. }, _)) = progress.remote.take()
    {
        lease.give_back(facts.bodiless, delivered.ended);
    }
    // Else the upstream's connection ends here.
    progress.remote = None;
    let summary = record(context, client, &exchange, &progress, &delivered, started);
    if let Some(index) = progress.route {
        exchange = context.chains[index].on_log(exchange, progress.reached, &summary);
    }
    refetch::spawn(context, client, &mut exchange, &mut progress);
    (exchange, delivered.after)
}

/// The way down: from the request's head to an answer, in the exchange or in `progress.remote`.
async fn request(
    context: &Context,
    client: &mut Client,
    mut exchange: Box<Exchange>,
    facts: &mut RequestFacts,
    protocol: Option<&[u8]>,
    started: Instant,
    progress: &mut Progress,
) -> (Box<Exchange>, Result<(), RequestError>) {
    if is_misdirected(context, client, &exchange) {
        return (exchange, Err(RequestError::Misdirected));
    }
    let index = match find_route(context, &mut exchange, progress) {
        Ok(index) => index,
        Err(error) => return (exchange, Err(error)),
    };
    let plan = &context.snapshot.plans[index];
    if let Err(error) = admit(client, &mut exchange, facts, plan, context, progress) {
        return (exchange, Err(error));
    }
    pass(context, client, exchange, facts, protocol, started, progress, (index, 0)).await
}

/// The way down from a link of the route's chain on.
#[expect(clippy::too_many_arguments, reason = "what a request is made of")]
async fn pass(
    context: &Context,
    client: &mut Client,
    exchange: Box<Exchange>,
    facts: &mut RequestFacts,
    protocol: Option<&[u8]>,
    started: Instant,
    progress: &mut Progress,
    (index, from): (usize, usize),
) -> (Box<Exchange>, Result<(), RequestError>) {
    let plan = &context.snapshot.plans[index];
    let chain = &context.chains[index];
    let (mut exchange, mut passed) = chain.on_request_from(from, exchange, started);
    let mut body = None;
    loop {
        if let Some(waiting) = exchange.waiting.take() {
            let link = waiting.link;
            share::wait(client, waiting).await;
            exchange.looked_up = None;
            exchange.looked_since = None;
            (exchange, passed) = chain.on_request_from(link, exchange, context.clock.now());
            continue;
        }
        let Some(halt) = exchange.take_halt() else { break };
        let next = halt.link + 1;
        let (context, body_bytes_max) = (context, plan.body_bytes_max);
        let timeout = plan.request_timeout;
        let until = started + timeout;
        let held = held::Request { context, chain, body_bytes_max, timeout, until };
        let mut place = Some(exchange);
        let done = held.hold(client, &mut place, facts, &mut body, halt).await;
        exchange = place.unwrap_or_default();
        progress.entered = next - 1;
        progress.reached = next;
        match done {
            // The hook that was waited for wants to see the body.
            Ok(crate::plugin::Flow::Next) if exchange.is_halted() => {}
            Ok(crate::plugin::Flow::Next) => {
                (exchange, passed) = chain.on_request_from(next, exchange, context.clock.now());
            }
            Ok(crate::plugin::Flow::Respond) => {
                progress.answered = true;
                sanitize_reply(context, &mut exchange);
                return (exchange, Ok(()));
            }
            Err(error) => return (exchange, Err(error)),
        }
    }
    progress.entered = passed.entered;
    let stopped = !matches!(passed.outcome, Ok(crate::plugin::Flow::Next));
    progress.reached = passed.entered + usize::from(stopped);
    progress.answered = matches!(passed.outcome, Ok(crate::plugin::Flow::Respond));
    match passed.outcome {
        Ok(crate::plugin::Flow::Next) => {}
        Ok(crate::plugin::Flow::Respond) => {
            sanitize_reply(context, &mut exchange);
            return (exchange, Ok(()));
        }
        Err(_) => return (exchange, Err(RequestError::Plugin)),
    }
    let route = &context.settings().routes[index];
    let upstream = match &route.target {
        _ if let Some(chosen) = exchange.chosen => chosen,
        Target::Upstream(upstream) => *upstream,
        Target::Split(shares) => {
            let pick = context.splits[index].as_ref().map_or(0, |split| split.pick());
            shares.get(pick).map_or(0, |(upstream, _)| *upstream)
        }
        Target::Redirect { status, .. } => {
            redirect(context, &mut exchange, plan, *status, progress);
            return (exchange, Ok(()));
        }
        Target::Respond { status, headers, body } => {
            exchange.response.assign(*status);
            for (name, value) in headers {
                exchange.response.fields.push(name, value.as_bytes());
            }
            exchange.body = Some(Bytes::copy_from_slice(body));
            sanitize_reply(context, &mut exchange);
            return (exchange, Ok(()));
        }
    };
    if let Err(error) = rewrite(&mut exchange.request, &plan.rewrite, progress) {
        return (exchange, Err(error));
    }
    let upstream = &context.upstreams[upstream];
    // What the route says itself is about this upstream, and was meant.
    let response = route.request_timeout.unwrap_or(upstream.settings.response_timeout);
    let times = Times {
        request: plan.request_timeout,
        response,
        idle: route.idle_timeout.unwrap_or(upstream.settings.idle_timeout),
        client_idle: route.idle_timeout.unwrap_or(context.idle_timeout()),
        deadline: deadline(&exchange, started),
    };
    // Without a plugin no time worth reading a clock for has passed.
    let began = if progress.entered > 0 { context.clock.now() } else { started };
    if let Some(body) = &body {
        held::fit_request(&mut exchange, body);
    }
    // Nothing goes past those who look at messages.
    let protocol = protocol.filter(|it| !plan.inspects || is_websocket(it));
    if protocol.is_some_and(is_websocket) {
        let max = route.websocket.connections_max.unwrap_or(usize::MAX);
        progress.websocket = Tally::enter(&plan.websockets, max);
        if progress.websocket.is_none() {
            context.tallies.websocket(index, |counts| counts.refused += 1);
            return (exchange, Err(RequestError::WebSocketsTaken));
        }
    }
    if plan.inspects && protocol.is_some() {
        withhold_extensions(&mut exchange.request.fields);
    }
    let filter = chain.request_filter(&mut exchange);
    let has_body = body.as_ref().map_or(facts.framing != Framing::None, |body| !body.is_empty());
    let forward = Forward {
        context,
        upstream,
        facts,
        body,
        upgrade: protocol,
        body_bytes_max: plan.body_bytes_max,
        times,
        began,
    };
    progress.touched = facts.framing != Framing::None;
    progress.upstream = Some(upstream.index);
    let filter = filter.filter(|_| has_body && protocol.is_none());
    let mut place = Some(exchange);
    let answered = forward.send(&mut place, client, &mut progress.journey, filter).await;
    let mut exchange = place.unwrap_or_default();
    if !chain.is_empty() {
        let server = progress.journey.server.and_then(|server| upstream.server_name(server));
        let server = server.map(Arc::clone);
        exchange.sent_to = Some((Arc::clone(&context.upstream_names[upstream.index]), server));
    }
    progress.waited = Some(context.clock.now().saturating_duration_since(began));
    client.timer.limit(times.left(&context.clock));
    let switched = plan.inspects && exchange.response.status == 101;
    match answered {
        Ok(_) if switched && let Err(error) = switched_as_asked(&exchange) => {
            (exchange, Err(error))
        }
        Ok(answered) => {
            progress.upstream_status = Some(exchange.response.status);
            match headers::response_to_client(&mut exchange.response, &context.clock.date()) {
                Ok(()) => {
                    progress.remote = Some((answered, times));
                    (exchange, Ok(()))
                }
                Err(error) => (exchange, Err(error)),
            }
        }
        // A plugin has broken the request off, and said what is to be answered.
        Err(RequestError::Aborted) if exchange.body.is_some() => {
            sanitize_reply(context, &mut exchange);
            (exchange, Ok(()))
        }
        Err(error) => {
            if error != RequestError::ClientGone {
                let name = &upstream.settings.name;
                log::debug!(target: "upstream", "{name}: {error}");
            }
            (exchange, Err(error))
        }
    }
}

fn switched_as_asked(exchange: &Exchange) -> Result<(), RequestError> {
    check_switch(&exchange.request.fields, &exchange.response.fields)
}

/// When a client of gRPC stops waiting.
fn deadline(exchange: &Exchange, started: Instant) -> Option<Instant> {
    if exchange.request.version != Version::Http2 || !grpc::is_grpc(&exchange.request) {
        return None;
    }
    started.checked_add(grpc::timeout(&exchange.request.fields)?)
}

/// Says the gateway's own answer in the words of the client's protocol.
fn speak(exchange: &mut Exchange, progress: &mut Progress) {
    let status = exchange.response.status;
    if grpc::is_grpc(&exchange.request)
        && grpc::translate(&mut exchange.response, &mut exchange.body)
    {
        progress.said = Some(status);
    }
}

/// What every answer has that was not made by an upstream.
fn sanitize_reply(context: &Context, exchange: &mut Exchange) {
    if !exchange.response.fields.has(Name::Date) {
        exchange.response.fields.push("Date", &context.clock.date());
    }
    exchange.body.get_or_insert_default();
}

fn fail(context: &Context, exchange: &mut Exchange, error: RequestError, progress: &mut Progress) {
    progress.error = Some(error);
    progress.remote = None;
    exchange.captures.clear();
    exchange.coming = None;
    exchange.forget_response_stages();
    reply::error(exchange, error, progress.allow.as_deref());
    sanitize_reply(context, exchange);
}

/// As [`fail`], but for an answer that the plugin has made which broke the message off.
fn give_up(
    context: &Context,
    exchange: &mut Exchange,
    error: RequestError,
    progress: &mut Progress,
) {
    if error == RequestError::Aborted && exchange.body.is_some() {
        sanitize_reply(context, exchange);
        speak(exchange, progress);
    } else {
        fail(context, exchange, error, progress);
    }
}

/// Whether a client of HTTP/2 would take for a tunnel what is none (RFC 8441 §5): there a success says so,
/// and not the status 101.
fn pretends_to_switch(exchange: &Exchange, asked: bool) -> bool {
    asked
        && exchange.request.version == Version::Http2
        && (200..300).contains(&exchange.response.status)
}

/// The protocol that the client wants to switch to, if it can be tunnelled.
fn tunnel_protocol(exchange: &Exchange, facts: &RequestFacts) -> Option<Vec<u8>> {
    if !facts.wants_upgrade {
        return None;
    }
    parse::list(&exchange.request.fields, Name::Upgrade).next().map(<[u8]>::to_vec)
}

/// Answers bytes that are no request, before the connection is closed. What could be read of its head
/// is in the exchange.
pub async fn refuse(
    context: &Context,
    client: &mut Client,
    mut exchange: Box<Exchange>,
    error: RequestError,
) {
    let started = context.clock.now();
    if exchange.request.method_name().is_empty() {
        exchange.request.method = Method::Other;
    }
    let mut progress = Progress { touched: true, ..Progress::default() };
    fail(context, &mut exchange, error, &mut progress);
    let facts = RequestFacts {
        framing: Framing::UntilClose,
        keep_alive: false,
        expects_continue: false,
        wants_upgrade: false,
        names_fields: false,
    };
    let delivered = deliver::local(context, client, &mut exchange, &facts, false).await;
    record(context, client, &exchange, &progress, &delivered, started);
    context.give_back(exchange);
}
