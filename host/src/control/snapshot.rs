//! Makes a snapshot: everything that can be decided at load is decided here.
//!
//! Compiles plugins, tries each configuration once, builds the router and the chains. All problems are
//! reported at once. Nothing here touches what is running, so a refusal changes nothing.
//!
//! Not here: the snapshot itself (`proxy::context`).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::config::{PluginSource, Settings, Target};
use crate::plugin::chain::make_native;
use crate::plugin::{ChainPlan, LinkPlan, NativeFactory, PlanSource, Plugin, PluginEngine};
use crate::proxy::{RoutePlan, Snapshot};
use crate::route::Router;
use crate::route::pattern::PatternError;
use crate::route::rewrite::{Redirect, Rewrite};

/// Native middleware by name.
pub type Natives = HashMap<String, Arc<NativeFactory>>;

/// Why plugins could not be made ready: one line for each reason.
#[derive(Debug)]
pub struct PluginProblems(pub Vec<String>);

impl fmt::Display for PluginProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.join("\n").fmt(f)
    }
}

impl std::error::Error for PluginProblems {}

/// What a bad plugin does to the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It refuses the start if a route needs it.
    Refused,
    /// It refuses the start even if no route needs it.
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
/// A plugin cannot be loaded, or refuses a configuration that a route gives it.
pub fn build(
    settings: Settings,
    engine: &Arc<PluginEngine>,
    natives: &Natives,
    bad: Bad,
) -> Result<Snapshot, PluginProblems> {
    let mut settings = settings;
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
                    problems.push(problem.clone());
                } else {
                    log::error!(target: "plugin", "{problem}");
                }
                Err(problem)
            }
        })
        .collect();
    let mut plans = Vec::new();
    for route in &mut settings.routes {
        let mut links = Vec::new();
        for item in &route.chain {
            let name = &settings.plugins[item.plugin].name;
            let ready = sources[item.plugin].as_ref().map_err(Clone::clone).and_then(|source| {
                probe(source, &item.config).map_err(|problem| {
                    let problem = format!("{}: plugin `{name}`: {problem}", item.at);
                    if bad == Bad::Answers {
                        log::error!(target: "plugin", "{problem}");
                    } else {
                        problems.push(problem.clone());
                    }
                    problem
                })?;
                Ok(source)
            });
            let source = match ready {
                Ok(source) => source,
                Err(problem) => {
                    if bad == Bad::Answers {
                        route.target = explain(&problem);
                    }
                    continue;
                }
            };
            links.push(LinkPlan {
                plugin: source.clone().into_plan(),
                name: Arc::clone(name),
                config: Arc::clone(&item.config),
                on_error: item.on_error,
            });
        }
        plans.push((links, route.request_timeout, route.body_bytes_max));
    }
    problems.dedup();
    if !problems.is_empty() {
        return Err(PluginProblems(problems));
    }
    let invalid = |error: &dyn fmt::Display| PluginProblems(vec![error.to_string()]);
    let router = Router::new(&settings.routes).map_err(|error| invalid(&error))?;
    let plans = plans
        .into_iter()
        .enumerate()
        .map(|(index, (links, request_timeout, body_bytes_max))| {
            let route = &settings.routes[index];
            let parameters = router.parameters(index);
            Ok(RoutePlan {
                chain: ChainPlan { links },
                rewrite: Rewrite::new(&route.rewrite, parameters)?,
                redirect: match &route.target {
                    Target::Redirect { to, .. } => Some(Redirect::new(to, parameters)?),
                    _ => None,
                },
                request_timeout: request_timeout.unwrap_or(settings.limits.request_timeout),
                body_bytes_max: body_bytes_max
                    .or(settings.limits.body_bytes_max)
                    .unwrap_or(u64::MAX),
            })
        })
        .collect::<Result<Vec<_>, PatternError>>()
        .map_err(|error| invalid(&error))?;
    let plugins = sources.into_iter().map(|source| source.map(Source::into_plan)).collect();
    Ok(Snapshot { settings, router, plans, plugins })
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
            let bytes = std::fs::read(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let loaded = engine.load(&plugin.name, &bytes, &plugin.limits);
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
