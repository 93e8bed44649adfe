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

pub mod client;
pub mod context;
pub mod deliver;
pub mod forward;
pub mod headers;
pub mod relay;
pub mod reply;
pub mod trace;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::ClientFacts;
pub use context::{Clock, Context, Home, Own, RoutePlan, Snapshot};
use deliver::Delivered;
use forward::{Answered, Forward, Journey, Times};
use headers::Stamp;

use crate::config::Target;
use crate::error::RequestError;
use crate::http::parse::{self, Framing, RequestFacts};
use crate::http::{Connection, Method, Name, RequestHead};
use crate::io::Timer;
use crate::plugin::{Exchange, LinkPlan, PlanSource};
use crate::route::rewrite::{Redirect, Rewrite};
use crate::route::{Found, Params, path};
use crate::telemetry::{AccessRecord, Finished, PluginRecord};

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
    /// Bytes taken in since this was called last: those of the request that is done.
    fn take_received(&mut self) -> u64 {
        let unused = self.connection.inbox.as_ref().map_or(0, |inbox| inbox.len() as u64);
        let used = self.connection.stream.received().saturating_sub(unused);
        let before = std::mem::replace(&mut self.counted, used);
        used.saturating_sub(before)
    }
}

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
    journey: Journey,
    error: Option<RequestError>,
    waited: Option<Duration>,
    trace: Option<trace::Trace>,
    /// Something of the request's body has been read.
    touched: bool,
}

/// Where the answer is.
#[expect(clippy::large_enum_variant, reason = "one at a time, in the future of its request")]
enum Answer {
    /// In the exchange.
    Local,
    /// Its head in the exchange, its body still with the upstream.
    Upstream(Answered, Times),
}

/// Answers one request. Cannot fail: an error becomes a response in one place, `reply`.
pub async fn handle(
    context: &Context,
    client: &mut Client,
    exchange: Box<Exchange>,
    facts: &RequestFacts,
) -> (Box<Exchange>, After) {
    let started = context.clock.now();
    let mut progress = Progress::default();
    let protocol = tunnel_protocol(&exchange, facts);
    let (mut exchange, answer) =
        request(context, client, exchange, facts, protocol.as_deref(), started, &mut progress)
            .await;
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(RequestError::ClientGone) => {
            exchange.response.assign(RequestError::ClientGone.status());
            progress.error = Some(RequestError::ClientGone);
            let gone = Delivered::nothing(context);
            record(context, client, &exchange, &progress, &gone, started);
            return (exchange, gone.after);
        }
        Err(error) => {
            fail(context, &mut exchange, error, &mut progress);
            Answer::Local
        }
    };
    (exchange, answer) = response(context, exchange, answer, &mut progress);
    let delivered = match answer {
        Answer::Local => {
            deliver::local(context, client, &mut exchange, facts, !progress.touched).await
        }
        Answer::Upstream(answered, times) if exchange.response.status == 101 => {
            let protocol = protocol.as_deref().unwrap_or_default();
            deliver::tunnel(context, client, &mut exchange, answered, protocol, times).await
        }
        Answer::Upstream(answered, times) => {
            match deliver::upstream(context, client, &mut exchange, facts, answered, times).await {
                Ok(delivered) => delivered,
                // Nothing of it has been sent yet.
                Err(error) => {
                    fail(context, &mut exchange, error, &mut progress);
                    deliver::local(context, client, &mut exchange, facts, !progress.touched).await
                }
            }
        }
    };
    record(context, client, &exchange, &progress, &delivered, started);
    (exchange, delivered.after)
}

