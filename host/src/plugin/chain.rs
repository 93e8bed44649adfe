//! Runs a route's plugins over a request and back over its response.
//!
//! ```text
//! request   ─► link 0 ─► link 1 ─► link 2 ─► upstream
//! response  ◄─ link 0 ◄─ link 1 ◄─ link 2 ◄─────┘
//! ```
//!
//! A link is a wasm plugin or native middleware; the chain does not care. An answer made by link 1
//! goes back through link 0 only.
//!
//! **When a link fails**, its edits of the two heads are undone (notes stay: nobody outside sees
//! them), the failure is counted and logged, and `on_error` decides. *Open*: the chain goes on as if
//! the hook had done nothing; the link's other hook is called as usual. *Closed*: the chain stops
//! with a [`HookFailure`], and the caller puts the gateway's own answer in place.
//!
//! Not here: what plugins are (`load`), how they are called (`instance`), and the gateway's own
//! answers (`proxy`).

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Instant;

use super::exchange::Exchange;
use super::exchange::Flow;
use super::instance::Failure;
use super::instance::FailureKind;
use super::instance::Hook;
use super::instance::Instance;
use super::instance::Warm;
use super::load::Hooks;
use super::load::Plugin;
use super::middleware::Middleware;
use super::stats::Meter;
use super::stats::Outcome;
use super::stats::PluginStats;
use crate::config::OnError;

/// Makes native middleware from its configuration. Called once per worker and configuration.
pub type NativeFactory =
    dyn Fn(&serde_json::Value) -> Result<Box<dyn Middleware>, String> + Send + Sync;

/// A route's chain as the snapshot holds it.
#[derive(Clone, Debug, Default)]
pub struct ChainPlan {
    /// In the order of request hooks.
    pub links: Vec<LinkPlan>,
}

/// A plugin's place in a chain.
#[derive(Clone, Debug)]
pub struct LinkPlan {
    /// What is called.
    pub plugin: PlanSource,
    /// Its name in the configuration; native middleware has no other.
    pub name: Arc<str>,
    /// JSON text: an object.
    pub config: Arc<str>,
    /// What its failure does to a request.
    pub on_error: OnError,
}

/// What a link calls.
#[derive(Clone)]
pub enum PlanSource {
    /// A component.
    Wasm(Arc<Plugin>),
    /// Middleware that the embedding program registered.
    Native(Arc<NativeFactory>),
}

impl fmt::Debug for PlanSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wasm(plugin) => plugin.fmt(f),
            Self::Native(_) => f.write_str("native"),
        }
    }
}

/// Why a chain cannot be made: native middleware does not accept its configuration.
#[derive(Debug, thiserror::Error)]
#[error("plugin `{plugin}`: {message}")]
pub struct ChainError {
    /// Which.
    pub plugin: Arc<str>,
    /// What it said.
    pub message: String,
}

/// A hook that failed, of a link whose failures are not overlooked.
#[derive(Debug, thiserror::Error)]
#[error("plugin `{plugin}` failed in {} ({}): {message}", hook.as_str(), kind.as_str())]
pub struct HookFailure {
    /// Which plugin.
    pub plugin: Arc<str>,
    /// In which hook.
    pub hook: Hook,
    /// How.
    pub kind: FailureKind,
    /// What the operator reads; not for clients.
    pub message: Arc<str>,
}

/// What became of a request on its way down the chain.
#[derive(Debug)]
pub struct Passed {
    /// Whether it goes upstream, or which answer is in the exchange, or who failed.
    pub outcome: Result<Flow, Box<HookFailure>>,
    /// Links that the response has to pass on its way back: the first so many.
    pub entered: usize,
}

/// A response hook that failed closed.
#[derive(Debug)]
pub struct Broken {
    /// Who and why.
    pub failure: Box<HookFailure>,
    /// Links that have yet to see the response that takes the place of the failed one.
    pub entered: usize,
}

