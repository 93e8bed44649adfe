//! What plugins keep outside of their instances: counts, values, metrics.
//!
//! Every plugin has a state of its own, found by its name and reached by nobody else. It belongs to the
//! gateway and not to a generation of the plugin: as long as somebody holds it (a snapshot, an
//! instance), a swap or reload finds it again, and it goes with its last holder.
//!
//! It is in memory, shared by all workers. Whoever asks for it says what it is told to do and what time
//! it is, and never sees how it is kept.
//!
//! Layout: `store` is a bounded map in shards, each a `table`, and `slots` another for numbers; `counters`, `kv`, `cache` and `metrics` are what
//! plugins know; `redis` is how counters are kept where several gateways share them.
//!
//! Not here: what plugins may call (`plugin::host`), who may (`config::Allow`).

pub mod cache;
pub mod counters;
pub mod kv;
pub mod metrics;
pub mod redis;
mod slots;
mod store;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use cache::Cache;
use counters::Counters;
use kv::Kv;
use metrics::{Metrics, Names};

use crate::config::Allow;

/// Keys of counters and values, in bytes.
pub const KEY_BYTES_MAX: usize = 256;

/// What time it is, on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since 1970, in milliseconds; can go back.
    pub unix_ms: u64,
    /// Since some moment, in microseconds; never goes back.
    pub monotonic_us: u64,
}

/// The states of all plugins of a gateway.
#[derive(Default)]
pub struct States {
    plugins: Mutex<Vec<Weak<PluginState>>>,
    names: Arc<Names>,
}

impl States {
    /// The state of the plugin `name`: that which somebody holds, else a new one.
    pub fn of(&self, name: &Arc<str>) -> Arc<PluginState> {
        let mut plugins = lock(&self.plugins);
        plugins.retain(|plugin| plugin.strong_count() > 0);
        let known = plugins.iter().filter_map(Weak::upgrade).find(|state| state.name == *name);
        known.unwrap_or_else(|| {
            let state = Arc::new(PluginState {
                name: Arc::clone(name),
                counters: OnceLock::new(),
                kv: OnceLock::new(),
                cache: OnceLock::new(),
                metrics: Arc::new(Metrics::new(name, Arc::clone(&self.names))),
            });
            plugins.push(Arc::downgrade(&state));
            state
        })
    }
}

/// What one plugin keeps.
pub struct PluginState {
    name: Arc<str>,
    counters: OnceLock<Counters>,
    kv: OnceLock<Kv>,
    cache: OnceLock<Arc<Cache>>,
    metrics: Arc<Metrics>,
}

/// How much one kind of state has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// As metrics name it.
    pub kind: &'static str,
    /// Entries.
    pub entries: usize,
    /// Memory that they are charged for.
    pub bytes: usize,
}

impl PluginState {
    /// The plugin's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its counters.
    pub fn counters(&self) -> &Counters {
        self.counters.get_or_init(Counters::default)
    }

    /// Its values.
    pub fn kv(&self) -> &Kv {
        self.kv.get_or_init(Kv::default)
    }

    /// Its responses.
    pub fn cache(&self) -> &Arc<Cache> {
        self.cache.get_or_init(Arc::default)
    }

    /// Its responses, if it has ever been granted any.
    pub fn granted_cache(&self) -> Option<&Arc<Cache>> {
        self.cache.get()
    }

    /// Its metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Makes room as granted, or less of it.
    pub fn apply(&self, allow: &Allow) {
        if let Some(bytes_max) = allow.counters {
            self.counters().limit(bytes_max);
        }
        if let Some(bytes_max) = allow.kv {
            self.kv().limit(bytes_max);
        }
        if let Some(size) = allow.cache {
            self.cache().limit(size.bytes_max, size.object_bytes_max);
        }
    }

    /// What there is of it.
    pub fn usage(&self) -> Vec<Usage> {
        let counters = self.counters.get().map(|counters| ("counters", counters.usage()));
        let kv = self.kv.get().map(|kv| ("kv", kv.usage()));
        let cache = self.cache.get().map(|cache| ("cache", cache.usage()));
        let used = counters.into_iter().chain(kv).chain(cache);
        used.map(|(kind, (entries, bytes))| Usage { kind, entries, bytes }).collect()
    }
}

/// Nobody panics while holding one of these; had somebody, what is in there would be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
