//! Changes a gateway that runs: one change at a time, on a thread of its own.
//!
//! Every change goes the same way, and what fails leaves everything as it was:
//!
//! 1. load what is new: read, compile, link;
//! 2. build a snapshot; a configuration that is new to its plugin is tried;
//! 3. make a warm instance for each worker of each plugin and configuration that is new;
//! 4. hand all of it to the workers. Each takes it between two requests; requests that are here end on
//!    what they began with;
//! 5. say so, when every worker has.
//!
//! A **swap** changes the component of one plugin, a **reload** anything that needs no new sockets or
//! threads. What serves is kept by the shelf.
//!
//! Which component a plugin has: that of its file, until another one is given by hand (a swap by body, a
//! rollback). That one stays until the *content* of the file changes: a reload of a configuration does
//! not undo it, a new file does, and a restart begins with the file.
//!
//! Here is what all changes share, and the swap; `reload` takes configurations, `follow` follows files.
//!
//! Not here: looking for changed files (`watch`), the admin's requests (`admin`).

mod follow;
mod order;
mod reload;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, select, unbounded};
use serde_json::{Value, json};

use super::running::Running;
use super::shelf::{From, Held};
use super::snapshot::{self, Bad, Natives, Probed, Sources};
use super::watch::Watch;
use crate::config::{self, Environment as _, PluginSource, Settings, System};
use crate::plugin::built_in;
use crate::plugin::load::COMPONENT_BYTES_MAX;
use crate::plugin::{PlanSource, Plugin, PluginEngine, digest_of, joined};
use crate::proxy::Snapshot;
use crate::sys;
use crate::telemetry::AccessLog;
pub use order::{Order, Origin, Outcome, Refusal, RefusalKind, Reply};

/// What comes along with a notification is waited for: a copy makes thousands of them.
const GATHER: Duration = Duration::from_millis(20);

/// Everything that a change needs to know.
pub struct Control {
    running: Arc<Running>,
    engine: Arc<PluginEngine>,
    natives: Natives,
    origin: Option<Box<dyn Origin>>,
    bad: Bad,
    /// As checked: routes whose plugin is bad have their own target here.
    settings: Settings,
    /// In the order of the plugins in `settings`.
    shelf: Vec<Held>,
    probed: Probed,
    watch: Watch,
    woken: Receiver<()>,
    /// The folder could not be read, and that was said.
    unreadable: bool,
}

/// What a start leaves for later changes.
pub struct Beginning {
    /// Makes plugins.
    pub engine: Arc<PluginEngine>,
    /// Middleware that the program brings along.
    pub natives: Natives,
    /// Where settings come from.
    pub origin: Option<Box<dyn Origin>>,
    /// What a bad plugin does.
    pub bad: Bad,
    /// The settings as checked.
    pub settings: Settings,
    /// What each plugin calls.
    pub shelf: Vec<Held>,
    /// Configurations that have been tried.
    pub probed: Probed,
}

/// Loads a plugin for the first time.
pub fn hold(plugin: &config::Plugin, engine: &Arc<PluginEngine>, natives: &Natives) -> Held {
    match &plugin.source {
        PluginSource::File(_) | PluginSource::BuiltIn => {
            let mut digest = None;
            let source = content(plugin).and_then(|bytes| {
                digest = Some(digest_of(&bytes));
                compile(engine, plugin, &bytes).map(PlanSource::Wasm)
            });
            let held = Held::new(plugin, source);
            Held { file_digest: digest, ..held }
        }
        PluginSource::Native => {
            let factory = natives.get(plugin.name.as_ref()).map(Arc::clone);
            let source = factory.map(PlanSource::Native);
            let missing = || "no native middleware of this name is registered".to_owned();
            Held::new(plugin, source.ok_or_else(missing))
        }
    }
}

/// The component of a plugin, from its file or from this binary.
fn content(plugin: &config::Plugin) -> Result<Cow<'static, [u8]>, String> {
    match &plugin.source {
        PluginSource::File(path) => {
            let read = System.read(path, COMPONENT_BYTES_MAX);
            read.map(Cow::Owned).map_err(|error| format!("cannot read {}: {error}", path.display()))
        }
        PluginSource::BuiltIn => built_in::component(&plugin.name).map(Cow::Borrowed),
        PluginSource::Native => Err("native middleware has no component".to_owned()),
    }
}

fn compile(
    engine: &Arc<PluginEngine>,
    plugin: &config::Plugin,
    bytes: &[u8],
) -> Result<Arc<Plugin>, String> {
    let loaded = engine.load(&plugin.name, bytes, &plugin.limits, &plugin.allow);
    loaded.map_err(|error| match &plugin.source {
        PluginSource::File(path) => format!("{}: {error}", path.display()),
        PluginSource::BuiltIn | PluginSource::Native => format!("built in: {error}"),
    })
}

