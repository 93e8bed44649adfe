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

mod beginning;
mod link;

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Instant;

use super::body::BodyFilter;
use super::body::BodyStop;
use super::body::ChunkFlow;
use super::body::Showing;
use super::callout::Scope;
use super::engine::Ticks;
use super::exchange::Exchange;
use super::exchange::Flow;
use super::exchange::Summary;
use super::exports::Hooks;
use super::failure::FailureKind;
use super::instance::Hook;
use super::instance::Instance;
use super::instance::Warm;
use super::load::Plugin;
use super::message::{MessageFlow, MessagePassed, Peer, SocketMessage};
use super::middleware::Middleware;
use super::native::make_native;
use super::remote::Remote;
use super::remote::Target;
use super::stats::Meter;
use super::stats::PluginStats;
use crate::config::OnError;
use crate::state::redis::RemoteCounts;
use beginning::Beginning;
use link::PUT_BACK;

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
    /// Where counters are that other gateways share.
    remote: Option<Remote>,
}

/// An instance whose `on-tick` may wait.
pub struct Ticking(Rc<Instance>);

impl Ticking {
    /// The generation of its plugin.
    pub fn generation(&self) -> u64 {
        self.0.plugin().generation()
    }

    /// Calls the hook, with callouts within `scope`.
    pub async fn run(self, mut scope: Scope<'_>) {
        self.0.tick_waiting(&mut scope).await;
    }
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

    /// Counters that other gateways share are there from now on; `None`: there are none. To be called where
    /// tasks can be spawned.
    pub fn reach(&mut self, target: Option<Target>) {
        if target.is_some() || self.remote.is_some() {
            self.remote.get_or_insert_with(Remote::start).aim(target);
        }
    }

    /// What was counted of asking there.
    pub fn remote_counts(&self) -> Option<RemoteCounts> {
        self.remote.as_ref().and_then(Remote::counts)
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
        let ticks = plan.links.iter().find_map(|link| match &link.plugin {
            PlanSource::Wasm(plugin) => Some(plugin.engine.ticks().clone()),
            PlanSource::Native(_) => None,
        });
        Ok(Chain { links, ticks: ticks.unwrap_or_default() })
    }

    /// What was counted on this worker, by plugin.
    pub fn stats(&self) -> Vec<PluginStats> {
        self.meters.iter().map(|meter| self.stats_of(meter)).collect()
    }

    /// Calls `on-tick` of every instance that has it. Takes up to the time limit of each. Those that may
    /// wait come back, to be waited for elsewhere.
    pub fn tick(&self) -> Vec<Ticking> {
        let alive = self.wasm.iter().filter_map(Weak::upgrade);
        alive.filter(|instance| instance.tick(clock())).map(Ticking).collect()
    }

    /// Fuel that the last call of an instance has used, where it is counted: of the first there is.
    pub fn fuel_used(&self) -> Option<u64> {
        self.wasm.iter().find_map(Weak::upgrade)?.fuel_used()
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
        let newest = generations.keys().next_back().copied();
        let mut serving = instances.iter().filter(|one| Some(one.plugin().generation()) == newest);
        PluginStats {
            broken: serving.find_map(|instance| instance.problem()),
            generations: generations.into_iter().collect(),
            instances: instances.len(),
            memory_bytes: u64::try_from(memory_bytes).unwrap_or(u64::MAX),
            ..meter.read()
        }
    }

    fn link(&mut self, plan: &LinkPlan) -> Result<Link, ChainError> {
        let meter = self.meter(&plan.name);
        let (runner, hooks, bodies) = match &plan.plugin {
            PlanSource::Wasm(plugin) => {
                let instance = self.wasm(plugin, &plan.config, &meter);
                (Runner::Wasm(instance), plugin.hooks(), plugin.bodies)
            }
            PlanSource::Native(factory) => {
                let native = self.native(factory, plan)?;
                let hooks = native.hooks();
                let bodies = hooks.has(Hook::RequestBody) || hooks.has(Hook::ResponseBody);
                (Runner::Native(native), hooks, bodies)
            }
        };
        let wasm = match &plan.plugin {
            PlanSource::Wasm(plugin) => Some(plugin),
            PlanSource::Native(_) => None,
        };
        let waits = wasm.is_some_and(|plugin| plugin.waits);
        let adds_up = wasm.is_some_and(|plugin| plugin.limits().request_time_max.is_some());
        let on_error = plan.on_error;
        Ok(Link { runner, hooks, bodies, waits, adds_up, on_error, meter })
    }

    fn meter(&mut self, plugin: &Arc<str>) -> Rc<Meter> {
        if let Some(meter) = self.meters.iter().find(|meter| meter.plugin == *plugin) {
            return Rc::clone(meter);
        }
        let meter = Rc::new(Meter::new(Arc::clone(plugin)));
        self.meters.push(Rc::clone(&meter));
        meter
    }

