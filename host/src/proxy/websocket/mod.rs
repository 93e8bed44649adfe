//! A WebSocket whose messages are seen.
//!
//! ```text
//!   client ─► frames ─► side ─► message ─► rules, plugins ─► side ─► frames ─► server
//!   client ◄─ frames ◄─ side ◄─ message ◄─ rules, plugins ◄─ side ◄─ frames ◄─ server
//! ```
//!
//! Both ends speak WebSocket with the gateway. A message is read to its end before it goes on, and the next
//! one of its sender is read when it has been written: a receiver that has stopped holds one message here,
//! and the rest stays with the kernel, where it slows the sender down. Pings are answered here, and the
//! gateway sends its own.
//!
//! **How it ends.** A close goes on to the other side as it is. Who breaks a rule is told which (1002, 1007,
//! 1008, 1009); the other side hears that this one goes away (a server: 1001) or cannot go on (a client:
//! 1011), as it does when a side is lost. When time is up (idle, life, drain) both hear 1001. Then answers to
//! closes are waited for, and what comes instead is thrown away; but a client that broke a rule still gets
//! what the server had to say to what came before, as it would without a gateway.
//!
//! Cancel safety: none. Dropping the future closes both connections.
//!
//! Not here: frames (`side`), the handshake (`forward`, `http::websocket`), and bytes that nobody looks at
//! (`tunnel`).

mod pace;
mod side;

use std::future::poll_fn;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use self::pace::Pace;
use self::side::{Heard, Side};
use super::context::Context;
use super::deliver::Delivered;
use super::forward::{Answered, Times};
use super::relay::Place;
use super::{After, Client, tunnel};
use crate::config::Inspection;
use crate::http::websocket::{code, is_websocket};
use crate::io::{Buffer, TICK, Timer};
use crate::plugin::{Chain, MessagePassed, Peer, SocketMessage};
use crate::telemetry::{CloseKind, ClosedBy, Conversation};

/// How long answers to closes are waited for.
pub(super) const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Messages of one side before others get their turn.
const ROUNDS_MAX: usize = 16;

/// The sides, as indexes.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What holds for one WebSocket.
struct Rules<'a> {
    /// Index of its route.
    route: usize,
    /// How messages are seen.
    inspection: &'a Inspection,
    /// Longest silence.
    idle: Duration,
    /// Longest life.
    lifetime: Option<Duration>,
}

/// Goes on after a switch of protocols: with messages where they are to be seen, else with bytes.
pub(super) async fn switch(
    context: &Context,
    client: &mut Client,
    place: &mut Place,
    answered: &mut Answered,
    protocol: &[u8],
    times: Times,
    route: usize,
) -> Delivered {
    let exchange = place.get_or_insert_default();
    if !is_websocket(protocol) {
        return tunnel::tunnel(context, client, exchange, answered, protocol, times, None).await;
    }
    let _open = Counted::new(context, route);
    let settings = &context.settings().routes[route].websocket;
    let idle = settings.idle_timeout.unwrap_or(times.idle);
    let lifetime = settings.lifetime;
    if context.snapshot.plans[route].inspects {
        let rules = Rules { route, inspection: &settings.inspection, idle, lifetime };
        return inspect(context, client, place, answered, rules).await;
    }
    let times = Times { idle, ..times };
    tunnel::tunnel(context, client, exchange, answered, protocol, times, lifetime).await
}

