//! The event loop of a load, and the life of one request on one slot.
//!
//! ```text
//!            ┌──────── kept connection lost before a byte came: once more, on a new one
//!            ▼                │
//! Idle ─► Sending ────────► Head ─► Body | Chunks | UntilClose ─► Idle            (connection kept)
//!            │                │                       └──► Ending ─► Idle  (wait for the server's end)
//!            └── fault ───────┴─► Idle, connection closed
//! ```
//!
//! Not here: when requests are due (`pace`), what is counted and how it is written (`tally`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::link::Link;
use super::pace::Pace;
use super::slot::{Received, Slot, Stage};
use super::sockets::{Interest, Moved, Poll};
use super::tally::{Fault, Outcome};
use super::{Expected, Live, Plan, Share};

/// One receive outside of plain bodies: holds every usual head, and all of a small answer.
const ROOM_BYTES: usize = 16 << 10;
/// What one call may discard of a body.
const DISCARD_BYTES: usize = 1 << 20;
/// A slot that failed waits so long in a closed loop, so that a dead server is not hammered.
pub(super) const RETRY_PAUSE_NS: u64 = 10_000_000;
/// Requests of a paced load may come back so long after its window.
pub(super) const GRACE_NS: u64 = 1_000_000_000;
/// An answer that a closed loop has waited for so long at its end counts as none.
pub(super) const UNANSWERED_AFTER_NS: u64 = 1_000_000_000;
/// A server that said it would close its connection is given so long to do it.
const ENDING_WITHIN_NS: u64 = 1_000_000_000;
/// How often all slots are looked at for such limits.
const LOOK_EVERY_NS: u64 = 100_000_000;
/// The pace maker ticks no faster: each tick costs a system call, and at such rates a request waits
/// no longer for it than for the one before.
pub(super) const TICK_NS: u64 = 20_000;
/// The pace maker's key; slots are numbered from 0.
const PACE: u64 = u64::MAX;

/// The ends of the window: between them everything counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// From now on.
    Begins,
    /// Until now.
    Ends,
}

/// Runs a whole load on the calling thread; calls `edge` at both ends of the window.
pub fn run_here(plan: &Plan, live: &Live, edge: &mut dyn FnMut(Edge)) -> io::Result<Outcome> {
    run(plan, Share { index: 0, of: 1 }, live, edge)
}

/// Runs one thread's part of a load.
pub(super) fn run(
    plan: &Plan,
    share: Share,
    live: &Live,
    edge: &mut dyn FnMut(Edge),
) -> io::Result<Outcome> {
    if let Some(request) = &plan.request.http2 {
        return super::http2::run(plan, request, share, live, edge);
    }
    let mut engine = Engine::new(plan, share)?;
    engine.run(live, edge)?;
    Ok(engine.tally)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warmup,
    Window,
    After,
}

struct Engine<'a> {
    plan: &'a Plan,
    poll: Poll,
    pace: Pace,
    /// Ticks when a request of a paced load is due.
    pace_maker: Option<OwnedFd>,
    clock: Instant,
    slots: Vec<Slot>,
    /// Slots without a request, the longest idle first.
    idle: VecDeque<usize>,
    /// Slots that failed in a closed loop, and when they are idle again.
    paused: VecDeque<(u64, usize)>,
    /// Requests begun that have not ended.
    outstanding: usize,
    phase: Phase,
    starts_ns: u64,
    ends_ns: u64,
    look_ns: u64,
    tally: Outcome,
    scratch: Vec<u8>,
}

impl<'a> Engine<'a> {
    #[expect(clippy::disallowed_methods, reason = "a load runs on the real clock")]
    fn new(plan: &'a Plan, share: Share) -> io::Result<Self> {
        let poll = Poll::new()?;
        let pace = Pace::new(plan.rate, share, plan.requests);
        // The clock starts first: a tick that came before the moment at which its request is due
        // would leave the request to the next tick.
        let clock = Instant::now();
        let pace_maker = pace.interval_ns().map(pace_maker).transpose()?;
        if let Some(timer) = &pace_maker {
            poll.add(timer, PACE, Interest::Read)?;
        }
        let starts_ns = nanoseconds(plan.warmup);
        Ok(Self {
            plan,
            poll,
            pace,
            pace_maker,
            clock,
            slots: (0..plan.connections).map(|_| Slot::new()).collect(),
            idle: (0..plan.connections).collect(),
            paused: VecDeque::new(),
            outstanding: 0,
            phase: Phase::Warmup,
            starts_ns,
            ends_ns: starts_ns.saturating_add(nanoseconds(plan.window)),
            look_ns: LOOK_EVERY_NS,
            tally: Outcome::new(),
            scratch: vec![0; DISCARD_BYTES],
        })
    }

