//! Makes a snapshot: everything that can be decided at load is decided here.
//!
//! Compiles plugins, tries each configuration once, builds the router and the chains. All problems are
//! reported at once. Nothing here touches what is running, so a refusal changes nothing.
//!
//! Not here: the snapshot itself (`proxy::context`).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::config::{PluginSource, Settings, Target};
use crate::plugin::{
    ChainPlan, LinkPlan, NativeFactory, PlanSource, Plugin, PluginEngine,
};
use crate::proxy::{RoutePlan, Snapshot};
use crate::route::{Rewriter, Router, Template};

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

/// A plugin that is there, or why it is not.
enum Source {
    Wasm(Arc<Plugin>),
    Native(Arc<NativeFactory>),
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
) -> Result<Snapshot, PluginProblems> {
    let mut problems = Vec::new();
    let sources: Vec<Option<Source>> = settings
        .plugins
        .iter()
        .map(|plugin| match load(plugin, engine, natives) {
            Ok(source) => Some(source),
            Err(problem) => {
                problems.push(format!("plugin `{}`: {problem}", plugin.name));
                None
            }
        })
        .collect();
    let plans = settings
        .routes
        .iter()
        .map(|route| {
            let mut links = Vec::new();
            for item in &route.chain {
                let name = &settings.plugins[item.plugin].name;
                let Some(source) = &sources[item.plugin] else { continue };
                if let Err(problem) = probe(source, &item.config) {
                    problems.push(format!("{}: plugin `{name}`: {problem}", item.at));
                }
                links.push(LinkPlan {
                    plugin: match source {
                        Source::Wasm(plugin) => PlanSource::Wasm(Arc::clone(plugin)),
                        Source::Native(factory) => PlanSource::Native(Arc::clone(factory)),
                    },
                    name: Arc::clone(name),
                    config: Arc::clone(&item.config),
                    on_error: item.on_error,
                });
            }
            RoutePlan {
                chain: ChainPlan { links },
                rewrite: Rewriter::new(&route.rewrite),
                redirect: match &route.target {
                    Target::Redirect { to, .. } => Some(Template::new(to)),
                    _ => None,
                },
                request_timeout: route.request_timeout.unwrap_or(settings.limits.request_timeout),
                body_bytes_max: route
                    .body_bytes_max
                    .or(settings.limits.body_bytes_max)
                    .unwrap_or(u64::MAX),
            }
        })
        .collect();
    problems.dedup();
    if !problems.is_empty() {
        return Err(PluginProblems(problems));
    }
    let router = Router::new(&settings.routes);
    Ok(Snapshot { settings, router, plans })
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
            factory(&config).map(drop)
        }
    }
}
