//! The control side: everything that is slow.
//!
//! A gateway starts in this order, and each step can fail without a trace of the later ones:
//!
//! 1. check the configuration; read the machine; place the workers;
//! 2. load plugins and try their configurations ([`snapshot`]);
//! 3. bind every listener, the admin's too;
//! 4. start the workers, then the acceptors; say ready.
//!
//! Not here: what a worker does (`worker`), signals and flags (`main`).

#![expect(clippy::disallowed_methods, reason = "people and threads are waited for in real time")]

pub mod admin;
pub mod change;
pub mod metrics;
pub mod snapshot;
mod certificates;
mod running;
mod shelf;
mod watch;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use crate::config::{self, Acceptors, Address, Config, Problem, Problems, Settings, System};
use crate::io::{self, Backend};
use crate::plugin::{CodeCache, Middleware, PluginEngine};
use crate::proxy::Snapshot;
use crate::proxy::tally::Tally;
use crate::telemetry::AccessLog;
use crate::worker::acceptor;
use crate::worker::listen::{self, Listening};
use crate::worker::mailbox::mailbox;
use crate::worker::topology::Machine;
use crate::worker::{Shared, Worker, placement};
pub use change::Origin;
use change::{Beginning, Control, Order};
use running::{Doors, Running};
use shelf::Held;
use snapshot::{Bad, Natives, Probed};

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong; nothing was touched.
    #[error("{0}")]
    Config(Problems),
    /// A plugin is wrong, or refuses its configuration; [`config::place`] finds the places in the
    /// file.
    #[error("{0}")]
    Plugin(Problems),
    /// An address cannot be bound.
    #[error("{0:#}")]
    Bind(anyhow::Error),
    /// Anything else that the operating system refuses.
    #[error("{0:#}")]
    Other(anyhow::Error),
}

/// What a gateway is made from.
///
/// ```no_run
/// use zproxy::{Config, Exchange, Flow, Gateway, Middleware};
///
/// struct Stamp;
/// impl Middleware for Stamp {
///     fn on_response(&self, exchange: &mut Exchange) -> Flow {
///         let _ = exchange.response.fields.set("x-served-by", b"edge-1");
///         Flow::Next
///     }
/// }
///
/// let config: Config = serde_json::from_str(r#"{
///     "listen_port": 8080,
///     "routes": [{ "path": "/", "upstream": "http://127.0.0.1:3000", "middleware": ["stamp"] }]
/// }"#)?;
/// let gateway = Gateway::builder(config)
///     .middleware("stamp", |_config| Ok(Box::new(Stamp)))
///     .start()?;
/// gateway.drain();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct GatewayBuilder {
    source: Source,
    natives: Natives,
    tolerant: bool,
    origin: Option<Box<dyn Origin>>,
}

enum Source {
    Config(Box<Config>),
    Checked(Box<Settings>),
}

/// A running gateway. Dropping it stops it at once; see [`drain`](Self::drain).
pub struct Gateway {
    running: Arc<Running>,
    orders: Sender<Order>,
    admin: Option<admin::AdminServer>,
    addresses: Vec<Address>,
    admin_files: SocketFiles,
}

/// Paths of bound Unix sockets, which go with their listener.
///
/// They go before accepting ends: the next gateway may bind the same path as soon as nobody answers
/// there, and its socket is not ours to remove.
#[derive(Default)]
struct SocketFiles(Vec<PathBuf>);

impl SocketFiles {
    fn add(&mut self, address: &Address) {
        if let Address::Unix(path) = address {
            self.0.push(path.clone());
        }
    }

    fn remove(&mut self) {
        for path in self.0.drain(..) {
            // Somebody may have cleaned up already.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        self.remove();
    }
}

impl GatewayBuilder {
    /// Registers native middleware under a name that routes can put into their chains.
    ///
    /// `make` is called with the item's configuration, once per worker and configuration, and once
    /// more at load to find mistakes. Its error refuses the start.
    #[must_use]
    pub fn middleware(
        mut self,
        name: &str,
        make: impl Fn(&serde_json::Value) -> Result<Box<dyn Middleware>, String> + Send + Sync + 'static,
    ) -> Self {
        self.natives.insert(name.to_owned(), Arc::new(make));
        self
    }

