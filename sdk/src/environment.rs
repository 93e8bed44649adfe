//! Variables and secrets that the operator hands to the plugin by name.
//!
//! A capability: the operator writes `"allow": {"env": ["REGION"], "secrets": {"db": "…"}}`. To ask for a
//! name that was not granted makes the hook fail, or the plugin be refused when it asks while its
//! configuration is read.

use crate::host;

/// A variable of the gateway's environment, as it was when the plugin was loaded; `None` when it is not
/// set.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    host::environment::variable(name)
}

/// A secret.
#[must_use]
pub fn secret(name: &str) -> Vec<u8> {
    host::environment::secret(name)
}
