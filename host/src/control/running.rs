//! A gateway that runs, as the control side and the admin server see it.
//!
//! Not here: starting one (`control`), answering the admin's requests (`admin`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{TryRecvError, bounded};
use serde_json::{Value, json};

use super::metrics::{self, Globals, Report};
use crate::config::{Address, HostPattern, Matching, PluginSource, Target};
use crate::http::HeadLimits;
use crate::plugin::{Instances, PlanSource};
use crate::proxy::{Clock, Context, Snapshot};
use crate::state::PluginState;
use crate::telemetry::{self, AccessLog, WorkerTelemetry};
use crate::upstream::Upstream;
use crate::upstream::balance::Balancer;
use crate::worker::topology::Machine;
use crate::worker::{Message, Shared, Worker};

/// How long a scrape waits for workers. A worker is busy with one plugin call for at most
/// `time_ms_max`.
const REPORT_WAIT: Duration = Duration::from_secs(1);

/// A gateway that runs.
pub struct Running {
    snapshot: Arc<Snapshot>,
    machine: Machine,
    listeners: Vec<String>,
    workers: Mutex<Vec<Worker>>,
    shared: Arc<Shared>,
    /// What was last heard from each worker.
    last: Mutex<BTreeMap<usize, Report>>,
    access_log: Option<Arc<AccessLog>>,
    ready: AtomicBool,
    draining: AtomicBool,
    started: Instant,
}

