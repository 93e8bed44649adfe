//! A gateway that runs, as the control side and the admin server see it.
//!
//! Not here: starting one (`control`), answering the admin's requests (`admin`).

mod report;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{TryRecvError, bounded, unbounded};
use serde_json::json;
use tokio::sync::Notify;

use super::SocketFiles;
use super::admin::events::Events;
use super::metrics::Report;
use super::shelf::Held;
use crate::config::{Address, Settings, Target};
use crate::http::HeadLimits;
use crate::plugin::callout::Callouts;
use crate::plugin::{Change, Target as RedisTarget, Warm};
use crate::proxy::{Clock, Context, Own, Snapshot};
use crate::telemetry::{AccessLog, Tallies, WorkerTelemetry};
use crate::upstream::Upstream;
use crate::upstream::balance::Balancer;
use crate::worker::acceptor::Acceptor;
use crate::worker::mailbox::Message;
use crate::worker::topology::Machine;
use crate::worker::{Shared, Worker};

/// How long a scrape waits for workers. A worker is busy with one plugin call for at most
/// `time_ms_max`.
const REPORT_WAIT: Duration = Duration::from_secs(1);

/// How long a change waits for workers. One is busy with a plugin call for at most `time_ms_max`; what
/// native middleware does, nobody can bound.
const TAKE_WAIT: Duration = Duration::from_secs(10);

/// A gateway that runs.
pub struct Running {
    /// What every worker serves, or will in a moment.
    snapshot: Mutex<Arc<Snapshot>>,
    /// What serves by plugin, as the control thread last said.
    shelf: Mutex<Vec<Held>>,
    machine: Machine,
    listeners: Vec<String>,
    workers: Mutex<Vec<Worker>>,
    doors: Mutex<Doors>,
    shared: Arc<Shared>,
    /// What was last heard from each worker.
    last: Mutex<BTreeMap<usize, Report>>,
    access_log: Mutex<Option<Arc<AccessLog>>>,
    changes: Mutex<Changes>,
    ready: AtomicBool,
    draining: AtomicBool,
    drain_began: Notify,
    events: Events,
    started: Instant,
}

/// What lets connections in.
pub(super) struct Doors {
    pub(super) acceptors: Vec<Acceptor>,
    pub(super) files: SocketFiles,
}

