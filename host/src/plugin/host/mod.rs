//! What the gateway offers to plugins: bindings, and the state of one instance.
//!
//! One file per WIT interface, of the same name. They translate; what they translate to is plain
//! Rust elsewhere ([`Exchange`], `journal`). Nothing here waits,
//! and nothing a plugin passes in can make the host panic: what breaks a rule is remembered in
//! [`State::violation`], and the hook fails when it returns.
//!
//! Not here: when hooks are called (`chain`), and what happens to failures (`instance`).

mod body;
mod cache;
mod callout;
mod clock;
mod context;
mod counters;
mod crypto;
mod environment;
mod journal;
mod kv;
mod limiter;
mod log;
mod metrics;
mod random;
mod remote;
mod reply;
mod request;
mod response;
mod wasi;
mod websocket;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use wasmtime::component::HasSelf;
use wasmtime::component::Linker;
use wasmtime::component::ResourceTable;

use super::exchange::Exchange;
use super::exchange::ExchangeMark;
use super::exchange::Waiting;
use super::remote::Handle;
use super::repeat::Course;
use crate::config::Allow;
use crate::config::PluginLimits;
use crate::state::Now;
use crate::state::PluginState;
use crate::state::cache::{Cache, Capture, Fetch};
use crate::state::metrics::Registered;
pub(super) use body::Phase;
use journal::Journal;
pub(super) use journal::clean;
use limiter::Limiter;
pub(super) use remote::link as link_remote;
pub(super) use wasi::deny;

