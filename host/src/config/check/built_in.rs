//! Plugins that the binary brings along, and what each may reach without being granted it.
//!
//! They take their grants from their names: whoever puts another component into the plugins folder under one
//! of these names gives it the same part to play. What an operator writes into `allow` is added.
//!
//! Not here: their components (`plugin::built_in`).

use serde_json::{Map, Value};

use super::allow;
use crate::config::Destination;
use crate::config::StoreSizeConfig;
use crate::config::settings::Allow;

/// A plugin that the binary brings along.
#[derive(Debug)]
struct BuiltIn {
    name: &'static str,
    counters: bool,
    kv: bool,
    cache: bool,
    /// Keys of its configuration that hold URLs: it may ask there.
    urls: &'static [&'static str],
}

/// In the order of their names.
const ALL: [BuiltIn; 3] = [
    BuiltIn { name: "cache", counters: false, kv: false, cache: true, urls: &[] },
    BuiltIn { name: "jwt", counters: false, kv: true, cache: false, urls: &["jwks_url"] },
    BuiltIn { name: "rate-limit", counters: true, kv: false, cache: false, urls: &[] },
];

/// Names of the plugins that the binary brings along.
pub fn built_in_names<'a>() -> impl Iterator<Item = &'a str> {
    ALL.iter().map(|one| one.name)
}

fn find(name: &str) -> Option<&'static BuiltIn> {
    ALL.iter().find(|one| one.name == name)
}

/// Grants what the plugin of this name cannot do without.
pub(super) fn grant(name: &str, allow: &mut Allow) {
    let Some(one) = find(name) else { return };
    let size = StoreSizeConfig::default().bytes_max;
    if one.counters {
        allow.counters.get_or_insert(size);
    }
    allow.callouts |= !one.urls.is_empty();
    if one.kv {
        allow.kv.get_or_insert(size);
    }
    if one.cache {
        allow.cache.get_or_insert_with(allow::usual_cache);
    }
}

/// Whether a plugin of this name and configuration has something to do in a chain that it is switched off
/// in: nobody vouches for the fields that `jwt` makes of claims then, and clients must not set them either.
pub(super) fn guards(name: &str, config: &Map<String, Value>) -> bool {
    let fields = config.get("claims_to_headers").and_then(Value::as_object);
    name == "jwt" && fields.is_some_and(|fields| !fields.is_empty())
}

/// Grants requests to the URLs that this configuration of the plugin names: who has written one there has
/// allowed it.
pub(super) fn grant_urls(name: &str, config: &Map<String, Value>, allow: &mut Allow) {
    let Some(one) = find(name).filter(|one| !one.urls.is_empty()) else { return };
    let mut members: Vec<(&str, &Value)> = pairs(config).collect();
    while let Some((key, value)) = members.pop() {
        match value {
            Value::String(text) if one.urls.contains(&key) => {
                // The plugin says what is wrong with one that cannot be read.
                if let Ok(pattern) = allow::url_of_one(text)
                    && let found = Destination::Url(pattern)
                    && !allow.http.contains(&found)
                {
                    allow.http.push(found);
                }
            }
            Value::Array(elements) => members.extend(elements.iter().map(|value| (key, value))),
            Value::Object(object) => members.extend(pairs(object)),
            _ => {}
        }
    }
}

fn pairs(object: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    object.iter().map(|(key, value)| (key.as_str(), value))
}
