//! From the bytes of a component to a plugin that instances can be made of.
//!
//! 1. Is it a component, not too large, and of a shape that can be compiled in time (`shape`)?
//! 2. Does it compile?
//! 3. Does it export `lifecycle` and at least one hook, in a version and with signatures known here?
//! 4. Is everything that it imports there?
//!
//! Whatever is refused is refused in words that its author can act on.
//!
//! Not here: whether a configuration is good ([`Plugin::probe`] asks the plugin), and where the
//! bytes come from (`control`).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::InstancePre;
use wasmtime::component::types::ComponentItem;

use super::engine::PluginEngine;
use super::engine::Side;
use super::exports;
use super::exports::Exports;
use super::exports::Hooks;
use super::host;
use super::host::State;
use super::host::clean;
use super::imports;
use super::instance::Hook;
use super::instance::Warm;
use super::live;
use super::live::Live;
use super::shape;
use crate::config::Allow;
use crate::config::PluginLimits;
use crate::state::{PluginState, States};

/// The largest component that is compiled. A JavaScript or Python plugin has 12 to 18 MB.
pub const COMPONENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time for compiling. A JavaScript or Python plugin takes up to 11 s of one CPU; a file made to be
/// slow, with functions of megabytes, takes minutes.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(60);

/// Stack of the thread that compiles: that of a main thread, since compilers recurse.
const COMPILE_STACK_BYTES: usize = 8 * 1024 * 1024;

/// Names listed in a refusal.
const LISTED_MAX: usize = 20;

pub(super) const PACKAGE: &str = "zproxy:gateway/";

/// Versions of the package that are compatible with the one served.
pub(super) const COMPATIBLE: &str = "0.1.";

/// What makes a plugin one that waits.
const CALLOUT: &str = "zproxy:gateway/callout@";

/// The interface that waits when its counters are in Redis.
const COUNTERS: &str = "zproxy:gateway/counters@";
/// What gives a plugin a say in bodies.
const BODY: &str = "zproxy:gateway/body@";

/// Why a component cannot be a plugin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Larger than 64 MiB.
    #[error("{0} bytes are more than the 64 MiB that a plugin may have")]
    TooLarge(usize),
    /// Some other file.
    #[error("not a WebAssembly component: the file does not begin as WebAssembly does")]
    NotWasm,
    /// A module.
    #[error(
        "a core WebAssembly module, not a component; was it built for wasm32-unknown-unknown or \
         wasm32-wasip1? Build it with `cargo build --target wasm32-wasip2`, or make a component of \
         it with `wasm-tools component new`"
    )]
    CoreModule,
    /// Of a shape that no compiler of plugins makes, and that takes this one longest.
    #[error("has {found} {what}; a plugin may have {max}")]
    Shape {
        /// Of what there is too much.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much there may be.
        max: u64,
    },
    /// Invalid, or with features that the gateway does not have.
    #[error("does not compile: {0}")]
    Compile(String),
    /// It takes too long.
    #[error("does not compile within {0:?}")]
    CompileTime(Duration),
    /// Others were given up on, and the compiler is still busy with them.
    #[error(
        "is not compiled: {0} components that took too long are still being compiled; take them away"
    )]
    CompilerBusy(usize),
    /// No plugin at all.
    #[error(
        "exports no `zproxy:gateway/lifecycle@0.1.0`, which every plugin must export; it exports {0}"
    )]
    NoLifecycle(String),
    /// Made for another gateway.
    #[error("exports `{0}`; this gateway serves version 0.1.0 of that package")]
    ExportVersion(String),
    /// A hook of a later gateway, or a misspelt one: it would never be called.
    #[error(
        "exports `{0}`, which this gateway would never call; it calls completion, lifecycle, \
         request-body-filter, request-filter, response-body-filter, response-filter, retirement, \
         ticker, validation and websocket-filter"
    )]
    UnknownExport(String),
    /// Nothing to call.
    #[error(
        "exports no hook, so that it would never be called; export \
         `zproxy:gateway/request-filter@0.1.0`, `response-filter`, one of their body filters, \
         `websocket-filter`, `completion` or `ticker`"
    )]
    NoHook,
    /// A hook that cannot be called.
    #[error(
        "`{function}` is {found}, it must be {expected}; build it against wit/ of this version"
    )]
    Signature {
        /// Interface and function.
        function: String,
        /// What the component has.
        found: String,
        /// What it should have.
        expected: &'static str,
    },
    /// Needs what the gateway does not have.
    #[error(
        "imports `{0}`, which this gateway does not offer; it offers zproxy:gateway/{{body, cache, \
         callout, clock, context, counters, crypto, environment, kv, log, metrics, random, reply, request, \
         response, websocket}}@0.1.0 and wasi:{{cli, clocks, filesystem, \
         io, random, sockets}}@0.2"
    )]
    UnknownImport(String),
    /// Needs what the operator has not granted.
    #[error(
        "imports `{PACKAGE}{interface}` ({functions}), which is not granted; if you trust it with \
         that, write `\"plugins\": {{\"{plugin}\": {{\"allow\": {grant}}}}}`"
    )]
    NotGranted {
        /// The plugin's name in the configuration.
        plugin: String,
        /// Without package and version.
        interface: &'static str,
        /// The functions that it uses.
        functions: String,
        /// What to write.
        grant: &'static str,
    },
    /// Needs a function of an interface that is offered, with another signature or from a later
    /// version.
    #[error("cannot be linked: {0}")]
    Link(String),
    /// Its instructions are counted, or are not, and should not or should be.
    #[error(
        "`limits.fuel_max` or Redis has come or gone, for which the component must be made anew: load it again"
    )]
    MadeOtherwise,
    /// The machine does not allow what counting instructions needs.
    #[error("no engine that counts instructions: {0}")]
    Engine(String),
    /// The process is short of threads.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A loaded component. Shared by all workers, which make instances of it.
