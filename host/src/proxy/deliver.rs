//! Sends a response to the client: one that the gateway made, or an upstream's.
//!
//! Cancel safety: none. Dropping these futures leaves half a message on the client's connection,
//! which must be closed then.
//!
//! Not here: where the response came from (`forward`, `reply`), and what becomes of a switch of protocols
//! (`tunnel`, `websocket`).

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use super::context::Context;
use super::forward::{Answered, Times};
use super::relay::{Place, Pump, PumpError};
use super::shown::Shown;
use super::{After, Client};
use crate::error::RequestError;
use crate::http::body::{BodyReader, Form};
use crate::http::parse::{Framing, RequestFacts};
use crate::http::write::ConnectionField;
use crate::http::{Connection, Method, Name, Version};
use crate::plugin::body::CHUNK_BYTES_MAX;
use crate::plugin::{BodyFilter, Exchange};
use crate::telemetry::Conversation;

/// A body that nobody reads is read and forgotten up to this size, to keep the connection.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;

/// From here on it costs less to send a body by itself than to copy it behind its head.
const APART_BYTES_MIN: usize = 64 * 1024;

/// What a head has besides its fields, usually.
const HEAD_BYTES: usize = 64;

/// A body that a plugin broke off, or in whose middle one failed.
const BROKEN_BY_PLUGIN: &str = "broken off by a plugin";

/// What was sent, and what may follow on the connection.
#[derive(Debug)]
pub struct Delivered {
    /// What may follow.
    pub after: After,
    /// Bytes written to the client.
    pub written: u64,
    /// So many of them are the head.
    pub head: u64,
    /// The response did not reach the client whole.
    pub broken: Option<&'static str>,
    /// What became of a WebSocket whose messages were seen.
    pub conversation: Option<Conversation>,
    /// When that was done.
    pub ended: Instant,
    /// The upstream's connection can take another request.
    pub reusable: bool,
}

impl Delivered {
    pub(super) fn new(context: &Context, after: After, written: u64, head: u64) -> Self {
        Self {
            after,
            written,
            head,
            broken: None,
            conversation: None,
            ended: context.clock.now(),
            reusable: false,
        }
    }

    /// The client left before there was anything to send.
    pub fn nothing(context: &Context) -> Self {
        Self { broken: Some("client left"), ..Self::new(context, After::Abort, 0, 0) }
    }
}

/// Sends a response that is all in the exchange.
///
/// `untouched` says that nothing of the request's body has been read yet.
pub async fn local(
    context: &Context,
    client: &mut Client,
    exchange: &mut Exchange,
    facts: &RequestFacts,
    untouched: bool,
) -> Delivered {
    exchange.sent = true;
    let body = exchange.body.take().unwrap_or_default();
    let rest = unread(context, client, facts, untouched);
    let mut after = after_local(context, facts, rest.as_ref());
    let bodiless = exchange.response.is_bodiless();
    exchange.response.fields.remove_known(Name::ContentLength);
    exchange.response.fields.remove_known(Name::TransferEncoding);
    if !bodiless {
        exchange.response.fields.push_number("Content-Length", body.len() as u64);
    }
    let Client { connection, timer, .. } = &mut *client;
    for capture in exchange.captures.drain(..) {
        capture.end_with(&body);
    }
    let body = if bodiless || exchange.request.method == Method::Head { &[] } else { &*body };
    let long = body.len() >= APART_BYTES_MIN;
    let field = connection_field(exchange.request.version, after);
    let response = &mut exchange.response;
    let behind = if long { 0 } else { body.len() };
    // Taken for as long as it takes to send: who comes meanwhile begins another one.
    let mut message = std::mem::take(&mut *context.out.borrow_mut());
    message.clear();
    message.reserve(response.fields.written_len() + HEAD_BYTES + behind);
    let opening = connection.prepare_response(&mut message, response, Framing::None, field);
    let head = opening.bytes;
    if !long {
        message.extend_from_slice(body);
    }
    timer.limit(None);
    let idle = context.idle_timeout();
    let written = head + body.len() as u64;
    if connection.open_response(opening, body.is_empty()).is_err() {
        return Delivered::nothing(context);
    }
    if long && connection.write_all(&message, timer, idle).await.is_err() {
        return Delivered::nothing(context);
    }
    let end = if long { body } else { &message };
    if connection.write_end(end, timer, idle).await.is_err() {
        return Delivered::nothing(context);
    }
    *context.out.borrow_mut() = message;
    if after == After::KeepAlive
        && let Some(rest) = rest
        && drain(context, client, rest).await.is_err()
    {
        after = After::Close;
    }
    Delivered::new(context, after, written, head)
}

