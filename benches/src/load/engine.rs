//! The event loop of a load, and the life of one request on one slot.
//!
//! ```text
//! Idle ─launch─► Sending ─► Head ─► Body ─► Idle            (connection kept)
//!                  │          │       └───► Ending ─► Idle  (own connection: wait for its end)
//!                  └── fault ─┴─► Idle, connection closed
//! ```
//!
//! Not here: what is counted and how it is written (`tally`).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::epoll::EventFlags;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use serde_json::{Map, Value, json};

use super::Plan;
use super::tally::{Fault, Tally};
use crate::sockets::{self, Interest, Moved, Poll};
use crate::{http, process};

/// First receive of a response: holds every head, and all of a small response.
const HEAD_ROOM_BYTES: usize = 16 << 10;
/// What one call may discard of a body.
const DISCARD_BYTES: usize = 1 << 20;
/// A slot that failed waits so long in a closed loop, so that a dead proxy is not hammered.
const RETRY_PAUSE_NS: u64 = 10_000_000;
/// Requests of a paced load may come back so long after its window.
const GRACE_NS: u64 = 1_000_000_000;
/// An answer that a closed loop has waited for so long at its end counts as none.
const UNANSWERED_AFTER_NS: u64 = 1_000_000_000;
/// The pace maker's key; slots are numbered from 0.
const PACE: u64 = u64::MAX;

/// Runs one load to its end.
pub(crate) fn run(plan: &Plan) -> Result<Value> {
    let mut engine = Engine::new(plan)?;
    engine.run()?;
    Ok(engine.tally.to_json(engine.window_ns, &engine.cpu_ns))
}

/// Where a slot stands with its request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Sending,
    Head,
    Body,
    Ending,
}

/// One place for a request in flight.
struct Slot {
    socket: Option<OwnedFd>,
    stage: Stage,
    /// How the socket is registered, if it is.
    interest: Option<Interest>,
    /// Bytes of the request that are out.
    sent: usize,
    /// When it was sent, or due; nanoseconds of the run.
    began_ns: u64,
    /// A response head of which only the beginning has come.
    partial: Vec<u8>,
    /// Bytes of the body still to come.
    left: u64,
    /// What was wrong with the head; told when the body has passed.
    fault: Option<Fault>,
    /// The server will close the connection.
    close: bool,
}

struct Engine<'a> {
    plan: &'a Plan,
    poll: Poll,
    /// Ticks when a request of a paced load is due.
    pace_maker: Option<OwnedFd>,
    clock: Instant,
    /// Between two requests of a paced load.
    interval_ns: u64,
    slots: Vec<Slot>,
    /// Slots without a request, the longest idle first (paced load).
    idle: VecDeque<usize>,
    /// Slots that failed, and when they try again (closed loop).
    retries: VecDeque<(u64, usize)>,
    /// Number of the next request due (paced load).
    next_due: u64,
    starts_ns: u64,
    ends_ns: u64,
    measuring: bool,
    tally: Tally,
    window_ns: u64,
    cpu_ns: Map<String, Value>,
    scratch: Vec<u8>,
}

