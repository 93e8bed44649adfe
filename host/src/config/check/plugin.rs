//! Plugins: which there are, where their files are, and the chains that name them.
//!
//! A name leads to `plugins.NAME.path`, else to `NAME.wasm` in the plugins folder, else to the
//! middleware of that name which the program brings along, else to the built-in plugin of that name.
//!
//! Not here: what is inside a component (`plugin`), and whether it accepts its configuration.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::allow;
use super::built_in;
use super::upstream::Upstreams;
use crate::config::environment::{Environment, reason};
use crate::config::file::{ChainItemConfig, Config, OnErrorConfig, PluginConfig};
use crate::config::problem::{At, Report, quote};
use crate::config::redis::StateError;
use crate::config::settings::{Allow, ChainItem, OnError, Plugin, PluginLimits, PluginSource};

/// Everything that chains can name, growing while chains are checked.
pub(super) struct Plugins<'a> {
    /// In the order of their indexes.
    pub(super) list: Vec<Plugin>,
    by_name: HashMap<String, usize>,
    /// Components in the plugins folder.
    files: BTreeMap<String, PathBuf>,
    /// Files there whose names cannot name a plugin.
    pub(super) misnamed: Vec<PathBuf>,
    /// Whether `files` is all there is.
    files_known: bool,
    /// Names of middleware that the program brings along.
    native: Vec<String>,
    /// What chains take when they say nothing.
    defaults: HashMap<String, Defaults<'a>>,
    /// Names that a chain holds.
    used: HashSet<String>,
}

/// What a chain takes from the plugin when it says nothing itself.
#[derive(Default)]
struct Defaults<'a> {
    config: Option<&'a Map<String, Value>>,
    /// Where `config` is.
    at: At,
    on_error: OnErrorConfig,
    disabled: bool,
    /// The entry in `middleware`, if there is one.
    middleware: Option<At>,
}

impl<'a> Plugins<'a> {
    /// Checks `plugins`, `middleware` and `plugins_dir`.
    pub(super) fn check(
        config: &'a Config,
        environment: &dyn Environment,
        native: &[&str],
        upstreams: &mut Upstreams,
        report: &mut Report,
    ) -> Self {
        let mut plugins = Self {
            list: Vec::new(),
            by_name: HashMap::new(),
            files: BTreeMap::new(),
            misnamed: Vec::new(),
            files_known: true,
            native: native.iter().map(|name| normal(name)).collect(),
            defaults: HashMap::new(),
            used: HashSet::new(),
        };
        if let Some(folder) = &config.plugins_dir {
            plugins.files_known = plugins.find_files(folder, environment, report);
        }
        plugins.check_entries(&config.plugins, environment, upstreams, report);
        plugins.check_middleware(config, report);
        for (name, path) in plugins.files.clone() {
            if !plugins.by_name.contains_key(&name) {
                let at = At::default().key("plugins_dir");
                plugins.add(&name, PluginSource::File(path), &PluginConfig::default(), &at);
            }
        }
        plugins
    }

    /// Collects `*.wasm`. False when that failed, so that a plugin may only seem to be missing.
    fn find_files(
        &mut self,
        folder: &str,
        environment: &dyn Environment,
        report: &mut Report,
    ) -> bool {
        let at = At::default().key("plugins_dir");
        let entries = match environment.list(Path::new(folder)) {
            Ok(entries) => entries,
            Err(error) => {
                let message =
                    format!("cannot read the folder {}: {}", quote(folder), reason(&error));
                report.problem(&at, message, "give the folder that holds the `*.wasm` files");
                return false;
            }
        };
        let mut paths: Vec<_> = entries.into_iter().filter(|path| is_component(path)).collect();
        paths.sort();
        for path in paths {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let name = normal(&stem);
            if !is_name(&name) {
                // No chain can name it, so it hurts nobody.
                self.misnamed.push(path);
            } else if let Some(other) = self.files.insert(name, path.clone()) {
                let (one, two) = (other.display().to_string(), path.display().to_string());
                let message = format!("{} and {} are one name", quote(&one), quote(&two));
                report.problem(&at, message, "remove one of both: `-` and `_` are equal");
            }
        }
        true
    }

