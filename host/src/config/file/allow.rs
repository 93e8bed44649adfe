//! What plugins are granted: `plugins.NAME.allow`.
//!
//! Not here: names, URLs and values are checked in `check/allow.rs`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a plugin may reach beyond the exchange that it is shown.
///
/// A component that imports what is not granted is refused when it is loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Allow")]
pub struct AllowConfig {
    /// Where it may send requests of its own: URLs, `*` at the end of one for everything below it
    /// and `*.` in front of its host for every name below that, or `upstream:NAME`. A host
    /// whose address is private has to be named itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["https://idp.example/*", "upstream:auth"]]))]
    pub http: Vec<String>,

    /// Variables of the gateway's environment that it may read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["REGION"]]))]
    pub env: Vec<String>,

    /// Secrets that it may read, by the names that it knows them by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("examples" = [{ "db": "${file:/run/secrets/db}" }]))]
    pub secrets: BTreeMap<String, String>,

    /// Counters and quotas that hold over all workers. In an object: with how much memory; 16 MiB
    /// when left out, enough for some 150,000 keys.
    pub counters: StoreGrantConfig,

    /// Values that all workers see. In an object: with how much memory; 16 MiB when left out.
    pub kv: StoreGrantConfig,

    /// Responses kept for later. In an object: with how much memory.
    pub cache: CacheGrantConfig,
}

/// Whether a store is granted, or how much of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "StoreGrant")]
pub enum StoreGrantConfig {
    /// Granted with the usual size, or not.
    Plain(bool),
    /// Granted with this size.
    Sized(StoreSizeConfig),
}

impl Default for StoreGrantConfig {
    fn default() -> Self {
        Self::Plain(false)
    }
}

/// How large a store may become.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "StoreSize")]
pub struct StoreSizeConfig {
    /// Memory for all entries of the plugin, in bytes. When it is full, entries that were used
    /// once or not for longest are forgotten.
    #[schemars(range(min = 1_048_576, max = 68_719_476_736_u64))]
    pub bytes_max: usize,
}

impl Default for StoreSizeConfig {
    fn default() -> Self {
        Self { bytes_max: 16 * 1024 * 1024 }
    }
}

/// Whether a cache is granted, or how much of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "CacheGrant")]
pub enum CacheGrantConfig {
    /// Granted with the usual sizes, or not.
    Plain(bool),
    /// Granted with these sizes.
    Sized(CacheSizeConfig),
}

impl Default for CacheGrantConfig {
    fn default() -> Self {
        Self::Plain(false)
    }
}

/// How large a cache may become.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "CacheSize")]
pub struct CacheSizeConfig {
    /// Memory for all responses of the plugin, in bytes. When it is full, those that were used
    /// once or not for longest are forgotten.
    #[schemars(range(min = 1_048_576, max = 68_719_476_736_u64))]
    pub bytes_max: usize,

    /// Largest body that is kept, in bytes; at most a quarter of `bytes_max`. When left out: that,
    /// or 4 MiB if it is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub object_bytes_max: Option<usize>,
}

impl Default for CacheSizeConfig {
    fn default() -> Self {
        Self { bytes_max: 64 * 1024 * 1024, object_bytes_max: None }
    }
}
