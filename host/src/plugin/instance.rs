//! A plugin on one worker: a warm instance, called inline, replaced when it fails.
//!
//! ```text
//!            init                  hook returns
//!   none ───────────► ready ─────────────────────┐
//!    ▲  ▲               │ ▲──────────────────────┘
//!    │  └── next call ──┘ trap, time-out, memory: the store is thrown away
//!    └───── back-off, when failures have cost too much
//! ```
//!
//! An instance lives in a store of its own, for a trap poisons the store in which it happens.
//! Everything is called synchronously on the worker's thread: a hook cannot wait, so there is
//! nothing to be gained by leaving it. No call allocates on the host but for what the plugin
//! itself asks for.
//!
//! Not here: which instances exist, and what a failure does to a request (`chain`).

#![expect(
    clippy::disallowed_methods,
    reason = "read where an instance is made or lost: both are slow"
)]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use wasmtime::Store;
use wasmtime::Trap;
use wasmtime::UpdateDeadline;
use wasmtime::WasmBacktrace;

use super::backoff::Debt;
use super::declared;
use super::declared::Field;
use super::declared::Values;
use super::engine::ticks;
use super::exchange::Exchange;
use super::exchange::Flow;
use super::host::State;
use super::host::bindings::exports::zproxy::gateway::request_filter;
use super::host::bindings::exports::zproxy::gateway::response_filter;
use super::host::bindings::zproxy::gateway::types::Action;
use super::host::clean;
use super::load::Plugin;

/// What one call of the host may carry: the largest body of a reply with its fields.
const HOSTCALL_BYTES_MAX: usize = (1024 + 256) * 1024;

/// Component-model handles of one instance: WASI's few, and what the guest makes for itself.
const HANDLES_MAX: usize = 4096;

/// Time for instantiation and `init`. The contract promises a second.
const INIT_TIME_MAX: Duration = Duration::from_secs(1);

/// CPU time after the limit that proves a call to be running, and not waiting for its turn. Half of
/// what a tick of the clock brings, so that the first tick after the limit ends a loop.
const OVERTIME_MAX: Duration = Duration::from_micros(2500);

/// How a hook can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It ended abnormally: a panic, a stack overflow, `exit`, an import that plugins do not get.
    Trap,
    /// It ran longer than it may.
    Timeout,
    /// It trapped after it was refused memory.
    Memory,
    /// It broke a rule of an interface: a bad field name, a bad reply.
    Violation,
    /// There is no instance: `init` failed, or its failures have cost so much that it has to wait.
    Unavailable,
}

impl FailureKind {
    /// As metrics and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Violation => "violation",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A hook that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    /// What an operator or author reads.
    pub(super) message: Arc<str>,
    /// Whether the exchange is as it was before the hook; notes aside, which nobody outside sees.
    pub(super) undone: bool,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, message: impl Into<Arc<str>>) -> Box<Self> {
        Box::new(Self { kind, message: message.into(), undone: true })
    }
}

/// A hook of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `on-request`.
    Request,
    /// `on-response`.
    Response,
}

impl Hook {
    /// As metrics and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "on-request",
            Self::Response => "on-response",
        }
    }
}

/// A store with an initialised instance in it.
pub(super) struct Live {
    store: Store<State>,
    request_filter: Option<request_filter::Guest>,
    response_filter: Option<response_filter::Guest>,
    request_fields: Box<[Field]>,
    response_fields: Box<[Field]>,
    values: Values,
    ticks: u64,
    time_max: Duration,
}

/// Whether a call whose time is up by the clock is to be ended; `used` is the thread's CPU time.
///
/// The clock also runs while the thread waits for a CPU, and a plugin is not to blame for a busy
/// machine. So from here on its CPU time counts: a loop ends a tick or two after its limit, whatever
/// that is, and a call that was kept waiting goes on.
fn is_over(overran_at: &mut Option<Duration>, used: Duration) -> bool {
    let since = *overran_at.get_or_insert(used);
    used.saturating_sub(since) >= OVERTIME_MAX
}

