//! What the format knows and this version does not do yet.
//!
//! Such a key or value is refused by name: ignoring it would leave an operator believing in a
//! protection that is not there. An entry goes when its feature arrives.

/// Keys, by the schema's name of the object that holds them: (object, key, what comes later).
const KEYS: &[(&str, &str, &str)] = &[
    ("Config", "telemetry", "OpenTelemetry export comes later"),
    ("Upstream", "health", "active health checks come later"),
    ("Upstream", "outlier", "ejection of failing servers comes later"),
    ("Upstream", "retries", "configurable retries come later"),
    ("Upstream", "limits", "limits per upstream come later"),
    ("Upstream", "hash_on", "balancing by hash comes later"),
    ("WeightedServer", "backup", "backup servers come later"),
    ("Route", "headers", "conditions on header fields come later"),
    ("Route", "query", "conditions on the query come later"),
    ("Route", "component", "components as targets come later"),
    ("Route", "mirror", "mirroring comes later"),
    ("Route", "compression", "compression comes later"),
    ("Limits", "connections_per_ip_max", "limits per client address come later"),
];

/// Values, by the schema's name of their type: (type, value, what comes later).
const VALUES: &[(&str, &str, &str)] = &[
    ("Protocol", "h3", "HTTP/3 comes later"),
    ("Match", "regex", "matching by regular expression comes later"),
    ("Balance", "least-requests", "this balancing comes later"),
    ("Balance", "p2c", "this balancing comes later"),
    ("Balance", "ring-hash", "this balancing comes later"),
    ("Balance", "maglev", "this balancing comes later"),
    ("Balance", "random", "this balancing comes later"),
    ("Balance", "source-ip", "this balancing comes later"),
];

/// What comes later, when `key` is a later key of `object`.
pub(super) fn key(object: &str, key: &str) -> Option<&'static str> {
    find(KEYS, object, key)
}

/// What comes later, when `value` is a later value of the type `kind`.
pub(super) fn value(kind: &str, value: &str) -> Option<&'static str> {
    find(VALUES, kind, value)
}

fn find(table: &[(&str, &str, &'static str)], kind: &str, word: &str) -> Option<&'static str> {
    let entry = table.iter().find(|(of, written, _)| *of == kind && *written == word);
    entry.map(|(_, _, what)| *what)
}

/// The sentence of a problem about something that comes later.
pub(super) fn refusal(what: impl std::fmt::Display, comes: &str) -> String {
    format!("`{what}` is not supported by this version: {comes}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::shared;

    /// An entry for a type that was renamed would never be found.
    #[test]
    fn every_entry_names_a_type_of_the_schema_and_nothing_that_it_has() {
        let schema = shared();
        for (object, key, _) in KEYS {
            let object = if *object == "Config" { schema } else { &schema["$defs"][object] };
            assert!(object["properties"].is_object(), "{key}");
            assert!(object["properties"].get(key).is_none(), "{key}");
        }
        for (kind, value, _) in VALUES {
            let words = super::super::schema::words(&schema["$defs"][kind]);
            assert!(!words.is_empty() && !words.contains(value), "{value}");
        }
    }
}