/// What has changed since the start.
struct Changes {
    /// Configurations taken.
    generation: u64,
    reloads: BTreeMap<&'static str, u64>,
    swaps: BTreeMap<(Arc<str>, &'static str), u64>,
    admin_token: Option<Arc<str>>,
    drain_timeout: Duration,
    /// Lines that access logs dropped which are no longer open.
    lines_dropped: u64,
}

impl Running {
    /// Takes note of what was started.
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        machine: Machine,
        listeners: &[Address],
        workers: Vec<Worker>,
        doors: Doors,
        shared: Arc<Shared>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Self {
        let settings = &snapshot.settings;
        let changes = Changes {
            generation: 1,
            reloads: ["ok", "refused"].into_iter().map(|result| (result, 0)).collect(),
            swaps: BTreeMap::new(),
            admin_token: settings.admin.as_ref().and_then(|admin| admin.token.clone()),
            drain_timeout: settings.drain_timeout,
            lines_dropped: 0,
        };
        Self {
            snapshot: Mutex::new(snapshot),
            shelf: Mutex::default(),
            machine,
            listeners: listeners.iter().map(Address::to_string).collect(),
            workers: Mutex::new(workers),
            doors: Mutex::new(doors),
            shared,
            last: Mutex::default(),
            access_log: Mutex::new(access_log),
            changes: Mutex::new(changes),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            drain_began: Notify::new(),
            events: Events::default(),
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

    /// Lets the requests that are here end and takes no more; `/readyz` says no. Does not wait for
    /// them.
    pub fn begin_drain(&self) {
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        self.events.tell("drain", &json!({}));
        let mut doors = lock(&self.doors);
        doors.files.remove();
        for acceptor in &doors.acceptors {
            acceptor.stop();
        }
        for acceptor in &mut doors.acceptors {
            acceptor.join();
        }
        // Only now, when the last accepted connection is in a mailbox.
        for worker in self.workers().iter() {
            worker.send(Message::Drain);
        }
        self.drain_began.notify_one();
    }

    /// Who listens to what happens.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Says that a plugin is broken, or is not any more.
    pub fn say_changed(&self, change: &Change) {
        let (plugin, generation) = (&*change.plugin, change.generation);
        let mut told = json!({ "generation": generation, "plugin": plugin });
        let Some(problem) = &change.problem else {
            log::info!(target: "plugin", "plugin `{plugin}` has recovered (generation {generation})");
            return self.events.tell("recovered", &told);
        };
        told["problem"] = json!(**problem);
        log::warn!(target: "plugin", "plugin `{plugin}` is broken (generation {generation}): {problem}");
        self.events.tell("broken", &told);
    }

    /// Waits for the beginning of a drain; for one who waits at a time.
    pub async fn drain_began(&self) {
        if !self.is_draining() {
            self.drain_began.notified().await;
        }
    }

    /// How long a drain may take.
    pub fn drain_timeout(&self) -> Duration {
        lock(&self.changes).drain_timeout
    }

    /// What the admin listener asks of those who ask it.
    pub fn admin_token(&self) -> Option<Arc<str>> {
        lock(&self.changes).admin_token.clone()
    }

    /// What every worker serves.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.snapshot))
    }

    /// The access log.
    pub fn access_log(&self) -> Option<Arc<AccessLog>> {
        lock(&self.access_log).clone()
    }

    /// For each worker the CPUs that are close to its memory; `None` where that makes no difference.
    pub fn near_cpus(&self) -> Vec<Option<BTreeSet<usize>>> {
        let nodes = &self.machine.topology.nodes;
        let near = |worker: &Worker| {
            worker.placement.cpu.filter(|_| nodes.len() > 1)?;
            let node = nodes.iter().find(|node| node.id == worker.placement.node)?;
            let cpus = node.cpus.iter().map(|cpu| cpu.id);
            Some(cpus.filter(|cpu| self.machine.allowed.cpus.contains(cpu)).collect())
        };
        self.workers().iter().map(near).collect()
    }

    /// How many configurations have been taken, the first included.
    pub fn config_generation(&self) -> u64 {
        lock(&self.changes).generation
    }

    /// What `/plugins` shows from now on.
    pub fn publish(&self, shelf: Vec<Held>) {
        *lock(&self.shelf) = shelf;
    }

    /// Counts what became of a new component.
    pub fn count_swap(&self, plugin: &Arc<str>, result: &'static str) {
        *lock(&self.changes).swaps.entry((Arc::clone(plugin), result)).or_default() += 1;
    }

    /// Counts what became of a reload.
    pub fn count_reload(&self, result: &'static str) {
        *lock(&self.changes).reloads.entry(result).or_default() += 1;
    }

    /// A new configuration serves.
    pub fn took_configuration(&self, settings: &Settings) {
        let mut changes = lock(&self.changes);
        changes.generation += 1;
        changes.admin_token = settings.admin.as_ref().and_then(|admin| admin.token.clone());
        changes.drain_timeout = settings.drain_timeout;
    }

    /// Lets every worker serve `snapshot`, with the instances that were made for it (one share for each
    /// worker), and waits until all of them do. Requests that have begun end on what they began with.
    ///
    /// # Errors
    ///
    /// A worker did not say in time that it serves it. It will, when it is free.
    pub fn hand_out(
        &self,
        snapshot: &Arc<Snapshot>,
        warm: Vec<Vec<Warm>>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Result<(), String> {
        let (done, answers) = unbounded();
        let mut missing = BTreeSet::new();
        for (worker, warm) in self.workers().iter().zip(warm) {
            let (done, snapshot) = (done.clone(), Arc::clone(snapshot));
            let (access_log, index) = (access_log.clone(), worker.placement.worker);
            missing.insert(index);
            worker.send(Message::Do(Box::new(move |home| {
                let own = Rc::clone(home.own());
                let former = home.current();
                let made = make_context(own, &snapshot, access_log.as_ref(), Some(&former), warm);
                drop(former);
                let taken = made.map(|context| home.replace(context));
                // Whoever asked may have stopped waiting.
                let _ = done.send((index, taken.map_err(|problem| problem.to_string())));
            })));
        }
        drop(done);
        *lock(&self.snapshot) = Arc::clone(snapshot);
        let former = std::mem::replace(&mut *lock(&self.access_log), access_log.clone());
        if let Some(former) = former
            && !access_log.is_some_and(|log| Arc::ptr_eq(&log, &former))
        {
            lock(&self.changes).lines_dropped += former.dropped();
        }
        let deadline = Instant::now() + TAKE_WAIT;
        // A worker that has ended drops what it is sent, and with it its end of the channel.
        while let Ok((worker, taken)) = answers.recv_deadline(deadline) {
            taken.map_err(|problem| format!("worker {worker} goes on as it was: {problem}"))?;
            missing.remove(&worker);
        }
        missing.retain(|worker| {
            let workers = self.workers();
            workers.iter().any(|one| one.placement.worker == *worker && !one.has_ended())
        });
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "workers {missing:?} do not answer within {TAKE_WAIT:?}; they follow when they can"
        ))
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
        if let Some(log) = self.access_log() {
            log.flush();
        }
    }

    /// Opens log files anew.
    pub fn reopen_logs(&self) {
        if let Some(log) = self.access_log() {
            log.reopen();
        }
    }

