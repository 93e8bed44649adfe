//! Makes a snapshot: everything that can be decided at load is decided here.
//!
//! Compiles plugins, tries each configuration once, builds the router and the chains. All problems are
//! reported at once. Nothing here touches what is running, so a refusal changes nothing.
//!
//! Not here: the snapshot itself (`proxy::context`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::StartError;
use crate::config::{Environment as _, PluginSource, Problem, Problems, Settings, System, Target};
use crate::plugin::chain::make_native;
use crate::plugin::load::COMPONENT_BYTES_MAX;
use crate::plugin::{ChainPlan, LinkPlan, NativeFactory, PlanSource, Plugin, PluginEngine};
use crate::proxy::{RoutePlan, Snapshot};
use crate::route::rewrite::{Redirect, Rewrite};
use crate::route::{PatternError, Router};

/// Native middleware by name.
pub type Natives = HashMap<String, Arc<NativeFactory>>;

/// What a bad plugin does to the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It refuses the start if a route needs it.
    Refused,
    /// It refuses the start even if no route needs it, and so does a configuration that no route
    /// uses.
    AllRefused,
    /// Routes that need it say why it is bad.
    Answers,
}

/// A plugin that is ready to be configured.
#[derive(Clone)]
enum Source {
    Wasm(Arc<Plugin>),
    Native(Arc<NativeFactory>),
}

impl Source {
    fn into_plan(self) -> PlanSource {
        match self {
            Self::Wasm(plugin) => PlanSource::Wasm(plugin),
            Self::Native(factory) => PlanSource::Native(factory),
        }
    }
}

/// Makes a snapshot of checked settings.
///
/// # Errors
///
/// A plugin cannot be loaded, or refuses a configuration that a route gives it. Problems have paths
/// and no positions.
pub fn build(
    mut settings: Settings,
    engine: &Arc<PluginEngine>,
    natives: &Natives,
    bad: Bad,
) -> Result<Snapshot, StartError> {
    let mut problems = Vec::new();
    let used: HashSet<usize> =
        settings.routes.iter().flat_map(|route| &route.chain).map(|item| item.plugin).collect();
    let sources: Vec<Result<Source, String>> = settings
        .plugins
        .iter()
        .enumerate()
        .map(|(index, plugin)| match load(plugin, engine, natives) {
            Ok(source) => Ok(source),
            Err(problem) => {
                let problem = format!("plugin `{}`: {problem}", plugin.name);
                // A file that nobody uses hurts nobody.
                if bad == Bad::AllRefused || (bad == Bad::Refused && used.contains(&index)) {
                    problems.push(Problem::at(&plugin.at, &problem, LOAD_CURE));
                } else {
                    log::error!(target: "plugin", "{problem}");
                }
                Err(problem)
            }
        })
        .collect();
    for path in &settings.misnamed {
        let problem = format!("the file name of {} cannot name a plugin", path.display());
        let cure = "rename it: letters, digits, `-`, `_` and `.`, at most 64";
        if bad == Bad::AllRefused {
            problems.push(Problem::at("plugins_dir", problem, cure));
        } else {
            log::error!(target: "plugin", "{problem}; {cure}");
        }
    }
    let mut probed = Probed::default();
    let mut plans = Vec::new();
    for route in &mut settings.routes {
        let mut links = Vec::new();
        for item in &route.chain {
            let name = &settings.plugins[item.plugin].name;
            let source = match &sources[item.plugin] {
                Ok(source) => source,
                Err(problem) => {
                    if bad == Bad::Answers {
                        route.target = explain(problem);
                    }
                    continue;
                }
            };
            let (result, first) = probed.probe(item.plugin, name, source, &item.config);
            if let Err(problem) = result {
                match (bad, first) {
                    (Bad::Answers, _) => {
                        log::error!(target: "plugin", "{}: {problem}", item.at);
                        route.target = explain(problem);
                    }
                    (_, true) => problems.push(Problem::at(&item.at, problem, CONFIG_CURE)),
                    // One mistake, however many routes it is in.
                    (_, false) => {}
                }
                continue;
            }
            links.push(LinkPlan {
                plugin: source.clone().into_plan(),
                name: Arc::clone(name),
                config: Arc::clone(&item.config),
                on_error: item.on_error,
            });
        }
        plans.push((links, route.request_timeout, route.body_bytes_max));
    }
    if bad == Bad::AllRefused {
        for (index, plugin) in settings.plugins.iter().enumerate() {
            let (Ok(source), Some((config, at))) = (&sources[index], &plugin.config) else {
                continue;
            };
            if let (Err(problem), true) = probed.probe(index, &plugin.name, source, config) {
                problems.push(Problem::at(at, problem, CONFIG_CURE));
            }
        }
    }
    if !problems.is_empty() {
        return Err(StartError::Plugin(Problems(problems)));
    }
    let router = Router::new(&settings.routes)
        .map_err(|error| refused(error.index, &error.problem.to_string()))?;
    let plans = plans
        .into_iter()
        .enumerate()
        .map(|(index, (links, request_timeout, body_bytes_max))| {
            let route = &settings.routes[index];
            let parameters = router.parameters(index);
            let redirect = match &route.target {
                Target::Redirect { to, .. } => Some(Redirect::new(to, parameters)),
                _ => None,
            };
            let refused = |error: PatternError| refused(index, &error.to_string());
            Ok(RoutePlan {
                chain: ChainPlan { links },
                rewrite: Rewrite::new(&route.rewrite, parameters).map_err(refused)?,
                redirect: redirect.transpose().map_err(refused)?,
                request_timeout: request_timeout.unwrap_or(settings.limits.request_timeout),
                body_bytes_max: body_bytes_max
                    .or(settings.limits.body_bytes_max)
                    .unwrap_or(u64::MAX),
            })
        })
        .collect::<Result<Vec<_>, StartError>>()?;
    let plugins = sources.into_iter().map(|source| source.map(Source::into_plan)).collect();
    Ok(Snapshot { settings, router, plans, plugins })
}