/// All instances of one worker.
///
/// Chains hold them, and this knows them, so that chains with the same plugin, generation and
/// configuration share one. When the last chain of an old generation is dropped, its instances
/// and their memory go with it.
#[derive(Default)]
pub struct Instances {
    wasm: Vec<Weak<Instance>>,
    /// Made elsewhere, for the chains that are made next.
    warm: Vec<Warm>,
    native: Vec<Native>,
    meters: Vec<Rc<Meter>>,
}

struct Native {
    factory: Arc<NativeFactory>,
    config: Arc<str>,
    made: Weak<dyn Middleware>,
}

impl Instances {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chains that are made from now on look here first for an instance that they need. What was left
    /// of an earlier call goes.
    pub fn take_in(&mut self, warm: Vec<Warm>) {
        self.warm = warm;
    }

    /// Makes a plan's chain, with whatever instances it needs and does not find. Takes microseconds
    /// to a second per new instance: not for the way of a request.
    ///
    /// A wasm plugin that cannot be instantiated does not fail the chain (the control thread has
    /// probed it, so the cause is this worker's): its link fails and tries again.
    pub fn chain(&mut self, plan: &ChainPlan) -> Result<Chain, ChainError> {
        self.wasm.retain(|instance| instance.strong_count() > 0);
        self.native.retain(|native| native.made.strong_count() > 0);
        let links = plan.links.iter().map(|link| self.link(link)).collect::<Result<_, _>>()?;
        Ok(Chain { links })
    }

    /// What was counted on this worker, by plugin.
    pub fn stats(&self) -> Vec<PluginStats> {
        self.meters.iter().map(|meter| self.stats_of(meter)).collect()
    }

    fn stats_of(&self, meter: &Meter) -> PluginStats {
        let instances = self.wasm.iter().filter_map(Weak::upgrade);
        let instances: Vec<_> =
            instances.filter(|instance| *instance.plugin().name() == meter.plugin).collect();
        let dropped = instances.iter().map(|instance| instance.take_lines_dropped()).sum();
        meter.add_lines_dropped(dropped);
        let mut generations: BTreeMap<u64, usize> = BTreeMap::new();
        for instance in &instances {
            *generations.entry(instance.plugin().generation()).or_default() += 1;
        }
        let memory_bytes: usize = instances.iter().map(|instance| instance.memory_bytes()).sum();
        PluginStats {
            generations: generations.into_iter().collect(),
            instances: instances.len(),
            memory_bytes: u64::try_from(memory_bytes).unwrap_or(u64::MAX),
            ..meter.read()
        }
    }

    fn link(&mut self, plan: &LinkPlan) -> Result<Link, ChainError> {
        let meter = self.meter(&plan.name);
        let (runner, hooks) = match &plan.plugin {
            PlanSource::Wasm(plugin) => {
                (Runner::Wasm(self.wasm(plugin, &plan.config, &meter)), plugin.hooks())
            }
            PlanSource::Native(factory) => {
                let both = Hooks { on_request: true, on_response: true };
                (Runner::Native(self.native(factory, plan)?), both)
            }
        };
        Ok(Link { runner, hooks, on_error: plan.on_error, meter })
    }

    fn meter(&mut self, plugin: &Arc<str>) -> Rc<Meter> {
        if let Some(meter) = self.meters.iter().find(|meter| meter.plugin == *plugin) {
            return Rc::clone(meter);
        }
        let meter = Rc::new(Meter::new(Arc::clone(plugin)));
        self.meters.push(Rc::clone(&meter));
        meter
    }

