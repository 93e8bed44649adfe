//! A Redis that the gateway runs on: checked, as everything in `settings`.

use std::time::Duration;

use super::settings::{Secret, ServerAddress, UpstreamTls};

/// Where counters are kept that several gateways share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Where it is.
    pub address: ServerAddress,
    /// TLS to it.
    pub tls: Option<UpstreamTls>,
    /// Who asks,
    pub user: Option<Secret>,
    /// and what proves it.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: u32,
    /// What keys begin with.
    pub prefix: Box<str>,
    /// How long a request waits for an answer.
    pub timeout: Duration,
    /// What happens when there is none.
    pub on_error: StateError,
}

/// What happens to counting while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// Each gateway counts for itself.
    Local,
    /// Everything is allowed.
    Open,
    /// Hooks that count fail.
    Closed,
}