/// What may follow a response that is all here; `rest` is what the client will still send.
pub(super) fn after_local(
    context: &Context,
    facts: &RequestFacts,
    rest: Option<&BodyReader>,
) -> After {
    let short =
        rest.is_none_or(|rest| rest.remaining().is_some_and(|left| left <= DRAIN_BYTES_MAX));
    match rest {
        _ if short && facts.keep_alive && !context.draining.get() => After::KeepAlive,
        None => After::Close,
        Some(_) => After::Linger,
    }
}

/// Sends a response that is all in the exchange, by way of plugins that are shown its body. An error
/// means that nothing has been sent.
pub async fn shown(
    context: &Context,
    client: &mut Client,
    place: &mut Place,
    facts: &RequestFacts,
    untouched: bool,
    filter: Box<BodyFilter>,
) -> Result<Delivered, RequestError> {
    let Some(exchange) = place.as_deref_mut() else { return Err(RequestError::Plugin) };
    let body = exchange.body.take().unwrap_or_default();
    let version = exchange.request.version;
    let framing = match version {
        _ if filter.keeps_length() => Framing::Length(body.len() as u64),
        Version::Http11 => Framing::Chunked,
        Version::Http10 | Version::Http2 => Framing::UntilClose,
    };
    let mut shown = Shown::new(filter, framing == Framing::Chunked);
    let rest = unread(context, client, facts, untouched);
    let after = match after_local(context, facts, rest.as_ref()) {
        After::KeepAlive if framing == Framing::UntilClose || rest.is_some() => After::Linger,
        after => after,
    };
    let mut chunks = body.chunks(CHUNK_BYTES_MAX).peekable();
    // The first part is shown before the head is made: a plugin may still put another answer in place.
    let Some(first) = chunks.next() else { return Err(RequestError::Plugin) };
    let mut run = shown.run(&[], first, chunks.peek().is_none().then_some(&[]), place)?;
    let Some(exchange) = place.as_deref_mut() else { return Err(RequestError::Plugin) };
    exchange.sent = true;
    let mut head = Vec::new();
    exchange.response.fields.remove_known(Name::ContentLength);
    let field = connection_field(version, after);
    let response = &mut exchange.response;
    let opening = client.connection.prepare_response(&mut head, response, framing, field);
    let head_bytes = opening.bytes;
    let mut written = head_bytes - head.len() as u64;
    run.splice(..0, head);
    client.timer.limit(None);
    if client.connection.open_response(opening, false).is_err() {
        return Ok(Delivered::nothing(context));
    }
    loop {
        let Client { connection, timer, .. } = &mut *client;
        let idle = context.idle_timeout();
        let wrote = match chunks.peek() {
            Some(_) => connection.write_all(&run, timer, idle).await,
            None => connection.write_end(&run, timer, idle).await,
        };
        if wrote.is_err() {
            return Ok(Delivered::nothing(context));
        }
        written += run.len() as u64;
        let Some(chunk) = chunks.next() else { break };
        match shown.run(&[], chunk, chunks.peek().is_none().then_some(&[]), place) {
            Ok(next) => run = next,
            Err(_) => {
                connection.stream.reset_at_end(None);
                let broken = Some(BROKEN_BY_PLUGIN);
                let delivered = Delivered::new(context, After::Abort, written, head_bytes);
                return Ok(Delivered { broken, ..delivered });
            }
        }
    }
    Ok(Delivered::new(context, after, written, head_bytes))
}

