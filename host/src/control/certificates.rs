//! Certificates as people ask for them: `/certs`, and when they end.
//!
//! Not here: reading them (`tls`).

use serde_json::{Value, json};

use crate::proxy::Snapshot;

/// Every certificate that is shown, to clients and to servers. `listeners` are the addresses.
pub(super) fn describe(listeners: &[String], snapshot: &Snapshot) -> Value {
    let of_clients = listeners.iter().zip(&snapshot.tls.listeners).filter_map(|(address, tls)| {
        Some(json!({ "listener": address, "certificates": tls.as_ref()?.facts }))
    });
    let upstreams = snapshot.settings.upstreams.iter().zip(&snapshot.tls.upstreams);
    let of_servers = upstreams.filter_map(|(upstream, tls)| {
        let shown = tls.as_ref()?.identity.as_ref()?;
        Some(json!({ "upstream": upstream.name.as_ref(), "certificates": [shown] }))
    });
    json!({
        "listeners": of_clients.collect::<Vec<_>>(),
        "upstreams": of_servers.collect::<Vec<_>>(),
    })
}

/// When listeners' certificates end: listener, file, seconds since 1970.
pub(super) fn ends(listeners: &[String], snapshot: &Snapshot) -> Vec<(String, String, i64)> {
    let mut ends = Vec::new();
    for (listener, tls) in listeners.iter().zip(&snapshot.tls.listeners) {
        for facts in tls.iter().flat_map(|tls| &tls.facts) {
            let path = facts.path.display().to_string();
            ends.push((listener.clone(), path, facts.not_after_unix));
        }
    }
    ends
}