/// Turns both connections into WebSockets (RFC 6455 §4.2.2) and passes messages on until one side closes,
/// or is closed.
async fn inspect(
    context: &Context,
    client: &mut Client,
    place: &mut Place,
    answered: &mut Answered,
    rules: Rules<'_>,
) -> Delivered {
    let lease = &mut answered.lease;
    let Client { connection, timer, .. } = client;
    timer.limit(None);
    timer.arm(rules.idle);
    let mut head = Vec::new();
    let response = &mut place.get_or_insert_default().response;
    let opening = connection.prepare_tunnel(&mut head, response, b"websocket");
    let head_bytes = opening.bytes;
    if connection.open_response(opening, false).is_err()
        || connection.write_all(&head, timer, rules.idle).await.is_err()
    {
        return Delivered::nothing(context);
    }
    let early = |inbox: Option<Buffer>| inbox.map_or_else(Vec::new, |it| it.filled().to_vec());
    let (from_client, from_server) =
        (early(connection.inbox.take()), early(lease.connection.inbox.take()));
    let now = time(timer);
    let (stream, inspection) = (&mut connection.stream, rules.inspection);
    let client_side = Side::new(stream, from_client, Role::Server, inspection, now).await;
    let stream = &mut lease.connection.stream;
    let server_side = Side::new(stream, from_server, Role::Client, inspection, now).await;
    let chain = &context.chains[rules.route];
    let mut relay = Relay {
        context,
        timer,
        place,
        chain: chain.sees_messages().then_some(chain),
        sides: [client_side, server_side],
        pace: Pace::new(inspection.messages_per_second),
        active: now,
        until: rules.lifetime.map(|lifetime| now + lifetime),
        messages: [0; 2],
        end: None,
        late: None,
        rules,
    };
    let end = poll_fn(|cx| relay.poll(cx)).await;
    let written = head_bytes + relay.sides[CLIENT].written();
    let [client_cut, server_cut] = relay.sides.each_ref().map(|side| side.cut);
    let conversation = Conversation { by: end.by, kind: end.kind, messages: relay.messages };
    drop(relay);
    // RFC 8441 §5: what closing the connection is in HTTP/1. An error: the client has left.
    let _ = connection.stream.split().1.end(|| None);
    if server_cut {
        lease.connection.linger(&context.pool, timer).await;
    }
    let (after, broken) = match end {
        End { by: ClosedBy::Client, kind: CloseKind::Lost, .. } => (After::Abort, "client left"),
        End { by: ClosedBy::Server, kind: CloseKind::Lost, .. } => (After::Close, "upstream left"),
        _ if client_cut => (After::Linger, ""),
        _ => (After::Close, ""),
    };
    let broken = (!broken.is_empty()).then_some(broken);
    let delivered = Delivered::new(context, after, written, head_bytes);
    Delivered { broken, conversation: Some(conversation), ..delivered }
}

/// Counts a WebSocket as open for as long as it is, also when its future is dropped.
struct Counted<'a> {
    context: &'a Context,
    route: usize,
}

impl<'a> Counted<'a> {
    fn new(context: &'a Context, route: usize) -> Self {
        context.tallies.websocket(route, |counts| {
            counts.open += 1;
            counts.opened += 1;
        });
        Self { context, route }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.context.tallies.websocket(self.route, |counts| {
            counts.open = counts.open.saturating_sub(1);
        });
    }
}

/// How it ends.
#[derive(Clone, Copy, Debug)]
struct End {
    by: ClosedBy,
    kind: CloseKind,
}

/// A WebSocket between two sides.
struct Relay<'a, 'b> {
    context: &'a Context,
    timer: &'a Timer,
    /// The exchange that has opened it.
    place: &'a mut Place,
    /// The plugins, if one of them wants to see messages.
    chain: Option<&'a Chain>,
    rules: Rules<'a>,
    sides: [Side<'b>; 2],
    pace: Pace,
    /// When something was last said that is not an answer to our pings.
    active: Duration,
    /// When its life ends.
    until: Option<Duration>,
    /// Messages of each side.
    messages: [u64; 2],
    end: Option<End>,
    /// What the client is told when the server has said its last.
    late: Option<u16>,
}

/// The time by the worker's deadlines.
fn time(timer: &Timer) -> Duration {
    TICK.saturating_mul(u32::try_from(timer.deadlines().now()).unwrap_or(u32::MAX))
}

impl Relay<'_, '_> {
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<End> {
        self.sides.iter_mut().for_each(Side::begin);
        let now = time(self.timer);
        for from in [CLIENT, SERVER] {
            if self.end.is_none() {
                self.carry(cx, from, now);
            }
        }
        if self.end.is_none() {
            self.keep_time(cx, now);
        }
        let Some(end) = self.end else { return Poll::Pending };
        self.part_late(cx);
        // Both, since each needs its own waking.
        let parted = self.late.is_none()
            && self.sides.each_mut().map(|side| side.poll_parted(cx).is_ready()) == [true; 2];
        if parted || self.timer.is_due() {
            let (by, kind) = (end.by, end.kind);
            self.context.tallies.websocket(self.rules.route, |counts| counts.closed(by, kind));
            return Poll::Ready(end);
        }
        Poll::Pending
    }

