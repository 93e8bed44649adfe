//! Makes a snapshot: everything that can be decided at load is decided here.
//!
//! Compiles plugins, tries each configuration once, builds the router and the chains. All problems are
//! reported at once. Nothing here touches what is running, so a refusal changes nothing.
//!
//! Not here: the snapshot itself (`proxy::context`), and handing it to workers (`running`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::StartError;
use crate::config::{self, Problem, Problems, Settings, System, Target, below};
use crate::plugin::make_native;
use crate::plugin::{ChainPlan, Complaint, Hook, LinkPlan, NativeFactory, PlanSource, Plugin};
use crate::proxy::tally::Tally;
use crate::proxy::{RoutePlan, Snapshot};
use crate::route::rewrite::{Redirect, Rewrite};
use crate::route::{PatternError, Router};
use crate::tls::{self, TlsSet};

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

/// What each plugin of the settings calls, or why there is nothing to call.
pub type Sources = Vec<Result<PlanSource, String>>;

/// Loads every plugin of `settings` with `load`. What is bad is logged, or among the problems.
pub fn load(
    settings: &Settings,
    bad: Bad,
    mut load: impl FnMut(&config::Plugin) -> Result<PlanSource, String>,
) -> (Sources, Vec<Problem>) {
    let mut problems = Vec::new();
    let used: HashSet<usize> =
        settings.routes.iter().flat_map(|route| &route.chain).map(|item| item.plugin).collect();
    let load = |(index, plugin): (usize, &config::Plugin)| {
        load(plugin).map_err(|problem| {
            let problem = format!("plugin `{}`: {problem}", plugin.name);
            // A file that nobody uses hurts nobody.
            if bad == Bad::AllRefused || (bad == Bad::Refused && used.contains(&index)) {
                problems.push(Problem::at(&plugin.at, &problem, LOAD_CURE));
            } else {
                log::error!(target: "plugin", "{problem}");
            }
            problem
        })
    };
    let sources = settings.plugins.iter().enumerate().map(load).collect();
    for path in &settings.misnamed {
        let problem = format!("the file name of {} cannot name a plugin", path.display());
        let cure = "rename it: letters, digits, `-`, `_` and `.`, at most 64";
        if bad == Bad::AllRefused {
            problems.push(Problem::at("plugins_dir", problem, cure));
        } else {
            log::error!(target: "plugin", "{problem}; {cure}");
        }
    }
    (sources, problems)
}

/// Reads the certificates of `settings`. What has not changed since `former` is taken over.
///
/// # Errors
///
/// Something cannot be used. Problems have paths and no positions.
pub fn certificates(
    settings: &Settings,
    former: Option<&TlsSet>,
) -> Result<Arc<TlsSet>, StartError> {
    let now = std::time::SystemTime::now();
    tls::load(settings, former, &System, now).map(Arc::new).map_err(StartError::Config)
}

/// Makes a snapshot of checked settings and what their plugins call. `problems` are those that were
/// found before; `probed` knows configurations that need not be tried; what is open on a route of `former` goes
/// on counting.
///
/// # Errors
///
/// A plugin cannot be loaded, or refuses a configuration that a route gives it. Problems have paths
/// and no positions.
pub fn build(
    mut settings: Settings,
    sources: Sources,
    mut problems: Vec<Problem>,
    tls: Arc<TlsSet>,
    probed: &mut Probed,
    bad: Bad,
    former: Option<&Snapshot>,
) -> Result<Snapshot, StartError> {
    let mut plans: Vec<(Vec<LinkPlan>, _, _)> = Vec::new();
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
            let (result, first) = probed.probe(name, source, &item.config);
            if let Err(complaints) = result {
                let found = complaints.iter().map(|complaint| complaint.problem(name, &item.at));
                match (bad, first) {
                    (Bad::Answers, first) => {
                        let found = Problems(found.collect()).to_string();
                        if first {
                            log::error!(target: "plugin", "{found}");
                        }
                        route.target = explain(&found);
                    }
                    (_, true) => problems.extend(found),
                    // One mistake, however many routes it is in.
                    (_, false) => {}
                }
                continue;
            }
            links.push(LinkPlan {
                plugin: source.clone(),
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
            if let (Err(complaints), true) = probed.probe(&plugin.name, source, config) {
                let found = complaints.iter().map(|it| it.problem(&plugin.name, at));
                problems.extend(found);
            }
        }
    }
    if !problems.is_empty() {
        return Err(StartError::Plugin(Problems(problems)));
    }
    let mut inspects = Vec::new();
    for (route, (links, ..)) in settings.routes.iter().zip(&plans) {
        let seer = links.iter().find(|link| sees_messages(link));
        inspects.push(route.websocket.inspect.unwrap_or(seer.is_some()));
        problems.extend(blind(&route.websocket, seer));
    }
    if !problems.is_empty() {
        return Err(StartError::Config(Problems(problems)));
    }
    let router = Router::new(&settings.routes)
        .map_err(|error| refused(error.index, &error.problem.to_string()))?;
    let former: HashMap<&str, &Arc<Tally>> = former.map_or_else(HashMap::new, |former| {
        let names = former.settings.routes.iter().map(|route| &*route.name);
        names.zip(former.plans.iter().map(|plan| &plan.websockets)).collect()
    });
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
                inspects: inspects[index],
                websockets: former.get(&*route.name).map_or_else(Tally::new, |it| Arc::clone(it)),
            })
        })
        .collect::<Result<Vec<_>, StartError>>()?;
    Ok(Snapshot { settings, router, plans, tls })
}

