//! Sends a request upstream and waits for the head of its response.
//!
//! The body follows while the response is waited for: an upstream may answer before it has read
//! everything (RFC 9110 §10.1.1, RFC 9112 §9.3). A pooled connection that turns out dead is replaced
//! when the request can be repeated safely (RFC 9110 §9.2.2): it is idempotent, no byte of a
//! response has come, and what has been taken of its body is still at hand. A server of HTTP/2 may say
//! that it has not begun with a request (RFC 9113 §8.7); then any can be repeated.
//!
//! The time for a response runs from the head of the request, connecting included. While parts of a
//! body arrive it begins anew with each, unless they are so few that it would never end.
//!
//! Cancel safety: none. Dropping the future closes the upstream connection, with the [`Lease`].
//!
//! Not here: which upstream (`proxy`), which server (`upstream`), the response's body (`deliver`).

use std::future::poll_fn;
use std::io;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use ::h2::Reason;

use super::Client;
use super::context::{Clock, Context};
use super::relay::{Lanes, Place, Pump, PumpError};
use crate::error::RequestError;
use crate::http::body::{BodyReader, Form};
use crate::http::connection::{consume, poll_fill, put_back};
use crate::http::parse::{self, Framing, RequestFacts, ResponseFacts};
use crate::http::{Connection, Name, ResponseHead, Version, h2};
use crate::io::{Buffer, Reader, Timer, Writer};
use crate::plugin::{BodyFilter, Exchange};
use crate::upstream::{Lease, Need, Upstream};

/// Interim responses that an upstream may send before the final one.
const INTERIM_MAX: usize = 16;

/// So much of a body is kept until the response begins, so that the request can be repeated.
const REPLAY_BYTES_MAX: usize = 16 * 1024;

/// Connections tried for a request that servers say they have not begun with.
const ATTEMPTS_MAX: u32 = 4;

/// An upload has this long, and a second more for each [`UPLOAD_BYTES_PER_SECOND`]. A client that sends
/// slower only holds connections.
const UPLOAD_GRACE: Duration = Duration::from_secs(60);
const UPLOAD_BYTES_PER_SECOND: u64 = 100;

/// An upstream's response whose head has arrived.
#[derive(Debug)]
pub struct Answered {
    /// The connection that it comes on.
    pub lease: Lease,
    /// What its head says about the body.
    pub facts: ResponseFacts,
    /// The rest of the request's body, when the upstream answered before it had everything.
    pub upload: Option<Box<Pump>>,
}

/// How far a request has come upstream, also when it failed.
#[derive(Debug, Default)]
pub struct Journey {
    /// Connections used, and those that did not come about.
    pub attempts: u32,
    /// The server that was asked last.
    pub server: Option<usize>,
}

/// Times that hold for one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the head of the request, or the part of its body that came last, to the head of the
    /// response.
    pub request: Duration,
    /// From the end of the request to the head of the response, if that is shorter.
    pub response: Duration,
    /// Longest silence within a response or a tunnel.
    pub idle: Duration,
    /// Longest silence of the client within its request.
    pub client_idle: Duration,
    /// When the client stops waiting, if it has said so.
    pub deadline: Option<Instant>,
}

impl Times {
    /// What is left until the client stops waiting.
    pub fn left(&self, clock: &Clock) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(clock.now()))
    }

    /// Limits all phases together, but never to longer than the client waits.
    fn limit(&self, timer: &Timer, wait: Duration, clock: &Clock) {
        timer.limit(Some(self.left(clock).map_or(wait, |left| left.min(wait))));
    }
}

/// What became of a request whose head was sent.
enum Event {
    Head(ResponseFacts),
    Interim,
}

/// One request on its way upstream.
pub struct Forward<'a> {
    /// The worker.
    pub context: &'a Context,
    /// Where it goes.
    pub upstream: &'a Upstream,
    /// What its head says.
    pub facts: &'a RequestFacts,
    /// The protocol to switch to, when the client asks for one.
    pub upgrade: Option<&'a [u8]>,
    /// The body, when plugins had all of it: the client's has been read to its end then.
    pub body: Option<Vec<u8>>,
    /// Largest body.
    pub body_bytes_max: u64,
    /// Its times.
    pub times: Times,
    /// When it began.
    pub began: Instant,
}