    fn wasm(&mut self, plugin: &Arc<Plugin>, config: &Arc<str>, meter: &Rc<Meter>) -> Rc<Instance> {
        let mut known = self.wasm.iter().filter_map(Weak::upgrade);
        if let Some(instance) = known.find(|instance| instance.is_of(plugin, config)) {
            return instance;
        }
        plugin.state().apply(plugin.allow());
        let remote = self.remote.as_ref().filter(|_| plugin.allow().redis.is_some());
        let remote = remote.map(|remote| remote.handle(plugin.name()));
        if let Some(index) = self.warm.iter().position(|warm| warm.is_of(plugin, config)) {
            let instance =
                Rc::new(Instance::of(self.warm.swap_remove(index), Rc::clone(meter), remote));
            self.wasm.push(Rc::downgrade(&instance));
            return instance;
        }
        let now = clock();
        let (instance, made) =
            Instance::new(Arc::clone(plugin), Arc::clone(config), Rc::clone(meter), remote, now);
        if let Err(failure) = made {
            meter.complain("init", &failure, now);
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
    links: Rc<[Link]>,
    /// Of the plugins' clock.
    ticks: Ticks,
}

/// A plugin's place in a chain on one worker.
pub(super) struct Link {
    runner: Runner,
    hooks: Hooks,
    /// It may have a say in bodies.
    bodies: bool,
    /// Its head hooks may wait, and are not called from here.
    waits: bool,
    /// What its hooks take of a request is added up, for it is limited.
    adds_up: bool,
    on_error: OnError,
    meter: Rc<Meter>,
}

enum Runner {
    Wasm(Rc<Instance>),
    Native(Rc<dyn Middleware>),
}

impl Chain {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Takes a request down the chain; `now` is when that begins.
    pub fn on_request(&self, exchange: Box<Exchange>, now: Instant) -> (Box<Exchange>, Passed) {
        self.on_request_from(0, exchange, now)
    }

    /// Takes a request down the chain from the link `from` on.
    ///
    /// When a link wants to see the whole body, or has put another in its place, the chain stops behind
    /// it: [`Exchange::take_halt`] says why, and the caller goes on with the link that follows.
    pub fn on_request_from(
        &self,
        from: usize,
        exchange: Box<Exchange>,
        now: Instant,
    ) -> (Box<Exchange>, Passed) {
        let mut place = Some(exchange);
        let mut beginning = Beginning::new(&self.ticks, now);
        let mut passed = Passed { outcome: Ok(Flow::Next), entered: self.links.len() };
        for (index, link) in self.links.iter().enumerate().skip(from) {
            if link.hooks.has(Hook::Request) {
                if link.waits && link.waits_at(index, &mut place) {
                    passed.entered = index;
                    break;
                }
                let now = beginning.next();
                let outcome = link.on_head(Hook::Request, &mut place, now);
                if let Some(exchange) = place.as_deref_mut() {
                    exchange.note_later(index);
                    if let Some(refetch) = &mut exchange.refetch {
                        refetch.link = index;
                    }
                    if let Some(waiting) = &mut exchange.waiting {
                        waiting.link = index;
                        passed.entered = index;
                        break;
                    }
                }
                if !matches!(outcome, Ok(Flow::Next)) {
                    passed = Passed { outcome, entered: index };
                    break;
                }
            }
            if link.bodies && link.halts(index, Hook::RequestBody, &mut place) {
                passed.entered = index + 1;
                break;
            }
        }
        (place.expect(PUT_BACK), passed)
    }

    /// Takes a response back up through the first `entered` links; `now` is when that begins.
    /// [`Flow::Respond`] when one of them has replaced it. It may stop in the middle as
    /// [`on_request_from`](Self::on_request_from) does, to be gone on with by the links before.
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
        let mut beginning = Beginning::new(&self.ticks, now);
        let mut flow = Ok(Flow::Next);
        let floor = place.as_deref().map_or(0, |exchange| exchange.floor);
        for (index, link) in self.links.iter().enumerate().take(entered).skip(floor).rev() {
            if let Some(exchange) = place.as_deref_mut() {
                exchange.add_later(index);
            }
            if link.hooks.has(Hook::Response) {
                if link.waits && link.waits_at(index, &mut place) {
                    break;
                }
                let now = beginning.next();
                match link.on_head(Hook::Response, &mut place, now) {
                    Ok(Flow::Next) => {}
                    // It is not shown its own answer.
                    Ok(Flow::Respond) => {
                        flow = Ok(Flow::Respond);
                        continue;
                    }
                    Err(failure) => {
                        flow = Err(Broken { failure, entered: index });
                        break;
                    }
                }
            }
            if link.bodies && link.halts(index, Hook::ResponseBody, &mut place) {
                break;
            }
        }
        (place.expect(PUT_BACK), flow)
    }

    /// Whether one of the first `entered` links may want to see a response's body.
    pub fn reads_bodies(&self, entered: usize) -> bool {
        self.links.iter().take(entered).any(|link| link.bodies)
    }

    /// Who is shown the request's body, of those links that have been called since this was last
    /// asked.
    pub fn request_filter(&self, exchange: &mut Exchange) -> Option<Box<BodyFilter>> {
        let stages = std::mem::take(&mut exchange.request_stages);
        BodyFilter::new(&self.links, Hook::RequestBody, stages)
    }

    /// The same for the response's.
    pub fn response_filter(&self, exchange: &mut Exchange) -> Option<Box<BodyFilter>> {
        let stages = std::mem::take(&mut exchange.response_stages);
        BodyFilter::new(&self.links, Hook::ResponseBody, stages)
    }

    /// Calls the head hook of a link that may wait, for which the chain has stopped. It may have stopped
    /// again then, for what this link asks for the body.
    ///
    /// Cancel safety: dropping the future gives the instance up.
    pub async fn call_waiting(
        &self,
        index: usize,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        scope: &mut Scope<'_>,
    ) -> Result<Flow, Box<HookFailure>> {
        let Some(link) = self.links.get(index) else { return Ok(Flow::Next) };
        let Runner::Wasm(instance) = &link.runner else { return Ok(Flow::Next) };
        let called = instance
            .wait(scope, async |live, asks, now| live.on_head_waiting(hook, place, now, asks).await)
            .await;
        let flow = link.judge(hook, place, called)?;
        if let Some(exchange) = place.as_deref_mut() {
            exchange.note_later(index);
        }
        let bodies = if hook == Hook::Request { Hook::RequestBody } else { Hook::ResponseBody };
        if flow == Flow::Next && link.bodies {
            link.halts(index, bodies, place);
        }
        Ok(flow)
    }

    /// Shows a link all of a body, which it has asked for; what goes on in its place.
    ///
    /// Cancel safety: dropping the future gives the instance up, if it is one that waits.
    pub async fn show_whole(
        &self,
        link: usize,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        body: Vec<u8>,
        scope: &mut Scope<'_>,
    ) -> Result<Vec<u8>, BodyStop> {
        let Some(link) = self.links.get(link) else { return Ok(body) };
        let flow = match &link.runner {
            Runner::Wasm(instance) if link.waits => {
                let shown = instance.wait(scope, async |live, asks, now| {
                    live.on_whole_waiting(hook, place, now, &body, asks).await
                });
                let shown = shown.await;
                link.judge_chunk(hook, place, shown)?
            }
            _ => link.show(hook, place, (&body, true), Showing::Whole)?,
        };
        match flow {
            ChunkFlow::Pass | ChunkFlow::Detach => Ok(body),
            ChunkFlow::Replace(other) => Ok(other),
            ChunkFlow::Drop => Ok(Vec::new()),
            ChunkFlow::Abort => Err(BodyStop::Aborted),
        }
    }

    /// Whether some link wants to see WebSocket messages.
    pub fn sees_messages(&self) -> bool {
        self.links.iter().any(|link| link.hooks.has(Hook::Message))
    }

    /// Shows a WebSocket message to those who want to see it: a client's down the chain, a server's back up.
    /// An error: both ends are to be closed.
    pub fn on_message(
        &self,
        place: &mut Option<Box<Exchange>>,
        from: Peer,
        mut message: SocketMessage,
    ) -> Result<MessagePassed, Box<HookFailure>> {
        let last = self.links.len().saturating_sub(1);
        for step in 0..self.links.len() {
            let link = &self.links[if from == Peer::Client { step } else { last - step }];
            if !link.hooks.has(Hook::Message) {
                continue;
            }
            match link.on_message(place, from, &message)? {
                MessageFlow::Pass => {}
                MessageFlow::Replace(other) => message = other,
                MessageFlow::Drop => return Ok(MessagePassed::Dropped),
                MessageFlow::Close(code, reason) => {
                    return Ok(MessagePassed::Closed(code, reason));
                }
            }
        }
        Ok(MessagePassed::On(message))
    }

    /// Shows the first `reached` links what became of an exchange.
    pub fn on_log(
        &self,
        exchange: Box<Exchange>,
        reached: usize,
        summary: &Summary,
    ) -> Box<Exchange> {
        let mut place = Some(exchange);
        for link in self.links.iter().take(reached).filter(|link| link.hooks.has(Hook::Log)) {
            link.on_log(&mut place, summary);
        }
        place.expect(PUT_BACK)
    }
}

/// Exact, for what is measured or rare.
#[expect(clippy::disallowed_methods, reason = "the one place where chains read the clock")]
fn clock() -> Instant {
    Instant::now()
}
