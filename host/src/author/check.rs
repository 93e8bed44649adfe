//! `plugin check`: loads a component as the gateway would, and tries a configuration.
//!
//! The engine stops at the first thing that is wrong; what a component wants and cannot have is listed
//! in whole, so that one look shows all of it.
//!
//! Not here: the checks themselves (`plugin::load`).

use std::path::Path;

use serde_json::json;

use super::subject::{self, Subject};
use super::{Answer, Error, Failed, Limits, inspect};

/// Loads, instantiates and initialises the component.
pub(super) fn check(file: &Path, limits: &Limits, config: &str) -> Result<Answer, Error> {
    let config = subject::object(config)?;
    let shown = file.display();
    let mut problems = Vec::new();
    let mut facts = json!({});
    match Subject::load(file, limits, false) {
        Err(error) if error.failed == Failed::Plugin => {
            problems.push(error.message);
            let unknown = inspect::unknown_imports(file).into_iter();
            let unknown = unknown.filter(|import| !problems[0].contains(import.as_str()));
            let rest = unknown.map(|import| format!("{shown}: imports `{import}`, too"));
            problems.extend(rest.collect::<Vec<_>>());
        }
        Err(error) => return Err(error),
        Ok(subject) => {
            for complaint in subject.plugin.probe(&config).err().unwrap_or_default() {
                problems.push(format!("{shown}: with {config}: {complaint}"));
            }
            let limits = subject.plugin.limits();
            facts = json!({
                "name": **subject.plugin.name(),
                "digest": subject.plugin.digest(),
                "hooks": subject.plugin.hooks().names(),
                "limits": {
                    "memory_bytes_max": limits.memory_bytes_max,
                    "time_ms_max": u64::try_from(limits.time_max.as_millis()).unwrap_or(u64::MAX),
                },
            });
        }
    }
    let hooks = facts["hooks"].as_array().into_iter().flatten().filter_map(|hook| hook.as_str());
    let text = match problems.is_empty() {
        true => format!("{shown}: ok ({})", hooks.collect::<Vec<_>>().join(", ")),
        false => problems.join("\n"),
    };
    let mut json = facts;
    json["ok"] = problems.is_empty().into();
    let told: Vec<_> = problems.iter().map(|problem| json!({ "message": problem })).collect();
    json["problems"] = told.into();
    let failed = (!problems.is_empty()).then_some(Failed::Plugin);
    Ok(Answer { text, json, failed })
}