/// How to mend a plugin that does not load.
const LOAD_CURE: &str = "build it with the SDK of this version, or remove it";

/// How to mend a configuration that a plugin refuses.
const CONFIG_CURE: &str = "mend the plugin's configuration";

/// A route that the router cannot use, which the checks of the configuration should have found.
fn refused(route: usize, message: &str) -> StartError {
    let problem = Problem::at(&format!("routes[{route}]"), message, "mend the route");
    StartError::Config(Problems(vec![problem]))
}

/// Configurations that have been tried, by plugin. Trying one makes an instance, so each is tried
/// once however many routes use it.
#[derive(Default)]
struct Probed(HashMap<(usize, Arc<str>), Result<(), String>>);

impl Probed {
    /// Tries a configuration; also says whether this was the first time.
    fn probe(
        &mut self,
        index: usize,
        name: &str,
        source: &Source,
        config: &Arc<str>,
    ) -> (Result<(), &str>, bool) {
        let mut first = false;
        let result = self.0.entry((index, Arc::clone(config))).or_insert_with(|| {
            first = true;
            probe(source, config).map_err(|problem| format!("plugin `{name}`: {problem}"))
        });
        (result.as_ref().copied().map_err(String::as_str), first)
    }
}

/// What a route answers whose plugin is bad.
fn explain(problem: &str) -> Target {
    Target::Respond {
        status: 503,
        headers: vec![("Content-Type".to_owned(), "text/plain; charset=utf-8".to_owned())],
        body: format!("This route's plugin is not ready.\n\n{problem}\n").into_bytes().into(),
    }
}

fn load(
    plugin: &crate::config::Plugin,
    engine: &Arc<PluginEngine>,
    natives: &Natives,
) -> Result<Source, String> {
    match &plugin.source {
        PluginSource::File(path) => {
            let bytes = System
                .read(path, COMPONENT_BYTES_MAX)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let loaded = engine.load(&plugin.name, &bytes, &plugin.limits, &plugin.allow);
            loaded.map(Source::Wasm).map_err(|error| format!("{}: {error}", path.display()))
        }
        PluginSource::Native => natives
            .get(plugin.name.as_ref())
            .map(|factory| Source::Native(Arc::clone(factory)))
            .ok_or_else(|| "no native middleware of this name is registered".to_owned()),
    }
}

/// Tries a configuration once, where a failure costs nobody a request.
fn probe(source: &Source, config: &str) -> Result<(), String> {
    match source {
        Source::Wasm(plugin) => plugin.probe(config),
        Source::Native(factory) => {
            let config = serde_json::from_str(config).map_err(|error| error.to_string())?;
            make_native(&**factory, &config).map(drop)
        }
    }
}
