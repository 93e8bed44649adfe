//! A gateway that runs, as the control side and the admin server see it.
//!
//! Not here: starting one (`control`), answering the admin's requests (`admin`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Target;
use crate::http::HeadLimits;
use crate::plugin::Instances;
use crate::proxy::{Clock, Context, Snapshot};
use crate::telemetry::WorkerTelemetry;
use crate::upstream::Upstream;
use crate::upstream::balance::Balancer;
use crate::worker::topology::Machine;
use crate::worker::{Message, Worker};

/// A read takes at most a buffer, so a head must end within one.
const HEAD_BYTES_MAX: usize = 192 * 1024;

/// A gateway that runs.
pub struct Running {
    snapshot: Arc<Snapshot>,
    machine: Machine,
    workers: Mutex<Vec<Worker>>,
    ready: AtomicBool,
    draining: AtomicBool,
}

impl Running {
    /// Takes note of what was started.
    pub fn new(snapshot: Arc<Snapshot>, machine: Machine, workers: Vec<Worker>) -> Self {
        Self {
            snapshot,
            machine,
            workers: Mutex::new(workers),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }

    /// From now on `/readyz` says yes.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
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

    /// Ends every worker now, and waits for it.
    pub fn stop_workers(&self) {
        let mut workers = self.workers();
        for worker in workers.iter() {
            worker.send(Message::Stop);
        }
        for worker in workers.iter_mut() {
            worker.join();
        }
    }

    /// Opens log files anew.
    pub fn reopen_logs(&self) {}

    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        // A panic while the list was held cannot have broken it: it never changes.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes what a worker lends its requests; to be called on the worker's own thread.
pub fn make_context(worker: usize, snapshot: &Arc<Snapshot>) -> anyhow::Result<Context> {
    let settings = &snapshot.settings;
    let mut instances = Instances::new();
    let chains = snapshot
        .plans
        .iter()
        .map(|plan| instances.chain(&plan.chain))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let upstreams = settings.upstreams.iter().enumerate();
    let splits = settings.routes.iter().map(|route| match &route.target {
        Target::Split(shares) => {
            let weights: Vec<u32> = shares.iter().map(|(_, weight)| *weight).collect();
            Some(Balancer::new(crate::config::Balance::Weighted, &weights, worker))
        }
        _ => None,
    });
    let limits = &settings.limits;
    let head_limits = HeadLimits {
        bytes_max: limits.header_bytes_max.min(HEAD_BYTES_MAX),
        fields_max: limits.headers_max,
        target_bytes_max: limits.uri_bytes_max,
    };
    Ok(Context {
        worker,
        chains,
        upstreams: upstreams.map(|(index, one)| Upstream::new(index, one, worker)).collect(),
        splits: splits.collect(),
        pool: Rc::default(),
        deadlines: Rc::default(),
        scratch: RefCell::default(),
        out: RefCell::default(),
        clock: Clock::new(),
        random: RefCell::new(fastrand::Rng::new()),
        telemetry: WorkerTelemetry::default(),
        access_log: None,
        draining: Cell::new(false),
        response_limits: HeadLimits { fields_max: head_limits.fields_max.max(256), ..head_limits },
        head_limits,
        exchanges: RefCell::default(),
        snapshot: Arc::clone(snapshot),
    })
}
