//! What a worker lends a request, and what a reload replaces.
//!
//! Not here: making a snapshot (`control`), and a worker's life (`worker`).

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::relay::{Lanes, Scratch};
use super::tally::Tally;
use crate::config::{self, Settings};
use crate::http::HeadLimits;
use crate::io::{BufferPool, Deadlines, FreeList, PipePool, Timer};
use crate::plugin::callout::{Callouts, Outside, Scope};
use crate::plugin::{Chain, ChainPlan, Exchange, Instances, PlanSource, PluginStats};
use crate::route::Router;
use crate::route::rewrite::{Redirect, Rewrite};
use crate::telemetry::{AccessLogger, Tallies, WorkerReport, WorkerTelemetry};
use crate::tls::TlsSet;
use crate::upstream::Upstream;

/// Exchanges kept for the next requests of a worker: where many are in flight, many end at a time, and
/// so many begin.
const FREE_EXCHANGES_MAX: usize = 1024;

/// Everything that a reload replaces; shared by all workers, never changed.
pub struct Snapshot {
    /// What the operator asked for.
    pub settings: Settings,
    /// Finds a request's route.
    pub router: Router,
    /// One for each route, in the order of the settings.
    pub plans: Vec<RoutePlan>,
    /// Certificates, and whom to believe.
    pub tls: Arc<TlsSet>,
}

/// What becomes of a route's requests; worked out once, at load.
pub struct RoutePlan {
    /// Its middleware.
    pub chain: ChainPlan,
    /// Its changes to requests.
    pub rewrite: Rewrite,
    /// `to` of a redirect.
    pub redirect: Option<Redirect>,
    /// From the head of a request to that of its response.
    pub request_timeout: Duration,
    /// Largest request body.
    pub body_bytes_max: u64,
    /// The messages of its WebSockets are seen.
    pub inspects: bool,
    /// Its WebSockets, those of former generations included.
    pub websockets: Arc<Tally>,
}

/// The one place where requests learn the time.
#[derive(Debug)]
pub struct Clock {
    wall_ms: Cell<u64>,
    date: Cell<[u8; 29]>,
}

/// What a worker owns for as long as it lives, whatever is reloaded. Belongs to one thread.
pub struct Own {
    /// Index of the worker.
    pub worker: usize,
    /// The instances that chains call, of every generation that is still there.
    pub instances: RefCell<Instances>,
    /// Read buffers.
    pub pool: Rc<BufferPool>,
    /// Pipes for large bodies.
    pub pipes: PipePool,
    /// Deadlines of connections.
    pub deadlines: Rc<Deadlines>,
    /// Scratch memory of pumps.
    pub scratch: RefCell<Scratch>,
    /// Heads are written here and sent at once; never borrowed over an await.
    pub out: RefCell<Vec<u8>>,
    /// The time.
    pub clock: Clock,
    /// Chance for ids; not for secrets.
    pub random: RefCell<fastrand::Rng>,
    /// Counts that belong to no route and no upstream.
    pub telemetry: WorkerTelemetry,
    /// No more requests than those that are here.
    pub draining: Cell<bool>,
    /// In a drain: the tick with which WebSockets that are still open are closed.
    pub closes_at: Cell<Option<u64>>,
    /// Connections of requests that plugins send.
    pub callouts: Callouts,
    /// Exchanges to be used again.
    pub exchanges: RefCell<FreeList<Box<Exchange>>>,
}

/// What a worker lends a request: one generation of the configuration and, by `Deref`, what the
/// worker owns. A request keeps the one that it began with.
pub struct Context {
    /// The worker's own.
    pub own: Rc<Own>,
    /// What the gateway is configured to do.
    pub snapshot: Arc<Snapshot>,
    /// One for each route.
    pub chains: Vec<Chain>,
    /// Likewise. Each worker's own, because counting those who hold them is writing; `Arc` because
    /// an exchange is lent to stores, which are made on other threads.
    pub route_names: Vec<Arc<str>>,
    /// Names of upstreams, likewise.
    pub upstream_names: Arc<[Arc<str>]>,
    /// Names of parameters by route, likewise.
    pub parameters: Vec<Arc<[Box<str>]>>,
    /// In the order of the settings.
    pub upstreams: Vec<Upstream>,
    /// Shares of the routes that split their requests.
    pub splits: Vec<Option<crate::upstream::balance::Balancer>>,
    /// Counts by route and server.
    pub tallies: Tallies,
    /// The access log.
    pub access_log: Option<Rc<AccessLogger>>,
    /// Limits of request heads.
    pub head_limits: HeadLimits,
    /// Limits of response heads.
    pub response_limits: HeadLimits,
}

impl Context {
    /// Whether some chain has a plugin of this generation.
    fn calls(&self, generation: u64) -> bool {
        let mut links = self.snapshot.plans.iter().flat_map(|plan| &plan.chain.links);
        links.any(|link| {
            matches!(&link.plugin, PlanSource::Wasm(plugin) if plugin.generation() == generation)
        })
    }
}

/// The longest that a plugin may wait in `on-tick`, all its callouts together.
const TICK_TIME_MAX: Duration = Duration::from_secs(30);

