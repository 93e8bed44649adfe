//! The component that a command is about, loaded as the gateway would.
//!
//! Limits and grants are those of the project's `zproxy.json`, if it has one, so that a plugin is tested
//! with what it runs with; a flag wins.
//!
//! Not here: building it (`project`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Error, Limits};
use crate::config::{
    self, Allow, Environment, OnError, Overrides, PluginLimits, PluginLimitsConfig, System,
};
use crate::plugin::load::COMPONENT_BYTES_MAX;
use crate::plugin::{ChainPlan, CodeCache, LinkPlan, PlanSource, Plugin, PluginEngine};

/// A component that has been loaded.
pub(super) struct Subject {
    pub(super) engine: Arc<PluginEngine>,
    pub(super) plugin: Arc<Plugin>,
    /// The upstreams of its project, by name.
    pub(super) upstreams: Vec<Arc<str>>,
    /// The file's content.
    pub(super) component: Vec<u8>,
    /// How long compiling took.
    pub(super) compile: Duration,
}

impl Subject {
    /// Reads and compiles a component. `anew`: also if its compiled code is kept where the gateway would
    /// look for it.
    pub(super) fn load(file: &Path, limits: &Limits, anew: bool) -> Result<Self, Error> {
        let bytes = read(file)?;
        let name = name_of(file);
        let Terms { limits: configured, allow, upstreams, code } = match &limits.allow {
            Some(allow) => granted(file, &name, allow)?,
            None => configured(file, &name)?,
        };
        let limits = limits.over(configured);
        let engine = PluginEngine::new().map_err(|error| Error::failure(format!("{error:#}")))?;
        // Where it cannot be kept it is compiled every time.
        let code = code.filter(|_| !anew).and_then(|folder| CodeCache::open(&folder).ok());
        engine.keep_code_in(code);
        #[expect(clippy::disallowed_methods, reason = "how long compiling takes")]
        let began = std::time::Instant::now();
        let plugin = engine.load(&name, &bytes, &limits, &allow);
        let compile = began.elapsed();
        let plugin =
            plugin.map_err(|error| Error::plugin(format!("{}: {error}", file.display())))?;
        Ok(Self { engine, plugin, upstreams, component: bytes, compile })
    }
}

/// A chain of a plugin alone, with a configuration.
pub(super) fn plan(plugin: &Arc<Plugin>, config: &str) -> ChainPlan {
    let link = LinkPlan {
        plugin: PlanSource::Wasm(Arc::clone(plugin)),
        name: Arc::clone(plugin.name()),
        config: config.into(),
        on_error: OnError::Closed,
    };
    ChainPlan { links: vec![link] }
}

impl Limits {
    fn over(&self, configured: PluginLimits) -> PluginLimits {
        let time = self.time_ms_max.map(|ms| Duration::from_millis(ms.into()));
        let memory = self.memory_bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
        PluginLimits {
            memory_bytes_max: memory.unwrap_or(configured.memory_bytes_max),
            time_max: time.unwrap_or(configured.time_max),
            fuel_max: self.fuel_max.or(configured.fuel_max),
            ..configured
        }
    }
}

/// The bytes of a component, or of what was taken for one.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let shown = file.display();
    let metadata =
        fs::metadata(file).map_err(|error| Error::plugin(format!("{shown}: {error}")))?;
    if !metadata.is_file() {
        return Err(Error::plugin(format!("{shown}: not a file; give a component, `*.wasm`")));
    }
    if metadata.len() > COMPONENT_BYTES_MAX as u64 {
        let problem = format!("{shown}: {} bytes are more than a plugin may have", metadata.len());
        return Err(Error::plugin(problem));
    }
    fs::read(file).map_err(|error| Error::plugin(format!("{shown}: {error}")))
}

/// A plugin's name: its file's, as the plugins folder has it.
pub(super) fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem.to_ascii_lowercase().replace('_', "-")
}