    /// Passes on what comes from a side, for as long as the other one takes it.
    fn carry(&mut self, cx: &mut TaskContext<'_>, from: usize, now: Duration) {
        let to = 1 - from;
        for _ in 0..ROUNDS_MAX {
            // Its last words are heard first, up to its close or its end.
            if self.sides[to].is_deaf() {
                return;
            }
            let was_full = self.sides[to].is_stalled();
            let sent = self.sides[to].poll_sent(cx);
            // It had no room and has some: slow, and at it. A ping would stand behind what it still has to read.
            if self.sides[to].has_taken() && was_full {
                self.active = now;
                self.sides[to].is_there(now);
            }
            match sent {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(())) => return cx.waker().wake_by_ref(),
                Poll::Pending => return,
            }
            let heard = self.sides[from].poll_heard(cx);
            let has_sent = self.sides[from].has_sent();
            if has_sent {
                self.sides[from].is_there(now);
            }
            // A part of a message is something said, too; an answer to a ping is none.
            match &heard {
                Poll::Ready(Heard::Pong) => {}
                Poll::Pending if !has_sent => {}
                _ => self.active = now,
            }
            let Poll::Ready(heard) = heard else { return };
            match heard {
                Heard::Note(note) => self.pass(from, note, now),
                Heard::Pong if self.sides[from].has_answered() => {}
                Heard::Ping | Heard::Pong if from == CLIENT && !self.pace.allows(now) => {
                    self.hurried();
                }
                Heard::Ping | Heard::Pong => {}
                Heard::Close(frame) => self.closed(from, frame),
                Heard::Broken(code, rule) => self.broken(from, code, &rule),
                Heard::Lost => self.lose(from),
            }
            if self.end.is_some() {
                return;
            }
        }
        // There may be more, but others wait too.
        cx.waker().wake_by_ref();
    }

    /// A message has come.
    fn pass(&mut self, from: usize, note: SocketMessage, now: Duration) {
        let bytes = note.data.len() as u64;
        self.messages[from] += 1;
        self.context.tallies.websocket(self.rules.route, |counts| {
            counts.messages[from] += 1;
            counts.bytes[from] += bytes;
        });
        if from == CLIENT && !self.pace.allows(now) {
            return self.hurried();
        }
        let Some(chain) = self.chain else { return self.sides[1 - from].send(note) };
        let peer = if from == CLIENT { Peer::Client } else { Peer::Server };
        match chain.on_message(self.place, peer, note) {
            Ok(MessagePassed::On(note)) => self.sides[1 - from].send(note),
            Ok(MessagePassed::Dropped) => {}
            Ok(MessagePassed::Closed(code, reason)) => {
                self.finish(ClosedBy::Plugin, code, &reason);
            }
            Err(_) => self.finish(ClosedBy::Plugin, code::ERROR, ""),
        }
    }

    /// The client sends more than it may.
    fn hurried(&mut self) {
        self.broken(CLIENT, code::POLICY, "too many messages");
    }

    /// Ends what time is up for, asks who is silent, and says when to look again.
    fn keep_time(&mut self, cx: &mut TaskContext<'_>, now: Duration) {
        let idle = self.active + self.rules.idle;
        let drain = self
            .context
            .closes_at
            .get()
            .map(|tick| TICK.saturating_mul(u32::try_from(tick).unwrap_or(u32::MAX)));
        let mut next = idle;
        for until in [self.until, drain].into_iter().flatten() {
            next = next.min(until);
        }
        if next <= now {
            let reason = if idle <= now { "idle" } else { "" };
            return self.finish(ClosedBy::Gateway, code::AWAY, reason);
        }
        let Inspection { ping_interval, pong_timeout, .. } = *self.rules.inspection;
        let Some(interval) = ping_interval else { return self.timer.arm(next - now) };
        for side in [CLIENT, SERVER] {
            // Who is not read from, since the other one takes nothing, cannot answer.
            if self.sides[1 - side].is_behind() {
                self.sides[side].is_there(now);
            }
            let one = &mut self.sides[side];
            let mut due = one.pinged.map_or(one.heard + interval, |asked| asked + pong_timeout);
            if due <= now && one.pinged.is_some() {
                log::debug!(target: "websocket", "no answer to a ping");
                return self.lose(side);
            }
            if due <= now {
                one.shed(cx);
                one.ping(now);
                due = now + pong_timeout;
            }
            next = next.min(due);
        }
        self.timer.arm(next - now);
    }

