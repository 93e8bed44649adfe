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
//! Not here: looking for changed files (`watch`), the admin's requests (`admin`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, bounded, select, unbounded};
use serde_json::{Value, json};

use super::StartError;
use super::running::Running;
use super::shelf::{From, Held};
use super::snapshot::{self, Bad, Natives, Probed, Sources};
use super::watch::{Sight, Watch};
use crate::config::{self, Environment as _, PluginSource, Problem, Problems, Settings, System};
use crate::plugin::load::COMPONENT_BYTES_MAX;
use crate::plugin::{PlanSource, Plugin, PluginEngine, digest_of};
use crate::proxy::Snapshot;
use crate::telemetry::AccessLog;

/// What comes along with a notification is waited for: a copy makes thousands of them.
const GATHER: Duration = Duration::from_millis(20);

/// Where a gateway's settings come from; asked anew for every reload.
pub trait Origin: Send {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    fn load(&mut self) -> Result<Settings, Problems>;

    /// Finds the places of problems that came up later, in what was read last.
    fn place(&self, problems: Problems) -> Problems;

    /// Whether routes are made from what is in the plugins folder, so that a new file there asks for a
    /// reload.
    fn follows_folder(&self) -> bool;
}

/// Why nothing was changed.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What kind of reason.
    pub kind: RefusalKind,
    /// The reason.
    pub detail: String,
    /// Everything that is wrong with a configuration.
    pub problems: Vec<Problem>,
}

/// Kinds of reasons for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// There is no such thing.
    Missing,
    /// It cannot be done with what is there.
    Conflict,
    /// What was given is bad.
    Bad,
    /// Not now, or not in time.
    Unavailable,
}

impl Refusal {
    fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), problems: Vec::new() }
    }
}

/// What became of an order.
pub type Outcome = Result<Value, Refusal>;