/// The way down: from the request's head to an answer.
async fn request(
    context: &Context,
    client: &mut Client,
    mut exchange: Box<Exchange>,
    facts: &RequestFacts,
    protocol: Option<&[u8]>,
    started: Instant,
    progress: &mut Progress,
) -> (Box<Exchange>, Result<Answer, RequestError>) {
    let index = match find_route(context, &mut exchange, progress) {
        Ok(index) => index,
        Err(error) => return (exchange, Err(error)),
    };
    let plan = &context.snapshot.plans[index];
    if let Err(error) = admit(client, &mut exchange, facts, plan, context, progress) {
        return (exchange, Err(error));
    }
    let (mut exchange, passed) = context.chains[index].on_request(exchange, started);
    progress.entered = passed.entered;
    let stopped = !matches!(passed.outcome, Ok(crate::plugin::Flow::Next));
    progress.reached = passed.entered + usize::from(stopped);
    progress.answered = matches!(passed.outcome, Ok(crate::plugin::Flow::Respond));
    match passed.outcome {
        Ok(crate::plugin::Flow::Next) => {}
        Ok(crate::plugin::Flow::Respond) => {
            sanitize_reply(context, &mut exchange);
            return (exchange, Ok(Answer::Local));
        }
        Err(_) => return (exchange, Err(RequestError::Plugin)),
    }
    let route = &context.settings().routes[index];
    let upstream = match &route.target {
        Target::Upstream(upstream) => *upstream,
        Target::Split(shares) => {
            let pick = context.splits[index].as_ref().map_or(0, |split| split.pick());
            shares.get(pick).map_or(0, |(upstream, _)| *upstream)
        }
        Target::Redirect { status, .. } => {
            redirect(context, &mut exchange, plan, *status, progress);
            return (exchange, Ok(Answer::Local));
        }
        Target::Respond { status, headers, body } => {
            exchange.response.assign(*status);
            for (name, value) in headers {
                exchange.response.fields.push(name, value.as_bytes());
            }
            exchange.body = Some(Bytes::copy_from_slice(body));
            sanitize_reply(context, &mut exchange);
            return (exchange, Ok(Answer::Local));
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
    };
    // Without a plugin no time worth reading a clock for has passed.
    let began = if progress.entered > 0 { context.clock.now() } else { started };
    let forward = Forward {
        context,
        upstream,
        facts,
        upgrade: protocol,
        body_bytes_max: plan.body_bytes_max,
        times,
        began,
    };
    progress.touched = facts.framing != Framing::None;
    progress.upstream = Some(upstream.index);
    let answered = forward.send(&mut exchange, client, &mut progress.journey).await;
    progress.waited = Some(context.clock.now().saturating_duration_since(began));
    client.timer.limit(None);
    match answered {
        Ok(answered) => {
            progress.upstream_status = Some(exchange.response.status);
            match headers::response_to_client(&mut exchange.response, &context.clock.date()) {
                Ok(()) => (exchange, Ok(Answer::Upstream(answered, times))),
                Err(error) => (exchange, Err(error)),
            }
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

/// The way back up: plugins that saw the request see its response, whoever made it.
fn response(
    context: &Context,
    mut exchange: Box<Exchange>,
    answer: Answer,
    progress: &mut Progress,
) -> (Box<Exchange>, Answer) {
    let Some(index) = progress.route.filter(|_| progress.entered > 0) else {
        return (exchange, answer);
    };
    if exchange.response.status == 101 {
        // The connection is no longer HTTP; there is nothing that a plugin could change.
        return (exchange, answer);
    }
    let mut entered = progress.entered;
    let mut failed = false;
    let now = context.clock.now();
    loop {
        let (back, result) = context.chains[index].on_response(exchange, entered, now);
        exchange = back;
        let Err(broken) = result else { break };
        // The 503 that takes the response's place goes on to those above the one that failed.
        fail(context, &mut exchange, RequestError::Plugin, progress);
        failed = true;
        entered = broken.entered;
    }
    if failed {
        return (exchange, Answer::Local);
    }
    let bodiless = exchange.response.is_bodiless();
    match answer {
        // A plugin has put its own answer in the place of the upstream's; or made it one that has no
        // body. The upstream's connection ends with its unread body.
        Answer::Upstream(answered, _)
            if exchange.body.is_some() || (bodiless && answered.facts.framing != Framing::None) =>
        {
            drop(answered);
            if exchange.body.is_none() {
                // The body that was to be kept does not come.
                exchange.captures.clear();
            }
            sanitize_reply(context, &mut exchange);
            (exchange, Answer::Local)
        }
        Answer::Upstream(answered, times) => {
            if progress.upstream_status != Some(exchange.response.status) {
                fit_length(&mut exchange, answered.facts.framing);
            }
            (exchange, Answer::Upstream(answered, times))
        }
        Answer::Local => {
            sanitize_reply(context, &mut exchange);
            (exchange, Answer::Local)
        }
    }
}

/// A plugin has changed the status of an upstream's response, and with it what `Content-Length` may
/// say of a body that is not there (RFC 9110 §8.6).
fn fit_length(exchange: &mut Exchange, framing: Framing) {
    if framing != Framing::None {
        return;
    }
    let response = &mut exchange.response;
    if response.status == 204 {
        response.fields.remove_known(Name::ContentLength);
    } else if !response.is_bodiless() && exchange.request.method != Method::Head {
        response.fields.remove_known(Name::ContentLength);
        response.fields.push("Content-Length", b"0");
    }
}

fn find_route(
    context: &Context,
    exchange: &mut Exchange,
    progress: &mut Progress,
) -> Result<usize, RequestError> {
    let normal = match path::normalize(exchange.request.target()) {
        Ok(Cow::Borrowed(_)) => None,
        Ok(Cow::Owned(normal)) => Some(normal),
        Err(_) if exchange.request.target() == "*" => None,
        Err(_) => return Err(RequestError::Malformed("path")),
    };
    if let Some(normal) = normal {
        exchange.request.set_target(&normal).map_err(|_| RequestError::Malformed("path"))?;
    }
    let head = &exchange.request;
    match context.snapshot.router.find(head.authority(), head.path(), head.method_name()) {
        Found::Route { index, params } => {
            progress.route = Some(index);
            progress.params = params;
            let plan = &context.snapshot.plans[index];
            if plan.rewrite.reads_parameters()
                || plan.redirect.as_ref().is_some_and(Redirect::reads_parameters)
            {
                progress.routed = Some(head.path().into());
            }
            exchange.route = context.route_names.get(index).cloned();
            Ok(index)
        }
        Found::MethodNotAllowed { allow } => {
            progress.allow = Some(allow);
            Err(RequestError::MethodNotAllowed)
        }
        Found::None => Err(RequestError::NoRoute),
    }
}

/// Checks what can be checked before anything happens, and makes the head fit to be forwarded.
fn admit(
    client: &Client,
    exchange: &mut Exchange,
    facts: &RequestFacts,
    plan: &RoutePlan,
    context: &Context,
    progress: &mut Progress,
) -> Result<(), RequestError> {
    debug_assert!(progress.route.is_some(), "only a routed request is admitted");
    if matches!(facts.framing, Framing::Length(length) if length > plan.body_bytes_max) {
        return Err(RequestError::BodyTooLarge);
    }
    exchange.scheme = client.facts.scheme;
    exchange.client_ip = client.facts.peer.map(|peer| {
        let trusted = &context.settings().trusted_proxies;
        client::client_ip(peer, trusted, &exchange.request)
    });
    let mut random = context.random.borrow_mut();
    let stamp = Stamp {
        unix_ms: context.clock.wall_ms(),
        random: std::array::from_fn(|_| random.u64(..)),
        // Upstreams record a trace unless its parent says no; nobody has said so.
        sampled: true,
    };
    let trace = headers::request_to_upstream(&mut exchange.request, &client.facts, &stamp)?;
    progress.trace = Some(trace);
    Ok(())
}

/// Changes target and host as the route says.
fn rewrite(
    head: &mut RequestHead,
    rewrite: &Rewrite,
    progress: &Progress,
) -> Result<(), RequestError> {
    let refused = |_| RequestError::Malformed("rewritten target");
    if !rewrite.keeps_target() {
        let mut target = String::new();
        let routed = progress.routed.as_deref().unwrap_or_default();
        let changed = rewrite.target(head.target(), routed, &progress.params, &mut target);
        if changed.map_err(|_| RequestError::Malformed("rewritten target"))? {
            head.set_target(&target).map_err(refused)?;
        }
    }
    if let Some(host) = rewrite.host() {
        head.set_authority(host).map_err(refused)?;
    }
    Ok(())
}

fn redirect(
    context: &Context,
    exchange: &mut Exchange,
    plan: &RoutePlan,
    status: u16,
    progress: &Progress,
) {
    let head = &exchange.request;
    let routed = progress.routed.as_deref().unwrap_or_default();
    let location = plan
        .redirect
        .as_ref()
        .and_then(|to| to.location(head.authority(), head.target(), routed, &progress.params));
    let Some(location) = location else {
        // It needs a host, and an HTTP/1.0 client did not say which.
        reply::error(exchange, RequestError::Malformed("missing Host"), None);
        return;
    };
    exchange.response.assign(status);
    exchange.response.fields.push("Location", location.as_bytes());
    exchange.body = Some(Bytes::new());
    sanitize_reply(context, exchange);
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
    exchange.captures.clear();
    reply::error(exchange, error, progress.allow.as_deref());
    sanitize_reply(context, exchange);
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

/// Counts the request and writes its line in the access log.
fn record(
    context: &Context,
    client: &mut Client,
    exchange: &Exchange,
    progress: &Progress,
    delivered: &Delivered,
    started: Instant,
) {
    let Journey { attempts, server } = progress.journey;
    let finished = Finished {
        listener: client.listener,
        route: progress.route,
        method: exchange.request.method,
        status: exchange.response.status,
        upstream: progress.upstream.zip(server),
        upstream_status: progress.upstream_status,
        bytes_in: client.take_received(),
        bytes_out: delivered.written,
        duration: delivered.ended.saturating_duration_since(started),
        upstream_wait: progress.waited,
        retries: attempts.saturating_sub(1),
    };
    context.telemetry.record(&context.tallies, &finished);
    let Some(log) = &context.access_log else { return };
    let upstream = progress.upstream.map(|upstream| &context.upstreams[upstream]);
    let server = upstream.and_then(|upstream| upstream.server_name(server?));
    let plugins = || plugins(context, exchange, progress);
    log.write(&AccessRecord {
        finished: &finished,
        request: &exchange.request,
        client: exchange.client_ip.or(client.facts.peer),
        route: exchange.route.as_deref(),
        upstream: upstream.map(|upstream| upstream.settings.name.as_ref()),
        server,
        flags: progress.error.map(RequestError::proxy_status).or(delivered.broken),
        trace_id: progress.trace.as_ref().map(|trace| trace.id.as_slice()),
        wall_ms: context.clock.wall_ms(),
        attempts,
        body_bytes_out: delivered.written.saturating_sub(delivered.head),
        plugins: &plugins,
    });
}

/// The plugins that have seen the request, and what each one said.
fn plugins<'a>(
    context: &'a Context,
    exchange: &Exchange,
    progress: &Progress,
) -> Vec<PluginRecord<'a>> {
    let Some(route) = progress.route else { return Vec::new() };
    let links = context.snapshot.plans[route].chain.links.iter().take(progress.reached);
    let record = |(index, link): (usize, &'a LinkPlan)| {
        let failed = exchange.failed.iter().find(|(plugin, _)| *plugin == link.name);
        let timed = exchange.timed.iter().filter(|(plugin, _)| *plugin == link.name);
        PluginRecord {
            name: &link.name,
            generation: match &link.plugin {
                PlanSource::Wasm(plugin) => Some(plugin.generation()),
                PlanSource::Native(_) => None,
            },
            verdict: match failed {
                Some((_, kind)) => kind.as_str(),
                None if progress.answered && index + 1 == progress.reached => "respond",
                None => "next",
            },
            took: timed.map(|(_, took)| *took).reduce(|sum, took| sum + took),
        }
    };
    links.enumerate().map(record).collect()
}