impl Live {
    /// Makes an instance and initialises it. May take [`INIT_TIME_MAX`].
    pub(super) fn new(plugin: &Plugin, config: &str) -> Result<Self, Box<Failure>> {
        let began = Instant::now();
        let limits = plugin.limits();
        let state = State::new(
            plugin.state(),
            &plugin.allow,
            limits.memory_bytes_max,
            plugin.engine.started(),
        );
        let mut store = Store::new(plugin.engine.wasmtime(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        store.epoch_deadline_callback(|mut call| {
            let used = crate::sys::thread_cpu_time();
            Ok(match is_over(&mut call.data_mut().overran_at, used) {
                true => UpdateDeadline::Interrupt,
                false => UpdateDeadline::Continue(1),
            })
        });
        store.set_epoch_deadline(ticks(INIT_TIME_MAX));

        let init = |store: &mut Store<State>| {
            let instance = plugin.component.instantiate(&mut *store)?;
            let lifecycle = plugin.lifecycle.load(&mut *store, &instance)?;
            let registration = lifecycle.call_init(&mut *store, config)?;
            let load =
                |indices: &request_filter::GuestIndices| indices.load(&mut *store, &instance);
            let request_filter = plugin.request_filter.as_ref().map(load).transpose()?;
            let load =
                |indices: &response_filter::GuestIndices| indices.load(&mut *store, &instance);
            let response_filter = plugin.response_filter.as_ref().map(load).transpose()?;
            wasmtime::Result::Ok((registration, request_filter, response_filter))
        };
        let (registration, request_filter, response_filter) = init(&mut store)
            .map_err(|error| failure(&error, store.data_mut(), INIT_TIME_MAX, began))?;
        let unavailable = |message: String| {
            Failure::new(FailureKind::Unavailable, clean(message.as_bytes(), 2048))
        };
        let registration = registration.map_err(unavailable)?;
        if let Some(violation) = store.data_mut().violation.take() {
            return Err(unavailable(violation));
        }
        let request_fields = declared::request_fields(&registration.request_fields);
        let response_fields = declared::response_fields(&registration.response_fields);
        Ok(Self {
            store,
            request_filter,
            response_filter,
            request_fields: request_fields.map_err(unavailable)?,
            response_fields: response_fields.map_err(unavailable)?,
            values: Values::default(),
            ticks: ticks(limits.time_max),
            time_max: limits.time_max,
        })
    }

    fn on_request(
        &mut self,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
    ) -> Result<Flow, Box<Failure>> {
        let (Some(hook), Some(exchange)) = (&self.request_filter, place.as_deref()) else {
            return Ok(Flow::Next);
        };
        self.values.find(&self.request_fields, |field, out| field.of_request(exchange, out));
        begin(&mut self.store, self.ticks, place);
        let answer = self.values.hand(|fields| hook.call_on_request(&mut self.store, fields));
        self.end(answer, place, began)
    }

    fn on_response(
        &mut self,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
    ) -> Result<Flow, Box<Failure>> {
        let (Some(hook), Some(exchange)) = (&self.response_filter, place.as_deref()) else {
            return Ok(Flow::Next);
        };
        let status = exchange.response.status;
        let fields = &exchange.response.fields;
        self.values.find(&self.response_fields, |field, out| field.of_response(fields, out));
        begin(&mut self.store, self.ticks, place);
        let answer =
            self.values.hand(|fields| hook.call_on_response(&mut self.store, status, fields));
        self.end(answer, place, began)
    }

    /// Takes the exchange back and judges the call.
    fn end(
        &mut self,
        answer: wasmtime::Result<Action>,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
    ) -> Result<Flow, Box<Failure>> {
        let state = self.store.data_mut();
        std::mem::swap(&mut state.exchange, place);
        let violation = state.violation.take();
        if violation.is_some() || !matches!(answer, Ok(Action::Next)) {
            state.captures.clear();
        }
        let mut failure = match (answer, violation) {
            (Ok(Action::Next), None) => {
                state.reply.forget();
                if let Some(exchange) = place {
                    exchange.captures.append(&mut state.captures);
                }
                return Ok(Flow::Next);
            }
            (Ok(Action::Respond), None) => {
                if place.as_mut().is_some_and(|exchange| state.reply.put_into(exchange)) {
                    return Ok(Flow::Respond);
                }
                let message = "it answered `respond` without a call of `reply.send`";
                Failure::new(FailureKind::Violation, message)
            }
            (Ok(_), Some(violation)) => Failure::new(FailureKind::Violation, violation),
            (Err(error), _) => failure(&error, state, self.time_max, began),
        };
        state.reply.forget();
        if let (Some(mark), Some(exchange)) = (&state.mark, place) {
            failure.undone = exchange.roll_back(mark);
        }
        Err(failure)
    }
}

/// Hands the exchange over and starts the clock.
fn begin(store: &mut Store<State>, ticks: u64, place: &mut Option<Box<Exchange>>) {
    let state = store.data_mut();
    std::mem::swap(&mut state.exchange, place);
    state.mark = None;
    state.overran_at = None;
    state.limiter.forget_refused();
    store.set_epoch_deadline(ticks);
}

/// Puts an error of wasmtime into words.
fn failure(
    error: &wasmtime::Error,
    state: &mut State,
    time_max: Duration,
    began: Instant,
) -> Box<Failure> {
    let refused = state.limiter.refused();
    let trap = error.downcast_ref::<Trap>();
    let (kind, mut message) = match trap {
        Some(Trap::Interrupt) => (FailureKind::Timeout, format!("it ran longer than {time_max:?}")),
        Some(Trap::StackOverflow) => (FailureKind::Trap, "it overflowed its stack".to_owned()),
        _ if refused => {
            let held = state.limiter.memory_bytes() / 1024;
            (FailureKind::Memory, format!("it was refused memory beyond the {held} KiB it has"))
        }
        Some(trap) => (FailureKind::Trap, trap.to_string()),
        None => (FailureKind::Trap, error.root_cause().to_string()),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        message.push_str(&way(backtrace));
    }
    let mut journal = state.journal();
    let lines = journal.last_lines(began);
    if !lines.is_empty() {
        message = format!("{message}; it wrote: {}", lines.join(" | "));
    }
    Failure::new(kind, clean(message.as_bytes(), 4096))
}

/// Functions of a back-trace that are named: enough to tell who called what, on one line.
const FRAMES_MAX: usize = 12;

/// Bytes of a function's name that are shown.
const FRAME_BYTES_MAX: usize = 200;

/// The functions that a failure came through, the innermost first, with their places in the source when
/// the component carries those (DWARF).
fn way(backtrace: &WasmBacktrace) -> String {
    let mut frames = Vec::new();
    for frame in backtrace.frames() {
        // Functions that the compiler has put into this one come first.
        for symbol in frame.symbols() {
            let name = symbol.name().or(frame.func_name());
            let place = symbol.file().map(|file| match symbol.line() {
                Some(line) => format!(" ({file}:{line})"),
                None => format!(" ({file})"),
            });
            frames.extend(name.map(|name| (name, place.unwrap_or_default())));
        }
        if frame.symbols().is_empty() {
            frames.extend(frame.func_name().map(|name| (name, String::new())));
        }
    }
    let mut text = String::new();
    for (index, (name, place)) in frames.iter().take(FRAMES_MAX).enumerate() {
        let between = if index == 0 { ", in" } else { " <" };
        let name = clean(name.as_bytes(), FRAME_BYTES_MAX);
        text.push_str(&format!("{between} `{name}`{place}"));
    }
    if frames.len() > FRAMES_MAX {
        text.push_str(" < …");
    }
    text
}

/// A plugin with one configuration, on one worker.
pub(super) struct Instance {
    plugin: Arc<Plugin>,
    config: Arc<str>,
    slot: RefCell<Slot>,
}

#[derive(Default)]
struct Slot {
    live: Option<Live>,
    debt: Debt,
    /// What the last instance took to make.
    init_took: Duration,
    /// Why there is no instance.
    unavailable: Option<Arc<str>>,
    lines_dropped: u64,
}

/// An instance that was made where that may take its time, on its way to the worker that will call
/// it.
pub struct Warm {
    plugin: Arc<Plugin>,
    config: Arc<str>,
    live: Live,
    took: Duration,
}

impl Warm {
    pub(super) fn new(plugin: &Arc<Plugin>, config: &Arc<str>) -> Result<Self, Box<Failure>> {
        let began = Instant::now();
        let live = Live::new(plugin, config)?;
        let (plugin, config) = (Arc::clone(plugin), Arc::clone(config));
        Ok(Self { plugin, config, live, took: began.elapsed() })
    }

    /// Whether it is of this plugin and configuration.
    pub(super) fn is_of(&self, plugin: &Plugin, config: &str) -> bool {
        self.plugin.generation() == plugin.generation() && *self.config == *config
    }
}

impl From<Warm> for Instance {
    fn from(warm: Warm) -> Self {
        let slot = Slot { live: Some(warm.live), init_took: warm.took, ..Slot::default() };
        Self { plugin: warm.plugin, config: warm.config, slot: RefCell::new(slot) }
    }
}

impl Instance {
    /// Makes the instance up front, so that no request has to wait for it. When that fails, the
    /// reason comes along, and requests try again.
    pub(super) fn new(
        plugin: Arc<Plugin>,
        config: Arc<str>,
        now: Instant,
    ) -> (Self, Result<(), Box<Failure>>) {
        let instance = Self { plugin, config, slot: RefCell::default() };
        let mut slot = instance.slot.borrow_mut();
        let made = slot.ready(&instance.plugin, &instance.config, now).map(|_| ());
        drop(slot);
        (instance, made)
    }

    pub(super) fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Whether it can stand in for an instance of this plugin and configuration.
    pub(super) fn is_of(&self, plugin: &Plugin, config: &str) -> bool {
        self.plugin.generation() == plugin.generation() && *self.config == *config
    }

    /// Linear memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        let slot = self.slot.borrow();
        slot.live.as_ref().map_or(0, |live| live.store.data().limiter.memory_bytes())
    }

    /// Log lines lost since this was last asked.
    pub(super) fn take_lines_dropped(&self) -> u64 {
        let mut slot = self.slot.borrow_mut();
        let dropped = std::mem::take(&mut slot.lines_dropped);
        dropped + slot.live.as_ref().map_or(0, |live| live.store.data().journal().take_dropped())
    }

    /// Calls a hook with the exchange in `place`, and leaves it there. `now` is when the call begins,
    /// or shortly before.
    pub(super) fn call(
        &self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        now: Instant,
    ) -> Result<Flow, Box<Failure>> {
        let mut slot = self.slot.borrow_mut();
        let making = slot.live.is_none();
        let live = slot.ready(&self.plugin, &self.config, now)?;
        // The making has been counted.
        let now = if making { Instant::now() } else { now };
        let result = match hook {
            Hook::Request => live.on_request(place, now),
            Hook::Response => live.on_response(place, now),
        };
        if let Err(failure) = &result
            // A broken rule leaves the instance sound.
            && failure.kind != FailureKind::Violation
        {
            slot.retire(failure, now);
        }
        result
    }
}

impl Slot {
    /// The instance; a new one where there is none and none has to wait.
    fn ready(
        &mut self,
        plugin: &Plugin,
        config: &str,
        now: Instant,
    ) -> Result<&mut Live, Box<Failure>> {
        if self.live.is_none() {
            self.live = Some(self.make(plugin, config, now)?);
        }
        Ok(self.live.as_mut().expect("made above where it was missing"))
    }