    fn run(&mut self, live: &Live, edge: &mut dyn FnMut(Edge)) -> io::Result<()> {
        let mut events = Vec::with_capacity(1_024);
        let mut shown = (0, 0);
        loop {
            let now = self.now();
            self.change_phase(now, live, edge);
            if self.phase == Phase::After && self.is_over(now) {
                break;
            }
            self.look_for_late_ones(now);
            self.launch_what_is_due(now);
            // Short enough to notice the ends of the window and pauses that are over.
            self.poll.wait(&mut events, Some(5))?;
            for event in &events {
                match usize::try_from(event.data.u64()) {
                    Ok(place) if event.data.u64() != PACE => self.turn(place, event.flags),
                    _ => self.await_next_tick(),
                }
            }
            let counts = (self.tally.requests(), self.tally.failures());
            if counts != shown {
                // The warm-up, cleared in between, was never shown.
                live.ended.fetch_add(counts.0.saturating_sub(shown.0), Ordering::Relaxed);
                live.failed.fetch_add(counts.1.saturating_sub(shown.1), Ordering::Relaxed);
                shown = counts;
            }
        }
        self.count_unanswered();
        Ok(())
    }

    fn now(&self) -> u64 {
        nanoseconds(self.clock.elapsed())
    }

    fn change_phase(&mut self, now: u64, live: &Live, edge: &mut dyn FnMut(Edge)) {
        if self.phase == Phase::Warmup && now >= self.starts_ns {
            self.phase = Phase::Window;
            self.tally = Outcome::new();
            // Without a warm-up the first request is due at 0, a little before the first look.
            self.starts_ns = if self.starts_ns == 0 { 0 } else { now };
            self.ends_ns = now.saturating_add(nanoseconds(self.plan.window));
            edge(Edge::Begins);
            return;
        }
        let stopped = live.stop.load(Ordering::Relaxed);
        let spent = self.pace.is_spent() && self.outstanding == 0;
        if self.phase != Phase::After && (now >= self.ends_ns || stopped || spent) {
            if self.phase == Phase::Window {
                edge(Edge::Ends);
                self.tally.window_ns = now - self.starts_ns;
            }
            self.phase = Phase::After;
            self.ends_ns = self.ends_ns.min(now);
        }
    }

    /// After the window a paced load waits a while for what is still out.
    fn is_over(&self, now: u64) -> bool {
        let all_back =
            self.outstanding == 0 && !self.pace.is_behind(self.ends_ns.saturating_sub(1));
        self.plan.rate.is_none() || all_back || now >= self.ends_ns + GRACE_NS
    }

    fn launch_what_is_due(&mut self, now: u64) {
        while self.paused.front().is_some_and(|paused| paused.0 <= now) {
            self.idle.extend(self.paused.pop_front().map(|(_, place)| place));
        }
        // Nothing new after the window, but what was due in it and found no connection yet.
        let now =
            if self.phase == Phase::After { now.min(self.ends_ns.saturating_sub(1)) } else { now };
        while let Some(place) = self.idle.front().copied() {
            let Some(due_ns) = self.pace.take(now) else { return };
            self.idle.pop_front();
            self.launch(place, due_ns, now);
        }
    }

    /// The kernel goes on ticking only when the last ticks have been read.
    fn await_next_tick(&self) {
        if let Some(timer) = &self.pace_maker {
            let mut ticks = [0; 8];
            // A tick that was read before leaves nothing to read, and the next one comes anyway.
            let _ = rustix::io::read(timer, &mut ticks);
        }
    }

    /// Begins a request on a slot that has none.
    fn launch(&mut self, place: usize, began_ns: u64, now: u64) {
        let slot = &mut self.slots[place];
        slot.began_ns = began_ns;
        slot.since_ns = now;
        self.outstanding += 1;
        self.begin(place);
    }

    /// Sends the slot's request from its first byte, on its connection or a new one.
    fn begin(&mut self, place: usize) {
        self.slots[place].begin();
        if self.slots[place].socket.is_none() {
            let now = self.now();
            let Ok(socket) = Link::connect(self.plan.target, self.plan.tls.as_ref()) else {
                return self.fail(place, Fault::Connect);
            };
            self.slots[place].connect(socket, now);
            self.tally.connects += 1;
        }
        self.send(place);
    }

