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
//! A plugin that imports callouts is of another kind: its head hooks are called on a fiber and may wait
//! (`Instance::wait`), so that it has as many instances as requests wait in it, up to a limit.
//!
//! Not here: which instances exist, and what a failure does to a request (`chain`).

#![expect(
    clippy::disallowed_methods,
    reason = "read where an instance is made or lost: both are slow"
)]

use std::cell::Cell;
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Notify;

use super::backoff::Debt;
use super::broken::Outage;
use super::callout::Asks;
use super::callout::CalloutError;
use super::callout::Scope;
use super::callout::outcome_of;
use super::failure::Failure;
use super::failure::FailureKind;
use super::live::Live;
use super::load::Plugin;
use super::remote::Handle;
use super::stats::Meter;
use super::stats::Outcome;

/// Requests that may wait for an instance of a plugin that waits. More than these would only wait to fail.
const QUEUED_MAX: usize = 1024;

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
    /// `on-message`.
    Message,
    /// `on-log`.
    Log,
    /// `on-tick`.
    Tick,
    /// `shutdown`.
    Shutdown,
}

impl Hook {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Request,
        Self::Response,
        Self::RequestBody,
        Self::ResponseBody,
        Self::Message,
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
            Self::Message => "on-message",
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
    /// The instance that is called; of a plugin that waits, one of those that nobody waits in.
    slot: RefCell<Slot>,
    /// The others.
    idle: RefCell<Vec<Live>>,
    /// How many are waited in.
    out: Cell<usize>,
    /// Requests that wait for one of those.
    queued: Cell<usize>,
    /// Whether `on-tick` is being called, which may wait, too.
    ticking: Cell<bool>,
    /// Rung when one is free, or there is room for another.
    freed: Notify,
}

#[derive(Default)]
struct Slot {
    live: Option<Live>,
    debt: Debt,
    /// What the last instance took to make.
    init_took: Duration,
    /// Why there is no instance.
    unavailable: Option<Arc<str>>,
    /// That there was none when one was wanted.
    broken: Option<Outage>,
    lines_dropped: u64,
    /// Where instances find counters that other gateways share.
    remote: Option<Handle>,
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
    pub(super) fn of(warm: Warm, meter: Rc<Meter>, remote: Option<Handle>) -> Self {
        let mut live = warm.live;
        live.reach(remote.clone());
        let slot = Slot { live: Some(live), init_took: warm.took, remote, ..Slot::default() };
        Self::with(warm.plugin, warm.config, meter, slot)
    }

    fn with(plugin: Arc<Plugin>, config: Arc<str>, meter: Rc<Meter>, slot: Slot) -> Self {
        Self {
            plugin,
            config,
            meter,
            slot: RefCell::new(slot),
            idle: RefCell::default(),
            out: Cell::new(0),
            queued: Cell::new(0),
            ticking: Cell::new(false),
            freed: Notify::new(),
        }
    }

    /// Makes the instance up front, so that no request has to wait for it. When that fails, the
    /// reason comes along, and requests try again.
    pub(super) fn new(
        plugin: Arc<Plugin>,
        config: Arc<str>,
        meter: Rc<Meter>,
        remote: Option<Handle>,
        now: Instant,
    ) -> (Self, Result<(), Box<Failure>>) {
        let slot = Slot { remote, ..Slot::default() };
        let instance = Self::with(plugin, config, meter, slot);
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
        let (slot, idle) = (self.slot.borrow(), self.idle.borrow());
        slot.live.iter().chain(&*idle).map(Live::memory_bytes).sum()
    }

    /// Why it is broken, if it is.
    pub(super) fn problem(&self) -> Option<Arc<str>> {
        self.slot.borrow().broken.as_ref().map(|outage| Arc::clone(outage.problem()))
    }

    /// Fuel that the last call has used, where it is counted.
    pub(super) fn fuel_used(&self) -> Option<u64> {
        self.slot.borrow().live.as_ref().or(self.idle.borrow().last()).and_then(Live::fuel_used)
    }

    /// Log lines lost since this was last asked.
    pub(super) fn take_lines_dropped(&self) -> u64 {
        let mut slot = self.slot.borrow_mut();
        let dropped = std::mem::take(&mut slot.lines_dropped);
        let idle = self.idle.borrow();
        dropped + slot.live.iter().chain(&*idle).map(Live::take_lines_dropped).sum::<u64>()
    }