/// Generated from `wit/`.
pub(super) mod bindings {
    #![allow(
        missing_docs,
        clippy::pedantic,
        reason = "generated; the documentation is in the WIT files"
    )]

    wasmtime::component::bindgen!({
        path: "wit",
        inline: "package zproxy:host;
            world host {
                include zproxy:gateway/plugin@0.1.0;
                include zproxy:gateway/capabilities@0.1.0;
                export zproxy:gateway/validation@0.1.0;
                export zproxy:gateway/retirement@0.1.0;
                export zproxy:gateway/request-body-filter@0.1.0;
                export zproxy:gateway/response-body-filter@0.1.0;
                export zproxy:gateway/websocket-filter@0.1.0;
                export zproxy:gateway/completion@0.1.0;
                export zproxy:gateway/ticker@0.1.0;
            }",
        world: "zproxy:host/host",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// WASI resources that one instance may hold: its three standard streams and a few clocks.
const RESOURCES_MAX: usize = 64;

/// What an instance knows and holds.
pub(super) struct State {
    /// The exchange whose hook is running; `None` in `init`.
    pub(super) exchange: Option<Box<Exchange>>,
    /// The exchange before its first edit during this call.
    pub(super) mark: Option<ExchangeMark>,
    /// What `reply.send` was given during this call.
    pub(super) reply: reply::Reply,
    /// What `body` was asked for during this call.
    pub(super) body: body::BodyCalls,
    /// What `websocket` was asked for during this call.
    pub(super) websocket: websocket::MessageCalls,
    /// How this call may wait.
    pub(super) waits: callout::Waits,
    /// CPU time of the thread when this call had used up its time by the clock.
    pub(super) overran_at: Option<std::time::Duration>,
    /// The first rule that was broken during this call.
    pub(super) violation: Option<String>,
    /// Fields that the running hook leaves for the response.
    pub(super) later: Vec<Vec<u8>>,
    /// What it needed during this call and could not be had.
    pub(super) missing: Option<&'static str>,
    /// Where counters are that other gateways share.
    pub(super) remote: Option<Handle>,
    /// Memory, and its bounds.
    pub(super) limiter: Limiter,
    /// Where the instance's lines go. Shared with its standard streams.
    journal: Arc<Mutex<Journal>>,
    keys: crypto::Keys,
    metrics: Registered,
    /// Responses that the running hook wants to be kept.
    pub(super) captures: Vec<Capture>,
    /// What the running hook wants to fetch for others,
    pub(super) fetches: Vec<Fetch>,
    /// to wait for,
    pub(super) waiting: Option<Waiting>,
    /// and to fetch in the background.
    pub(super) refetch: Option<Fetch>,
    /// What its answer comes from, and whether that may be given again.
    pub(super) course: Course,
    /// What the plugin keeps outside of its instances.
    kept: Arc<PluginState>,
    allow: Arc<Allow>,
    table: ResourceTable,
    started: Instant,
}

impl State {
    /// The state of a new instance of a plugin that may reach what `allow` says. `started` is when its
    /// clock began.
    pub(super) fn new(
        kept: &Arc<PluginState>,
        allow: &Arc<Allow>,
        limits: &PluginLimits,
        started: Instant,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            exchange: None,
            mark: None,
            reply: reply::Reply::default(),
            body: body::BodyCalls::new(limits.body_bytes_max),
            websocket: websocket::MessageCalls::default(),
            waits: callout::Waits::new(limits.callouts_max),
            overran_at: None,
            violation: None,
            later: Vec::new(),
            missing: None,
            remote: None,
            limiter: Limiter::new(limits.memory_bytes_max),
            journal: Arc::new(Mutex::new(Journal::new(Arc::clone(kept.name())))),
            keys: crypto::Keys::default(),
            metrics: Registered::new(Arc::clone(kept.metrics())),
            captures: Vec::new(),
            fetches: Vec::new(),
            waiting: None,
            refetch: None,
            course: Course::default(),
            kept: Arc::clone(kept),
            allow: Arc::clone(allow),
            table,
            started,
        }
    }

    /// What time it is.
    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let monotonic_us = whole(self.started.elapsed().as_micros());
        Now { unix_ms: whole(unix.as_millis()), monotonic_us }
    }

    /// The same for what only asks how much time has passed: a clock less to be read.
    fn passed(&self) -> Now {
        let micros = self.started.elapsed().as_micros();
        Now { unix_ms: 0, monotonic_us: u64::try_from(micros).unwrap_or(u64::MAX) }
    }

    /// What time that was, for what only asks how much has passed.
    pub(super) fn at(&self, moment: Instant) -> Now {
        let micros = moment.saturating_duration_since(self.started).as_micros();
        Now { unix_ms: 0, monotonic_us: u64::try_from(micros).unwrap_or(u64::MAX) }
    }

    /// The plugin's responses.
    pub(super) fn cache(&self) -> &Arc<Cache> {
        self.kept.cache()
    }

    /// Forgets what the hook wanted of the cache.
    pub(super) fn forget_cached(&mut self) {
        self.captures.clear();
        self.fetches.clear();
        self.waiting = None;
        self.refetch = None;
        self.course.clear();
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    /// Remembers that `what` broke the rule `why`; the hook fails when it returns.
    fn violate(&mut self, what: std::fmt::Arguments<'_>, why: impl std::fmt::Display) {
        if self.violation.is_none() {
            self.violation = Some(format!("{what}: {why}"));
        }
    }

    /// The exchange, for a look.
    fn seen(&self) -> Option<&Exchange> {
        self.exchange.as_deref()
    }

    /// The exchange, for an edit by `what`.
    fn edited(&mut self, what: std::fmt::Arguments<'_>) -> Option<&mut Exchange> {
        if self.exchange.is_none() {
            self.violate(what, "there is no exchange outside of a hook");
        }
        let exchange = self.exchange.as_deref_mut()?;
        self.mark.get_or_insert_with(|| exchange.mark());
        Some(exchange)
    }
}

/// A plugin that panicked its host while holding the journal cannot exist; were there one, its lines
/// would still be fit to read.
fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts everything that plugins may import into `linker`.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    bindings::Host_::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    callout::link(linker)?;
    wasi::link(linker)
}

impl bindings::zproxy::gateway::types::Host for State {}