    /// Checks `plugins`.
    fn check_entries(
        &mut self,
        entries: &'a BTreeMap<String, PluginConfig>,
        environment: &dyn Environment,
        upstreams: &mut Upstreams,
        report: &mut Report,
    ) {
        let all = At::default().key("plugins");
        for (written, entry) in entries {
            let at = all.key(written);
            let name = normal(written);
            if !is_name(&name) {
                let message = format!("{} cannot name a plugin", quote(written));
                report.problem(&at, message, NAME_CURE);
                continue;
            }
            if self.defaults.contains_key(&name) {
                let message = format!("{} is there twice", quote(&name));
                report.problem(&at, message, "remove one of both: `-` and `_` are equal");
                continue;
            }
            let defaults = Defaults {
                config: entry.config.as_ref(),
                at: at.key("config"),
                on_error: entry.on_error,
                ..Defaults::default()
            };
            self.defaults.insert(name.clone(), defaults);
            let mut allow =
                allow::check(&entry.allow, &at.key("allow"), environment, upstreams, report);
            built_in::grant(&name, &mut allow);
            let source = match &entry.path {
                Some(path) => {
                    let path = PathBuf::from(path);
                    if !environment.is_file(&path) {
                        let shown = path.display().to_string();
                        let message = format!("there is no file {}", quote(&shown));
                        report.problem(&at.key("path"), message, "give the path of a component");
                    }
                    Some(PluginSource::File(path))
                }
                None => self.source(&name),
            };
            match source {
                Some(source) => {
                    let written = entry.path.is_some();
                    let at =
                        if written { at.key("path") } else { At::default().key("plugins_dir") };
                    let index = self.add(&name, source, entry, &at);
                    self.list[index].allow = Arc::new(allow);
                }
                None if self.files_known => {
                    let (message, cure) = self.missing(&name, report);
                    report.incomplete(&at, message, cure);
                }
                None => {}
            }
        }
    }

    /// Checks `middleware`, the short form of `plugins.NAME.config`.
    fn check_middleware(&mut self, config: &'a Config, report: &mut Report) {
        for (written, entry) in &config.middleware {
            let at = At::default().key("middleware").key(written);
            let name = normal(written);
            if !is_name(&name) {
                let message = format!("{} cannot name a plugin", quote(written));
                report.problem(&at, message, NAME_CURE);
                continue;
            }
            let defaults = self.defaults.entry(name.clone()).or_default();
            if let Some(other) = &defaults.middleware {
                let message = format!("is the same plugin as `{other}`");
                report.problem(&at, message, "remove one of both: `-` and `_` are equal");
                continue;
            }
            if !entry.config.is_empty() && defaults.config.is_some() {
                let message = format!("`plugins.{name}.config` configures this plugin already");
                report.problem(&at, message, "keep one of both");
            }
            if !entry.config.is_empty() {
                defaults.config = Some(&entry.config);
                defaults.at = at.clone();
            }
            defaults.disabled = !entry.enabled;
            defaults.middleware = Some(at);
        }
    }

    /// The chain that a route wrote at `at`, without what is switched off.
    pub(super) fn chain(
        &mut self,
        items: &[ChainItemConfig],
        at: &At,
        report: &mut Report,
    ) -> Vec<ChainItem> {
        let mut chain = Vec::new();
        for (index, item) in items.iter().enumerate() {
            chain.extend(self.item(item, &at.index(index), report));
        }
        chain
    }

