//! Plugins that are broken: they fail so much that their next instance has to wait.
//!
//! ```text
//!   whole ── an instance has to wait ──► broken ── there is one again, and half of the debt is paid ──► whole
//! ```
//!
//! Every worker has instances of its own. The first of a generation that breaks, and the last that is whole
//! again, are told to whoever asked for it; half of the debt lies between, so that is at most once a second.
//!
//! Not here: when an instance has to wait (`backoff`, `instance`), and who is told (`control`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::engine::PluginEngine;
use super::load::Plugin;

/// What has become of a plugin.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its name.
    pub plugin: Arc<str>,
    /// The generation that it has become of.
    pub generation: u64,
    /// Why it is broken; [`None`]: it is not any more.
    pub problem: Option<Arc<str>>,
}

/// Hears of changes, on the thread of a worker: it must not wait.
pub type Listener = Box<dyn Fn(&Change) + Send + Sync>;

/// An instance that is broken. One that is dropped is gone, and has not recovered.
pub(super) struct Outage {
    among: Arc<AtomicUsize>,
    problem: Arc<str>,
    counts: bool,
}

impl Outage {
    /// Why.
    pub(super) fn problem(&self) -> &Arc<str> {
        &self.problem
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if self.counts {
            self.among.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl PluginEngine {
    /// Has this told what becomes of plugins from now on. The first listener is the only one.
    pub fn on_change(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }
}

impl Plugin {
    /// Takes note of an instance that has to wait.
    pub(super) fn breaks(&self, problem: &Arc<str>) -> Outage {
        if self.broken.fetch_add(1, Ordering::Relaxed) == 0 {
            self.tell(Some(problem));
        }
        Outage { among: Arc::clone(&self.broken), problem: Arc::clone(problem), counts: true }
    }

    /// Takes note that it does not have to any more.
    pub(super) fn recovers(&self, mut outage: Outage) {
        outage.counts = false;
        if self.broken.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.tell(None);
        }
    }

    fn tell(&self, problem: Option<&Arc<str>>) {
        if let Some(listener) = self.engine.listener.get() {
            listener(&Change {
                plugin: Arc::clone(self.name()),
                generation: self.generation(),
                problem: problem.cloned(),
            });
        }
    }
}