/// A configuration given on the command line: a JSON object.
pub(super) fn object(config: &str) -> Result<String, Error> {
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(config) {
        Ok(object) => Ok(serde_json::Value::Object(object).to_string()),
        Err(error) => Err(Error::usage(format!("--config: not a JSON object: {error}"))),
    }
}

/// The plugin's limits and grants in the `zproxy.json` of its project: beside the component, or above the
/// `plugins` that it lies in, where `plugin build` puts it. What they are by default where there is none.
fn configured(file: &Path, name: &str) -> Result<Terms, Error> {
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let beside = file.parent().unwrap_or(&file);
    let folders = if beside.ends_with("plugins") { 2 } else { 1 };
    let mut folders = file.ancestors().skip(1).take(folders);
    let Some(folder) = folders.find(|folder| folder.join("zproxy.json").is_file()) else {
        return find_in(b"{}", "the defaults", beside, name);
    };
    let path = folder.join("zproxy.json");
    let shown = path.display().to_string();
    let text = fs::read(&path).map_err(|error| Error::failure(format!("{shown}: {error}")))?;
    find_in(&text, &shown, folder, name)
}

/// The same with grants of the command line, as `plugins.NAME.allow` has them.
fn granted(file: &Path, name: &str, allow: &str) -> Result<Terms, Error> {
    let allow: serde_json::Value = serde_json::from_str(allow)
        .map_err(|error| Error::usage(format!("--allow: not a JSON object: {error}")))?;
    let plugin = serde_json::json!({ "path": file, "allow": allow });
    let config = serde_json::json!({ "plugins": { name: plugin } });
    find_in(config.to_string().as_bytes(), "--allow", Path::new("."), name)
}

/// What a configuration says about the plugin, seen from a folder.
fn find_in(text: &[u8], shown: &str, folder: &Path, name: &str) -> Result<Terms, Error> {
    let place = Place(folder.to_owned());
    let (_, settings) = config::load(text, shown, &Overrides::default(), &place, &[])?;
    let upstreams = settings.upstreams.iter().map(|upstream| Arc::clone(&upstream.name)).collect();
    let plugin = settings.plugins.iter().find(|plugin| *plugin.name == *name);
    let (limits, allow) =
        plugin.map_or_else(unmentioned, |plugin| (plugin.limits, Arc::clone(&plugin.allow)));
    Ok(Terms { limits, allow, upstreams, code: settings.plugin_cache })
}

/// What a plugin runs with.
struct Terms {
    limits: PluginLimits,
    allow: Arc<Allow>,
    upstreams: Vec<Arc<str>>,
    /// Where compiled code is kept.
    code: Option<PathBuf>,
}

/// What a plugin may use that no configuration mentions.
fn unmentioned() -> (PluginLimits, Arc<Allow>) {
    let default = PluginLimitsConfig::default();
    let limits = PluginLimits {
        memory_bytes_max: default.memory_bytes_max,
        time_max: Duration::from_millis(default.time_ms_max.into()),
        request_time_max: None,
        fuel_max: default.fuel_max,
        body_bytes_max: default.body_bytes_max,
        instances_max: default.instances_max,
        callouts_max: default.callouts_max,
    };
    (limits, Arc::default())
}

/// The system as the gateway would see it if it were started in a project's folder.
struct Place(PathBuf);

impl Environment for Place {
    fn variable(&self, name: &str) -> Option<std::ffi::OsString> {
        System.variable(name)
    }

    fn read(&self, path: &Path, bytes_max: usize) -> std::io::Result<Vec<u8>> {
        System.read(&self.0.join(path), bytes_max)
    }

    fn list(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        System.list(&self.0.join(folder))
    }

    fn is_file(&self, path: &Path) -> bool {
        System.is_file(&self.0.join(path))
    }

    fn can_append(&self, path: &Path) -> std::io::Result<()> {
        System.can_append(&self.0.join(path))
    }
}