    fn item(&mut self, item: &ChainItemConfig, at: &At, report: &mut Report) -> Option<ChainItem> {
        let (written, place, name_at) = match item {
            ChainItemConfig::Name(name) => (name, None, at.clone()),
            ChainItemConfig::Place(place) => (&place.plugin, Some(place), at.key("plugin")),
        };
        let name = normal(written);
        self.used.insert(name.clone());
        let defaults = self.defaults.get(&name);
        let disabled = defaults.is_some_and(|defaults| defaults.disabled);
        let off = disabled || place.is_some_and(|place| !place.enabled);
        let own = place.and_then(|place| place.config.as_ref());
        let config =
            match (own, defaults.and_then(|defaults| Some((defaults.config?, &defaults.at)))) {
                (Some(config), _) => Some((config, at.key("config"))),
                (None, default) => default.map(|(config, at)| (config, at.clone())),
            };
        let guards = config.as_ref().is_some_and(|(config, _)| built_in::guards(&name, config));
        if off && !guards {
            return None;
        }
        let on_error = place.and_then(|place| place.on_error);
        let on_error = on_error.or_else(|| defaults.map(|defaults| defaults.on_error));
        let plugin = self.index(&name, &name_at, report)?;
        if let Some((config, at)) = config.as_ref().filter(|_| off) {
            let mut config = (*config).clone();
            config.insert("enabled".to_owned(), Value::Bool(false));
            let (config, at) = (text(&config), at.to_string().into());
            return Some(ChainItem { plugin, config, on_error: OnError::Closed, at });
        }
        if let Some((config, _)) = &config {
            built_in::grant_urls(&name, config, Arc::make_mut(&mut self.list[plugin].allow));
        }
        let (config, config_at) =
            config.map_or_else(|| ("{}".into(), at.clone()), |(config, at)| (text(config), at));
        let on_error = match on_error.unwrap_or_default() {
            OnErrorConfig::Closed => OnError::Closed,
            OnErrorConfig::Open => OnError::Open,
        };
        Some(ChainItem { plugin, config, on_error, at: config_at.to_string().into() })
    }

    /// The index of the plugin `name`, made if it can be found.
    fn index(&mut self, name: &str, at: &At, report: &mut Report) -> Option<usize> {
        if let Some(index) = self.by_name.get(name) {
            return Some(*index);
        }
        if let Some(source) = self.source(name) {
            return Some(self.add(name, source, &PluginConfig::default(), &At::default()));
        }
        // An entry of `plugins` that leads nowhere has been reported, and so has the folder.
        let entry = self.defaults.get(name).is_some_and(|entry| entry.middleware.is_none());
        if !entry && self.files_known {
            let (message, cure) = self.missing(name, report);
            report.problem(at, message, cure);
        }
        None
    }

    /// Where `name` is found without an entry of its own.
    fn source(&self, name: &str) -> Option<PluginSource> {
        let file = self.files.get(name).cloned().map(PluginSource::File);
        let native = self.native.iter().any(|native| native == name);
        let built_in = built_in::built_in_names().any(|built_in| built_in == name);
        file.or_else(|| native.then_some(PluginSource::Native))
            .or_else(|| built_in.then_some(PluginSource::BuiltIn))
    }

    fn missing(&self, name: &str, report: &mut Report) -> (String, String) {
        let message = format!("there is no plugin {}", quote(name));
        let known = self.by_name.keys().chain(self.files.keys()).chain(&self.native);
        let known = known.map(String::as_str).chain(built_in::built_in_names());
        if let Some(close) = report.closest(name, known) {
            return (message, format!("did you mean `{close}`?"));
        }
        if !is_name(name) {
            return (message, NAME_CURE.into());
        }
        let later = match BUILT_IN_LATER.contains(&name) {
            true => "a built-in one comes with a later version; until then ",
            false => "",
        };
        let cure = format!(
            "{later}put {name}.wasm into the plugins folder (--plugins DIR), or give `plugins.{name}.path`"
        );
        (message, cure)
    }

    fn add(&mut self, name: &str, source: PluginSource, entry: &PluginConfig, at: &At) -> usize {
        let index = self.list.len();
        self.list.push(Plugin {
            name: name.into(),
            source,
            limits: limits(entry),
            allow: granted(name),
            at: at.to_string().into(),
            config: None,
        });
        self.by_name.insert(name.into(), index);
        index
    }

    /// Gives every plugin the configuration that chains take by default. Reports defaults that no
    /// chain uses because their name is mistyped.
    ///
    /// Others are allowed to wait for a route: the original's files list all middleware.
    pub(super) fn finish(&mut self, redis: Option<StateError>, report: &mut Report) {
        for plugin in &mut self.list {
            if plugin.allow.counters.is_some() {
                Arc::make_mut(&mut plugin.allow).redis = redis;
            }
        }
        for (name, defaults) in &self.defaults {
            if let (Some(index), Some(config), false) =
                (self.by_name.get(name), defaults.config, defaults.disabled)
                && let Some(plugin) = self.list.get_mut(*index)
            {
                plugin.config = Some((text(config), defaults.at.to_string().into()));
            }
        }
        let mut unused: Vec<_> = self.defaults.iter().collect();
        unused.sort_by_key(|(name, _)| *name);
        for (name, defaults) in unused {
            let Some(at) = &defaults.middleware else { continue };
            if self.used.contains(name) || self.by_name.contains_key(name) || defaults.disabled {
                continue;
            }
            let known = self.by_name.keys().chain(&self.used).map(String::as_str);
            if let Some(close) = report.closest(name, known) {
                let message = format!("there is no plugin {}", quote(name));
                report.problem(at, message, format!("did you mean `{close}`?"));
            }
        }
    }
}