    #[cold]
    fn make(&mut self, plugin: &Plugin, config: &str, now: Instant) -> Result<Live, Box<Failure>> {
        let failure = plugin.limits().time_max + self.init_took;
        if let Some(message) = &self.unavailable
            && self.debt.is_due(failure, now)
        {
            return Err(Failure::new(FailureKind::Unavailable, Arc::clone(message)));
        }
        let began = Instant::now();
        let made = Live::new(plugin, config);
        let ended = Instant::now();
        let took = ended.saturating_duration_since(began);
        match made {
            Ok(live) => {
                // The first instance is nobody's fault.
                if self.unavailable.is_some() {
                    self.debt.add(took, ended);
                }
                self.init_took = took;
                Ok(live)
            }
            Err(failed) => {
                self.debt.add_init(took, failure, ended);
                let message: Arc<str> = format!("no new instance: {}", failed.message).into();
                self.unavailable = Some(Arc::clone(&message));
                Err(Failure::new(FailureKind::Unavailable, message))
            }
        }
    }

    /// Throws the instance away after a call that began at `began` and failed.
    #[cold]
    fn retire(&mut self, failure: &Failure, began: Instant) {
        if let Some(live) = self.live.take() {
            self.lines_dropped += live.store.data().journal().take_dropped();
        }
        let ended = Instant::now();
        self.debt.add(ended.saturating_duration_since(began), ended);
        let message =
            format!("it fails so much that it has to wait, the last time so: {}", failure.message);
        self.unavailable = Some(message.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_that_runs_is_ended_at_its_limit() {
        let ms = Duration::from_millis;
        let mut running = None;
        let mut waiting = None;

        assert!(!is_over(&mut running, ms(100)), "it may only just be back");
        assert!(!is_over(&mut running, ms(102)));
        assert!(is_over(&mut running, ms(103)));
        assert!((0..1000).all(|_| !is_over(&mut waiting, ms(100))));
    }
}
