//! Which requests go where: `routes`.
//!
//! Not here: the syntax of paths and placeholders (`check/pattern.rs`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ChainItemConfig, WebSocketConfig};

/// Which requests, and what becomes of them.
///
/// A route has exactly one target: `upstream`, `redirect` or `respond`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Route")]
pub struct RouteConfig {
    /// Unique name, for logs and metrics; made from host and path when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"users")]
    pub name: Option<String>,

    /// Hosts that the route answers for: `example.com`, or `*.example.com` for every name
    /// below it. Any host when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), extend("examples" = [["example.com", "*.example.com"]]))]
    pub hosts: Vec<String>,

    /// Path of the request: literal segments, `{name}` for one segment, `{*rest}` for all that
    /// remains.
    #[schemars(example = "/api/users", extend("x-required" = true))]
    pub path: String,

    /// Whether `path` also matches everything below it.
    #[serde(rename = "match")]
    pub matching: MatchConfig,

    /// Allowed methods; any when left out. HEAD is allowed where GET is. Routes with the same
    /// host, path and `match` may each take some; a request with a method that none of them takes
    /// gets a 405, also when a less specific route would take it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), extend("examples" = [["GET", "POST"]]))]
    pub methods: Vec<String>,

    /// The higher one wins among routes that are equally specific.
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    pub priority: i32,

    /// Where requests go: the name of an upstream, the URL of one server
    /// (`http://host:port`, without a path), or a weighted list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "http://127.0.0.1:3000")]
    pub upstream: Option<RouteUpstreamConfig>,

    /// Answers with a redirect instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<RedirectConfig>,

    /// Answers with a fixed response instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respond: Option<RespondConfig>,

    /// Changes to the request on its way to the upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteConfig>,

    /// Plugins in the order in which they see the request; they see the response in reverse
    /// order. Each is a name or an object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["jwt", "rate-limit"]]))]
    pub middleware: Vec<ChainItemConfig>,

    /// Time-outs of this route.
    pub timeouts: RouteTimeoutsConfig,

    /// Limits of this route.
    pub limits: RouteLimitsConfig,

    /// What becomes of WebSockets; without it they are tunnels of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websocket: Option<WebSocketConfig>,
}

/// How a route's path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Match")]
pub enum MatchConfig {
    /// The path itself and everything below it: `/api` matches `/api` and `/api/users`, not
    /// `/apis`.
    #[default]
    Prefix,
    /// The whole path.
    Exact,
}

/// Where a route's requests go: a name, a URL, or a weighted list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "RouteUpstream")]
pub enum RouteUpstreamConfig {
    /// Name of an upstream, or URL of one server.
    One(String),
    /// Several upstreams, each with a share of the requests.
    Split(#[schemars(length(min = 1))] Vec<SplitConfig>),
}

/// The name of an upstream, or the URL of one server.
impl From<&str> for RouteUpstreamConfig {
    fn from(upstream: &str) -> Self {
        Self::One(upstream.into())
    }
}

/// An upstream's share of a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Split")]
pub struct SplitConfig {
    /// Name of an upstream, or URL of one server.
    #[schemars(example = &"api", extend("x-required" = true))]
    pub upstream: String,

    /// Share of the requests, in proportion to the others; 0 sends none there.
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self { upstream: String::new(), weight: 1 }
    }
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Redirect")]
pub struct RedirectConfig {
    /// Value of `Location`: a URL or a path. `{path}`, `{query}`, `{host}` (without its port) and
    /// the parameters of the route's path are filled in.
    #[schemars(example = "https://{host}{path}", extend("x-required" = true))]
    pub to: String,

    /// 301 or 308 (for good), 302, 303 or 307 (for now). 307 and 308 keep method and body.
    pub status: u16,
}

impl Default for RedirectConfig {
    fn default() -> Self {
        Self { to: String::new(), status: 302 }
    }
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Respond")]
pub struct RespondConfig {
    /// Status code of the response.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,

    /// Header fields. A body without `content-type` is sent as `text/plain; charset=utf-8`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,

    /// Body of the response, sent as it is.
    pub body: String,
}

impl Default for RespondConfig {
    fn default() -> Self {
        Self { status: 200, headers: BTreeMap::new(), body: String::new() }
    }
}

/// Changes to a request on its way to an upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Rewrite")]
pub struct RewriteConfig {
    /// Taken off the front of the path, at a segment border: with `/api`, `/api/users` becomes
    /// `/users` and `/api` becomes `/`. Not together with `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/api")]
    pub strip_prefix: Option<String>,

    /// Replaces the path; the parameters of the route's path are filled in: route
    /// `/old/{*rest}` with `/new/{rest}`. The query stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/v2/{rest}")]
    pub path: Option<String>,

    /// Replaces `Host`, which otherwise is the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "internal.example")]
    pub host: Option<String>,
}

/// Time-outs of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "RouteTimeouts")]
pub struct RouteTimeoutsConfig {
    /// Longest time from the head of a request to that of its response, in milliseconds, instead
    /// of `limits.request_timeout_ms` and of the upstream's `response_ms`, which hold when it is
    /// left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u32), example = 5000)]
    pub request_ms: Option<u32>,

    /// Longest silence of an open body or tunnel, in milliseconds; that of the upstream when
    /// left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u32), example = 300_000)]
    pub idle_ms: Option<u32>,
}

/// Limits of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "RouteLimits")]
pub struct RouteLimitsConfig {
    /// Size of a request body, in bytes; `limits.body_bytes_max` when left out. A larger one
    /// gets a 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), example = 1_048_576)]
    pub body_bytes_max: Option<u64>,
}