    /// Calls a hook, as `call` does; `now` is when that begins, or shortly before.
    pub(super) fn call<R>(
        &self,
        now: Instant,
        call: impl FnOnce(&mut Live, Instant) -> Result<R, Box<Failure>>,
    ) -> Result<R, Box<Failure>> {
        let mut slot = self.slot.borrow_mut();
        if slot.live.is_none() {
            slot.live = self.idle.borrow_mut().pop();
        }
        let making = slot.live.is_none();
        let live = slot.ready(&self.plugin, &self.config, now)?;
        // The making has been counted.
        let now = if making { Instant::now() } else { now };
        let result = call(live, now);
        if let Err(failure) = &result
            && !failure.kind.leaves_it_sound()
        {
            slot.retire(failure, now);
        }
        result
    }

    /// Calls a hook that may wait, while `scope` answers what it asks. As many instances are waited in as
    /// the plugin may have; further requests wait for one of them.
    ///
    /// Cancel safety: dropping the future gives the instance up.
    pub(super) async fn wait<R>(
        &self,
        scope: &mut Scope<'_>,
        call: impl AsyncFnOnce(&mut Live, Asks, Instant) -> Result<R, Box<Failure>>,
    ) -> Result<R, Box<Failure>> {
        let lent = self.lend(scope).await?;
        self.wait_in(lent, scope, call).await
    }

    /// The same in an instance that was lent.
    async fn wait_in<R>(
        &self,
        mut lent: Lent<'_>,
        scope: &mut Scope<'_>,
        call: impl AsyncFnOnce(&mut Live, Asks, Instant) -> Result<R, Box<Failure>>,
    ) -> Result<R, Box<Failure>> {
        let began = Instant::now();
        let Some(live) = &mut lent.live else { return Err(self.busy()) };
        let (asks, mut asked) = live.take_channel();
        let result = {
            let mut calling = pin!(call(live, asks.clone(), began));
            let mut over = false;
            loop {
                let ask = tokio::select! {
                    biased;
                    result = &mut calling => break result,
                    Some(ask) = asked.recv() => ask,
                };
                let answer = match over {
                    true => None,
                    false => scope.send(ask.request, self.plugin.allow()).await,
                };
                over = answer.is_none();
                let answer = answer.unwrap_or(Err(CalloutError::Timeout));
                self.meter.record_callout(outcome_of(&answer));
                // Who does not wait any more needs no answer.
                let _ = ask.answer.send(answer);
            }
        };
        live.keep_channel((asks, asked));
        for _ in 0..live.take_busy() {
            self.meter.record_callout(outcome_of(&Err(CalloutError::Busy)));
        }
        lent.is_sound = true;
        if let Err(failure) = &result
            && !failure.kind.leaves_it_sound()
        {
            lent.is_sound = false;
            self.slot.borrow_mut().charge(failure, began);
        }
        result
    }