/// What the client will still send of a body that nobody wants; `None` when nothing.
pub(super) fn unread(
    context: &Context,
    client: &Client,
    facts: &RequestFacts,
    untouched: bool,
) -> Option<BodyReader> {
    let framing = match facts.framing {
        Framing::None => return None,
        // It is told to stop, and nothing else comes after it.
        _ if client.connection.stream.is_multiplexed() => return None,
        // Somewhere in the middle, or never to come: only the end of the connection tells.
        _ if !untouched || facts.expects_continue => Framing::UntilClose,
        framing => framing,
    };
    Some(BodyReader::new(framing, Form::Content, u64::MAX, &context.head_limits))
}

pub(super) async fn drain(
    context: &Context,
    client: &mut Client,
    mut body: BodyReader,
) -> Result<(), RequestError> {
    let (mut pieces, mut tail) = (Vec::new(), Vec::new());
    let Client { connection, timer, .. } = client;
    while !body.is_done() {
        if connection.inbox.is_none() {
            let read = connection.fill(&context.pool, timer).await;
            read.map_err(|_| RequestError::ClientGone)?;
        }
        if let Some(buffer) = &connection.inbox {
            pieces.clear();
            let step = body.advance(buffer.filled(), &mut pieces, &mut tail)?;
            crate::http::connection::consume(&mut connection.inbox, step.consumed);
        }
    }
    Ok(())
}

/// A request's body that is still sent upstream while the response is delivered.
struct Upload {
    pump: Option<Box<Pump>>,
    state: UploadState,
}

#[derive(PartialEq)]
enum UploadState {
    Open,
    Whole,
    Failed,
}

/// Sends an upstream's response, and the rest of the request's body meanwhile. An error means that
/// nothing has been sent. The connection stays in `answered`, for whoever gives it back.
pub async fn upstream(
    context: &Context,
    client: &mut Client,
    place: &mut Place,
    facts: &RequestFacts,
    answered: &mut Answered,
    times: Times,
    filter: Option<Box<BodyFilter>>,
) -> Result<Delivered, RequestError> {
    let Some(exchange) = place.as_deref_mut() else { return Err(RequestError::Plugin) };
    let Answered { lease, facts: answer, upload } = answered;
    let upload = upload.take();
    let state = if upload.is_some() { UploadState::Open } else { UploadState::Whole };
    let mut upload = Upload { pump: upload, state };
    let to_frames = client.connection.stream.is_multiplexed();
    // Only HTTP/1.1 has chunks.
    let chunks = exchange.request.version == Version::Http11;
    let resized = filter.as_ref().is_some_and(|filter| !filter.keeps_length());
    let (framing, form) = match answer.framing {
        Framing::Chunked if !chunks => (Framing::UntilClose, Form::Content),
        Framing::UntilClose if chunks => (Framing::Chunked, Form::Content),
        Framing::Length(_) if resized && !chunks => (Framing::UntilClose, Form::Content),
        Framing::Length(_) if resized => (Framing::Chunked, Form::Content),
        framing => (framing, Form::Same),
    };
    let form = if filter.is_some() || to_frames { Form::Bare } else { form };
    let open = facts.keep_alive && framing != Framing::UntilClose && !context.draining.get();
    let after =
        if open && upload.state == UploadState::Whole { After::KeepAlive } else { After::Close };
    let from_frames = lease.connection.stream.is_multiplexed();
    let ends_itself = to_frames && from_frames && answer.framing != Framing::None;
    // What has a length may have trailers then, too.
    let ends = if ends_itself { Framing::UntilClose } else { answer.framing };
    let reader = BodyReader::new(ends, form, u64::MAX, &context.response_limits);
    let to_chunks = framing == Framing::Chunked && answer.framing == Framing::UntilClose;
    if filter.is_some() {
        // What a plugin makes of a body on its way is not what was asked to be kept.
        exchange.captures.clear();
    }
    let reader = reader.without_trailers(answer.names_fields);
    let mut download = Pump::new(reader, to_chunks, to_frames);
    download.show_to(filter, framing == Framing::Chunked);
    if !exchange.captures.is_empty() {
        let content =
            BodyReader::new(answer.framing, Form::Content, u64::MAX, &context.response_limits);
        download.keep(std::mem::take(&mut exchange.captures), content);
    }
    client.timer.limit(times.left(&context.clock));
    let (head, opened) = {
        let lanes = context.lanes(&client.timer, times.idle);
        let mut out = context.out.borrow_mut();
        out.clear();
        let field = connection_field(exchange.request.version, after);
        let response = &mut exchange.response;
        let opening = client.connection.prepare_response(&mut out, response, framing, field);
        let begun = download.begin(&out, &mut lease.connection.inbox, &lanes, place);
        begun.map_err(|error| match error {
            RequestError::Plugin | RequestError::Aborted => error,
            _ => RequestError::BadResponse("body"),
        })?;
        let head = opening.bytes;
        (head, client.connection.open_response(opening, download.is_nothing()))
    };
    if let Some(exchange) = place.as_deref_mut() {
        exchange.sent = true;
    }
    let server = &mut lease.connection;
    let pumps = (&mut upload, &mut download);
    let result = match opened {
        Ok(()) => duplex(context, client, server, pumps, times, place).await,
        Err(error) => Err(PumpError::Sink(error)),
    };
    let apart = if to_frames { head } else { 0 };
    let mut delivered = Delivered::new(context, after, download.written() + apart, head);
    if let Err(error) = result {
        delivered.after = After::Abort;
        delivered.broken = Some(match error {
            PumpError::Sink(_) => "client left",
            PumpError::Source => "upstream left",
            PumpError::Bad(RequestError::Plugin | RequestError::Aborted) => BROKEN_BY_PLUGIN,
            PumpError::Bad(_) => "malformed body from upstream",
        });
        if framing == Framing::UntilClose || to_frames {
            // An orderly end would be the end of the body.
            client.connection.stream.reset_at_end(lease.connection.stream.given_up());
        }
    } else if upload.state != UploadState::Whole {
        delivered.after = After::Linger;
    } else {
        delivered.reusable = answer.keep_alive;
    }
    Ok(delivered)
}