    fn send(&mut self, place: usize) {
        // A connection is there at the latest when the kernel takes bytes for it.
        let connected_ns = self.slots[place].connecting_since_ns.map(|since| (since, self.now()));
        let slot = &mut self.slots[place];
        let bytes = slot.bytes_to_send(self.plan);
        let Some(socket) = &mut slot.socket else { return };
        while slot.sent < bytes.len() {
            match socket.send(&bytes[slot.sent..]) {
                Moved::Bytes(count) => slot.sent += count,
                Moved::Later => break,
                Moved::End | Moved::Broken if slot.connecting_since_ns.is_some() => {
                    return self.fail(place, Fault::Connect);
                }
                // An early answer may be there all the same.
                Moved::End | Moved::Broken if slot.sent > 0 => {
                    slot.stage = Stage::Head;
                    slot.close = true;
                    return self.receive(place, true);
                }
                Moved::End | Moved::Broken => return self.lose(place, Fault::Reset),
            }
        }
        if slot.sent > 0
            && let Some((since, now)) = connected_ns
        {
            slot.connecting_since_ns = None;
            self.tally.connects_ns.record(now - since);
        }
        // Room to write is of interest only to a request that is not out: registered later, a
        // fresh connection brings no event but its answer.
        let wanted = if slot.sent == bytes.len() {
            self.tally.bytes_sent += bytes.len() as u64;
            slot.await_answer(self.plan);
            slot.interest.unwrap_or(Interest::Read)
        } else {
            Interest::ReadWrite
        };
        let Some(socket) = &slot.socket else { return };
        let registered = match slot.interest {
            None => self.poll.add(socket, place as u64, wanted),
            Some(current) if current != wanted => self.poll.modify(socket, place as u64, wanted),
            Some(_) => Ok(()),
        };
        slot.interest = Some(wanted);
        if registered.is_err() {
            self.fail(place, Fault::Connect);
        }
    }

    /// Does for one slot what its events allow.
    fn turn(&mut self, place: usize, flags: EventFlags) {
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if self.slots[place].stage == Stage::Sending {
            self.send(place);
        }
        match self.slots[place].stage {
            Stage::Idle if ended && self.slots[place].socket.is_some() => {
                self.tally.reconnects += 1;
                self.slots[place].disconnect();
            }
            Stage::Ending if ended => self.finish_ending(place),
            Stage::Idle | Stage::Ending => {}
            Stage::Sending | Stage::Head | Stage::Body | Stage::Chunks | Stage::UntilClose => {
                self.receive(place, ended);
            }
        }
    }

    /// Reads until the socket is empty, to the end when the server has `ended` its side.
    fn receive(&mut self, place: usize, ended: bool) {
        loop {
            let slot = &mut self.slots[place];
            let Some(socket) = &mut slot.socket else { return };
            let plain = match slot.stage {
                Stage::Body => Some(usize::try_from(slot.left).unwrap_or(usize::MAX)),
                Stage::UntilClose => Some(usize::MAX),
                _ => None,
            };
            let room = plain.map_or(ROOM_BYTES, |plain| plain.min(DISCARD_BYTES));
            let room = &mut self.scratch[..room];
            let asked = room.len();
            let moved = match plain {
                Some(_) => socket.discard(room),
                None => socket.receive(room),
            };
            let ended = ended || socket.has_ended();
            let count = match moved {
                Moved::Bytes(count) => count,
                Moved::Later => return,
                Moved::End if slot.stage == Stage::UntilClose => {
                    return self.complete(place, true);
                }
                Moved::End => return self.lose(place, Fault::Truncated),
                Moved::Broken if slot.connecting_since_ns.is_some() => {
                    return self.fail(place, Fault::Connect);
                }
                Moved::Broken => return self.lose(place, Fault::Reset),
            };
            self.tally.bytes_received += count as u64;
            match slot.take(&self.scratch[..count], self.plan) {
                Received::Part => {}
                Received::Whole => return self.complete(place, ended),
                Received::Tunnel => return self.begin(place),
                Received::Wrong(fault) => return self.fail(place, fault),
            }
            // A short read emptied the socket: the next bytes bring their own event.
            if count < asked && !ended {
                return;
            }
        }
    }

    /// A whole answer is there.
    fn complete(&mut self, place: usize, ended: bool) {
        let now = self.now();
        let slot = &mut self.slots[place];
        let (began_ns, fault, close) = (slot.began_ns, slot.fault, slot.close);
        let status = slot.status;
        // Whoever answers before it has everything does not read on.
        let early = slot.sent < slot.bytes_to_send(self.plan).len();
        slot.answers += 1;
        self.tally.answered += u64::from(fault.is_none() && self.phase == Phase::Window);
        if self.counts(began_ns) {
            self.tally.status(status);
            match fault {
                None => self.tally.good(now - began_ns),
                Some(fault) => self.tally.bad(fault),
            }
        }
        self.outstanding -= 1;
        if close && !ended && !early {
            let slot = &mut self.slots[place];
            slot.stage = Stage::Ending;
            slot.since_ns = now;
            return;
        }
        if ended || close || self.plan.per_request {
            self.tally.reconnects += u64::from(!self.plan.per_request);
            self.slots[place].disconnect();
        }
        self.go_on(place, now);
    }