impl Running {
    /// Takes note of what was started.
    pub fn new(
        snapshot: Arc<Snapshot>,
        machine: Machine,
        listeners: &[Address],
        workers: Vec<Worker>,
        shared: Arc<Shared>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Self {
        Self {
            snapshot,
            machine,
            listeners: listeners.iter().map(Address::to_string).collect(),
            workers: Mutex::new(workers),
            shared,
            last: Mutex::default(),
            access_log,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    /// From now on `/readyz` says yes.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether new requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.is_draining()
    }

    /// Whether it is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// From now on `/readyz` says no.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Asks every worker to end when its last request has.
    pub fn drain_workers(&self) {
        for worker in self.workers().iter() {
            worker.send(Message::Drain);
        }
    }

    /// Whether every worker has ended.
    pub fn workers_have_ended(&self) -> bool {
        self.workers().iter().all(Worker::has_ended)
    }

    /// Ends every worker now, waits for it, and writes what it left in the access log.
    pub fn stop_workers(&self) {
        let mut workers = self.workers();
        for worker in workers.iter() {
            worker.send(Message::Stop);
        }
        for worker in workers.iter_mut() {
            worker.join();
        }
        if let Some(log) = &self.access_log {
            log.flush();
        }
    }

    /// Opens log files anew.
    pub fn reopen_logs(&self) {
        if let Some(log) = &self.access_log {
            log.reopen();
        }
    }

    /// What every worker has counted. Of one that is busy or has ended it is what was last heard: a
    /// count that went down would look like a restart.
    pub async fn reports(&self) -> Vec<Report> {
        let answers = self.answers().await;
        let workers = self.workers();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for answer in answers {
            last.insert(answer.worker, answer);
        }
        for worker in workers.iter().filter(|worker| worker.has_ended()) {
            if let Some(report) = last.get_mut(&worker.placement.worker) {
                clear_gauges(report);
            }
        }
        last.values().cloned().collect()
    }

    /// Asks every worker for its counts. One that does not answer in time is left out.
    pub async fn answers(&self) -> Vec<Report> {
        let (sender, receiver, mut missing) = {
            let workers = self.workers();
            let (sender, receiver) = bounded(workers.len().max(1));
            for worker in workers.iter() {
                worker.send(Message::Report(sender.clone()));
            }
            (sender, receiver, workers.len())
        };
        drop(sender);
        let deadline = Instant::now() + REPORT_WAIT;
        let mut reports: Vec<Report> = Vec::new();
        while missing > 0 && Instant::now() < deadline {
            match receiver.try_recv() {
                Ok(report) => {
                    reports.push(report);
                    missing -= 1;
                }
                Err(TryRecvError::Empty) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        reports.sort_by_key(|report| report.worker);
        reports
    }

    /// Everything counted, as text.
    pub fn metrics(&self, reports: &[Report], openmetrics: bool) -> String {
        let globals = Globals {
            access_log_dropped: self.access_log.as_ref().map_or(0, |log| log.dropped()),
            log_dropped: telemetry::log::dropped(),
            accept_errors: self.shared.accept_errors.load(Ordering::Relaxed),
        };
        let settings = &self.snapshot.settings;
        let states = self.states();
        metrics::render(settings, &self.listeners, reports, &states, globals, openmetrics)
    }

    /// What plugins keep.
    fn states(&self) -> Vec<Arc<PluginState>> {
        let states = self.snapshot.plugins.iter().filter_map(|plugin| match plugin {
            Ok(PlanSource::Wasm(plugin)) => Some(Arc::clone(plugin.state())),
            Ok(PlanSource::Native(_)) | Err(_) => None,
        });
        states.collect()
    }

    /// What is running.
    pub fn info(&self) -> Value {
        let mut info = super::build_info();
        info["uptime_ms"] = json!(u64::try_from(self.started.elapsed().as_millis()).ok());
        info["listeners"] = json!(self.listeners);
        info["workers"] = json!(self.workers().len());
        info["config_generation"] = json!(1);
        info["ready"] = json!(self.is_ready());
        info["draining"] = json!(self.is_draining());
        info
    }

    /// Every route, in the order of the file.
    pub fn routes(&self) -> Value {
        let settings = &self.snapshot.settings;
        let upstream = |index: usize| settings.upstreams[index].name.as_ref();
        let routes = settings.routes.iter().map(|route| {
            let hosts = route.hosts.iter().map(|host| match host {
                HostPattern::Exact(host) => host.clone(),
                HostPattern::Suffix(suffix) => format!("*{suffix}"),
            });
            let target = match &route.target {
                Target::Upstream(index) => json!({ "upstream": upstream(*index) }),
                Target::Split(shares) => {
                    let shares = shares.iter().map(
                        |(index, weight)| json!({ "upstream": upstream(*index), "weight": weight }),
                    );
                    json!({ "upstream": shares.collect::<Vec<_>>() })
                }
                Target::Redirect { status, to } => {
                    json!({ "redirect": { "status": status, "to": to } })
                }
                Target::Respond { status, .. } => json!({ "respond": { "status": status } }),
            };
            let plugin = |index: usize| settings.plugins[index].name.as_ref();
            json!({
                "name": route.name.as_ref(),
                "hosts": hosts.collect::<Vec<_>>(),
                "path": route.path,
                "match": match route.matching {
                    Matching::Prefix => "prefix",
                    Matching::Exact => "exact",
                },
                "methods": route.methods,
                "priority": route.priority,
                "target": target,
                "middleware": route.chain.iter().map(|item| plugin(item.plugin)).collect::<Vec<_>>(),
            })
        });
        json!({ "routes": routes.collect::<Vec<_>>() })
    }

    /// Every plugin, whether a route uses it or not.
    pub fn plugins(&self, reports: &[Report]) -> Value {
        let settings = &self.snapshot.settings;
        let plugins = settings.plugins.iter().zip(&self.snapshot.plugins).map(|(plugin, state)| {
            let mut value = json!({ "name": plugin.name.as_ref() });
            if let PluginSource::File(path) = &plugin.source {
                value["path"] = json!(path);
            }
            match state {
                Ok(PlanSource::Wasm(loaded)) => {
                    value["kind"] = json!("wasm");
                    value["state"] = json!("ready");
                    value["digest"] = json!(loaded.digest());
                    value["generation"] = json!(loaded.generation());
                    value["hooks"] = json!(loaded.hooks().names());
                }
                Ok(PlanSource::Native(_)) => {
                    value["kind"] = json!("native");
                    value["state"] = json!("ready");
                }
                Err(problem) => {
                    value["state"] = json!("refused");
                    value["problem"] = json!(problem);
                }
            }
            let stats = reports
                .iter()
                .flat_map(|report| &report.plugins)
                .filter(|stats| stats.plugin == plugin.name);
            let (mut instances, mut traps, mut memory) = (0, 0, 0);
            for stats in stats {
                instances += stats.instances;
                traps += stats.traps;
                memory += stats.memory_bytes;
            }
            value["instances"] = json!(instances);
            value["traps"] = json!(traps);
            value["memory_bytes"] = json!(memory);
            value
        });
        json!({ "plugins": plugins.collect::<Vec<_>>() })
    }

    /// Every worker: where it sits and what it has.
    pub fn workers_json(&self, reports: &[Report]) -> Value {
        let workers = self.workers();
        let workers = workers.iter().map(|worker| {
            let place = worker.placement;
            let mut value = json!({ "worker": place.worker, "cpu": place.cpu, "node": place.node });
            match reports.iter().find(|report| report.worker == place.worker) {
                Some(report) => {
                    let listeners = &report.counts.listeners;
                    let open: u64 = listeners.iter().map(|one| one.active + one.idle).sum();
                    let accepted: u64 = listeners.iter().map(|one| one.accepted).sum();
                    value["state"] = json!("running");
                    value["connections"] = json!(open);
                    value["accepted"] = json!(accepted);
                    value["utilisation"] = json!(report.counts.utilisation);
                }
                None if worker.has_ended() => value["state"] = json!("ended"),
                None => value["state"] = json!("busy"),
            }
            value
        });
        let workers: Vec<Value> = workers.collect();
        json!({ "workers": workers, "topology": self.machine.topology })
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        // A panic while the list was held cannot have broken it: it never changes.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out of a report what a worker no longer has when it has ended.
fn clear_gauges(report: &mut Report) {
    report.counts.utilisation = 0.0;
    for listener in &mut report.counts.listeners {
        (listener.active, listener.idle) = (0, 0);
    }
    report.connections.iter_mut().flatten().for_each(|server| *server = (0, 0));
    for plugin in &mut report.plugins {
        (plugin.instances, plugin.memory_bytes) = (0, 0);
    }
}

/// Makes what a worker lends its requests; to be called on the worker's own thread.
pub(super) fn make_context(
    worker: usize,
    snapshot: &Arc<Snapshot>,
    access_log: Option<&Arc<AccessLog>>,
) -> anyhow::Result<Context> {
    let settings = &snapshot.settings;
    let mut instances = Instances::new();
    let chains = snapshot
        .plans
        .iter()
        .map(|plan| instances.chain(&plan.chain))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let upstreams: Vec<Upstream> = settings
        .upstreams
        .iter()
        .enumerate()
        .map(|(index, one)| Upstream::new(index, one, worker))
        .collect();
    let splits = settings.routes.iter().map(|route| match &route.target {
        Target::Split(shares) => {
            let weights: Vec<u32> = shares.iter().map(|(_, weight)| *weight).collect();
            Some(Balancer::new(crate::config::Balance::Weighted, &weights, worker))
        }
        _ => None,
    });
    let limits = &settings.limits;
    let head_limits = HeadLimits {
        bytes_max: limits.header_bytes_max,
        fields_max: limits.headers_max,
        target_bytes_max: limits.uri_bytes_max,
    };
    let servers: Vec<usize> = upstreams.iter().map(|one| one.connections().count()).collect();
    Ok(Context {
        worker,
        instances,
        chains,
        route_names: settings.routes.iter().map(|route| Rc::from(&*route.name)).collect(),
        upstreams,
        splits: splits.collect(),
        pool: Rc::default(),
        pipes: crate::io::PipePool::default(),
        deadlines: Rc::default(),
        scratch: RefCell::default(),
        out: RefCell::default(),
        clock: Clock::new(),
        random: RefCell::new(fastrand::Rng::new()),
        telemetry: WorkerTelemetry::new(settings.listeners.len(), settings.routes.len(), &servers),
        access_log: access_log.map(AccessLog::logger),
        draining: Cell::new(false),
        response_limits: HeadLimits { fields_max: head_limits.fields_max.max(256), ..head_limits },
        head_limits,
        exchanges: RefCell::default(),
        snapshot: Arc::clone(snapshot),
    })
}