/// Whether a link wants to see WebSocket messages. Native middleware says so itself.
fn sees_messages(link: &LinkPlan) -> bool {
    match &link.plugin {
        PlanSource::Wasm(plugin) => plugin.hooks().has(Hook::Message),
        PlanSource::Native(factory) => serde_json::from_str(&link.config)
            .ok()
            .and_then(|config| make_native(&**factory, &config).ok())
            .is_some_and(|made| made.hooks().has(Hook::Message)),
    }
}

/// What is wrong where messages are to be seen and are not, or not to be seen and somebody wants to.
fn blind(websocket: &config::WebSocket, seer: Option<&LinkPlan>) -> Option<Problem> {
    let at = format!("{}.websocket", websocket.at);
    match (websocket.inspect, seer) {
        (Some(false), Some(link)) => {
            let message = format!("plugin `{}` of this route wants to see messages", link.name);
            let cure = "leave `inspect` out, or take the plugin from the route";
            Some(Problem::at(&format!("{at}.inspect"), message, cure))
        }
        (None, None) if websocket.inspection != config::Inspection::default() => {
            let message = "limits messages, which no plugin of this route wants to see";
            Some(Problem::at(&at, message, "write `\"inspect\": true` beside them, or remove them"))
        }
        _ => None,
    }
}

/// The wasm plugins that a snapshot's chains call, with their configurations; each once.
pub fn calls(snapshot: &Snapshot) -> Vec<(Arc<Plugin>, Arc<str>)> {
    let mut seen = HashSet::new();
    let mut calls = Vec::new();
    for link in snapshot.plans.iter().flat_map(|plan| &plan.chain.links) {
        if let PlanSource::Wasm(plugin) = &link.plugin
            && seen.insert((plugin.generation(), &link.config))
        {
            calls.push((Arc::clone(plugin), Arc::clone(&link.config)));
        }
    }
    calls
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
#[derive(Clone, Default)]
pub struct Probed(HashMap<Trial, Result<(), Vec<Complaint>>>);

/// Name and generation of a plugin, and the configuration that was tried.
type Trial = (Arc<str>, u64, Arc<str>);

impl Probed {
    /// `plugin` accepts `config`: it was tried elsewhere.
    pub fn accepts(&mut self, plugin: &Plugin, config: &Arc<str>) {
        let key = (Arc::clone(plugin.name()), plugin.generation(), Arc::clone(config));
        self.0.insert(key, Ok(()));
    }

    /// Forgets what is known of generations that nobody calls any more.
    pub fn keep(&mut self, sources: &Sources) {
        let alive: HashSet<u64> = sources.iter().flatten().map(generation).collect();
        self.0.retain(|(_, generation, _), _| alive.contains(generation));
    }

    /// Tries a configuration; also says whether this was the first time.
    fn probe(
        &mut self,
        name: &Arc<str>,
        source: &PlanSource,
        config: &Arc<str>,
    ) -> (Result<(), &[Complaint]>, bool) {
        let mut first = false;
        let key = (Arc::clone(name), generation(source), Arc::clone(config));
        let result = self.0.entry(key).or_insert_with(|| {
            first = true;
            probe(source, config)
        });
        (result.as_ref().copied().map_err(Vec::as_slice), first)
    }
}

/// 0 for native middleware, which has none.
fn generation(source: &PlanSource) -> u64 {
    match source {
        PlanSource::Wasm(plugin) => plugin.generation(),
        PlanSource::Native(_) => 0,
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

/// Tries a configuration once, where a failure costs nobody a request.
fn probe(source: &PlanSource, config: &str) -> Result<(), Vec<Complaint>> {
    match source {
        PlanSource::Wasm(plugin) => plugin.probe(config),
        PlanSource::Native(factory) => {
            let config = serde_json::from_str(config).map_err(|error| error.to_string());
            let made = config.and_then(|config| make_native(&**factory, &config).map(drop));
            made.map_err(|message| vec![Complaint { pointer: String::new(), message }])
        }
    }
}

impl Complaint {
    /// As a problem of the configuration at `at`.
    pub(super) fn problem(&self, plugin: &str, at: &str) -> Problem {
        let message = format!("plugin `{plugin}`: {}", self.message);
        match self.pointer.as_str() {
            "" => Problem::at(at, message, CONFIG_CURE),
            pointer => Problem::at(&below(at, pointer), message, CONFIG_CURE),
        }
    }
}