    /// An instance that nobody waits in.
    async fn lend(&self, scope: &Scope<'_>) -> Result<Lent<'_>, Box<Failure>> {
        loop {
            let live = self.free_or_new()?;
            if live.is_some() {
                self.out.set(self.out.get() + 1);
                return Ok(Lent { home: self, live, is_sound: false });
            }
            let now = Instant::now();
            if self.queued.get() >= QUEUED_MAX || now >= scope.until {
                return Err(self.busy());
            }
            let place = Queued::new(&self.queued);
            let left = scope.until.saturating_duration_since(now);
            let _ = tokio::time::timeout(left, self.freed.notified()).await;
            drop(place);
        }
    }

    /// An instance that nobody waits in, if one more may be waited in. Hooks that do not wait have one of their own
    /// by the side then.
    fn free_or_new(&self) -> Result<Option<Live>, Box<Failure>> {
        if self.out.get() >= self.plugin.limits().instances_max {
            return Ok(None);
        }
        let mut slot = self.slot.borrow_mut();
        match slot.live.take().or_else(|| self.idle.borrow_mut().pop()) {
            Some(live) => Ok(Some(live)),
            None => slot.make(&self.plugin, &self.config, Instant::now()).map(Some),
        }
    }

    #[cold]
    fn busy(&self) -> Box<Failure> {
        let message = format!(
            "{} requests wait in its instances, and {} for one of them",
            self.out.get(),
            self.queued.get()
        );
        Failure::new(FailureKind::Unavailable, message)
    }

    /// What is to be done about once a second: lets go of an instance that a burst of waiting requests has
    /// left behind, and calls `on-tick`. True: that may wait, and is for [`tick_waiting`](Self::tick_waiting).
    pub(super) fn tick(&self, now: Instant) -> bool {
        let mut idle = self.idle.borrow_mut();
        // The last one is kept.
        let spare = idle.len() + usize::from(self.slot.borrow().live.is_some()) > 1;
        let surplus = (spare && self.out.get() == 0 && !idle.is_empty()).then(|| idle.remove(0));
        drop(idle);
        if let Some(live) = surplus {
            self.part(live);
        }
        self.recover(now);
        if !self.plugin.hooks().has(Hook::Tick) || self.plugin.waits {
            return self.plugin.hooks().has(Hook::Tick);
        }
        let ticked = self.call(now, |live, now| live.on_time(Hook::Tick, now));
        self.report(Hook::Tick, ticked);
        false
    }

    /// Says that it is whole again, when it is: there is an instance, and hardly a debt.
    fn recover(&self, now: Instant) {
        let mut slot = self.slot.borrow_mut();
        let has_one = slot.live.is_some() || self.out.get() > 0 || !self.idle.borrow().is_empty();
        let failure = self.plugin.limits().time_max + slot.init_took;
        if has_one
            && slot.debt.is_small(failure, now)
            && let Some(outage) = slot.broken.take()
        {
            self.plugin.recovers(outage);
        }
    }

    /// Calls `on-tick` of a plugin that waits, in each instance that nobody waits in, one after the other;
    /// requests have the others meanwhile. Nothing, while that is still being done.
    ///
    /// Cancel safety: dropping the future gives an instance up.
    pub(super) async fn tick_waiting(&self, scope: &mut Scope<'_>) {
        let Some(_ticking) = Flag::raise(&self.ticking) else { return };
        let live = self.slot.borrow_mut().live.take();
        self.idle.borrow_mut().extend(live);
        let count = self.idle.borrow().len();
        for _ in 0..count.max(1) {
            // The one that was called longest ago; without any, a new one.
            let oldest = {
                let mut idle = self.idle.borrow_mut();
                (!idle.is_empty()).then(|| idle.remove(0))
            };
            let lent = match oldest {
                Some(live) => {
                    self.out.set(self.out.get() + 1);
                    Ok(Lent { home: self, live: Some(live), is_sound: false })
                }
                None if self.out.get() > 0 => return,
                None => self.lend(scope).await,
            };
            let ticked = match lent {
                Ok(lent) => {
                    let call =
                        async |live: &mut Live, asks, now| live.on_tick_waiting(now, asks).await;
                    self.wait_in(lent, scope, call).await
                }
                Err(failure) => Err(failure),
            };
            self.report(Hook::Tick, ticked);
        }
    }

    /// The last word of an instance.
    fn part(&self, mut live: Live) {
        if self.plugin.hooks().has(Hook::Shutdown) {
            let now = Instant::now();
            self.report(Hook::Shutdown, live.on_time(Hook::Shutdown, now));
        }
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
        let live = self.slot.get_mut().live.take();
        for live in live.into_iter().chain(self.idle.take()) {
            self.part(live);
        }
    }
}

/// An instance that is waited in.
struct Lent<'a> {
    home: &'a Instance,
    live: Option<Live>,
    /// Its last call has come to a good end. One that was left in the middle cannot be called again.
    is_sound: bool,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.home.out.set(self.home.out.get() - 1);
        if let Some(live) = self.live.take().filter(|_| self.is_sound) {
            self.home.idle.borrow_mut().push(live);
        }
        self.home.freed.notify_one();
    }
}

/// Something that is going on once.
struct Flag<'a>(&'a Cell<bool>);

impl<'a> Flag<'a> {
    fn raise(flag: &'a Cell<bool>) -> Option<Self> {
        (!flag.replace(true)).then(|| Self(flag))
    }
}

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// A place among the requests that wait for an instance.
struct Queued<'a>(&'a Cell<usize>);

impl<'a> Queued<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
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
            let message = Arc::clone(message);
            self.breaks(plugin, &message);
            return Err(Failure::new(FailureKind::Unavailable, message));
        }
        let began = Instant::now();
        let made = Live::new(plugin, config);
        let ended = Instant::now();
        let took = ended.saturating_duration_since(began);
        match made {
            Ok(mut live) => {
                live.reach(self.remote.clone());
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
                self.breaks(plugin, &message);
                Err(Failure::new(FailureKind::Unavailable, message))
            }
        }
    }

    fn breaks(&mut self, plugin: &Plugin, problem: &Arc<str>) {
        self.broken.get_or_insert_with(|| plugin.breaks(problem));
    }

    /// Throws the instance away after a call that began at `began` and failed.
    #[cold]
    fn retire(&mut self, failure: &Failure, began: Instant) {
        if let Some(live) = self.live.take() {
            self.lines_dropped += live.take_lines_dropped();
        }
        self.charge(failure, began);
    }

    /// Counts what a call cost that began at `began` and failed.
    fn charge(&mut self, failure: &Failure, began: Instant) {
        let ended = Instant::now();
        self.debt.add(ended.saturating_duration_since(began), ended);
        let message =
            format!("it fails so much that it has to wait, the last time so: {}", failure.message);
        self.unavailable = Some(message.into());
    }
}