impl Forward<'_> {
    /// Sends the request and waits for the head of its response, which is put into the exchange.
    /// `filter` is shown the body on its way.
    ///
    /// Sends the request again when that is safe.
    pub async fn send(
        &self,
        place: &mut Place,
        client: &mut Client,
        journey: &mut Journey,
        mut filter: Option<Box<BodyFilter>>,
    ) -> Result<Answered, RequestError> {
        let context = self.context;
        self.times.limit(&client.timer, self.times.request, &context.clock);
        // Plugins have seen what they have seen: it cannot be shown to them again.
        let repeatable = filter.is_none();
        let idempotent = repeatable && here(place)?.request.method.is_idempotent();
        let sure = !(idempotent && self.is_body_at_hand(client));
        let resized = filter.as_ref().is_some_and(|filter| !filter.keeps_length());
        let mut fresh = false;
        loop {
            let need = Need { sure, fresh, upgradable: self.upgrade.is_some() };
            let mut lease = self.lend(client, need, journey).await?;
            let to_frames = lease.connection.stream.is_multiplexed();
            let framing_out = match self.framing() {
                Framing::None => Framing::None,
                Framing::Length(length) if !resized => Framing::Length(length),
                _ if to_frames => Framing::UntilClose,
                _ => Framing::Chunked,
            };
            let mut upload = self.upload(framing_out, (client, to_frames), filter.take());
            let perhaps_again = repeatable && (to_frames || idempotent && lease.reused);
            let kept = if perhaps_again { self.keep(client) } else { Vec::new() };
            let opened = {
                let mut out = context.out.borrow_mut();
                out.clear();
                let server = &mut lease.connection;
                let head = &mut here(place)?.request;
                let name = journey.server.and_then(|server| self.upstream.server_name(server));
                let name = name.map_or("", |name| name);
                let opening =
                    server.prepare_request(&mut out, head, framing_out, self.upgrade, name)?;
                let Client { connection, timer, .. } = &mut *client;
                let lanes = context.lanes(timer, self.times.idle);
                upload.begin(&out, &mut connection.inbox, &lanes, place)?;
                // An error: the connection ends, and the server has not heard of this request.
                let sent = server.open_request(opening, upload.is_nothing());
                sent.map_err(|_| RequestError::Unprocessed)
            };
            let mut heard = false;
            let answered = match opened {
                Ok(()) => self.converse(place, client, &mut lease, &mut upload, &mut heard).await,
                Err(error) => Err(error),
            };
            let safe = match answered {
                Err(RequestError::Closed) => idempotent && lease.reused && !heard && !fresh,
                Err(RequestError::Unprocessed) => journey.attempts < ATTEMPTS_MAX,
                _ => false,
            };
            match answered {
                Ok(facts) => {
                    let done = upload.is_done();
                    return Ok(Answered {
                        lease,
                        facts,
                        upload: (!done).then(|| Box::new(upload)),
                    });
                }
                Err(_)
                    if perhaps_again
                        && safe
                        && (self.body.is_some() || upload.received() <= kept.len() as u64) =>
                {
                    lease.suspect();
                    if self.body.is_none() {
                        let taken = usize::try_from(upload.received()).unwrap_or(kept.len());
                        put_back(&mut client.connection.inbox, &kept[..taken], &context.pool);
                    }
                    fresh = true;
                }
                Err(error) => {
                    let left = self.times.left(&context.clock);
                    if error == RequestError::ResponseTimeout && left != Some(Duration::ZERO) {
                        lease.suspect();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// A connection to the server whose turn it is, or to the next one that can be reached.
    async fn lend(
        &self,
        client: &Client,
        need: Need,
        journey: &mut Journey,
    ) -> Result<Lease, RequestError> {
        let upstream = self.upstream;
        let mut failed = None;
        for server in upstream.in_turn() {
            let before = journey.server.replace(server);
            if let (Some(before), Some(_)) = (before, failed) {
                self.context.tallies.server_failed(upstream.index, before);
            }
            journey.attempts += 1;
            match upstream.lend(server, need, &client.timer, self.began).await {
                Ok(lease) => return Ok(lease),
                Err(error) => failed = Some(error),
            }
            if client.timer.is_over() {
                break;
            }
        }
        Err(failed.unwrap_or(RequestError::Connect))
    }

    /// The framing of what comes, from the client or from memory.
    fn framing(&self) -> Framing {
        match &self.body {
            None => self.facts.framing,
            Some(body) if body.is_empty() => Framing::None,
            Some(body) => Framing::Length(body.len() as u64),
        }
    }

    fn upload(
        &self,
        framing_out: Framing,
        (client, to_frames): (&Client, bool),
        filter: Option<Box<BodyFilter>>,
    ) -> Pump {
        let from_frames = self.body.is_none() && client.connection.stream.is_multiplexed();
        let framing = match self.framing() {
            // It may have trailers, and ends when it says so.
            Framing::Length(_) if from_frames && to_frames => Framing::UntilClose,
            framing => framing,
        };
        let form = if filter.is_some() || to_frames { Form::Bare } else { Form::Same };
        let bytes_max = if self.body.is_some() { u64::MAX } else { self.body_bytes_max };
        let body = BodyReader::new(framing, form, bytes_max, &self.context.head_limits);
        let to_chunks = framing_out == Framing::Chunked && framing == Framing::UntilClose;
        let body = body.without_trailers(self.facts.names_fields);
        let mut pump = Pump::new(body, to_chunks && filter.is_none(), to_frames);
        pump.show_to(filter, framing_out == Framing::Chunked);
        if let Some(body) = &self.body {
            pump.send_own(self.context.pool.hold(body.clone()));
        }
        pump
    }

    /// Whether all of the body is received and short enough to be kept.
    fn is_body_at_hand(&self, client: &Client) -> bool {
        match self.facts.framing {
            _ if self.body.is_some() => true,
            Framing::None => true,
            Framing::Length(length) => {
                let here = client.connection.inbox.as_ref().map_or(0, Buffer::len);
                length <= here.min(REPLAY_BYTES_MAX) as u64
            }
            // Only reading it would tell.
            Framing::Chunked | Framing::UntilClose => false,
        }
    }

    /// A copy of the beginning of the body, for a request that may have to be repeated.
    fn keep(&self, client: &Client) -> Vec<u8> {
        let inbox = client.connection.inbox.as_ref();
        let inbox = inbox.filter(|_| self.body.is_none() && self.facts.framing != Framing::None);
        inbox.map_or_else(Vec::new, |inbox| {
            inbox.filled()[..inbox.len().min(REPLAY_BYTES_MAX)].to_vec()
        })
    }

    /// Sends what there is to send until the final response head is here. `heard` says whether a byte
    /// of a response has come.
    async fn converse(
        &self,
        place: &mut Place,
        client: &mut Client,
        lease: &mut Lease,
        upload: &mut Pump,
        heard: &mut bool,
    ) -> Result<ResponseFacts, RequestError> {
        client.timer.arm(self.times.client_idle);
        let mut talk = Talk {
            forward: self,
            uploading: true,
            received: upload.received(),
            waits_for_go: self.facts.expects_continue && upload.received() == 0,
            watching: true,
            searched: 0,
        };
        for _ in 0..INTERIM_MAX {
            let event = {
                let Client { connection, timer, .. } = &mut *client;
                let lanes = self.context.lanes(timer, self.times.client_idle);
                let Connection { stream, inbox } = connection;
                let (mut from, _) = stream.split();
                let (mut reader, mut writer) = lease.connection.stream.split();
                let answers = &mut lease.connection.inbox;
                poll_fn(|cx| {
                    let ways = Ways {
                        client: &mut from,
                        client_inbox: inbox,
                        upstream: &mut reader,
                        upstream_inbox: answers,
                        upstream_writer: &mut writer,
                    };
                    talk.poll(cx, place, upload, ways, &lanes)
                })
                .await
            };
            *heard |= event.is_ok() || lease.connection.inbox.is_some();
            match event? {
                Event::Head(facts) => return Ok(facts),
                Event::Interim => {
                    if here(place)?.response.status == 100 {
                        talk.told_to_go_on(&client.timer);
                    }
                    self.pass_interim(here(place)?, client).await?;
                }
            }
        }
        Err(RequestError::BadResponse("too many interim responses"))
    }

    /// RFC 9110 §15.2: interim responses are passed on, but not to a 1.0 client.
    async fn pass_interim(
        &self,
        exchange: &mut Exchange,
        client: &mut Client,
    ) -> Result<(), RequestError> {
        if exchange.request.version == Version::Http10 {
            return Ok(());
        }
        super::headers::interim_to_client(&mut exchange.response)?;
        let Client { connection, timer, .. } = client;
        let sent = connection.inform(&exchange.response, timer).await;
        sent.map_err(|_| RequestError::ClientGone)
    }
}

/// The sockets of one exchange.
struct Ways<'a, 'b> {
    client: &'a mut Reader<'b>,
    client_inbox: &'a mut Option<Buffer>,
    upstream: &'a mut Reader<'b>,
    upstream_inbox: &'a mut Option<Buffer>,
    upstream_writer: &'a mut Writer<'b>,
}

/// Progress of [`Forward::converse`].
struct Talk<'a> {
    forward: &'a Forward<'a>,
    /// The request has not been sent to its end.
    uploading: bool,
    /// Bytes of its body so far.
    received: u64,
    /// Its body comes when the upstream says so, or when the client is tired of waiting for that.
    waits_for_go: bool,
    /// The client may still leave.
    watching: bool,
    /// Bytes of the response known not to hold the end of its head.
    searched: usize,
}

impl Talk<'_> {
    fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        place: &mut Place,
        upload: &mut Pump,
        ways: Ways<'_, '_>,
        lanes: &Lanes<'_>,
    ) -> Poll<Result<Event, RequestError>> {
        let Ways { client, client_inbox, upstream, upstream_inbox, upstream_writer } = ways;
        if lanes.timer.is_due() {
            return Poll::Ready(Err(self.timed_out(upload)));
        }
        if client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(RequestError::ClientGone));
        }
        if self.uploading {
            match upload.poll(cx, client, client_inbox, upstream_writer, lanes, place) {
                Poll::Pending => self.upload_goes_on(upload, lanes),
                Poll::Ready(Ok(())) => {
                    self.upload_goes_on(upload, lanes);
                    self.upload_ended(lanes);
                }
                // It may have answered all the same, and closed because it wants no more.
                Poll::Ready(Err(PumpError::Sink(_))) => self.upload_ended(lanes),
                Poll::Ready(Err(PumpError::Source)) => {
                    return Poll::Ready(Err(RequestError::ClientGone));
                }
                Poll::Ready(Err(PumpError::Bad(error))) => return Poll::Ready(Err(error)),
            }
        }
        if let Some(polled) = upstream.poll_head(cx) {
            return match polled {
                Poll::Pending => self.watch(cx, client),
                Poll::Ready(Ok((head, ended))) => {
                    Poll::Ready(self.take_message(here(place)?, head, ended))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(not_answered(&error))),
            };
        }
        loop {
            if let Some(event) = self.take_head(here(place)?, upstream_inbox)? {
                return Poll::Ready(Ok(event));
            }
            match poll_fill(cx, upstream, upstream_inbox, lanes.pool) {
                Poll::Pending => return self.watch(cx, client),
                Poll::Ready(Ok(0)) if upstream_inbox.is_some() => {
                    return Poll::Ready(Err(RequestError::BadResponse("unfinished head")));
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(RequestError::Closed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(lost(&error))),
            }
        }
    }

    fn upload_goes_on(&mut self, upload: &Pump, lanes: &Lanes<'_>) {
        let Forward { context, times, began, .. } = self.forward;
        let received = upload.received();
        if received > self.received {
            self.received = received;
            self.waits_for_go = false;
            let passed = context.clock.now().saturating_duration_since(*began);
            let wait = upload_time(times.request, received, passed);
            times.limit(lanes.timer, wait, &context.clock);
        } else if self.waits_for_go && !upload.waits_for_receiver() {
            lanes.timer.tighten(times.response);
        }
    }

    /// Waits for the upstream: a client that has said everything may leave meanwhile.
    fn watch(
        &mut self,
        cx: &mut TaskContext<'_>,
        client: &mut Reader<'_>,
    ) -> Poll<Result<Event, RequestError>> {
        if !self.uploading
            && self.watching
            && let Poll::Ready(left) = client.poll_left(cx)
        {
            if left {
                return Poll::Ready(Err(RequestError::ClientGone));
            }
            self.watching = false;
        }
        Poll::Pending
    }

    /// The upstream has said 100 Continue.
    fn told_to_go_on(&mut self, timer: &Timer) {
        if self.waits_for_go {
            self.waits_for_go = false;
            let Forward { context, times, .. } = self.forward;
            times.limit(timer, times.request, &context.clock);
            timer.arm(times.client_idle);
        }
    }

    fn upload_ended(&mut self, lanes: &Lanes<'_>) {
        self.uploading = false;
        lanes.timer.disarm();
        lanes.timer.tighten(self.forward.times.response);
    }

    /// Who is to blame: a client that does not send, or an upstream that does not take or answer.
    fn timed_out(&self, upload: &Pump) -> RequestError {
        let asked = self.waits_for_go || upload.waits_for_receiver() || self.searched > 0;
        if self.uploading && !asked {
            RequestError::ClientTimeout
        } else {
            RequestError::ResponseTimeout
        }
    }

    /// RFC 9110 §7.8: a server switches to a protocol that the client has offered.
    fn switches_as_asked(&self, response: &ResponseHead) -> bool {
        self.forward.upgrade.is_some_and(|offered| {
            let mut chosen = parse::list(&response.fields, Name::Upgrade);
            chosen.next().is_some_and(|chosen| chosen.eq_ignore_ascii_case(offered))
                && chosen.next().is_none()
        })
    }

    /// Takes over the head of a response of HTTP/2.
    fn take_message(
        &self,
        exchange: &mut Exchange,
        head: http::Response<()>,
        ended: bool,
    ) -> Result<Event, RequestError> {
        let (parts, ()) = head.into_parts();
        let limits = &self.forward.context.response_limits;
        let method = exchange.request.method;
        let facts = h2::response(&parts, ended, &mut exchange.response, method, limits)?;
        let interim = exchange.response.status < 200;
        Ok(if interim { Event::Interim } else { Event::Head(facts) })
    }

    /// Parses the head of the response when all of it is here.
    fn take_head(
        &mut self,
        exchange: &mut Exchange,
        inbox: &mut Option<Buffer>,
    ) -> Result<Option<Event>, RequestError> {
        let limits = &self.forward.context.response_limits;
        let Some(buffer) = inbox else { return Ok(None) };
        let bytes = buffer.filled();
        let found = parse::find_end(bytes, self.searched)
            .map_err(|_| RequestError::BadResponse("bare LF"))?;
        let Some(end) = found.filter(|end| *end <= limits.bytes_max) else {
            self.searched = bytes.len();
            return if bytes.len() > limits.bytes_max {
                Err(RequestError::ResponseHeadTooLarge)
            } else {
                Ok(None)
            };
        };
        let method = exchange.request.method;
        let facts = parse::response(&bytes[..end], &mut exchange.response, method, limits)?;
        consume(inbox, end);
        self.searched = 0;
        match exchange.response.status {
            101 if !self.switches_as_asked(&exchange.response) => {
                Err(RequestError::BadResponse("101 that nobody asked for"))
            }
            100 | 102..200 => Ok(Some(Event::Interim)),
            _ => Ok(Some(Event::Head(facts))),
        }
    }
}

