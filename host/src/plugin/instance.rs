//! A plugin on one worker: a warm instance, called inline, replaced when it fails.
//!
//! ```text
//!            init                  hook returns
//!   none ───────────► ready ─────────────────────┐
//!    ▲  ▲               │ ▲──────────────────────┘
//!    │  └── next call ──┘ trap, time-out, memory: the store is thrown away
//!    └───── back-off, after several failures in a row
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

/// So many failures in a row are answered by a new instance at once: it costs some 60 µs, and
/// requests that make a plugin fail must not take it away from those that do not.
const FREE_FAILURES: u32 = 5;

/// From then on a new instance waits this long, twice as long after each further failure,
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// up to this long. One success and all is forgotten.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

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
    /// There is no instance: `init` failed, or it has failed so often that it has to wait.
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
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
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

/// What happens to a call whose time is up by the clock.
///
/// The clock also runs while the thread waits for a CPU, and a plugin is not to blame for a busy
/// machine. So from here on its CPU time counts: with half of the limit more, it is ended. A loop
/// ends after about twice the limit, a call that was kept waiting goes on.
fn overran(state: &mut State, time_max: Duration) -> UpdateDeadline {
    let used = crate::sys::thread_cpu_time();
    match state.overran_at {
        Some(then) if used.saturating_sub(then) >= time_max / 2 => UpdateDeadline::Interrupt,
        Some(_) => UpdateDeadline::Continue(1),
        None => {
            state.overran_at = Some(used);
            UpdateDeadline::Continue(1)
        }
    }
}

impl Live {
    /// Makes an instance and initialises it. May take [`INIT_TIME_MAX`].
    pub(super) fn new(plugin: &Plugin, config: &str) -> Result<Self, Failure> {
        let began = Instant::now();
        let limits = plugin.limits();
        let state = State::new(plugin.name(), limits.memory_bytes_max, plugin.engine.started());
        let mut store = Store::new(plugin.engine.wasmtime(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        let time_max = limits.time_max;
        store.epoch_deadline_callback(move |mut call| Ok(overran(call.data_mut(), time_max)));
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
        exchange: Box<Exchange>,
        began: Instant,
    ) -> (Box<Exchange>, Result<Flow, Failure>) {
        let Some(hook) = &self.request_filter else { return (exchange, Ok(Flow::Next)) };
        self.values.find(&self.request_fields, |field, out| field.of_request(&exchange, out));
        let state = self.store.data_mut();
        state.exchange = Some(exchange);
        state.overran_at = None;
        self.store.set_epoch_deadline(self.ticks);
        let answer = self.values.hand(|fields| hook.call_on_request(&mut self.store, fields));
        self.end(answer, began)
    }

    fn on_response(
        &mut self,
        exchange: Box<Exchange>,
        began: Instant,
    ) -> (Box<Exchange>, Result<Flow, Failure>) {
        let Some(hook) = &self.response_filter else { return (exchange, Ok(Flow::Next)) };
        let status = exchange.response.status;
        let fields = &exchange.response.fields;
        self.values.find(&self.response_fields, |field, out| field.of_response(fields, out));
        let state = self.store.data_mut();
        state.exchange = Some(exchange);
        state.overran_at = None;
        self.store.set_epoch_deadline(self.ticks);
        let answer =
            self.values.hand(|fields| hook.call_on_response(&mut self.store, status, fields));
        self.end(answer, began)
    }

    /// Takes the exchange back and judges the call.
    fn end(
        &mut self,
        answer: wasmtime::Result<Action>,
        began: Instant,
    ) -> (Box<Exchange>, Result<Flow, Failure>) {
        let state = self.store.data_mut();
        let mut exchange =
            state.exchange.take().expect("the caller put it there, and host functions only borrow");
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                state.reply.forget();
                return (exchange, Err(failure(&error, state, self.time_max, began)));
            }
        };
        let violation = match (state.violation.take(), answer) {
            (None, Action::Next) => {
                state.reply.forget();
                return (exchange, Ok(Flow::Next));
            }
            (None, Action::Respond) => {
                if state.reply.put_into(&mut exchange) {
                    return (exchange, Ok(Flow::Respond));
                }
                "it answered `respond` without a call of `reply.send`".to_owned()
            }
            (Some(violation), _) => violation,
        };
        state.reply.forget();
        (exchange, Err(Failure::new(FailureKind::Violation, violation)))
    }
}

