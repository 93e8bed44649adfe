//! What a component may import: what the gateway offers, and of that what the operator grants.
//!
//! Not here: linking it (`host`).

use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;

use super::host::clean;
use super::load::COMPATIBLE;
use super::load::LoadError;
use super::load::PACKAGE;
use super::load::listed;
use crate::config::Allow;

/// The interfaces of the package that plugins may import.
const INTERFACES: [&str; 17] = [
    "body",
    "cache",
    "callout",
    "clock",
    "context",
    "counters",
    "crypto",
    "environment",
    "kv",
    "log",
    "metrics",
    "random",
    "reply",
    "request",
    "response",
    "types",
    "websocket",
];

/// An interface that only some plugins may import.
struct Capability {
    interface: &'static str,
    is_granted: fn(&Allow) -> bool,
    /// How to grant it.
    grant: &'static str,
}

const CAPABILITIES: [Capability; 5] = [
    Capability {
        interface: "cache",
        is_granted: |allow| allow.cache.is_some(),
        grant: "{\"cache\": true}",
    },
    Capability {
        interface: "callout",
        is_granted: |allow| !allow.http.is_empty() || allow.callouts,
        grant: "{\"http\": [\"https://HOST/*\"]}",
    },
    Capability {
        interface: "counters",
        is_granted: |allow| allow.counters.is_some(),
        grant: "{\"counters\": true}",
    },
    Capability {
        interface: "environment",
        is_granted: |allow| !allow.env.is_empty() || !allow.secrets.is_empty(),
        grant: "{\"env\": [\"NAME\"], \"secrets\": {\"NAME\": \"${file:/run/secrets/NAME}\"}}",
    },
    Capability { interface: "kv", is_granted: |allow| allow.kv.is_some(), grant: "{\"kv\": true}" },
];

/// The packages of WASI that plugins may import, in every version 0.2.
const WASI_OFFERED: [&str; 4] = ["wasi:cli/", "wasi:clocks/", "wasi:io/", "wasi:random/"];

/// Those that plugins may import and get nothing from.
pub(super) const WASI_DENIED: [&str; 2] = ["wasi:filesystem/", "wasi:sockets/"];

/// Checks one import of the plugin named `plugin`.
pub(super) fn check(
    engine: &Engine,
    plugin: &str,
    import: &str,
    item: &ComponentItem,
    allow: &Allow,
) -> Result<(), LoadError> {
    check_offered(import, item)?;
    check_granted(engine, plugin, import, item, allow)
}

fn check_offered(import: &str, item: &ComponentItem) -> Result<(), LoadError> {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    let offered = if let Some(interface) = interface.strip_prefix(PACKAGE) {
        INTERFACES.contains(&interface) && version.starts_with(COMPATIBLE)
    } else {
        let mut packages = WASI_OFFERED.iter().chain(&WASI_DENIED);
        packages.any(|package| interface.starts_with(package)) && version.starts_with("0.2.")
    };
    if offered && matches!(item, ComponentItem::ComponentInstance(_)) {
        return Ok(());
    }
    Err(LoadError::UnknownImport(clean(import.as_bytes(), 128)))
}

/// Refuses a capability that the operator has not granted.
fn check_granted(
    engine: &Engine,
    plugin: &str,
    import: &str,
    item: &ComponentItem,
    allow: &Allow,
) -> Result<(), LoadError> {
    let Some(name) = import.strip_prefix(PACKAGE).and_then(|name| name.split('@').next()) else {
        return Ok(());
    };
    let Some(capability) = CAPABILITIES.iter().find(|capability| capability.interface == name)
    else {
        return Ok(());
    };
    let ComponentItem::ComponentInstance(interface) = item else { return Ok(()) };
    if (capability.is_granted)(allow) {
        return Ok(());
    }
    let functions = interface
        .exports(engine)
        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
    Err(LoadError::NotGranted {
        plugin: plugin.to_owned(),
        interface: capability.interface,
        functions: listed(functions.map(|(name, _)| name)),
        grant: capability.grant,
    })
}