    /// What every worker has counted. Of one that is busy or has ended it is what was last heard: a
    /// count that went down would look like a restart.
    pub async fn reports(&self) -> Vec<Report> {
        let answers = self.answers().await;
        let workers = self.workers();
        let mut last = lock(&self.last);
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

    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        lock(&self.workers)
    }
}

/// A panic while one of these was held cannot have broken it: each change is one step.
fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes out of a report what a worker no longer has when it has ended.
fn clear_gauges(report: &mut Report) {
    report.counts.utilisation = 0.0;
    for listener in &mut report.counts.listeners {
        (listener.active, listener.idle) = (0, 0);
    }
    report.redis.iter_mut().for_each(|redis| redis.connected = false);
    report.connections.iter_mut().flatten().for_each(|server| *server = (0, 0));
    for plugin in &mut report.plugins {
        (plugin.instances, plugin.memory_bytes) = (0, 0);
        plugin.broken = None;
    }
}

/// Makes what a worker owns; to be called on the worker's own thread.
pub(super) fn make_own(worker: usize, listeners: usize) -> Own {
    Own {
        worker,
        instances: RefCell::default(),
        pool: Rc::default(),
        pipes: crate::io::PipePool::default(),
        deadlines: Rc::default(),
        scratch: RefCell::default(),
        out: RefCell::default(),
        clock: Clock::new(),
        random: RefCell::new(fastrand::Rng::new()),
        telemetry: WorkerTelemetry::new(listeners),
        draining: Cell::new(false),
        closes_at: Cell::new(None),
        callouts: Callouts::default(),
        exchanges: RefCell::default(),
    }
}

/// Makes what a worker lends its requests; to be called on the worker's own thread. What has not
/// changed since `former` goes on: instances, connections to servers, counts.
pub(super) fn make_context(
    own: Rc<Own>,
    snapshot: &Arc<Snapshot>,
    access_log: Option<&Arc<AccessLog>>,
    former: Option<&Context>,
    warm: Vec<Warm>,
) -> anyhow::Result<Context> {
    let settings = &snapshot.settings;
    let mut instances = own.instances.borrow_mut();
    instances.reach(RedisTarget::of(settings.state.as_ref(), snapshot.tls.state.as_ref()));
    instances.take_in(warm);
    let chains = snapshot
        .plans
        .iter()
        .map(|plan| instances.chain(&plan.chain))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|problem| anyhow::anyhow!("{problem}"));
    instances.take_in(Vec::new());
    drop(instances);
    let chains = chains?;
    let before: HashMap<&str, &Upstream> = former
        .iter()
        .flat_map(|former| &former.upstreams)
        .map(|one| (one.settings.name.as_ref(), one))
        .collect();
    let upstream = |(index, one): (usize, &crate::config::Upstream)| {
        let tls = snapshot.tls.upstreams.get(index).cloned().flatten();
        Upstream::new(index, one, tls, own.worker, before.get(one.name.as_ref()).copied())
    };
    let upstreams: Vec<Upstream> = settings.upstreams.iter().enumerate().map(upstream).collect();
    let splits = settings.routes.iter().map(|route| match &route.target {
        Target::Split(shares) => {
            let weights: Vec<u32> = shares.iter().map(|(_, weight)| *weight).collect();
            Some(Balancer::new(crate::config::Balance::Weighted, &weights, own.worker))
        }
        _ => None,
    });
    let tallies = Tallies::new(
        settings.routes.iter().map(|route| Arc::clone(&route.name)),
        upstreams.iter().map(|one| {
            let servers = one.connections().map(|(name, ..)| Arc::clone(name)).collect();
            (Arc::clone(&one.settings.name), servers)
        }),
        former.map(|former| &former.tallies),
    );
    let known_log = former.and_then(|former| former.access_log.as_ref());
    let known_log = known_log.filter(|known| access_log.is_some_and(|log| known.is_of(log)));
    let access_log = known_log.map(Rc::clone).or_else(|| {
        let logger = access_log.map(AccessLog::logger);
        logger.map(Rc::new)
    });
    let limits = &settings.limits;
    let head_limits = HeadLimits {
        bytes_max: limits.header_bytes_max,
        fields_max: limits.headers_max,
        target_bytes_max: limits.uri_bytes_max,
    };
    Ok(Context {
        chains,
        route_names: settings.routes.iter().map(|route| Arc::from(&*route.name)).collect(),
        upstream_names: upstreams.iter().map(|one| Arc::from(&*one.settings.name)).collect(),
        parameters: (0..settings.routes.len())
            .map(|route| snapshot.router.parameters(route).into())
            .collect(),
        upstreams,
        splits: splits.collect(),
        tallies,
        access_log,
        response_limits: HeadLimits { fields_max: head_limits.fields_max.max(256), ..head_limits },
        head_limits,
        snapshot: Arc::clone(snapshot),
        own,
    })
}