/// The exchange. That it is here between the calls of hooks is this gateway's own rule; were it
/// broken, a plugin would be to blame.
fn here(place: &mut Place) -> Result<&mut Exchange, RequestError> {
    place.as_deref_mut().ok_or(RequestError::Plugin)
}

/// How long an upload may go on after a part of it has arrived.
pub(super) fn upload_time(request: Duration, received: u64, passed: Duration) -> Duration {
    let bought = Duration::from_secs(received / UPLOAD_BYTES_PER_SECOND);
    let all = request.max(UPLOAD_GRACE).saturating_add(bought);
    request.min(all.saturating_sub(passed))
}

/// Why a stream has ended without an answer. RFC 9113 §8.7: a stream after the last one that a GOAWAY
/// names, or one that was refused, has not been begun with.
fn not_answered(error: &::h2::Error) -> RequestError {
    match error.reason() {
        _ if error.is_remote() && error.is_go_away() => RequestError::Unprocessed,
        _ if error.is_io() || error.is_go_away() => RequestError::Closed,
        Some(Reason::REFUSED_STREAM) if error.is_remote() => RequestError::Unprocessed,
        Some(Reason::CANCEL) if error.is_remote() => RequestError::Cancelled,
        Some(Reason::ENHANCE_YOUR_CALM) if error.is_remote() => RequestError::Exhausted,
        _ => RequestError::BadResponse("stream reset"),
    }
}

fn lost(error: &io::Error) -> RequestError {
    match error.kind() {
        io::ErrorKind::TimedOut => RequestError::ResponseTimeout,
        // TLS 1.3: what a server thinks of our certificate it says after the handshake.
        io::ErrorKind::InvalidData => {
            match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(rustls::Error::AlertReceived(_)) => RequestError::TlsAlert,
                _ => RequestError::TlsProtocol,
            }
        }
        _ => RequestError::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_may_take_long_and_not_for_ever() {
        let seconds = Duration::from_secs;
        let left = |received, passed| upload_time(seconds(30), received, seconds(passed));

        assert_eq!(left(1, 10), seconds(30));
        assert_eq!(left(1, 50), seconds(10), "the grace is over in ten seconds");
        assert_eq!(left(1, 3600), Duration::ZERO);
        assert_eq!(left(1 << 20, 3600), seconds(30), "slow, and far above the least");
        assert_eq!(left(360_000, 3_640), seconds(20));
    }
}
