//! wasmtime as plugins need it: an engine per process, another one for plugins whose instructions are
//! counted, and the clock that ends what takes too long.
//!
//! Not here: components (`load`), and what runs in them (`instance`).

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crossbeam::utils::CachePadded;
use wasmtime::Config;
use wasmtime::Engine;
use wasmtime::InstanceAllocationStrategy;
use wasmtime::WasmBacktraceDetails;
use wasmtime::component::Linker;

use super::broken::Listener;
use super::cache::CodeCache;
use super::host;
use super::host::State;
use super::load::Plugin;
use crate::config::PluginLimits;
use crate::state::States;

/// How exactly time limits hold: a call is ended up to two ticks late. 200 wake-ups a second cost
/// the process less than a thousandth of a CPU.
const TICK: Duration = Duration::from_millis(5);

/// Stack for wasm. Twice wasmtime's default: recursive parsers and interpreters use it. A worker's
/// thread has 4 MiB, so that three quarters are left for the host below and above the guest.
const STACK_BYTES_MAX: usize = 1024 * 1024;

/// Compiles components and runs them. One per process.
///
/// Its clock thread starts with the first plugin and ends when the engine is dropped; a plugin
/// keeps its engine alive.
pub struct PluginEngine {
    plain: Side,
    /// For plugins whose fuel is limited; made with the first of them.
    metered: Arc<OnceLock<Side>>,
    /// Ends the ticker by being dropped.
    ticker: Mutex<Option<mpsc::Sender<()>>>,
    ticks: Ticks,
    generation: AtomicU64,
    /// What is loaded: an unchanged file is not compiled twice, and its instances stay warm.
    pub(super) loaded: Mutex<Vec<Weak<Plugin>>>,
    /// Where compiled code is kept.
    cache: Mutex<Option<Arc<CodeCache>>>,
    started: Instant,
    /// What plugins keep, whatever their generation.
    pub(super) states: States,
    /// Hears what becomes of them.
    pub(super) listener: OnceLock<Listener>,
}

/// Ticks of the clock that have gone by: what asks whether time has passed at all reads a number that hardly
/// ever changes, in place of a clock, which costs a tenth of a call.
#[derive(Clone, Default)]
pub(super) struct Ticks(Arc<CachePadded<AtomicU64>>);

impl Ticks {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn go_by(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// wasmtime's engine, and everything that plugins may import, but for what [`host::deny`] adds.
#[derive(Clone)]
pub(super) struct Side {
    pub(super) engine: Engine,
    pub(super) linker: Linker<State>,
}

impl Side {
    /// `metered`: every instruction is counted, which only those pay who ask for it.
    fn new(metered: bool) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config
            // Calls are much cheaper without. Components that export or import async functions are
            // refused.
            .concurrency_support(false)
            // A load and a comparison per call and loop; fuel counts every instruction.
            .epoch_interruption(true)
            .consume_fuel(metered)
            // A guest that recurses without end hits this and traps, long before the thread's end.
            .max_wasm_stack(STACK_BYTES_MAX)
            // A new instance maps its first memory instead of filling it.
            .memory_init_cow(true)
            // Instances are few and live long. A pool would hold address space and memory for the
            // largest plugin in every slot.
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            // Line numbers of components that carry them: they are read when a hook fails, and kept until
            // then as part of the compiled code. The map from code to addresses costs a plugin without
            // them a tenth of its compiled code, in memory that nobody touches before a failure.
            .wasm_backtrace_details(WasmBacktraceDetails::Enable)
            .generate_address_map(true);
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        host::link(&mut linker)?;
        Ok(Self { engine, linker })
    }
}

impl PluginEngine {
    /// Makes the engine. Fails where the machine does not allow what wasmtime needs.
    #[expect(clippy::disallowed_methods, reason = "where the plugins' clock begins")]
    pub fn new() -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            plain: Side::new(false).map_err(readable)?,
            metered: Arc::default(),
            ticker: Mutex::new(None),
            ticks: Ticks::default(),
            generation: AtomicU64::new(0),
            loaded: Mutex::new(Vec::new()),
            cache: Mutex::default(),
            started: Instant::now(),
            states: States::default(),
            listener: OnceLock::new(),
        }))
    }

    /// Keeps compiled code here from now on, or nowhere.
    pub fn keep_code_in(&self, cache: Option<CodeCache>) {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = cache.map(Arc::new);
    }

    /// Where compiled code is kept.
    pub(super) fn cache(&self) -> Option<Arc<CodeCache>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// wasmtime's part, for plugins whose fuel is not limited.
    pub(crate) fn wasmtime(&self) -> &Engine {
        &self.plain.engine
    }

    /// What a plugin with these limits is compiled for.
    pub(super) fn side(&self, limits: &PluginLimits) -> wasmtime::Result<Side> {
        if limits.fuel_max.is_none() {
            return Ok(self.plain.clone());
        }
        if let Some(side) = self.metered.get() {
            return Ok(side.clone());
        }
        let side = Side::new(true)?;
        // One that somebody else has made in the same moment is as good.
        Ok(self.metered.get_or_init(|| side).clone())
    }

    /// When the clock of all instances began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Counts what its clock does.
    pub(super) fn ticks(&self) -> &Ticks {
        &self.ticks
    }

    /// A number that no plugin had before.
    pub(super) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sees to it that time limits hold from now on.
    pub(crate) fn start_ticker(&self) -> std::io::Result<()> {
        let mut ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        if ticker.is_some() {
            return Ok(());
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let (plain, metered) = (self.plain.engine.clone(), Arc::clone(&self.metered));
        let ticks = self.ticks.clone();
        thread::Builder::new().name("plugin-clock".to_owned()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                plain.increment_epoch();
                ticks.go_by();
                if let Some(side) = metered.get() {
                    side.engine.increment_epoch();
                }
            }
        })?;
        *ticker = Some(stop);
        Ok(())
    }
}

fn readable(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// Ticks after which a call that may take `limit` is ended: never before `limit`, since the
/// current tick has partly gone.
pub(super) fn ticks(limit: Duration) -> u64 {
    // In 64 bits: every call comes by here, and a division of 128 bits is a function call.
    let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    micros.div_ceil(TICK.subsec_micros().into()) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_never_cut_short() {
        assert_eq!(ticks(Duration::from_millis(10)), 3);
        assert_eq!(ticks(Duration::from_millis(11)), 4);
        assert_eq!(ticks(Duration::ZERO), 1);
    }

    #[test]
    fn the_clock_ends_with_the_engine() {
        let engine = PluginEngine::new().unwrap();
        engine.start_ticker().unwrap();
        let weak = engine.plain.engine.weak();

        drop(engine);

        let deadline = Instant::now() + Duration::from_secs(10);
        while weak.upgrade().is_some() {
            assert!(Instant::now() < deadline, "the clock thread is still there");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