/// Who wants to know.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// What the control thread is asked for.
pub enum Order {
    /// Read the configuration anew and live by it.
    Reload(Reply),
    /// Replace the component of a plugin.
    Swap {
        /// Which plugin.
        name: String,
        /// The new one.
        component: Bytes,
        /// Who wants to know.
        reply: Reply,
    },
    /// Go back to the generation of a plugin that served before.
    Rollback {
        /// Which plugin.
        name: String,
        /// Who wants to know.
        reply: Reply,
    },
    /// Take no more requests.
    Drain(Reply),
    /// End the thread.
    Stop,
}

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
        PluginSource::File(path) => {
            let mut digest = None;
            let source = read(path).and_then(|bytes| {
                digest = Some(digest_of(&bytes));
                compile(engine, plugin, path, &bytes).map(PlanSource::Wasm)
            });
            let held = Held::new(&plugin.name, Some(path.clone()), source);
            Held { file_digest: digest, ..held }
        }
        PluginSource::Native => {
            let factory = natives.get(plugin.name.as_ref()).map(Arc::clone);
            let source = factory.map(PlanSource::Native);
            let missing = || "no native middleware of this name is registered".to_owned();
            Held::new(&plugin.name, None, source.ok_or_else(missing))
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = System.read(path, COMPONENT_BYTES_MAX);
    read.map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn compile(
    engine: &Arc<PluginEngine>,
    plugin: &config::Plugin,
    path: &Path,
    bytes: &[u8],
) -> Result<Arc<Plugin>, String> {
    let loaded = engine.load(&plugin.name, bytes, &plugin.limits, &plugin.allow);
    loaded.map_err(|error| format!("{}: {error}", path.display()))
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
        if self.shelf[index].path.is_none() {
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
        let plugin = newer(plugin, serving, &self.settings.plugins[index]);
        let snapshot = self.running.snapshot();
        let mut probed = self.probed.clone();
        // What the one that serves accepts, its successor must accept.
        for (called, config) in snapshot::calls(&snapshot) {
            if called.name() == plugin.name() {
                if let Err(complaints) = plugin.probe(&config) {
                    let all: Vec<String> = complaints.iter().map(ToString::to_string).collect();
                    return Err(self.refuse(index, all.join("; ")));
                }
                probed.accepts(&plugin, &config);
            }
        }
        let mut sources: Sources = self.shelf.iter().map(|held| held.source.clone()).collect();
        sources[index] = Ok(PlanSource::Wasm(Arc::clone(&plugin)));
        let settings = self.settings.clone();
        let built = snapshot::build(settings, sources.clone(), Vec::new(), &mut probed, self.bad);
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
        let workers = self.running.worker_count();
        let mut warm: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        for (plugin, config) in snapshot::calls(snapshot) {
            if known.contains(&(plugin.generation(), Arc::clone(&config))) {
                continue;
            }
            for share in &mut warm {
                share.push(plugin.warm(&config).map_err(bad)?);
            }
        }
        let handed = self.running.hand_out(snapshot, warm, access_log);
        handed.map_err(|detail| Refusal::new(RefusalKind::Unavailable, detail))
    }

    fn reload(&mut self) -> Outcome {
        let outcome = self.try_reload();
        let result = if outcome.is_ok() { "ok" } else { "refused" };
        self.running.count_reload(result);
        match &outcome {
            Ok(value) => log::info!(target: "control", "reloaded: {value}"),
            Err(refusal) => {
                log::error!(target: "control", "reload refused: {}", refusal.detail);
                for problem in &refusal.problems {
                    log::error!(target: "control", "{problem}");
                }
            }
        }
        outcome
    }

    fn try_reload(&mut self) -> Outcome {
        let Some(origin) = &mut self.origin else {
            let detail = "the configuration was made by a program: there is nothing to read anew";
            return Err(Refusal::new(RefusalKind::Conflict, detail));
        };
        let mut settings = origin.load().map_err(wrong)?;
        let restart = keep_what_is_bound(&self.settings, &mut settings);
        let now = Instant::now();
        let mut shelf = Vec::new();
        let (sources, problems) = snapshot::load(&settings, self.bad, |plugin| {
            let held = self.hold_again(plugin, now);
            shelf.push(held);
            shelf.last().map_or(Err(String::new()), |held: &Held| held.source.clone())
        });
        let mut probed = self.probed.clone();
        let built =
            snapshot::build(settings.clone(), sources.clone(), problems, &mut probed, self.bad);
        let snapshot = Arc::new(built.map_err(|error| self.misfit(error))?);
        let access_log = if settings.access_log == self.settings.access_log {
            self.running.access_log()
        } else {
            let opened = super::open_access_log(&settings);
            opened.map_err(|error| self.misfit(error))?
        };
        self.hand_out(&snapshot, access_log)?;
        self.running.took_configuration(&settings);
        let mut swaps = Vec::new();
        for held in &shelf {
            let Some(plugin) = held.serving() else { continue };
            let before = self.shelf.iter().find(|before| before.name == held.name);
            let before = before.and_then(Held::serving);
            if before.is_none_or(|before| before.generation() != plugin.generation()) {
                swaps.push(swapped(plugin, "swapped"));
                self.running.count_swap(plugin.name(), "swapped");
                self.say_swapped(plugin, held.from);
            }
        }
        self.probed = probed;
        self.probed.keep(&sources);
        self.settings = settings;
        self.shelf = shelf;
        self.running.publish(self.shelf.clone());
        let mut value = json!({
            "config_generation": self.running.config_generation(),
            "plugins": swaps,
        });
        if !restart.is_empty() {
            let list = restart.join(", ");
            log::warn!(target: "control", "restart needed: {list}");
            value["restart_needed"] = json!(restart);
            value["detail"] = json!(format!("restart needed: {list}"));
        }
        Ok(value)
    }

    /// The plugin of a new configuration: what serves, when its file has not changed.
    fn hold_again(&self, plugin: &config::Plugin, now: Instant) -> Held {
        let PluginSource::File(path) = &plugin.source else {
            return hold(plugin, &self.engine, &self.natives);
        };
        let known = self.shelf.iter().find(|held| held.name == plugin.name && held.path.is_some());
        let Some(known) = known else { return hold(plugin, &self.engine, &self.natives) };
        let mut held = Held { path: Some(path.clone()), file_gone: false, ..known.clone() };
        let bytes = read(path);
        let digest = bytes.as_ref().ok().map(|bytes| digest_of(bytes));
        // Other grants have to be checked against what it imports.
        let granted = held.serving().is_none_or(|known| *known.allow() == *plugin.allow);
        if digest.is_some() && digest == held.file_digest && granted {
            if let Some(serving) = held.serving().filter(|known| *known.limits() != plugin.limits) {
                held.source = Ok(PlanSource::Wasm(serving.renewed(&plugin.limits)));
            }
            return held;
        }
        match bytes.and_then(|bytes| compile(&self.engine, plugin, path, &bytes)) {
            Ok(loaded) => {
                let loaded = newer(loaded, held.serving(), plugin);
                held.put(loaded, From::File);
            }
            Err(problem) if held.serving().is_some() && self.bad == Bad::Answers => {
                log::error!(target: "plugin", "plugin `{}`: {problem}", plugin.name);
                held.problem = Some(problem);
            }
            // The watch says so, when it is no better in a moment.
            Err(_) if held.serving().is_some() && self.watch.is_settling(path, now) => return held,
            Err(problem) => held.source = Err(problem),
        }
        held.file_digest = digest;
        held
    }

    /// A configuration that fits together, and does not fit this machine or these plugins.
    fn misfit(&self, error: StartError) -> Refusal {
        match error {
            StartError::Config(problems) | StartError::Plugin(problems) => {
                wrong(self.origin.as_ref().map_or(problems.clone(), |one| one.place(problems)))
            }
            other => Refusal::new(RefusalKind::Bad, other.to_string()),
        }
    }

    /// Looks at the files of all plugins, and follows them.
    fn look(&mut self, now: Instant) {
        if self.running.is_draining() {
            return;
        }
        let mut paths: BTreeSet<PathBuf> =
            self.shelf.iter().filter_map(|held| held.path.clone()).collect();
        let mut folders: BTreeSet<PathBuf> = paths.iter().map(|path| folder_of(path)).collect();
        let mut strangers = Vec::new();
        if let Some(folder) = self.settings.plugins_dir.clone() {
            match config::plugins_in(&folder, &System) {
                Ok(files) => {
                    self.unreadable = false;
                    let known = |name: &str| self.shelf.iter().any(|held| *held.name == *name);
                    strangers.extend(files.into_iter().filter(|(name, _)| !known(name)));
                    paths.extend(strangers.iter().map(|(_, path)| path.clone()));
                }
                Err(error) if !self.unreadable => {
                    self.unreadable = true;
                    let folder = folder.display();
                    log::warn!(target: "plugin", "the plugins folder {folder}: {error}");
                }
                Err(_) => {}
            }
            folders.insert(folder);
        }
        self.watch.listen_to(folders);
        for sight in self.watch.look(&paths, now) {
            let (path, last) = match &sight {
                Sight::Changed { path, last } => (path, Some(*last)),
                Sight::Gone(path) => (path, None),
            };
            let index = self.shelf.iter().position(|held| held.path.as_ref() == Some(path));
            match (index, last) {
                (Some(index), Some(last)) => self.follow(index, path, last),
                (Some(index), None) => self.file_gone(index, path),
                (None, Some(last)) => {
                    if let Some((name, path)) = strangers.iter().find(|(_, one)| one == path) {
                        self.welcome(name, path, last);
                    }
                }
                (None, None) => {}
            }
        }
    }

    /// A file has another content than before, or so it seems.
    fn follow(&mut self, index: usize, path: &Path, last: bool) {
        if std::mem::take(&mut self.shelf[index].file_gone) {
            self.running.publish(self.shelf.clone());
        }
        let bytes = read(path);
        let digest = bytes.as_ref().ok().map(|bytes| digest_of(bytes));
        if digest.is_some() && digest == self.shelf[index].file_digest {
            return;
        }
        let plugin = &self.settings.plugins[index];
        match bytes.and_then(|bytes| compile(&self.engine, plugin, path, &bytes)) {
            Ok(plugin) => {
                self.shelf[index].file_digest = digest;
                // Its outcome is in the log and on the shelf.
                let _ = self.install(index, plugin, From::File);
            }
            Err(_) if !last => self.watch.in_vain(path),
            Err(problem) => {
                self.shelf[index].file_digest = digest;
                self.refuse(index, problem);
            }
        }
    }

    /// The file has gone. Nobody takes a plugin out of its routes by removing a file: until a reload
    /// says what the routes are to do without it, it goes on.
    fn file_gone(&mut self, index: usize, path: &Path) {
        let held = &mut self.shelf[index];
        held.file_gone = true;
        held.file_digest = None;
        let (name, path) = (&held.name, path.display());
        log::warn!(
            target: "plugin",
            "plugin `{name}`: {path} has gone; what was loaded goes on until a reload"
        );
        self.running.publish(self.shelf.clone());
    }

    /// A file has come into the plugins folder.
    fn welcome(&mut self, name: &str, path: &Path, last: bool) {
        let stranger = config::plugin_from_folder(name, path.to_path_buf());
        let held = hold(&stranger, &self.engine, &self.natives);
        if held.source.is_err() && !last {
            self.watch.in_vain(path);
            return;
        }
        if self.origin.as_ref().is_some_and(|origin| origin.follows_folder()) {
            // `held` keeps the compiled code for it. What is wrong is in the log.
            let _ = self.reload();
            return;
        }
        self.settings.plugins.push(stranger);
        let index = self.shelf.len();
        let loaded = held.serving().map(Arc::clone);
        match (loaded, &held.source) {
            (Some(plugin), _) => {
                self.shelf.push(Held { source: Err("not loaded yet".to_owned()), ..held });
                let _ = self.install(index, plugin, From::File);
            }
            (None, source) => {
                let problem = source.as_ref().err().cloned().unwrap_or_default();
                self.shelf.push(held);
                self.refuse(index, problem);
            }
        }
    }
}

/// A component that served before serves again under a number of its own: whoever waits for a
/// generation waits for one that is higher.
fn newer(
    plugin: Arc<Plugin>,
    serving: Option<&Arc<Plugin>>,
    settings: &config::Plugin,
) -> Arc<Plugin> {
    match serving {
        Some(serving) if serving.generation() > plugin.generation() => {
            plugin.renewed(&settings.limits)
        }
        _ => plugin,
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

fn wrong(problems: Problems) -> Refusal {
    let detail = match problems.0.as_slice() {
        [problem] => problem.to_string(),
        list => format!("the configuration has {} problems", list.len()),
    };
    Refusal { kind: RefusalKind::Bad, detail, problems: problems.0 }
}

/// Keeps what cannot change without new sockets or threads as it is; names of what should.
fn keep_what_is_bound(running: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut restart = Vec::new();
    if new.listeners != running.listeners {
        restart.push("listeners");
        new.listeners.clone_from(&running.listeners);
    }
    if new.workers != running.workers {
        restart.push("workers");
        new.workers.clone_from(&running.workers);
    }
    let place = |settings: &Settings| {
        settings.admin.as_ref().map(|admin| (admin.address.clone(), admin.only_v6))
    };
    if place(new) != place(running) {
        // A token belongs to its address: one that only this machine reaches needs none.
        restart.push("admin");
        new.admin.clone_from(&running.admin);
    }
    restart
}

fn folder_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_path_buf()
}