    fn wasm(&mut self, plugin: &Arc<Plugin>, config: &Arc<str>, meter: &Meter) -> Rc<Instance> {
        let mut known = self.wasm.iter().filter_map(Weak::upgrade);
        if let Some(instance) = known.find(|instance| instance.is_of(plugin, config)) {
            return instance;
        }
        plugin.state().apply(plugin.allow());
        if let Some(index) = self.warm.iter().position(|warm| warm.is_of(plugin, config)) {
            let instance = Rc::new(Instance::from(self.warm.swap_remove(index)));
            self.wasm.push(Rc::downgrade(&instance));
            return instance;
        }
        let now = clock();
        let (instance, made) = Instance::new(Arc::clone(plugin), Arc::clone(config), now);
        if let Err(failure) = made
            && let Some(suppressed) = meter.complain(now)
        {
            complain(&meter.plugin, "init", &failure, suppressed);
        }
        let instance = Rc::new(instance);
        self.wasm.push(Rc::downgrade(&instance));
        instance
    }

    fn native(
        &mut self,
        factory: &Arc<NativeFactory>,
        plan: &LinkPlan,
    ) -> Result<Rc<dyn Middleware>, ChainError> {
        let mut known = self
            .native
            .iter()
            .filter(|native| Arc::ptr_eq(&native.factory, factory) && native.config == plan.config);
        if let Some(made) = known.find_map(|native| native.made.upgrade()) {
            return Ok(made);
        }
        let refused = |message| ChainError { plugin: Arc::clone(&plan.name), message };
        let config = serde_json::from_str(&plan.config)
            .map_err(|error| refused(format!("its configuration is no JSON: {error}")))?;
        let made: Rc<dyn Middleware> = make_native(&**factory, &config).map_err(refused)?.into();
        self.native.push(Native {
            factory: Arc::clone(factory),
            config: Arc::clone(&plan.config),
            made: Rc::downgrade(&made),
        });
        Ok(made)
    }
}

/// A route's chain on one worker.
pub struct Chain {
    links: Box<[Link]>,
}

struct Link {
    runner: Runner,
    hooks: Hooks,
    on_error: OnError,
    meter: Rc<Meter>,
}

enum Runner {
    Wasm(Rc<Instance>),
    Native(Rc<dyn Middleware>),
}

impl Chain {
    /// Takes a request down the chain; `now` is when that begins.
    pub fn on_request(&self, exchange: Box<Exchange>, now: Instant) -> (Box<Exchange>, Passed) {
        let mut place = Some(exchange);
        // The first link begins now; what the ones before it took is not a later link's time.
        let mut now = Some(now);
        let mut passed = Passed { outcome: Ok(Flow::Next), entered: self.links.len() };
        let links = self.links.iter().enumerate();
        for (entered, link) in links.filter(|(_, link)| link.hooks.on_request) {
            let outcome = link.call(Hook::Request, &mut place, now.take().unwrap_or_else(clock));
            if !matches!(outcome, Ok(Flow::Next)) {
                passed = Passed { outcome, entered };
                break;
            }
        }
        (place.expect(PUT_BACK), passed)
    }

    /// Takes a response back up through the first `entered` links; `now` is when that begins.
    /// [`Flow::Respond`] when one of them has replaced it.
    ///
    /// On an error the caller replaces the response and calls again with what the error says, so that
    /// the links further out see what goes to the client.
    pub fn on_response(
        &self,
        exchange: Box<Exchange>,
        entered: usize,
        now: Instant,
    ) -> (Box<Exchange>, Result<Flow, Broken>) {
        let mut place = Some(exchange);
        let mut now = Some(now);
        let mut flow = Ok(Flow::Next);
        let links = self.links.iter().enumerate().take(entered).rev();
        for (index, link) in links.filter(|(_, link)| link.hooks.on_response) {
            match link.call(Hook::Response, &mut place, now.take().unwrap_or_else(clock)) {
                Ok(Flow::Next) => {}
                Ok(Flow::Respond) => flow = Ok(Flow::Respond),
                Err(failure) => {
                    flow = Err(Broken { failure, entered: index });
                    break;
                }
            }
        }
        (place.expect(PUT_BACK), flow)
    }
}