/// Plugins that a later version brings along.
const BUILT_IN_LATER: [&str; 1] = ["cache"];

/// How to name a plugin.
const NAME_CURE: &str = "use letters, digits, `-`, `_` and `.`, at most 64, and no `.` in front";

/// The one spelling of a plugin's name.
pub(in crate::config) fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Whether `name`, in its one spelling, can name a plugin: safe in paths, labels and logs.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.bytes().all(plain)
}

/// Whether a file in the plugins folder is a plugin. Hidden ones are copies in progress.
fn is_component(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && path.extension().is_some_and(|extension| extension == "wasm")
}

fn text(config: &Map<String, Value>) -> Arc<str> {
    // A map of JSON values prints as JSON whatever it holds.
    Value::Object(config.clone()).to_string().into()
}

/// Where compiled code is kept.
pub(super) fn cache(
    written: &str,
    environment: &dyn Environment,
    report: &mut Report,
) -> Option<PathBuf> {
    match written {
        "off" => None,
        "auto" => {
            // XDG Base Directory Specification: a path that is not absolute is to be ignored.
            let folder = |name: &str| {
                let folder = environment.variable(name).map(PathBuf::from);
                folder.filter(|folder| folder.is_absolute())
            };
            let home = || folder("HOME").map(|home| home.join(".cache"));
            folder("XDG_CACHE_HOME").or_else(home).map(|folder| folder.join("zproxy"))
        }
        "" => {
            let at = At::default().key("plugin_cache");
            report.problem(&at, "the path is empty", "give a folder, or \"auto\" or \"off\"");
            None
        }
        path => Some(path.into()),
    }
}

/// A plugin that has come into the plugins folder, as no configuration mentions it.
pub(in crate::config) fn unmentioned(
    name: &str,
    path: PathBuf,
    redis: Option<StateError>,
) -> Plugin {
    let entry = PluginConfig::default();
    let mut allow = granted(name);
    if allow.counters.is_some() {
        Arc::make_mut(&mut allow).redis = redis;
    }
    Plugin {
        name: name.into(),
        source: PluginSource::File(path),
        limits: limits(&entry),
        allow,
        at: At::default().key("plugins_dir").to_string().into(),
        config: None,
    }
}

/// What a plugin of this name may reach when nothing is said about it.
fn granted(name: &str) -> Arc<Allow> {
    let mut allow = Allow::default();
    built_in::grant(name, &mut allow);
    Arc::new(allow)
}

fn limits(entry: &PluginConfig) -> PluginLimits {
    PluginLimits {
        memory_bytes_max: entry.limits.memory_bytes_max,
        time_max: Duration::from_millis(entry.limits.time_ms_max.into()),
        request_time_max: entry
            .limits
            .request_time_ms_max
            .map(|ms| Duration::from_millis(ms.into())),
        fuel_max: entry.limits.fuel_max,
        body_bytes_max: entry.limits.body_bytes_max,
        instances_max: entry.limits.instances_max,
        callouts_max: entry.limits.callouts_max,
    }
}

/// Names and files of the plugins in a folder. Of two files with one name the first by its path.
pub(in crate::config) fn files_in(
    folder: &Path,
    environment: &dyn Environment,
) -> std::io::Result<BTreeMap<String, PathBuf>> {
    let mut paths = environment.list(folder)?;
    paths.sort();
    let mut files = BTreeMap::new();
    for path in paths.into_iter().filter(|path| is_component(path)) {
        let name = normal(&path.file_stem().unwrap_or_default().to_string_lossy());
        if is_name(&name) {
            files.entry(name).or_insert(path);
        }
    }
    Ok(files)
}

/// Names of the plugins in a folder; none when it cannot be read, which [`Plugins::check`]
/// reports.
pub(in crate::config) fn names_in(folder: &str, environment: &dyn Environment) -> Vec<String> {
    files_in(Path::new(folder), environment).unwrap_or_default().into_keys().collect()
}
