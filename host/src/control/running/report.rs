//! What a running gateway says of itself.
//!
//! Not here: who asks (`admin`), what workers count (`metrics`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::super::metrics::{self, Globals, Report};
use super::super::{build_info, certificates};
use super::{Running, lock};
use crate::config::{HostPattern, Matching, Target};
use crate::state::PluginState;
use crate::telemetry;

impl Running {
    /// Everything counted, as text.
    pub fn metrics(&self, reports: &[Report], openmetrics: bool) -> String {
        let dropped = self.access_log().map_or(0, |log| log.dropped());
        let changes = lock(&self.changes);
        let globals = Globals {
            access_log_dropped: dropped + changes.lines_dropped,
            log_dropped: telemetry::log::dropped(),
            accept_errors: self.shared.accept_errors.load(Ordering::Relaxed),
            config_generation: changes.generation,
            reloads: changes.reloads.clone(),
            swaps: changes.swaps.clone(),
            handed_on: self.shared.handed_on.load(Ordering::Relaxed),
            certificates: certificates::ends(&self.listeners, &self.snapshot()),
        };
        drop(changes);
        metrics::render(&self.listeners, reports, &self.states(), &globals, openmetrics)
    }

    /// What plugins keep.
    pub(in crate::control) fn states(&self) -> Vec<Arc<PluginState>> {
        let shelf = lock(&self.shelf);
        shelf.iter().filter_map(|held| Some(Arc::clone(held.serving()?.state()))).collect()
    }

    /// What is running.
    pub fn info(&self) -> Value {
        let mut info = build_info();
        info["uptime_ms"] = json!(u64::try_from(self.started.elapsed().as_millis()).ok());
        info["listeners"] = json!(self.listeners);
        let workers = self.workers();
        info["workers"] = json!(workers.len());
        info["io"] = json!(workers.first().map(|worker| worker.backend.to_string()));
        drop(workers);
        info["config_generation"] = json!(self.config_generation());
        info["ready"] = json!(self.is_ready());
        info["draining"] = json!(self.is_draining());
        info
    }

    /// Every route, in the order of the file.
    pub fn routes(&self) -> Value {
        let snapshot = self.snapshot();
        let settings = &snapshot.settings;
        let upstream = |index: usize| settings.upstreams[index].name.as_ref();
        let routes = settings.routes.iter().map(|route| {
            let hosts = route.hosts.iter().map(|host| match host {
                HostPattern::Exact(host) => host.clone(),
                HostPattern::Suffix(suffix) => format!("*{suffix}"),
            });
            let target = match &route.target {
                Target::Upstream(index) => json!({ "upstream": upstream(*index) }),
                Target::Split(shares) => {
                    let shares = shares.iter().map(
                        |(index, weight)| json!({ "upstream": upstream(*index), "weight": weight }),
                    );
                    json!({ "upstream": shares.collect::<Vec<_>>() })
                }
                Target::Redirect { status, to } => {
                    json!({ "redirect": { "status": status, "to": to } })
                }
                Target::Respond { status, .. } => json!({ "respond": { "status": status } }),
            };
            let plugin = |index: usize| settings.plugins[index].name.as_ref();
            json!({
                "name": route.name.as_ref(),
                "hosts": hosts.collect::<Vec<_>>(),
                "path": route.path,
                "match": match route.matching {
                    Matching::Prefix => "prefix",
                    Matching::Exact => "exact",
                },
                "methods": route.methods,
                "priority": route.priority,
                "target": target,
                "middleware": route.chain.iter().map(|item| plugin(item.plugin)).collect::<Vec<_>>(),
            })
        });
        json!({ "routes": routes.collect::<Vec<_>>() })
    }

    /// Every certificate that is shown, to clients and to servers.
    pub fn certificates(&self) -> Value {
        certificates::describe(&self.listeners, &self.snapshot())
    }

    /// Every plugin, whether a route uses it or not.
    pub fn plugins(&self, reports: &[Report]) -> Value {
        let shelf = lock(&self.shelf).clone();
        let plugins: Vec<Value> = shelf.iter().map(|held| held.describe(reports)).collect();
        json!({ "plugins": plugins })
    }

    /// Every worker: where it sits and what it has.
    pub fn workers_json(&self, reports: &[Report]) -> Value {
        let workers = self.workers();
        let workers = workers.iter().map(|worker| {
            let place = worker.placement;
            let mut value = json!({ "worker": place.worker, "cpu": place.cpu, "node": place.node });
            value["io"] = json!(worker.backend.to_string());
            match reports.iter().find(|report| report.worker == place.worker) {
                Some(report) => {
                    let listeners = &report.counts.listeners;
                    let open: u64 = listeners.iter().map(|one| one.active + one.idle).sum();
                    let accepted: u64 = listeners.iter().map(|one| one.accepted).sum();
                    value["state"] = json!("running");
                    value["connections"] = json!(open);
                    value["accepted"] = json!(accepted);
                    value["utilisation"] = json!(report.counts.utilisation);
                    if let Some(ring) = report.ring {
                        value["ring"] = json!({
                            "sockets": ring.sockets,
                            "operations": ring.operations,
                            "buffers": ring.buffers,
                        });
                    }
                }
                None if worker.has_ended() => value["state"] = json!("ended"),
                None => value["state"] = json!("busy"),
            }
            value
        });
        let workers: Vec<Value> = workers.collect();
        json!({ "workers": workers, "topology": self.machine.topology })
    }
}