/// Where a worker's connections find the newest [`Context`].
pub struct Home {
    own: Rc<Own>,
    current: RefCell<Rc<Context>>,
    /// Those that were current before and may still have requests.
    former: RefCell<Vec<Weak<Context>>>,
}

impl Home {
    /// A home with its first context.
    pub fn new(context: Context) -> Self {
        let own = Rc::clone(&context.own);
        Self { own, current: RefCell::new(Rc::new(context)), former: RefCell::default() }
    }

    /// What the worker owns.
    pub fn own(&self) -> &Rc<Own> {
        &self.own
    }

    /// What a request that begins now lives by.
    pub fn current(&self) -> Rc<Context> {
        Rc::clone(&self.current.borrow())
    }

    /// Requests that begin from now on live by `context`; those that are here keep theirs.
    pub fn replace(&self, context: Context) {
        let context = Rc::new(context);
        for upstream in &self.current.borrow().upstreams {
            // What the new one has taken over stays open.
            upstream.close_idle_unless_shared();
        }
        let former = self.current.replace(context);
        let mut known = self.former.borrow_mut();
        known.retain(|former| former.strong_count() > 0);
        known.push(Rc::downgrade(&former));
        drop(known);
        // With the last request on it, which may be none, its chains and instances go.
        drop(former);
    }

    /// Every context that has requests, the current one first.
    pub fn all(&self) -> impl Iterator<Item = Rc<Context>> {
        let former: Vec<_> = self.former.borrow().iter().filter_map(Weak::upgrade).collect();
        std::iter::once(self.current()).chain(former)
    }

    /// Calls `on-tick` of all plugins. Those that may wait do that beside everything else, with the
    /// upstreams of the current generation; of a former one, which requests alone keep alive, they are not
    /// called.
    pub fn tick_plugins(&self) {
        let waiting = self.instances.borrow().tick();
        if waiting.is_empty() {
            return;
        }
        let context = self.current();
        for one in waiting.into_iter().filter(|one| context.calls(one.generation())) {
            let context = Rc::clone(&context);
            tokio::task::spawn_local(async move {
                let until = context.clock.now() + TICK_TIME_MAX;
                let mut gone = |_: &mut TaskContext<'_>| Poll::Pending;
                let outside = Outside::World {
                    callouts: &context.callouts,
                    upstreams: &context.upstreams,
                    tls: context.snapshot.tls.callouts.as_ref(),
                };
                one.run(Scope { outside, until, gone: &mut gone }).await;
            });
        }
    }

    /// The worker's counts, for a scrape.
    pub fn report(&self) -> WorkerReport<PluginStats> {
        let current = self.current();
        let connections = current.upstreams.iter().map(|upstream| {
            upstream.connections().map(|(_, active, idle)| (active, idle)).collect()
        });
        WorkerReport {
            worker: self.own.worker,
            counts: self.own.telemetry.counts(&current.tallies),
            connections: connections.collect(),
            plugins: self.own.instances.borrow().stats(),
            generations: self.all().count(),
            ring: crate::io::ring_counts(),
            redis: self.own.instances.borrow().remote_counts(),
        }
    }
}

impl Deref for Home {
    type Target = Own;

    fn deref(&self) -> &Own {
        &self.own
    }
}

impl Deref for Context {
    type Target = Own;

    fn deref(&self) -> &Own {
        &self.own
    }
}

impl Clock {
    /// A clock that shows the present.
    pub fn new() -> Self {
        let clock = Self { wall_ms: Cell::new(0), date: Cell::new([0; 29]) };
        clock.tick();
        clock
    }

    /// Reads the wall clock. Called by the worker with every tick.
    pub fn tick(&self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        if wall_ms / 1000 != self.wall_ms.get() / 1000 {
            self.date.set(crate::telemetry::http_date(wall_ms / 1000));
        }
        self.wall_ms.set(wall_ms);
    }

    /// Monotonic time, exact.
    #[expect(clippy::disallowed_methods, reason = "this is a worker's clock")]
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Milliseconds since 1970, as of the last tick.
    pub fn wall_ms(&self) -> u64 {
        self.wall_ms.get()
    }

    /// The value of `Date`, as of the last tick.
    pub fn date(&self) -> [u8; 29] {
        self.date.get()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// What a pump needs.
    pub fn lanes<'a>(&'a self, timer: &'a Timer, idle: Duration) -> Lanes<'a> {
        Lanes { pool: &self.pool, pipes: &self.pipes, scratch: &self.scratch, timer, idle }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.snapshot.settings
    }

    /// The limits.
    pub fn limits(&self) -> &config::Limits {
        &self.snapshot.settings.limits
    }

    /// Longest silence of a client.
    pub fn idle_timeout(&self) -> Duration {
        self.limits().idle_timeout
    }
}

impl Own {
    /// An exchange for a request.
    pub fn take_exchange(&self) -> Box<Exchange> {
        self.exchanges.borrow_mut().take().unwrap_or_default()
    }

    /// Takes an exchange back.
    pub fn give_back(&self, mut exchange: Box<Exchange>) {
        let mut free = self.exchanges.borrow_mut();
        if free.count() < FREE_EXCHANGES_MAX {
            exchange.clear();
            free.put(exchange);
        }
    }
}