/// Puts an error of wasmtime into words.
fn failure(
    error: &wasmtime::Error,
    state: &mut State,
    time_max: Duration,
    began: Instant,
) -> Failure {
    let refused = state.limiter.take_refused();
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
    let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames);
    if let Some(name) = frames.and_then(|frames| frames.first()?.func_name()) {
        message = format!("{message}, in `{name}`");
    }
    let mut journal = state.journal();
    let lines = journal.last_lines(began);
    if !lines.is_empty() {
        message = format!("{message}; it wrote: {}", lines.join(" | "));
    }
    Failure::new(kind, clean(message.as_bytes(), 4096))
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
    /// Since the last success.
    failures: u32,
    retry_at: Option<Instant>,
    last_failure: String,
    lines_dropped: u64,
}

impl Instance {
    /// Makes the instance up front, so that no request has to wait for it. When that fails, the
    /// reason comes along, and requests try again.
    pub(super) fn new(
        plugin: Arc<Plugin>,
        config: Arc<str>,
        now: Instant,
    ) -> (Self, Result<(), Failure>) {
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

    /// Calls a hook; `now` is when the call begins.
    pub(super) fn call(
        &self,
        hook: Hook,
        exchange: Box<Exchange>,
        now: Instant,
    ) -> (Box<Exchange>, Result<Flow, Failure>) {
        let mut slot = self.slot.borrow_mut();
        let live = match slot.ready(&self.plugin, &self.config, now) {
            Ok(live) => live,
            Err(failure) => return (exchange, Err(failure)),
        };
        let (exchange, result) = match hook {
            Hook::Request => live.on_request(exchange, now),
            Hook::Response => live.on_response(exchange, now),
        };
        match &result {
            // A broken rule leaves the instance sound.
            Ok(_) | Err(Failure { kind: FailureKind::Violation, .. }) => slot.failures = 0,
            Err(failure) => slot.retire(failure, now),
        }
        (exchange, result)
    }
}

impl Slot {
    /// The instance; a new one where there is none and none has to wait.
    fn ready(&mut self, plugin: &Plugin, config: &str, now: Instant) -> Result<&mut Live, Failure> {
        if self.live.is_none() {
            if self.retry_at.is_some_and(|retry_at| now < retry_at) {
                let message = format!(
                    "it failed {} times in a row, the last time so: {}",
                    self.failures, self.last_failure
                );
                return Err(Failure::new(FailureKind::Unavailable, message));
            }
            match Live::new(plugin, config) {
                Ok(live) => self.live = Some(live),
                Err(failure) => {
                    // Whether `init` works does not depend on requests: wait at once.
                    self.failures = self.failures.max(FREE_FAILURES);
                    self.retire(&failure, now);
                    let message = format!("no new instance: {}", failure.message);
                    return Err(Failure::new(FailureKind::Unavailable, message));
                }
            }
        }
        Ok(self.live.as_mut().expect("made above where it was missing"))
    }

    fn retire(&mut self, failure: &Failure, now: Instant) {
        if let Some(live) = self.live.take() {
            self.lines_dropped += live.store.data().journal().take_dropped();
        }
        self.failures = self.failures.saturating_add(1);
        self.last_failure.clone_from(&failure.message);
        let doublings = self.failures.checked_sub(FREE_FAILURES + 1);
        self.retry_at = doublings.map(|doublings| {
            now + BACKOFF_MAX.min(BACKOFF_MIN.saturating_mul(1 << doublings.min(10)))
        });
    }
}