#[derive(Clone)]
pub struct Plugin {
    name: Arc<str>,
    digest: String,
    generation: u64,
    limits: PluginLimits,
    pub(super) allow: Arc<Allow>,
    state: Arc<PluginState>,
    hooks: Hooks,
    pub(super) engine: Arc<PluginEngine>,
    pub(super) component: InstancePre<State>,
    pub(super) exports: Arc<Exports>,
    /// It has a say in bodies: by a hook, or by an import.
    pub(super) bodies: bool,
    /// It may wait, and is called on fibers.
    pub(super) waits: bool,
    /// Its instances that are broken.
    pub(super) broken: Arc<AtomicUsize>,
}

impl Plugin {
    /// Its name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// SHA-256 of the component, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Higher than that of every plugin loaded before it in this process.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Which hooks it has.
    pub fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// What an instance may use.
    pub fn limits(&self) -> &PluginLimits {
        &self.limits
    }

    /// What it keeps outside of its instances; shared by all its generations.
    pub fn state(&self) -> &Arc<PluginState> {
        &self.state
    }

    /// What it may reach.
    pub fn allow(&self) -> &Allow {
        &self.allow
    }

    /// Makes an instance with this configuration and throws it away. The error is everything that
    /// the plugin says about the configuration, or why there was no answer.
    ///
    /// May take two seconds: for the control thread.
    pub fn probe(self: &Arc<Self>, config: &str) -> Result<(), Vec<Complaint>> {
        live::validate(self, config)?;
        Live::new(self, config).map(drop).map_err(|failure| vec![Complaint::of(&failure.message)])
    }

    /// Makes an instance for a worker to take in, so that a slow `init` keeps no request waiting.
    ///
    /// May take a second: for the control thread.
    pub fn warm(self: &Arc<Self>, config: &Arc<str>) -> Result<Warm, String> {
        Warm::new(self, config).map_err(|failure| failure.message.to_string())
    }

    /// Whether it has these limits and grants.
    fn is_under(&self, limits: &PluginLimits, allow: &Allow) -> bool {
        self.limits == *limits && *self.allow == *allow
    }

    /// The same component under these limits and grants: itself if it has them, else a new generation.
    /// Refused when it imports what is not granted any more.
    pub fn under(
        self: &Arc<Self>,
        limits: &PluginLimits,
        allow: &Arc<Allow>,
    ) -> Result<Arc<Self>, LoadError> {
        if self.is_under(limits, allow) {
            return Ok(Arc::clone(self));
        }
        if kind_of(limits, allow) != kind_of(&self.limits, &self.allow) {
            return Err(LoadError::MadeOtherwise);
        }
        let engine = self.component.engine();
        for (import, item) in self.component.component().component_type().imports(engine) {
            imports::check(engine, &self.name, import, &item.ty, allow)?;
        }
        Ok(self.renewed(limits, allow))
    }

    /// The same component with a state of its own, in which nothing has been counted or kept: golden
    /// requests must not see what others left.
    pub(crate) fn with_new_state(&self) -> Arc<Self> {
        let state = States::default().of(&self.name);
        state.apply(&self.allow);
        let generation = self.engine.next_generation();
        Arc::new(Self { generation, state, broken: Arc::default(), ..self.clone() })
    }