impl Control {
    /// Starts the thread. It ends when told to; nobody has to wait for that.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(beginning: Beginning, running: Arc<Running>) -> std::io::Result<Sender<Order>> {
        let Beginning { engine, natives, origin, bad, settings, shelf, probed } = beginning;
        let (orders, received) = unbounded();
        let (wake, woken) = bounded(1);
        running.publish(shelf.clone());
        std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let watch = Watch::new(wake.clone());
            let mut control = Self {
                running,
                engine,
                natives,
                origin,
                bad,
                settings,
                shelf,
                probed,
                watch,
                woken,
                unreadable: false,
            };
            control.run(&received);
            // Without notifications nobody else would keep it open.
            drop(wake);
        })?;
        Ok(orders)
    }

    fn run(&mut self, orders: &Receiver<Order>) {
        let woken = self.woken.clone();
        loop {
            self.look(Instant::now());
            select! {
                recv(orders) -> order => match order {
                    Ok(Order::Stop) | Err(_) => return,
                    Ok(order) => self.obey(order),
                },
                recv(woken) -> _ => std::thread::sleep(GATHER),
                default(self.watch.pause(Instant::now())) => {}
            }
        }
    }

    fn obey(&mut self, order: Order) {
        let draining = self.running.is_draining();
        let (outcome, reply) = match order {
            Order::Drain(reply) => {
                self.running.begin_drain();
                (Ok(json!({ "draining": true })), reply)
            }
            Order::Reload(reply) | Order::Swap { reply, .. } | Order::Rollback { reply, .. }
                if draining =>
            {
                let refusal = Refusal::new(RefusalKind::Unavailable, "the gateway is draining");
                (Err(refusal), reply)
            }
            Order::Reload(reply) => (self.reload(), reply),
            Order::Swap { name, component, reply } => (self.swap(&name, &component), reply),
            Order::Rollback { name, reply } => (self.roll_back(&name), reply),
            Order::Stop => return,
        };
        reply(outcome);
    }

    fn swap(&mut self, name: &str, component: &[u8]) -> Outcome {
        let index = self.find(name)?;
        let plugin = &self.settings.plugins[index];
        match self.engine.load(&plugin.name, component, &plugin.limits, &plugin.allow) {
            Ok(plugin) => self.install(index, plugin, From::Body),
            Err(error) => Err(self.refuse(index, error.to_string())),
        }
    }

    fn roll_back(&mut self, name: &str) -> Outcome {
        let index = self.find(name)?;
        let Some(plugin) = self.shelf[index].former.pop() else {
            let detail = format!("plugin `{name}`: no former generation is kept");
            return Err(Refusal::new(RefusalKind::Conflict, detail));
        };
        let outcome = self.install(index, Arc::clone(&plugin), From::Rollback);
        if outcome.is_err() {
            self.shelf[index].former.push(plugin);
            self.running.publish(self.shelf.clone());
        }
        outcome
    }

    /// The index of the plugin, which has a component.
    fn find(&self, name: &str) -> Result<usize, Refusal> {
        let name = config::plugin_name(name);
        let Some(index) = self.shelf.iter().position(|held| *held.name == *name) else {
            let known: Vec<&str> = self.shelf.iter().map(|held| held.name.as_ref()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let detail = format!(
                "there is no plugin of this name; there are: {known}. A new one is a file in the \
                 plugins folder"
            );
            return Err(Refusal::new(RefusalKind::Missing, detail));
        };
        if self.settings.plugins[index].source == PluginSource::Native {
            let detail = format!("`{name}` is native middleware, a part of the program");
            return Err(Refusal::new(RefusalKind::Conflict, detail));
        }
        Ok(index)
    }

    /// Lets `plugin` serve in the place of what the plugin of this index has served with.
    fn install(&mut self, index: usize, plugin: Arc<Plugin>, from: From) -> Outcome {
        let serving = self.shelf[index].serving();
        if serving.is_some_and(|serving| Arc::ptr_eq(serving, &plugin)) {
            self.shelf[index].problem = None;
            self.running.publish(self.shelf.clone());
            return Ok(swapped(&plugin, "unchanged"));
        }
        let settings = &self.settings.plugins[index];
        // One that served before did so under what was granted then.
        let plugin = match plugin.under(&settings.limits, &settings.allow) {
            Ok(plugin) => newer(plugin, serving),
            Err(error) => return Err(self.refuse(index, error.to_string())),
        };
        let snapshot = self.running.snapshot();
        let mut probed = self.probed.clone();
        // What the one that serves accepts, its successor must accept.
        for (called, config) in snapshot::calls(&snapshot) {
            if called.name() == plugin.name() {
                if let Err(complaints) = plugin.probe(&config) {
                    return Err(self.refuse(index, joined(&complaints)));
                }
                probed.accepts(&plugin, &config);
            }
        }
        let mut sources: Sources = self.shelf.iter().map(|held| held.source.clone()).collect();
        sources[index] = Ok(PlanSource::Wasm(Arc::clone(&plugin)));
        let settings = self.settings.clone();
        let tls = Arc::clone(&snapshot.tls);
        let built = snapshot::build(
            settings,
            sources.clone(),
            Vec::new(),
            tls,
            &mut probed,
            self.bad,
            Some(&snapshot),
        );
        let snapshot = match built {
            Ok(snapshot) => Arc::new(snapshot),
            Err(error) => return Err(self.refuse(index, error.to_string())),
        };
        let access_log = self.running.access_log();
        let handed = self.hand_out(&snapshot, access_log);
        if let Err(refusal) = handed {
            if refusal.kind == RefusalKind::Unavailable {
                // They have it or will have it: it cannot be taken back.
                self.shelf[index].put(plugin, from);
                self.running.publish(self.shelf.clone());
                return Err(refusal);
            }
            return Err(self.refuse(index, refusal.detail));
        }
        self.probed = probed;
        self.probed.keep(&sources);
        self.shelf[index].put(Arc::clone(&plugin), from);
        self.running.publish(self.shelf.clone());
        let result = if from == From::Rollback { "rolled-back" } else { "swapped" };
        self.running.count_swap(plugin.name(), result);
        self.say_swapped(&plugin, from);
        Ok(swapped(&plugin, result))
    }

    fn say_swapped(&self, plugin: &Plugin, from: From) {
        let (name, generation, digest) = (plugin.name(), plugin.generation(), plugin.digest());
        let told = json!({
            "plugin": **name, "generation": generation, "digest": digest, "from": from.as_str(),
        });
        self.running.events().tell("swap", &told);
        let (from, digest) = (from.as_str(), &digest[..12.min(digest.len())]);
        log::info!(
            target: "plugin",
            "plugin `{name}`: generation {generation} serves (sha256 {digest}…, from {from})"
        );
    }

    /// Takes note that a replacement was refused; what serves goes on.
    fn refuse(&mut self, index: usize, problem: String) -> Refusal {
        let held = &mut self.shelf[index];
        let name = &held.name;
        let detail = format!("plugin `{name}`: {problem}");
        let goes_on = match held.serving() {
            Some(serving) => format!("; generation {} goes on", serving.generation()),
            None => String::new(),
        };
        log::error!(target: "plugin", "{detail}{goes_on}");
        self.running.count_swap(name, "refused");
        self.running.events().tell("refused", &json!({ "plugin": **name, "problem": detail }));
        if held.source.is_err() {
            held.source = Err(detail.clone());
        }
        held.problem = Some(detail.clone());
        self.running.publish(self.shelf.clone());
        Refusal::new(RefusalKind::Bad, detail)
    }

    /// Makes instances and hands the snapshot to all workers.
    fn hand_out(
        &self,
        snapshot: &Arc<Snapshot>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Result<(), Refusal> {
        let bad = |detail: String| Refusal::new(RefusalKind::Bad, detail);
        let current = self.running.snapshot();
        let known: BTreeSet<(u64, Arc<str>)> = snapshot::calls(&current)
            .into_iter()
            .map(|(plugin, config)| (plugin.generation(), config))
            .collect();
        let mut fresh = snapshot::calls(snapshot);
        fresh
            .retain(|(plugin, config)| !known.contains(&(plugin.generation(), Arc::clone(config))));
        let own_cpus = sys::affinity();
        let mut warm = Vec::new();
        for near in self.running.near_cpus() {
            // Memory is local to the node that touches it first.
            if !fresh.is_empty()
                && let Some(cpus) = near
                && let Err(error) = sys::pin_to_cpus(cpus)
            {
                log::debug!(target: "plugin", "instances are made elsewhere: {error}");
            }
            let share = fresh.iter().map(|(plugin, config)| plugin.warm(config));
            warm.push(share.collect::<Result<Vec<_>, _>>());
        }
        // What it was must still be allowed; if not, it stays where the last instances were made.
        let _ = own_cpus.and_then(sys::pin_to_cpus);
        let warm = warm.into_iter().collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let handed = self.running.hand_out(snapshot, warm, access_log);
        handed.map_err(|detail| Refusal::new(RefusalKind::Unavailable, detail))
    }
}

/// A component that served before serves again under a number of its own: whoever waits for a
/// generation waits for one that is higher.
fn newer(plugin: Arc<Plugin>, serving: Option<&Arc<Plugin>>) -> Arc<Plugin> {
    match serving {
        Some(serving) => plugin.newer_than(serving),
        None => plugin,
    }
}

fn swapped(plugin: &Plugin, result: &str) -> Value {
    json!({
        "plugin": plugin.name().as_ref(),
        "result": result,
        "generation": plugin.generation(),
        "digest": plugin.digest(),
    })
}