impl<'a> Engine<'a> {
    fn new(plan: &'a Plan) -> Result<Self> {
        let poll = Poll::new()?;
        // The clock starts first: a tick that came before the moment at which its request is due
        // would leave the request to the next tick.
        let clock = Instant::now();
        let interval_ns = 1_000_000_000 / plan.rate.unwrap_or(1);
        let pace_maker = plan.rate.map(|_| pace_maker(interval_ns)).transpose()?;
        if let Some(timer) = &pace_maker {
            poll.add(timer, PACE, Interest::Read)?;
        }
        let starts_ns = nanoseconds(plan.warmup);
        Ok(Self {
            plan,
            poll,
            pace_maker,
            clock,
            interval_ns,
            slots: (0..plan.connections).map(|_| Slot::new()).collect(),
            idle: VecDeque::new(),
            retries: VecDeque::new(),
            next_due: 0,
            starts_ns,
            ends_ns: starts_ns + nanoseconds(plan.window),
            measuring: false,
            tally: Tally::new(),
            window_ns: 0,
            cpu_ns: Map::new(),
            scratch: vec![0; DISCARD_BYTES],
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(1_024);
        match self.plan.rate {
            None => (0..self.slots.len()).for_each(|slot| self.launch(slot, 0)),
            Some(_) => self.idle.extend(0..self.slots.len()),
        }
        let mut before = Vec::new();
        loop {
            let now = self.now();
            if !self.measuring && self.window_ns == 0 && now >= self.starts_ns {
                self.measuring = true;
                self.tally.clear();
                self.starts_ns = now;
                self.ends_ns = now + nanoseconds(self.plan.window);
                before = self.read_cpu_times();
            } else if self.measuring && now >= self.ends_ns {
                self.measuring = false;
                self.cpu_ns = differences(before.drain(..), self.read_cpu_times());
                self.window_ns = now - self.starts_ns;
            }
            if self.window_ns > 0 && self.is_over(now) {
                break;
            }
            self.launch_what_is_due(now);
            // Short enough to notice the ends of the window and retries that are due.
            self.poll.wait(&mut events, Some(5))?;
            for event in &events {
                let key = event.data.u64();
                if key == PACE {
                    self.await_next_tick();
                } else {
                    self.turn(usize::try_from(key)?, event.flags);
                }
            }
        }
        self.count_unanswered();
        Ok(())
    }

    fn now(&self) -> u64 {
        nanoseconds(self.clock.elapsed())
    }

    fn read_cpu_times(&self) -> Vec<(String, u64)> {
        let own = vec![std::process::id()];
        let watched = self.plan.watch.iter().map(|(name, pids)| (name.clone(), pids));
        watched
            .chain([("load".to_owned(), &own)])
            .map(|(name, pids)| (name, process::cpu_time_ns(pids)))
            .collect()
    }

    /// After the window a paced load waits a while for what is still out.
    fn is_over(&self, now: u64) -> bool {
        let all_back = self.idle.len() == self.slots.len() && !self.is_due(self.ends_ns - 1);
        self.plan.rate.is_none() || all_back || now >= self.ends_ns + GRACE_NS
    }

    /// When a request of a paced load is due: at the tick of its number.
    fn due_ns(&self, number: u64) -> u64 {
        number.saturating_mul(self.interval_ns)
    }

    fn is_due(&self, now: u64) -> bool {
        self.due_ns(self.next_due) <= now
    }

    fn launch_what_is_due(&mut self, now: u64) {
        while self.retries.front().is_some_and(|retry| retry.0 <= now) {
            if let Some((_, slot)) = self.retries.pop_front() {
                self.launch(slot, now);
            }
        }
        if self.plan.rate.is_none() {
            return;
        }
        // Nothing new after the window, but what was due in it and found no connection yet.
        let now = if self.window_ns > 0 { now.min(self.ends_ns - 1) } else { now };
        while self.is_due(now) {
            let Some(slot) = self.idle.pop_front() else { return };
            let due_ns = self.due_ns(self.next_due);
            self.next_due += 1;
            self.launch(slot, due_ns);
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
    fn launch(&mut self, place: usize, began_ns: u64) {
        let slot = &mut self.slots[place];
        slot.began_ns = began_ns;
        slot.sent = 0;
        slot.fault = None;
        slot.close = false;
        slot.stage = Stage::Sending;
        if slot.socket.is_none() {
            match sockets::connect(self.plan.target) {
                Ok(socket) => slot.socket = Some(socket),
                Err(_) => return self.fail(place, Fault::Connection),
            }
            slot.interest = None;
            self.tally.connects += 1;
        }
        self.send(place);
    }

    fn send(&mut self, place: usize) {
        let slot = &mut self.slots[place];
        let Some(socket) = &slot.socket else { return };
        while slot.sent < self.plan.request.len() {
            match sockets::send(socket, &self.plan.request[slot.sent..]) {
                Moved::Bytes(count) => slot.sent += count,
                Moved::Later => break,
                Moved::End | Moved::Broken => return self.fail(place, Fault::Connection),
            }
        }
        // Room to write is of interest only to a request that is not out: registered later, a
        // fresh connection brings no event but its answer.
        let wanted = if slot.sent == self.plan.request.len() {
            slot.stage = Stage::Head;
            slot.interest.unwrap_or(Interest::Read)
        } else {
            Interest::ReadWrite
        };
        let registered = match slot.interest {
            None => self.poll.add(socket, place as u64, wanted),
            Some(current) if current != wanted => self.poll.modify(socket, place as u64, wanted),
            Some(_) => Ok(()),
        };
        slot.interest = Some(wanted);
        if registered.is_err() {
            self.fail(place, Fault::Connection);
        }
    }

    /// Does for one slot what its events allow.
    fn turn(&mut self, place: usize, flags: EventFlags) {
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if self.slots[place].stage == Stage::Sending {
            self.send(place);
        }
        match self.slots[place].stage {
            Stage::Idle if ended => self.disconnect(place),
            Stage::Idle => {}
            Stage::Ending => self.await_end(place, ended),
            Stage::Sending | Stage::Head | Stage::Body => self.receive(place, ended),
        }
    }

    /// Reads until the socket is empty, to the end when the server has `ended` its side.
    fn receive(&mut self, place: usize, ended: bool) {
        loop {
            let slot = &mut self.slots[place];
            let Some(socket) = &slot.socket else { return };
            let in_body = slot.stage == Stage::Body;
            let room = if in_body {
                usize::try_from(slot.left).unwrap_or(usize::MAX).min(DISCARD_BYTES)
            } else {
                HEAD_ROOM_BYTES
            };
            let room = &mut self.scratch[..room];
            let moved = if in_body {
                sockets::discard(socket, room)
            } else {
                sockets::receive(socket, room)
            };
            let asked = room.len();
            let count = match moved {
                Moved::Bytes(count) => count,
                Moved::Later => return,
                Moved::End => return self.fail(place, Fault::Truncated),
                Moved::Broken => return self.fail(place, Fault::Connection),
            };
            let whole = if in_body {
                slot.left -= count as u64;
                slot.left == 0
            } else {
                match slot.take_head(&self.scratch[..count], self.plan.body_bytes) {
                    Ok(whole) => whole,
                    Err(fault) => return self.fail(place, fault),
                }
            };
            if whole {
                return self.complete(place, ended);
            }
            // A short read emptied the socket: the next bytes bring their own event.
            if count < asked && !ended {
                return;
            }
        }
    }

    /// A whole response is there.
    fn complete(&mut self, place: usize, ended: bool) {
        let now = self.now();
        let slot = &mut self.slots[place];
        let began_ns = slot.began_ns;
        let fault = slot.fault;
        let early = slot.sent < self.plan.request.len();
        let close = slot.close;
        match fault {
            _ if early => return self.fail(place, Fault::Truncated),
            Some(fault) if self.counts(began_ns) => self.tally.bad(fault),
            None => {
                self.tally.answered += u64::from(self.measuring);
                if self.counts(began_ns) {
                    self.tally.good(now - began_ns);
                }
            }
            Some(_) => {}
        }
        if self.plan.per_request && !ended {
            self.slots[place].stage = Stage::Ending;
            return;
        }
        if ended || close {
            self.tally.reconnects += u64::from(!self.plan.per_request);
            self.disconnect(place);
        }
        self.go_on(place, now);
    }

    /// Whether a request belongs to the window. In a closed loop whatever ends in it does; at a
    /// rate, whatever was due in it, or a stall at its end would go unseen.
    fn counts(&self, began_ns: u64) -> bool {
        match self.plan.rate {
            None => self.measuring,
            Some(_) => {
                (self.measuring || self.window_ns > 0)
                    && (self.starts_ns..self.ends_ns).contains(&began_ns)
            }
        }
    }

    /// The server has answered on a connection of its own, and now has to close it: whoever
    /// closes first keeps the connection's TIME_WAIT, which must not be the asking side.
    fn await_end(&mut self, place: usize, ended: bool) {
        if ended {
            self.disconnect(place);
            let now = self.now();
            self.go_on(place, now);
        }
    }

    fn fail(&mut self, place: usize, fault: Fault) {
        if self.counts(self.slots[place].began_ns) {
            self.tally.bad(fault);
        }
        self.disconnect(place);
        self.slots[place].stage = Stage::Idle;
        match self.plan.rate {
            None => self.retries.push_back((self.now() + RETRY_PAUSE_NS, place)),
            Some(_) => self.idle.push_back(place),
        }
    }

    fn disconnect(&mut self, place: usize) {
        let slot = &mut self.slots[place];
        slot.socket = None;
        slot.partial.clear();
    }

    /// The slot is free: the next request, now or when one is due.
    fn go_on(&mut self, place: usize, now: u64) {
        self.slots[place].stage = Stage::Idle;
        match self.plan.rate {
            None => self.launch(place, now),
            Some(_) => {
                self.idle.push_back(place);
                self.launch_what_is_due(now);
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
                self.tally.unanswered(now - began_ns);
            }
        }
        while self.plan.rate.is_some() && self.is_due(self.ends_ns - 1) {
            let due_ns = self.due_ns(self.next_due);
            self.next_due += 1;
            if self.counts(due_ns) {
                self.tally.unanswered(now - due_ns);
            }
        }
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            socket: None,
            stage: Stage::Idle,
            interest: None,
            sent: 0,
            began_ns: 0,
            partial: Vec::new(),
            left: 0,
            fault: None,
            close: false,
        }
    }

    /// Takes received bytes up to the end of the head and what follows it; says whether the
    /// response is whole already.
    fn take_head(&mut self, bytes: &[u8], body_bytes: u64) -> Result<bool, Fault> {
        if self.partial.is_empty() {
            let Some(head) = http::find_head(bytes) else {
                self.partial = bytes.to_vec();
                return Ok(false);
            };
            return self.begin_body(&head, bytes.len(), body_bytes);
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(bytes);
        match http::find_head(&joined) {
            Some(head) => self.begin_body(&head, joined.len(), body_bytes),
            None if joined.len() > HEAD_ROOM_BYTES => Err(Fault::Malformed),
            None => {
                self.partial = joined;
                Ok(false)
            }
        }
    }

    /// Reads the head's framing; `received` bytes are there from its beginning on.
    fn begin_body(
        &mut self,
        head: &http::Head<'_>,
        received: usize,
        body_bytes: u64,
    ) -> Result<bool, Fault> {
        let length = head.content_length.ok_or(Fault::Malformed)?;
        let here = (received - head.bytes) as u64;
        self.left = length.checked_sub(here).ok_or(Fault::Malformed)?;
        self.close = head.close;
        self.fault = match head.status() {
            Some(200) => (length != body_bytes).then_some(Fault::Length),
            _ => Some(Fault::Status),
        };
        self.stage = Stage::Body;
        Ok(self.left == 0)
    }
}

/// A timer that ticks at this interval: exact where a time-out of epoll would round to 1 ms.
fn pace_maker(interval_ns: u64) -> Result<OwnedFd> {
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let interval = Timespec {
        tv_sec: i64::try_from(interval_ns / 1_000_000_000)?,
        tv_nsec: i64::try_from(interval_ns % 1_000_000_000)?,
    };
    let ticks = Itimerspec { it_interval: interval, it_value: interval };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks)?;
    Ok(timer)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn differences(
    before: impl Iterator<Item = (String, u64)>,
    after: Vec<(String, u64)>,
) -> Map<String, Value> {
    let pairs = before.zip(after);
    pairs.map(|((name, before), (_, after))| (name, json!(after.saturating_sub(before)))).collect()
}
