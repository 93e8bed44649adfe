//! Plugins and their places in chains: `plugins`, `middleware`, `routes[].middleware`.
//!
//! Not here: finding a plugin's file (`check/plugin.rs`), and what a plugin makes of its
//! configuration (the plugin).

use super::AllowConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A plugin that chains may name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Plugin")]
pub struct PluginConfig {
    /// The component's file. When left out: `NAME.wasm` in the plugins folder, else the
    /// middleware of that name which the program brings along, else the built-in plugin of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "./plugins/jwt.wasm")]
    pub path: Option<String>,

    /// Configuration for every chain that names the plugin without one of its own; its keys
    /// are the plugin's. `{}` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,

    /// What one instance may use.
    pub limits: PluginLimitsConfig,

    /// What the plugin may reach beyond the exchange that it is shown; nothing when left out.
    pub allow: AllowConfig,

    /// What happens to a request when the plugin fails, unless the chain says otherwise.
    pub on_error: OnErrorConfig,
}

/// What one instance of a plugin may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PluginLimits")]
pub struct PluginLimitsConfig {
    /// Memory of one instance, in bytes; there is one instance per worker and configuration.
    /// A plugin that asks for more fails.
    #[schemars(range(min = 65_536, max = 4_294_967_296_u64))]
    pub memory_bytes_max: usize,

    /// Longest time in one call of a hook, in milliseconds. A plugin that takes longer fails.
    #[schemars(range(min = 1, max = 60_000))]
    pub time_ms_max: u32,

    /// Longest time in all hooks of one request for its heads and bodies, in milliseconds: a body of any length has any
    /// number of chunks. A plugin that has had it is called for no more of that request and fails. Hooks that
    /// wait for callouts, of which a request has four at most, and those for messages of WebSockets and the end of
    /// exchanges are left out. When left out nothing is added up, which makes calls cheaper.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400_000), example = 1000)]
    pub request_time_ms_max: Option<u32>,

    /// Most fuel in one call of a hook: about a unit for each instruction, so that the limit is the same on
    /// every machine and for every run. When left out nothing is counted, which makes calls cheaper.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1000), example = 10_000_000)]
    pub fuel_max: Option<u64>,

    /// Largest body that the plugin may hold until all of it is here, or put in place of another,
    /// in bytes. A plugin that asks for more fails. It comes into the instance's memory, twice
    /// if it is changed there.
    #[schemars(range(max = 4_194_304))]
    pub body_bytes_max: usize,

    /// Instances on each worker of a plugin that sends requests of its own: so many requests can wait
    /// in it at a time, and others for them. Other plugins have one instance.
    #[schemars(range(min = 1, max = 1024))]
    pub instances_max: usize,

    /// Requests of its own that a plugin may send for one request, or in one tick. More are refused it.
    #[schemars(range(max = 1024))]
    pub callouts_max: u32,
}

impl Default for PluginLimitsConfig {
    fn default() -> Self {
        Self {
            memory_bytes_max: 16 * 1024 * 1024,
            time_ms_max: 10,
            request_time_ms_max: None,
            fuel_max: None,
            body_bytes_max: 4 * 1024 * 1024,
            instances_max: 32,
            callouts_max: 16,
        }
    }
}

/// What happens to a request when a plugin fails: a trap, a limit, a time-out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "OnError")]
pub enum OnErrorConfig {
    /// The client gets a 503.
    #[default]
    Closed,
    /// The request goes on as if the plugin were not there.
    Open,
}

/// Default configuration of a plugin, in the short form.
///
/// Every key but `enabled` is handed to the plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Middleware")]
pub struct MiddlewareConfig {
    /// Whether routes that name the plugin run it; with `false` they skip it.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// The plugin's own keys.
    #[serde(flatten)]
    pub config: Map<String, Value>,
}

impl Default for MiddlewareConfig {
    fn default() -> Self {
        Self { enabled: true, config: Map::new() }
    }
}

/// A plugin's place in a route's chain: its name, or an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "ChainItem")]
pub enum ChainItemConfig {
    /// The plugin with its default configuration.
    Name(String),
    /// The plugin with settings for this place.
    Place(ChainPlaceConfig),
}

/// The plugin with its default configuration.
impl From<&str> for ChainItemConfig {
    fn from(plugin: &str) -> Self {
        Self::Name(plugin.into())
    }
}

/// A plugin with settings for its place in a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ChainPlace")]
pub struct ChainPlaceConfig {
    /// The plugin's name.
    #[schemars(example = &"jwt", extend("x-required" = true))]
    pub plugin: String,

    /// Configuration for this place. It replaces the plugin's default configuration as a
    /// whole, nothing is merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,

    /// What happens to a request when the plugin fails here; the plugin's `on_error` when left
    /// out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnErrorConfig>,

    /// Whether the plugin runs here.
    pub enabled: bool,
}

impl Default for ChainPlaceConfig {
    fn default() -> Self {
        Self { plugin: String::new(), config: None, on_error: None, enabled: true }
    }
}

/// The default of keys that are on unless switched off.
fn yes() -> bool {
    true
}