    /// Whether a request belongs to the window. In a closed loop whatever ends in it does; at a
    /// rate, whatever was due in it, or a stall at its end would go unseen.
    fn counts(&self, began_ns: u64) -> bool {
        match self.plan.rate {
            None => self.phase == Phase::Window,
            Some(_) => {
                self.phase != Phase::Warmup && (self.starts_ns..self.ends_ns).contains(&began_ns)
            }
        }
    }

    /// The server has said that it will close, and has. Whoever closes first keeps the
    /// connection's TIME_WAIT, which must not be the asking side: its ports would run out.
    fn finish_ending(&mut self, place: usize) {
        self.tally.reconnects += u64::from(!self.plan.per_request);
        self.slots[place].disconnect();
        let now = self.now();
        self.go_on(place, now);
    }

    /// The connection is gone before the answer was whole. A kept one may have been closed before
    /// the request arrived: what may be sent twice is, on a new one.
    fn lose(&mut self, place: usize, fault: Fault) {
        let slot = &mut self.slots[place];
        let again = self.plan.expected == Expected::Success
            && self.plan.request.repeatable
            && slot.answers > 0
            && slot.has_heard_nothing();
        if again {
            self.tally.reconnects += 1;
            slot.disconnect();
            self.begin(place);
        } else {
            self.fail(place, fault);
        }
    }

    fn fail(&mut self, place: usize, fault: Fault) {
        if self.counts(self.slots[place].began_ns) {
            self.tally.bad(fault);
        }
        self.abandon(place);
    }

    /// Ends a request that went wrong, and its connection.
    fn abandon(&mut self, place: usize) {
        self.outstanding -= 1;
        let slot = &mut self.slots[place];
        slot.disconnect();
        slot.stage = Stage::Idle;
        match self.plan.rate {
            None => self.paused.push_back((self.now() + RETRY_PAUSE_NS, place)),
            Some(_) => self.idle.push_back(place),
        }
    }

    /// The slot is free: the next request, now or when one is due.
    fn go_on(&mut self, place: usize, now: u64) {
        self.slots[place].stage = Stage::Idle;
        self.idle.push_back(place);
        self.launch_what_is_due(now);
    }

    /// Gives up what has waited too long.
    fn look_for_late_ones(&mut self, now: u64) {
        if now < self.look_ns {
            return;
        }
        self.look_ns = now + LOOK_EVERY_NS;
        let timeout_ns = nanoseconds(self.plan.timeout);
        for place in 0..self.slots.len() {
            let slot = &self.slots[place];
            let waited_ns = now.saturating_sub(slot.since_ns);
            match slot.stage {
                Stage::Idle => {}
                Stage::Ending if waited_ns >= ENDING_WITHIN_NS => self.finish_ending(place),
                Stage::Ending => {}
                _ if waited_ns >= timeout_ns => {
                    let began_ns = slot.began_ns;
                    if self.counts(began_ns) {
                        self.tally.given_up(Fault::Timeout, now - began_ns);
                    }
                    self.abandon(place);
                }
                _ => {}
            }
        }
    }

    /// What is still out when the run ends has waited too long.
    fn count_unanswered(&mut self) {
        let now = self.now();
        let waiting = |slot: &&Slot| !matches!(slot.stage, Stage::Idle | Stage::Ending);
        let begins: Vec<u64> =
            self.slots.iter().filter(waiting).map(|slot| slot.began_ns).collect();
        for began_ns in begins {
            let counts = match self.plan.rate {
                None => now - began_ns >= UNANSWERED_AFTER_NS,
                Some(_) => self.counts(began_ns),
            };
            if counts {
                self.tally.given_up(Fault::Unanswered, now - began_ns);
            }
        }
        if self.plan.rate.is_some() {
            while let Some(due_ns) = self.pace.take(self.ends_ns.saturating_sub(1)) {
                if self.counts(due_ns) {
                    self.tally.given_up(Fault::Unanswered, now - due_ns);
                }
            }
        }
    }
}

/// A timer that ticks at this interval: exact where a time-out of epoll would round to 1 ms.
pub(super) fn pace_maker(interval_ns: u64) -> io::Result<OwnedFd> {
    let interval_ns = interval_ns.max(TICK_NS);
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let interval = Timespec {
        tv_sec: i64::try_from(interval_ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(interval_ns % 1_000_000_000).unwrap_or(0),
    };
    let ticks = Itimerspec { it_interval: interval, it_value: interval };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks)?;
    Ok(timer)
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
