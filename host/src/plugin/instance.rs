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
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::backoff::Debt;
use super::live::Live;
use super::load::Plugin;
use super::stats::Meter;
use super::stats::Outcome;

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
    /// `on-request-body`.
    RequestBody,
    /// `on-response-body`.
    ResponseBody,
    /// `on-log`.
    Log,
    /// `on-tick`.
    Tick,
    /// `shutdown`.
    Shutdown,
}

impl Hook {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Request,
        Self::Response,
        Self::RequestBody,
        Self::ResponseBody,
        Self::Log,
        Self::Tick,
        Self::Shutdown,
    ];

    /// As metrics and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "on-request",
            Self::Response => "on-response",
            Self::RequestBody => "on-request-body",
            Self::ResponseBody => "on-response-body",
            Self::Log => "on-log",
            Self::Tick => "on-tick",
            Self::Shutdown => "shutdown",
        }
    }
}

/// A plugin with one configuration, on one worker.
pub(super) struct Instance {
    plugin: Arc<Plugin>,
    config: Arc<str>,
    meter: Rc<Meter>,
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

impl Instance {
    /// Takes in one that was made elsewhere.
    pub(super) fn of(warm: Warm, meter: Rc<Meter>) -> Self {
        let slot = Slot { live: Some(warm.live), init_took: warm.took, ..Slot::default() };
        Self { plugin: warm.plugin, config: warm.config, meter, slot: RefCell::new(slot) }
    }

    /// Makes the instance up front, so that no request has to wait for it. When that fails, the
    /// reason comes along, and requests try again.
    pub(super) fn new(
        plugin: Arc<Plugin>,
        config: Arc<str>,
        meter: Rc<Meter>,
        now: Instant,
    ) -> (Self, Result<(), Box<Failure>>) {
        let instance = Self { plugin, config, meter, slot: RefCell::default() };
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
        slot.live.as_ref().map_or(0, Live::memory_bytes)
    }

    /// Log lines lost since this was last asked.
    pub(super) fn take_lines_dropped(&self) -> u64 {
        let mut slot = self.slot.borrow_mut();
        let dropped = std::mem::take(&mut slot.lines_dropped);
        dropped + slot.live.as_ref().map_or(0, Live::take_lines_dropped)
    }

    /// Calls a hook, as `call` does; `now` is when that begins, or shortly before.
    pub(super) fn call<R>(
        &self,
        now: Instant,
        call: impl FnOnce(&mut Live, Instant) -> Result<R, Box<Failure>>,
    ) -> Result<R, Box<Failure>> {
        let mut slot = self.slot.borrow_mut();
        let making = slot.live.is_none();
        let live = slot.ready(&self.plugin, &self.config, now)?;
        // The making has been counted.
        let now = if making { Instant::now() } else { now };
        let result = call(live, now);
        if let Err(failure) = &result
            // A broken rule leaves the instance sound.
            && failure.kind != FailureKind::Violation
        {
            slot.retire(failure, now);
        }
        result
    }

    /// Counts and logs what became of a call that belongs to no exchange.
    pub(super) fn report(&self, hook: Hook, called: Result<(), Box<Failure>>) {
        match called {
            Ok(()) => self.meter.record(hook, Outcome::Next),
            Err(failure) => self.meter.fail(hook, &failure),
        }
    }
}

impl Drop for Instance {
    /// The last chain that held it is gone: after a swap, a reload or a drain.
    fn drop(&mut self) {
        if self.plugin.hooks().has(Hook::Shutdown)
            && let Some(mut live) = self.slot.get_mut().live.take()
        {
            let now = Instant::now();
            self.report(Hook::Shutdown, live.on_time(Hook::Shutdown, now));
        }
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
            self.lines_dropped += live.take_lines_dropped();
        }
        let ended = Instant::now();
        self.debt.add(ended.saturating_duration_since(began), ended);
        let message =
            format!("it fails so much that it has to wait, the last time so: {}", failure.message);
        self.unavailable = Some(message.into());
    }
}