    /// Starts even if a route's plugin is bad: the route then answers 503 and says why. For showing
    /// plugins, not for serving.
    #[must_use]
    pub fn tolerate_bad_plugins(mut self, tolerant: bool) -> Self {
        self.tolerant = tolerant;
        self
    }

    /// Where settings are read from anew when a reload is asked for; without it there are none.
    #[must_use]
    pub fn origin(mut self, origin: impl Origin + 'static) -> Self {
        self.origin = Some(Box::new(origin));
        self
    }

    /// Starts the gateway. Returns when every worker serves.
    ///
    /// # Errors
    ///
    /// See [`StartError`]. Nothing is left running.
    pub fn start(self) -> Result<Gateway, StartError> {
        let settings = match self.source {
            Source::Checked(settings) => *settings,
            Source::Config(config) => {
                let natives: Vec<&str> = self.natives.keys().map(String::as_str).collect();
                config::check(&config, &System, &natives).map_err(StartError::Config)?
            }
        };
        let bad = if self.tolerant { Bad::Answers } else { Bad::Refused };
        start(settings, self.natives, bad, self.origin)
    }
}

impl Gateway {
    /// Starts a gateway without native middleware.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::builder(config).start()
    }

    /// A gateway in the making.
    #[must_use]
    pub fn builder(config: Config) -> GatewayBuilder {
        GatewayBuilder {
            source: Source::Config(Box::new(config)),
            natives: Natives::new(),
            tolerant: false,
            origin: None,
        }
    }

    /// A gateway in the making, of settings that have been checked.
    #[must_use]
    pub fn from_settings(settings: Settings) -> GatewayBuilder {
        GatewayBuilder {
            source: Source::Checked(Box::new(settings)),
            natives: Natives::new(),
            tolerant: false,
            origin: None,
        }
    }

    /// Where clients can connect, in the order of the listeners, with the ports that were chosen.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where the admin listener is.
    #[must_use]
    pub fn admin_address(&self) -> Option<&Address> {
        self.admin.as_ref().map(admin::AdminServer::address)
    }

    /// Lets the requests that are here end and takes no more. Does not wait.
    pub fn begin_drain(&self) {
        self.running.begin_drain();
    }

    /// Waits until a drain has begun, asked for here or on the admin listener.
    pub async fn drain_began(&self) {
        self.running.drain_began().await;
    }

    /// Asks for a reload and does not wait: what becomes of it is in the log.
    pub fn begin_reload(&self) {
        // It fails only when the control thread has panicked, and that was said.
        let _ = self.orders.send(Order::Reload(Box::new(drop)));
    }

    /// Whether the last request has ended.
    #[must_use]
    pub fn has_drained(&self) -> bool {
        self.running.workers_have_ended()
    }

    /// Drains and waits until the last request has ended, or `drain_timeout_ms` is over. Returns
    /// whether all of them ended in time.
    pub fn drain(self) -> bool {
        let deadline = Instant::now() + self.drain_timeout();
        self.begin_drain();
        while !self.has_drained() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// How long a drain may take.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.running.drain_timeout()
    }

    /// Opens log files anew, after they have been moved away.
    pub fn reopen_logs(&self) {
        self.running.reopen_logs();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may be compiling, for which nobody should have to wait.
        let _ = self.orders.send(Order::Stop);
        self.begin_drain();
        self.running.stop_workers();
        // Then the admin server, which asks the workers.
        self.admin_files.remove();
        self.admin = None;
    }
}

/// Loads everything that a start would load, and binds nothing.
///
/// # Errors
///
/// A plugin cannot be loaded, or refuses a configuration.
pub fn check(settings: Settings) -> Result<(), StartError> {
    let engine = make_engine(&settings)?;
    load(&settings, &engine, &Natives::new(), Bad::AllRefused)?;
    warn_of_what_stays(&settings);
    Ok(())
}