    /// A side has closed.
    fn closed(&mut self, from: usize, frame: Option<CloseFrame>) {
        let kind =
            frame.as_ref().map_or(CloseKind::NoCode, |frame| CloseKind::Code(frame.code.into()));
        self.sides[from].has_closed();
        self.sides[1 - from].close(frame);
        self.begin_end(who(from), kind);
    }

    /// A side has broken a rule.
    fn broken(&mut self, from: usize, code: u16, rule: &str) {
        log::debug!(target: "websocket", "the {} is closed with {code}: {rule}", who(from).as_str());
        self.sides[from].cut = true;
        self.sides[1 - from].close(Some(frame(absence_of(from), "")));
        if from == CLIENT {
            self.late = Some(code);
        } else {
            self.sides[from].close(Some(frame(code, "")));
        }
        self.begin_end(ClosedBy::Gateway, CloseKind::Code(code));
    }

    /// Passes on what a server still says, up to its answer to a close; then the client is told why.
    fn part_late(&mut self, cx: &mut TaskContext<'_>) {
        for _ in 0..ROUNDS_MAX {
            let Some(code) = self.late else { return };
            let last = if self.timer.is_due() { Poll::Ready(None) } else { self.poll_last(cx) };
            match last {
                Poll::Pending => return,
                Poll::Ready(Some(note)) => self.pass(SERVER, note, time(self.timer)),
                Poll::Ready(None) => {
                    self.late = None;
                    self.sides[SERVER].has_gone();
                    self.sides[CLIENT].close(Some(frame(code, "")));
                }
            }
        }
        cx.waker().wake_by_ref();
    }

    /// What a server that was closed still says, for as long as the client takes it.
    fn poll_last(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<SocketMessage>> {
        let [client, server] = &mut self.sides;
        loop {
            if ready!(client.poll_sent(cx)).is_err() {
                return Poll::Ready(None);
            }
            // An error: it is deaf, and may have spoken.
            let _ = ready!(server.poll_sent(cx));
            match ready!(server.poll_heard(cx)) {
                Heard::Note(note) => return Poll::Ready(Some(note)),
                Heard::Ping | Heard::Pong => {}
                Heard::Close(_) | Heard::Broken(..) | Heard::Lost => return Poll::Ready(None),
            }
        }
    }

    /// A side has gone, or must be taken for gone.
    fn lose(&mut self, side: usize) {
        self.sides[side].has_gone();
        self.sides[1 - side].close(Some(frame(absence_of(side), "")));
        self.begin_end(who(side), CloseKind::Lost);
    }

    /// Closes both sides.
    fn finish(&mut self, by: ClosedBy, code: u16, reason: &str) {
        self.late = None;
        self.sides.iter_mut().for_each(|side| side.close(Some(frame(code, reason))));
        self.begin_end(by, CloseKind::Code(code));
    }

    fn begin_end(&mut self, by: ClosedBy, kind: CloseKind) {
        self.end = Some(End { by, kind });
        self.timer.disarm();
        self.timer.limit(Some(CLOSE_TIME));
    }
}

fn who(side: usize) -> ClosedBy {
    if side == CLIENT { ClosedBy::Client } else { ClosedBy::Server }
}

/// What one side is told when the other one is no more.
fn absence_of(side: usize) -> u16 {
    if side == CLIENT { code::AWAY } else { code::ERROR }
}

fn frame(code: u16, reason: &str) -> CloseFrame {
    CloseFrame { code: code.into(), reason: reason.into() }
}