/// Both directions at once, until the response has been written to its end.
async fn duplex(
    context: &Context,
    client: &mut Client,
    server: &mut Connection,
    (upload, download): (&mut Upload, &mut Pump),
    times: Times,
    place: &mut Place,
) -> Result<(), PumpError> {
    let Client { connection, timer, .. } = client;
    timer.arm(times.idle);
    let lanes = context.lanes(timer, times.idle);
    let (mut from_client, mut to_client) = connection.stream.split();
    let (mut from_server, mut to_server) = server.stream.split();
    let (client_inbox, server_inbox) = (&mut connection.inbox, &mut server.inbox);
    let gone = || Poll::Ready(Err(PumpError::Sink(std::io::ErrorKind::ConnectionReset.into())));
    let mut watching = true;
    poll_fn(|cx| {
        if to_client.poll_gone(cx).is_ready() {
            return gone();
        }
        if let Upload { pump: Some(pump), state: state @ UploadState::Open } = upload {
            match pump.poll(cx, &mut from_client, client_inbox, &mut to_server, &lanes, place) {
                Poll::Pending => {}
                // After an error the response may still arrive whole; the connections end with it.
                // What follows in a malformed body must not be read as if it were its continuation.
                Poll::Ready(Ok(())) => *state = UploadState::Whole,
                Poll::Ready(Err(_)) => *state = UploadState::Failed,
            }
        }
        match download.poll(cx, &mut from_server, server_inbox, &mut to_client, &lanes, place) {
            Poll::Pending if timer.is_due() => Poll::Ready(Err(if download.waits_for_receiver() {
                PumpError::Sink(std::io::ErrorKind::TimedOut.into())
            } else {
                PumpError::Source
            })),
            // The server is silent, so no write tells that the client has gone.
            Poll::Pending
                if watching
                    && upload.state == UploadState::Whole
                    && !download.waits_for_receiver()
                    && let Poll::Ready(left) = from_client.poll_left(cx) =>
            {
                watching = false;
                if left { gone() } else { Poll::Pending }
            }
            other => other,
        }
    })
    .await
}

pub(super) fn connection_field(version: Version, after: After) -> ConnectionField {
    match (version, after) {
        (Version::Http11, After::KeepAlive) | (Version::Http2, _) => ConnectionField::Absent,
        (Version::Http10, After::KeepAlive) => ConnectionField::KeepAlive,
        (_, After::Close | After::Linger | After::Abort) => ConnectionField::Close,
    }
}
