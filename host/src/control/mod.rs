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
pub mod metrics;
pub mod snapshot;
mod running;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use crate::config::{self, Acceptors, Address, Config, Problem, Problems, Settings, System};
use crate::io::{self, Backend};
use crate::plugin::{Middleware, PluginEngine};
use crate::telemetry::AccessLog;
use crate::worker::listen::{self, Listening};
use crate::worker::topology::Machine;
use crate::worker::{Acceptor, Shared, Worker, placement};
use running::Running;
use snapshot::{Bad, Natives};

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
}

enum Source {
    Config(Box<Config>),
    Checked(Box<Settings>),
}

/// A running gateway. Dropping it stops it at once; see [`drain`](Self::drain).
pub struct Gateway {
    running: Arc<Running>,
    acceptors: Vec<Acceptor>,
    admin: Option<admin::AdminServer>,
    addresses: Vec<Address>,
    files: SocketFiles,
    admin_files: SocketFiles,
    drain_timeout: Duration,
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
        start(settings, &self.natives, self.tolerant)
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
        }
    }

    /// A gateway in the making, of settings that have been checked.
    #[must_use]
    pub fn from_settings(settings: Settings) -> GatewayBuilder {
        GatewayBuilder {
            source: Source::Checked(Box::new(settings)),
            natives: Natives::new(),
            tolerant: false,
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
    pub fn begin_drain(&mut self) {
        self.running.begin_drain();
        self.files.remove();
        self.stop_acceptors();
        // Only now, when the last accepted connection is in a mailbox.
        self.running.drain_workers();
    }

    /// Whether the last request has ended.
    #[must_use]
    pub fn has_drained(&self) -> bool {
        self.running.workers_have_ended()
    }

    /// Drains and waits until the last request has ended, or `drain_timeout_ms` is over. Returns
    /// whether all of them ended in time.
    pub fn drain(mut self) -> bool {
        let deadline = Instant::now() + self.drain_timeout;
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
        self.drain_timeout
    }

    /// Removes the files of Unix sockets, once: from then on the paths may be another gateway's.
    fn stop_acceptors(&mut self) {
        for acceptor in &self.acceptors {
            acceptor.stop();
        }
        for acceptor in &mut self.acceptors {
            acceptor.join();
        }
    }

    /// Opens log files anew, after they have been moved away.
    pub fn reopen_logs(&self) {
        self.running.reopen_logs();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
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
    let engine = PluginEngine::new().map_err(StartError::Other)?;
    snapshot::build(settings, &engine, &Natives::new(), Bad::AllRefused).map(drop)
}

fn start(settings: Settings, natives: &Natives, tolerant: bool) -> Result<Gateway, StartError> {
    let machine = Machine::read();
    let quota = machine.quota.as_ref().map(|quota| quota.cpus);
    let places = placement::place(&machine.topology, &machine.allowed, quota, &settings.workers);
    for warning in placement::warnings(&machine, &settings.workers, &places) {
        log::warn!(target: "control", "{warning}");
    }
    let backend = backend(settings.workers.io).map_err(StartError::Other)?;
    let engine = PluginEngine::new().map_err(StartError::Other)?;
    let bad = if tolerant { Bad::Answers } else { Bad::Refused };
    let snapshot = Arc::new(snapshot::build(settings, &engine, natives, bad)?);
    let settings = &snapshot.settings;
    let access_log = AccessLog::open(&settings.access_log).map_err(|error| {
        let message = format!("cannot be opened: {error}");
        let cure = "give a file that can be written, \"stdout\" or \"off\"";
        StartError::Config(Problems(vec![Problem::at("access_log.path", message, cure)]))
    })?;
    let dedicated = settings.workers.acceptors == Acceptors::Dedicated;
    let copies = if dedicated { 1 } else { places.len() };
    let mut files = SocketFiles::default();
    let mut bound = Vec::new();
    for listener in &settings.listeners {
        bound.push(listen::bind(listener, copies).map_err(StartError::Bind)?);
        files.add(&listener.address);
    }
    let mut admin_files = SocketFiles::default();
    let mut admin_socket = None;
    if let Some(admin) = &settings.admin {
        admin_socket = Some(admin::AdminServer::bind(admin).map_err(StartError::Bind)?);
        admin_files.add(&admin.address);
    }
    let addresses: Vec<Address> = bound.iter().map(|(address, _)| address.clone()).collect();
    let mut sockets = deal_out(bound, places.len(), dedicated);
    let shared = Arc::new(Shared {
        connections: AtomicUsize::new(0),
        accept_errors: AtomicU64::new(0),
        make_context: {
            let access_log = access_log.clone();
            Box::new(move |worker, snapshot| {
                running::make_context(worker, snapshot, access_log.as_ref())
            })
        },
    });
    let mut workers = Vec::new();
    for place in places {
        let own = if dedicated { Vec::new() } else { sockets.pop().unwrap_or_default() };
        let worker = Worker::start(place, backend, Arc::clone(&snapshot), own, Arc::clone(&shared));
        workers.push(worker.map_err(StartError::Other)?);
    }
    let mailboxes: Vec<_> = workers.iter().map(Worker::mailbox).collect();
    let mut acceptors = Vec::new();
    if dedicated {
        for (listener, listening) in sockets.into_iter().flatten() {
            let acceptor =
                Acceptor::start(listener, listening, mailboxes.clone(), Arc::clone(&shared));
            acceptors.push(acceptor.map_err(|error| StartError::Other(error.into()))?);
        }
    }
    let drain_timeout = settings.drain_timeout;
    let running = Arc::new(Running::new(
        Arc::clone(&snapshot),
        machine,
        &addresses,
        workers,
        shared,
        access_log,
    ));
    let admin = admin_socket
        .map(|socket| admin::AdminServer::start(socket, Arc::clone(&running)))
        .transpose()
        .map_err(StartError::Other)?;
    running.set_ready();
    Ok(Gateway { running, acceptors, admin, addresses, files, admin_files, drain_timeout })
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
fn deal_out(
    bound: Vec<(Address, Vec<Listening>)>,
    workers: usize,
    dedicated: bool,
) -> Vec<Vec<(usize, Listening)>> {
    let shares = if dedicated { 1 } else { workers };
    let mut dealt: Vec<Vec<_>> = (0..shares).map(|_| Vec::new()).collect();
    for (listener, (_, sockets)) in bound.into_iter().enumerate() {
        for (share, socket) in dealt.iter_mut().zip(sockets) {
            share.push((listener, socket));
        }
    }
    dealt
}