/// Who names a Redis may believe that everything is there.
fn warn_of_what_stays(settings: &Settings) {
    for plugin in settings.plugins.iter().filter(|_| settings.state.is_some()) {
        let what = match (plugin.allow.cache.is_some(), plugin.allow.kv.is_some()) {
            (true, true) => "cached responses and values (kv)",
            (true, false) => "cached responses",
            (false, true) => "values (kv)",
            (false, false) => continue,
        };
        let name = &plugin.name;
        log::warn!(
            target: "control",
            "state.backend `redis` is for counters: plugin `{name}` keeps its {what} in the memory of each gateway"
        );
    }
}

fn make_engine(settings: &Settings) -> Result<Arc<PluginEngine>, StartError> {
    let engine = PluginEngine::new().map_err(StartError::Other)?;
    keep_code(&engine, settings);
    Ok(engine)
}

/// Sees to it that compiled code is kept where the settings say. Where it cannot be, it is not.
fn keep_code(engine: &PluginEngine, settings: &Settings) {
    let has_components =
        settings.plugins.iter().any(|plugin| plugin.source != config::PluginSource::Native);
    let folder = settings.plugin_cache.as_ref().filter(|_| has_components);
    let cache = folder.and_then(|folder| {
        CodeCache::open(folder)
            .inspect_err(|error| {
                let folder = folder.display();
                log::warn!(target: "plugin", "compiled code is not kept in {folder}: {error}");
            })
            .ok()
    });
    engine.keep_code_in(cache);
}

/// Loads all plugins of settings, and makes the first snapshot.
fn load(
    settings: &Settings,
    engine: &Arc<PluginEngine>,
    natives: &Natives,
    bad: Bad,
) -> Result<(Snapshot, Vec<Held>, Probed), StartError> {
    // Before plugins, which take long.
    let tls = snapshot::certificates(settings, None)?;
    let mut shelf = Vec::new();
    let (sources, problems) = snapshot::load(settings, bad, |plugin| {
        let held = change::hold(plugin, engine, natives);
        let source = held.source.clone();
        shelf.push(held);
        source
    });
    let mut probed = Probed::default();
    let snapshot =
        snapshot::build(settings.clone(), sources, problems, tls, &mut probed, bad, None)?;
    // What compiling has used, some megabytes for each plugin.
    crate::sys::release_free_memory();
    Ok((snapshot, shelf, probed))
}

fn open_access_log(settings: &Settings) -> Result<Option<Arc<AccessLog>>, StartError> {
    AccessLog::open(&settings.access_log).map_err(|error| {
        let message = format!("cannot be opened: {error}");
        let cure = "give a file that can be written, \"stdout\" or \"off\"";
        StartError::Config(Problems(vec![Problem::at("access_log.path", message, cure)]))
    })
}

