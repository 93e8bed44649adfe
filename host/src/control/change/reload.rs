//! Takes a new configuration.
//!
//! Not here: reading it ([`Origin`](super::Origin)).

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::{Control, Outcome, Refusal, RefusalKind, compile, content, hold, newer, swapped};
use crate::config::{self, Listener, PluginSource, Problems, Settings};
use crate::control::StartError;
use crate::control::shelf::{Held, origin};
use crate::control::snapshot::{self, Bad};
use crate::plugin::{LoadError, PlanSource, digest_of};

impl Control {
    pub(super) fn reload(&mut self) -> Outcome {
        let outcome = self.try_reload();
        let result = if outcome.is_ok() { "ok" } else { "refused" };
        self.running.count_reload(result);
        match &outcome {
            Ok(value) => {
                log::info!(target: "control", "reloaded: {value}");
                let generation = self.running.config_generation();
                self.running.events().tell("reload", &json!({ "config_generation": generation }));
            }
            Err(refusal) => {
                self.running.events().tell("reload", &json!({ "problem": refusal.detail }));
                log::error!(target: "control", "reload refused: {}", refusal.detail);
                for problem in &refusal.problems {
                    log::error!(target: "control", "{problem}");
                }
            }
        }
        outcome
    }

    fn try_reload(&mut self) -> Outcome {
        let Some(origin) = &mut self.origin else {
            let detail = "the configuration was made by a program: there is nothing to read anew";
            return Err(Refusal::new(RefusalKind::Conflict, detail));
        };
        let mut settings = origin.load().map_err(wrong)?;
        let restart = keep_what_is_bound(&self.settings, &mut settings);
        if settings.plugin_cache != self.settings.plugin_cache {
            crate::control::keep_code(&self.engine, &settings);
        }
        let tls = snapshot::certificates(&settings, Some(&self.running.snapshot().tls));
        let tls = tls.map_err(|error| self.misfit(error))?;
        let now = Instant::now();
        let mut shelf = Vec::new();
        let (sources, problems) = snapshot::load(&settings, self.bad, |plugin| {
            let held = self.hold_again(plugin, now);
            shelf.push(held);
            shelf.last().map_or(Err(String::new()), |held: &Held| held.source.clone())
        });
        let mut probed = self.probed.clone();
        let built = snapshot::build(
            settings.clone(),
            sources.clone(),
            problems,
            tls,
            &mut probed,
            self.bad,
            Some(&self.running.snapshot()),
        );
        let snapshot = Arc::new(built.map_err(|error| self.misfit(error))?);
        let access_log = if settings.access_log == self.settings.access_log {
            self.running.access_log()
        } else {
            let opened = crate::control::open_access_log(&settings);
            opened.map_err(|error| self.misfit(error))?
        };
        self.hand_out(&snapshot, access_log)?;
        self.running.took_configuration(&settings);
        let mut swaps = Vec::new();
        for held in &shelf {
            let Some(plugin) = held.serving() else { continue };
            let before = self.shelf.iter().find(|before| before.name == held.name);
            let before = before.and_then(Held::serving);
            if before.is_none_or(|before| before.generation() != plugin.generation()) {
                swaps.push(swapped(plugin, "swapped"));
                self.running.count_swap(plugin.name(), "swapped");
                self.say_swapped(plugin, held.from);
            }
        }
        self.probed = probed;
        self.probed.keep(&sources);
        self.settings = settings;
        self.shelf = shelf;
        self.running.publish(self.shelf.clone());
        let mut value = json!({
            "config_generation": self.running.config_generation(),
            "plugins": swaps,
        });
        if !restart.is_empty() {
            let list = restart.join(", ");
            log::warn!(target: "control", "restart needed: {list}");
            value["restart_needed"] = json!(restart);
            value["detail"] = json!(format!("restart needed: {list}"));
        }
        Ok(value)
    }

    /// The plugin of a new configuration: what serves, when its file has not changed.
    fn hold_again(&self, plugin: &config::Plugin, now: Instant) -> Held {
        let known = self.shelf.iter().find(|held| held.name == plugin.name);
        let Some(known) = known.filter(|known| {
            plugin.source != PluginSource::Native
                && !matches!(known.source, Ok(PlanSource::Native(_)))
        }) else {
            return hold(plugin, &self.engine, &self.natives);
        };
        let (path, from) = origin(&plugin.source);
        let mut held = Held { path, file_gone: false, ..known.clone() };
        let bytes = content(plugin);
        let digest = bytes.as_ref().ok().map(|bytes| digest_of(bytes));
        if digest.is_some() && digest == held.file_digest {
            if let Some(serving) = held.serving() {
                let again = serving.under(&plugin.limits, &plugin.allow);
                let again = again.or_else(|error| match (error, &bytes) {
                    (LoadError::MadeOtherwise, Ok(bytes))
                        if digest.as_deref() == Some(serving.digest()) =>
                    {
                        self.engine.load(&plugin.name, bytes, &plugin.limits, &plugin.allow)
                    }
                    (error, _) => Err(error),
                });
                held.source = again.map(PlanSource::Wasm).map_err(|error| error.to_string());
            }
            return held;
        }
        match bytes.and_then(|bytes| compile(&self.engine, plugin, &bytes)) {
            Ok(loaded) => {
                let loaded = newer(loaded, held.serving());
                held.put(loaded, from);
            }
            Err(problem) if held.serving().is_some() && self.bad == Bad::Answers => {
                log::error!(target: "plugin", "plugin `{}`: {problem}", plugin.name);
                held.problem = Some(problem);
            }
            // The watch says so, when it is no better in a moment.
            Err(_) if held.serving().is_some() && self.is_settling(plugin, now) => return held,
            Err(problem) => held.source = Err(problem),
        }
        held.file_digest = digest;
        held
    }

    /// Whether the file of a plugin may still be half written.
    fn is_settling(&self, plugin: &config::Plugin, now: Instant) -> bool {
        matches!(&plugin.source, PluginSource::File(path) if self.watch.is_settling(path, now))
    }

    /// A configuration that fits together, and does not fit this machine or these plugins.
    fn misfit(&self, error: StartError) -> Refusal {
        match error {
            StartError::Config(problems) | StartError::Plugin(problems) => {
                wrong(self.origin.as_ref().map_or(problems.clone(), |one| one.place(problems)))
            }
            other => Refusal::new(RefusalKind::Bad, other.to_string()),
        }
    }
}

fn wrong(problems: Problems) -> Refusal {
    let detail = match problems.0.as_slice() {
        [problem] => problem.to_string(),
        list => format!("the configuration has {} problems", list.len()),
    };
    Refusal { kind: RefusalKind::Bad, detail, problems: problems.0 }
}

/// Keeps what cannot change without new sockets or threads as it is; names of what should.
fn keep_what_is_bound(running: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut restart = Vec::new();
    let bound = |listeners: &[Listener]| -> Vec<_> {
        let each = listeners.iter();
        each.map(|one| (one.address.clone(), one.backlog, one.only_v6)).collect()
    };
    // What is spoken there is each connection's own.
    if bound(&new.listeners) != bound(&running.listeners) {
        restart.push("listeners");
        new.listeners.clone_from(&running.listeners);
    }
    if new.workers != running.workers {
        restart.push("workers");
        new.workers.clone_from(&running.workers);
    }
    let place = |settings: &Settings| {
        settings.admin.as_ref().map(|admin| (admin.address.clone(), admin.only_v6))
    };
    if place(new) != place(running) {
        // A token belongs to its address: one that only this machine reaches needs none.
        restart.push("admin");
        new.admin.clone_from(&running.admin);
    }
    restart
}
