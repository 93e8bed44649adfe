//! What each plugin runs, what it ran before, and why a replacement was refused.
//!
//! The control thread keeps the shelf; `/plugins` shows a copy.
//!
//! Not here: loading and swapping (`change`).

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::metrics::Report;
use crate::config::{self, PluginSource};
use crate::plugin::{PlanSource, Plugin};

/// Former generations kept per plugin for a rollback. Each holds its compiled code, a few times the size
/// of the component, and no instances.
pub(super) const FORMER_MAX: usize = 2;

/// Where the component that serves came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Its file.
    File,
    /// This binary.
    BuiltIn,
    /// The body of a request to the admin listener.
    Body,
    /// A generation that served before.
    Rollback,
}

impl From {
    /// As `/plugins` and the log name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::BuiltIn => "built-in",
            Self::Body => "body",
            Self::Rollback => "rollback",
        }
    }
}

/// One plugin of the configuration.
#[derive(Clone)]
pub struct Held {
    /// Its name.
    pub name: Arc<str>,
    /// Its file; `None`: native middleware, or built in.
    pub path: Option<PathBuf>,
    /// What chains call, or why there is nothing to call.
    pub source: Result<PlanSource, String>,
    /// Where that came from.
    pub from: From,
    /// Digest of the file's content when it was last looked at.
    pub file_digest: Option<String>,
    /// The file has gone since.
    pub file_gone: bool,
    /// Why the last replacement was refused.
    pub problem: Option<String>,
    /// What served before, the oldest first.
    pub former: Vec<Arc<Plugin>>,
}

/// The file of a source, and where its component comes from.
pub(super) fn origin(source: &PluginSource) -> (Option<PathBuf>, From) {
    match source {
        PluginSource::File(path) => (Some(path.clone()), From::File),
        PluginSource::BuiltIn | PluginSource::Native => (None, From::BuiltIn),
    }
}

impl Held {
    /// A plugin that has served nothing yet.
    pub fn new(plugin: &config::Plugin, source: Result<PlanSource, String>) -> Self {
        let (path, from) = origin(&plugin.source);
        Self {
            name: Arc::clone(&plugin.name),
            path,
            source,
            from,
            file_digest: None,
            file_gone: false,
            problem: None,
            former: Vec::new(),
        }
    }

    /// The component that serves.
    pub fn serving(&self) -> Option<&Arc<Plugin>> {
        match &self.source {
            Ok(PlanSource::Wasm(plugin)) => Some(plugin),
            Ok(PlanSource::Native(_)) | Err(_) => None,
        }
    }

    /// From now on `plugin` serves. What served before is kept for a rollback, unless this is one: what
    /// was rolled back from is not wanted again.
    pub fn put(&mut self, plugin: Arc<Plugin>, from: From) {
        if from != From::Rollback
            && let Some(served) = self.serving().filter(|served| !Arc::ptr_eq(served, &plugin))
        {
            let served = Arc::clone(served);
            self.former.push(served);
            let surplus = self.former.len().saturating_sub(FORMER_MAX);
            self.former.drain(..surplus);
        }
        self.source = Ok(PlanSource::Wasm(plugin));
        self.from = from;
        self.problem = None;
    }

    /// As `/plugins` shows it.
    pub fn describe(&self, reports: &[Report]) -> Value {
        let mut value = json!({ "name": self.name.as_ref() });
        if let Some(path) = &self.path {
            value["path"] = json!(path);
            value["file"] = json!(if self.file_gone { "gone" } else { "present" });
        }
        match &self.source {
            Ok(PlanSource::Wasm(plugin)) => {
                value["kind"] = json!("wasm");
                value["state"] = json!("ready");
                value["digest"] = json!(plugin.digest());
                value["generation"] = json!(plugin.generation());
                value["from"] = json!(self.from.as_str());
                value["hooks"] = json!(plugin.hooks().names());
            }
            Ok(PlanSource::Native(_)) => {
                value["kind"] = json!("native");
                value["state"] = json!("ready");
            }
            Err(problem) => {
                value["state"] = json!("refused");
                value["problem"] = json!(problem);
            }
        }
        if let Some(problem) = &self.problem {
            value["problem"] = json!(problem);
        }
        let former = self
            .former
            .iter()
            .map(|plugin| json!({ "generation": plugin.generation(), "digest": plugin.digest() }));
        value["former"] = former.collect();
        let (mut instances, mut traps, mut memory) = (0, 0, 0);
        let mut generations = std::collections::BTreeMap::<u64, usize>::new();
        let stats = reports.iter().flat_map(|report| &report.plugins);
        for stats in stats.filter(|stats| stats.plugin == self.name) {
            for (generation, count) in &stats.generations {
                *generations.entry(*generation).or_default() += count;
            }
            instances += stats.instances;
            traps += stats.traps;
            memory += stats.memory_bytes;
            if let Some(failure) = &stats.broken {
                value["state"] = json!("broken");
                value["failure"] = json!(**failure);
            }
        }
        value["instances"] = json!(instances);
        let generations = generations.iter().map(
            |(generation, instances)| json!({ "generation": generation, "instances": instances }),
        );
        value["generations"] = generations.collect();
        value["traps"] = json!(traps);
        value["memory_bytes"] = json!(memory);
        value
    }
}