/// Why there is an exchange after a call.
const PUT_BACK: &str = "a hook's exchange is put back before its call returns";

impl Link {
    /// Calls a hook with the exchange in `place`, and counts it. One call in some is timed, too.
    fn call(
        &self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        now: Instant,
    ) -> Result<Flow, Box<HookFailure>> {
        let began = self.meter.is_timed(hook).then(clock);
        let result = match &self.runner {
            Runner::Wasm(instance) => instance.call(hook, place, now),
            Runner::Native(middleware) => call_native(&**middleware, hook, place),
        };
        if let Some(began) = began {
            let took = began.elapsed();
            self.meter.record_time(hook, took);
            if let Some(exchange) = place {
                exchange.timed.push((Arc::clone(&self.meter.plugin), took));
            }
        }
        match result {
            Ok(flow) => {
                self.meter.record(hook, Outcome::from(flow));
                Ok(flow)
            }
            Err(failure) => {
                self.meter.record(hook, Outcome::Failed(failure.kind));
                if let Some(exchange) = place {
                    exchange.failed.push((Arc::clone(&self.meter.plugin), failure.kind));
                }
                self.judge(hook, *failure)
            }
        }
    }

    #[cold]
    fn judge(&self, hook: Hook, failure: Failure) -> Result<Flow, Box<HookFailure>> {
        if let Some(suppressed) = self.meter.complain(clock()) {
            complain(&self.meter.plugin, hook.as_str(), &failure, suppressed);
        }
        // Native middleware that replaced the response and then panicked has left nothing to go on
        // with.
        if self.on_error == OnError::Open && failure.undone {
            return Ok(Flow::Next);
        }
        Err(Box::new(HookFailure {
            plugin: Arc::clone(&self.meter.plugin),
            hook,
            kind: failure.kind,
            message: failure.message,
        }))
    }
}

/// Makes native middleware. A panic is a refusal.
pub fn make_native(
    factory: &NativeFactory,
    config: &serde_json::Value,
) -> Result<Box<dyn Middleware>, String> {
    catch_unwind(AssertUnwindSafe(|| factory(config)))
        .unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// Calls native middleware. A panic is its failure, not the worker's.
fn call_native(
    middleware: &dyn Middleware,
    hook: Hook,
    place: &mut Option<Box<Exchange>>,
) -> Result<Flow, Box<Failure>> {
    let Some(exchange) = place.as_deref_mut() else { return Ok(Flow::Next) };
    let mark = exchange.mark();
    let called = catch_unwind(AssertUnwindSafe(|| match hook {
        Hook::Request => middleware.on_request(exchange),
        Hook::Response => middleware.on_response(exchange),
    }));
    let mut failure = match called {
        // An answer that `Exchange::reply` refused, or that was never made.
        Ok(Flow::Respond) if exchange.response.status < 200 || exchange.body.is_none() => {
            let message = "it answered `Respond` without an answer made by `Exchange::reply`";
            Failure::new(FailureKind::Violation, message)
        }
        Ok(flow) => return Ok(flow),
        Err(panic) => Failure::new(FailureKind::Trap, panicked(&*panic)),
    };
    failure.undone = exchange.roll_back(&mark);
    Err(failure)
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a message"))
}

fn complain(plugin: &str, hook: &str, failure: &Failure, suppressed: u64) {
    let kind = failure.kind.as_str();
    let message = &failure.message;
    match suppressed {
        0 => log::warn!("plugin `{plugin}` failed in {hook} ({kind}): {message}"),
        more => log::warn!(
            "plugin `{plugin}` failed in {hook} ({kind}): {message} ({more} earlier failures were \
             not logged)"
        ),
    }
}

/// Exact, for what is measured or rare.
#[expect(clippy::disallowed_methods, reason = "the one place where chains read the clock")]
fn clock() -> Instant {
    Instant::now()
}