fn start(
    settings: Settings,
    natives: Natives,
    bad: Bad,
    origin: Option<Box<dyn Origin>>,
) -> Result<Gateway, StartError> {
    let machine = Machine::read();
    let quota = machine.quota.as_ref().map(|quota| quota.cpus);
    let places = placement::place(&machine.topology, &machine.allowed, quota, &settings.workers);
    for warning in placement::warnings(&machine, &settings.workers, &places) {
        log::warn!(target: "control", "{warning}");
    }
    for listener in &settings.listeners {
        if let Some(warning) = listen::warning(listener, listen::somaxconn()) {
            log::warn!(target: "control", "{warning}");
        }
    }
    let backend = backend(settings.workers.io).map_err(StartError::Other)?;
    let engine = make_engine(&settings)?;
    let (snapshot, shelf, probed) = load(&settings, &engine, &natives, bad)?;
    let snapshot = Arc::new(snapshot);
    let access_log = open_access_log(&settings)?;
    let dedicated = settings.workers.acceptors == Acceptors::Dedicated;
    let mut files = SocketFiles::default();
    let mut bound = Vec::new();
    for listener in &settings.listeners {
        bound.push(listen::bind(listener, places.len()).map_err(StartError::Bind)?);
        files.add(&listener.address);
    }
    let mut admin_files = SocketFiles::default();
    let mut admin_socket = None;
    if let Some(admin) = &settings.admin {
        admin_socket = Some(admin::AdminServer::bind(admin).map_err(StartError::Bind)?);
        admin_files.add(&admin.address);
    }
    let addresses: Vec<Address> = bound.iter().map(|(address, _)| address.clone()).collect();
    let mut sockets = deal_out(bound, places.len());
    let acceptor_places = placement::acceptors(&machine, &settings.workers, &places);
    let (mailboxes, inboxes): (Vec<_>, Vec<_>) = places.iter().copied().map(mailbox).unzip();
    let shared = Arc::new(Shared {
        connections: Tally::new(),
        handshakes: Tally::new(),
        accept_errors: AtomicU64::new(0),
        handed_on: AtomicU64::new(0),
        mailboxes,
        make_context: {
            let access_log = access_log.clone();
            Box::new(move |worker, snapshot| {
                let own = Rc::new(running::make_own(worker, snapshot.settings.listeners.len()));
                running::make_context(own, snapshot, access_log.as_ref(), None, Vec::new())
            })
        },
    });
    let mut workers = Vec::new();
    for (place, inbox) in places.into_iter().zip(inboxes) {
        // With acceptors the sockets are theirs.
        let own = if dedicated { None } else { sockets.get_mut(place.worker) };
        let own = own.map(std::mem::take).unwrap_or_default();
        let mailbox = shared.mailboxes[place.worker].clone();
        let snapshot = Arc::clone(&snapshot);
        let worker =
            Worker::start(place, backend, snapshot, own, Arc::clone(&shared), mailbox, inbox);
        workers.push(worker.map_err(StartError::Other)?);
    }
    let acceptors = acceptor::start(acceptor_places, sockets, &shared)
        .map_err(|error| StartError::Other(error.into()))?;
    let doors = Doors { acceptors, files };
    let running = Running::new(snapshot, machine, &addresses, workers, doors, shared, access_log);
    let running = Arc::new(running);
    let teller = Arc::downgrade(&running);
    engine.on_change(Box::new(move |change| {
        if let Some(running) = teller.upgrade() {
            running.say_changed(change);
        }
    }));
    let beginning = Beginning { engine, natives, origin, bad, settings, shelf, probed };
    let orders = Control::start(beginning, Arc::clone(&running))
        .map_err(|error| StartError::Other(error.into()))?;
    let admin = admin_socket
        .map(|socket| admin::AdminServer::start(socket, Arc::clone(&running), orders.clone()))
        .transpose()
        .map_err(StartError::Other)?;
    running.set_ready();
    Ok(Gateway { running, orders, admin, addresses, admin_files })
}

/// How the workers talk to the kernel; the log says it, and why.
fn backend(wanted: config::Io) -> anyhow::Result<Backend> {
    let chosen = io::choose(wanted);
    let (backend, refused) = chosen.map_err(|error| {
        anyhow::anyhow!(
            "workers.io: io_uring cannot be used here: {error}; write \"auto\" or \"epoll\""
        )
    })?;
    match refused {
        Some(error) => log::info!(target: "control", "io: {backend}, no io_uring: {error}"),
        None => log::info!(target: "control", "io: {backend}"),
    }
    Ok(backend)
}

/// How this binary was built.
#[must_use]
pub fn build_info() -> serde_json::Value {
    serde_json::json!({
        "name": "zproxy",
        "version": env!("CARGO_PKG_VERSION"),
        "wasmtime": env!("ZPROXY_WASMTIME"),
        "wit": "zproxy:gateway@0.1.0",
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "features": if cfg!(feature = "hwloc") { vec!["hwloc"] } else { vec![] },
    })
}

/// Each worker's share of the sockets, with the index of the listener that each belongs to.
fn deal_out(bound: Vec<(Address, Vec<Listening>)>, workers: usize) -> Vec<Vec<(usize, Listening)>> {
    let mut dealt: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (listener, (_, sockets)) in bound.into_iter().enumerate() {
        for (share, socket) in dealt.iter_mut().zip(sockets) {
            share.push((listener, socket));
        }
    }
    dealt
}
