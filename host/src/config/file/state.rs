//! Where plugins' state is kept: `state`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::UpstreamTlsConfig;

/// Where counters and quotas of plugins are kept. Values (`kv`) and cached responses stay in the memory of each
/// gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "State")]
pub struct StateConfig {
    /// `"memory"`: in this process, for all its workers. `"redis"`: in a Redis at `url`, for all gateways
    /// that use it.
    pub backend: BackendConfig,

    /// Where Redis is: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://…` for TLS, or
    /// `unix:/PATH[?db=DATABASE]`. The port is 6379 and the database 0 when left out. Redis 5 or newer;
    /// a Valkey or another server that runs its scripts will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "redis://:${env:REDIS_PASSWORD}@redis.internal:6379/0")]
    pub url: Option<String>,

    /// TLS to Redis, with a URL that begins with `rediss://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTlsConfig>,

    /// User of Redis, unless the URL names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,

    /// Its password, unless the URL has one. What a URL would need escapes for is written as it is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "${file:/run/secrets/redis}")]
    pub password: Option<String>,

    /// What every key begins with. Gateways with the same one count together.
    pub prefix: String,

    /// How long a request waits for Redis, in milliseconds. After that Redis is away.
    #[schemars(range(min = 1, max = 60_000))]
    pub timeout_ms: u32,

    /// What happens while Redis is away. `"local"`: each gateway counts for itself, and every limit holds
    /// for each of them. `"open"`: everything is allowed. `"closed"`: hooks that count fail, which is a
    /// 503, unless the plugin's own `on_error` is `"open"`.
    pub on_error: StateErrorConfig,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            backend: BackendConfig::Memory,
            url: None,
            tls: None,
            user: None,
            password: None,
            prefix: "zproxy".into(),
            timeout_ms: 100,
            on_error: StateErrorConfig::Local,
        }
    }
}

/// Where counters are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Backend")]
pub enum BackendConfig {
    /// In the memory of this process.
    Memory,
    /// In Redis.
    Redis,
}

/// What happens while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "StateError")]
pub enum StateErrorConfig {
    /// Each gateway counts for itself.
    Local,
    /// Everything is allowed.
    Open,
    /// Hooks that count fail.
    Closed,
}