    /// The same component as a new generation: compiled code is shared, instances are not.
    fn renewed(&self, limits: &PluginLimits, allow: &Arc<Allow>) -> Arc<Self> {
        let generation = self.engine.next_generation();
        let (limits, allow) = (*limits, Arc::clone(allow));
        let plugin =
            Arc::new(Self { generation, limits, allow, broken: Arc::default(), ..self.clone() });
        self.engine.remember(&plugin);
        plugin
    }

    /// The same component as a generation that is newer than that of `other`.
    #[must_use]
    pub fn newer_than(self: Arc<Self>, other: &Self) -> Arc<Self> {
        if self.generation < other.generation {
            return self.renewed(&self.limits, &self.allow);
        }
        self
    }
}

/// What a plugin does not like about its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// A JSON pointer (RFC 6901) into the configuration; empty for the whole.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.message),
            pointer => write!(f, "`{pointer}`: {}", self.message),
        }
    }
}

/// All complaints in one line.
pub fn joined(complaints: &[Complaint]) -> String {
    complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Complaint {
    /// About the whole.
    pub(super) fn of(message: &str) -> Self {
        Self { pointer: String::new(), message: message.to_owned() }
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl PluginEngine {
    /// Makes a plugin of a component. Compiles, which takes milliseconds to seconds.
    ///
    /// The same bytes under the same name, limits and grants give the same plugin for as long as
    /// somebody holds it: a reload that changes nothing keeps its warm instances. With other limits
    /// they give a new generation of the same compiled code.
    pub fn load(
        self: &Arc<Self>,
        name: &str,
        bytes: &[u8],
        limits: &PluginLimits,
        allow: &Arc<Allow>,
    ) -> Result<Arc<Plugin>, LoadError> {
        check_header(bytes)?;
        self.start_ticker()?;
        let digest = digest_of(bytes);
        if let Some(plugin) = self.find_loaded(name, &digest, limits, allow) {
            return plugin.under(limits, allow);
        }
        let side = self.side(limits).map_err(|error| LoadError::Engine(format!("{error:#}")))?;
        let Side { engine, mut linker } = side;
        let engine = &engine;
        let cache = self.cache();
        let known = cache.as_ref().and_then(|cache| cache.find(engine, &digest));
        let component = match known {
            Some(component) => component,
            None => {
                let component = compile(engine, bytes)?;
                if let Some(cache) = &cache {
                    cache.keep(engine, &digest, &component);
                }
                component
            }
        };
        let kind = component.component_type();
        let found = exports::check(engine, &kind)?;
        for (import, item) in kind.imports(engine) {
            imports::check(engine, name, import, &item.ty, allow)?;
            if let ComponentItem::ComponentInstance(interface) = &item.ty
                && imports::WASI_DENIED.iter().any(|package| import.starts_with(package))
            {
                host::deny(&mut linker, engine, import, interface).map_err(link_error)?;
            }
        }
        let remote = allow.redis.is_some()
            && kind.imports(engine).any(|(import, _)| import.starts_with(COUNTERS));
        if remote {
            host::link_remote(&mut linker).map_err(link_error)?;
        }
        let component = linker.instantiate_pre(&component).map_err(link_error)?;
        let exports = Exports::find(&component, &found).map_err(link_error)?;
        let waits = remote || kind.imports(engine).any(|(import, _)| import.starts_with(CALLOUT));
        let bodies = kind.imports(engine).any(|(import, _)| import.starts_with(BODY));
        let plugin = Arc::new(Plugin {
            name: name.into(),
            digest,
            generation: self.next_generation(),
            limits: *limits,
            allow: Arc::clone(allow),
            state: self.states.of(&name.into()),
            hooks: found.hooks,
            engine: Arc::clone(self),
            exports: Arc::new(exports),
            waits,
            broken: Arc::default(),
            bodies: bodies
                || found.hooks.has(Hook::RequestBody)
                || found.hooks.has(Hook::ResponseBody),
            component,
        });
        self.remember(&plugin);
        Ok(plugin)
    }

    fn remember(&self, plugin: &Arc<Plugin>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|plugin| plugin.strong_count() > 0);
        loaded.push(Arc::downgrade(plugin));
    }

    /// The newest plugin of this component; one with these limits and grants before any other.
    fn find_loaded(
        &self,
        name: &str,
        digest: &str,
        limits: &PluginLimits,
        allow: &Allow,
    ) -> Option<Arc<Plugin>> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let known = loaded.iter().filter_map(std::sync::Weak::upgrade);
        let same = known.filter(|plugin| {
            *plugin.name == *name
                && plugin.digest == digest
                && kind_of(&plugin.limits, &plugin.allow) == kind_of(limits, allow)
        });
        same.max_by_key(|plugin| (plugin.is_under(limits, allow), plugin.generation))
    }
}

/// What a component is made for, once: whether its fuel is counted, and whether its counters wait.
fn kind_of(limits: &PluginLimits, allow: &Allow) -> (bool, bool) {
    (limits.fuel_max.is_some(), allow.redis.is_some())
}

/// SHA-256 of a component, in hexadecimal.
pub fn digest_of(bytes: &[u8]) -> String {
    hexadecimal(digest(&SHA256, bytes).as_ref())
}

fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, LoadError> {
    shape::check(bytes)?;
    let left = LEFT_COMPILING.load(Ordering::Relaxed);
    if left >= LEFT_COMPILING_MAX {
        return Err(LoadError::CompilerBusy(left));
    }
    let (engine, bytes) = (engine.clone(), bytes.to_vec());
    let failed = |text: &str| LoadError::Compile(clean(text.as_bytes(), 1024));
    match apart(COMPILE_TIME_MAX, move || Component::from_binary(&engine, &bytes))? {
        Done::In(Ok(component)) => Ok(component),
        Done::In(Err(error)) => Err(failed(&format!("{error:#}"))),
        Done::Panicked => Err(failed("the compiler gave up on it")),
        Done::TooLate => Err(LoadError::CompileTime(COMPILE_TIME_MAX)),
    }
}

/// How work on a thread of its own ended.
#[derive(Debug, PartialEq)]
enum Done<T> {
    In(T),
    Panicked,
    TooLate,
}

/// Threads that were left to themselves and are still at it.
static LEFT_COMPILING: AtomicUsize = AtomicUsize::new(0);

/// Each may take a CPU, and memory, until it has finished: a file that is tried again and again must not
/// take them all.
const LEFT_COMPILING_MAX: usize = 2;

/// Does `work` on a thread of its own. When that takes longer than `time_max` the thread is left to
/// itself: nothing ends a thread, but nobody has to wait for it.
fn apart<T: Send + 'static>(
    time_max: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<Done<T>> {
    let (done, result) = mpsc::sync_channel(1);
    let (leave, left) = mpsc::sync_channel::<()>(1);
    let thread = thread::Builder::new().name("plugin-compiler".to_owned());
    thread.stack_size(COMPILE_STACK_BYTES).spawn(move || {
        // Nobody is left to be told when it is too late.
        let _ = done.send(work());
        if left.recv().is_ok() {
            LEFT_COMPILING.fetch_sub(1, Ordering::Relaxed);
        }
    })?;
    Ok(match result.recv_timeout(time_max) {
        Ok(result) => Done::In(result),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            LEFT_COMPILING.fetch_add(1, Ordering::Relaxed);
            // One that panics later counts for ever; it is one that must not be tried again.
            let _ = leave.send(());
            Done::TooLate
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Done::Panicked,
    })
}

/// The first eight bytes: magic, version, and whether it is a module or a component.
fn check_header(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(LoadError::TooLarge(bytes.len()));
    }
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(()),
        Some([0, b'a', b's', b'm', _, _, 0, 0]) => Err(LoadError::CoreModule),
        _ => Err(LoadError::NotWasm),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "goes into map_err")]
fn link_error(error: wasmtime::Error) -> LoadError {
    LoadError::Link(clean(format!("{error:#}").as_bytes(), 1024))
}

pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names = names.map(|name| format!("`{}`", clean(name.as_bytes(), 128)));
    let mut shown: Vec<String> = names.by_ref().take(LISTED_MAX).collect();
    match (shown.is_empty(), names.count()) {
        (true, _) => return "nothing".to_owned(),
        (false, 0) => {}
        (false, more) => shown.push(format!("and {more} more")),
    }
    shown.join(", ")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_apart_may_panic_and_take_for_ever() {
        let (end, ended) = mpsc::channel::<()>();
        let minute = Duration::from_secs(60);

        assert_eq!(apart(minute, || 1).unwrap(), Done::In(1));
        assert_eq!(
            apart(minute, || -> u8 { panic!("a bug of the compiler") }).unwrap(),
            Done::Panicked
        );
        let endless = move || ended.recv().is_ok();
        assert_eq!(apart(Duration::from_millis(10), endless).unwrap(), Done::TooLate);

        assert_eq!(LEFT_COMPILING.load(Ordering::Relaxed), 1);
        end.send(()).unwrap();
        while LEFT_COMPILING.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
    }
}
