//! From what the operator writes to [`Cache`]. What is wrong is collected, each problem with its place.

use std::collections::BTreeMap;

use serde::Deserialize;
use zproxy_sdk::Problem;

use crate::Cache;
use crate::key::{Part, is_token};

/// Parts of a key, each of which costs every request.
const PARTS_MAX: usize = 24;

/// As written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// How long a response is fresh that says nothing about it. 0: it is not stored. Default: 60.
    #[serde(default = "sixty")]
    ttl_seconds: u32,
    /// How much of the time since `Last-Modified` a response is fresh that says nothing about it,
    /// in percent; 10 is usual. It comes before `ttl_seconds`. Default: 0, not at all.
    #[serde(default)]
    heuristic_percent: u8,
    /// The largest body that is stored. Default: what `allow` grants.
    max_body_bytes: Option<u64>,
    /// What tells requests apart: `scheme`, `host`, `path`, `query`, `query:NAME`, `header:NAME`,
    /// `cookie:NAME`. Default: the first four.
    key: Option<Vec<String>>,
    /// Fields of requests that tell them apart as well, whether `Vary` names them or not.
    #[serde(default)]
    vary: Vec<String>,
    /// For so long a stale response is served while another one is fetched, when it says nothing about it.
    /// Default: 0.
    #[serde(default)]
    stale_while_revalidate_seconds: u32,
    /// For so long a stale response is served when the upstream cannot be reached or fails, when it says
    /// nothing about it. Default: 60.
    #[serde(default = "sixty")]
    stale_if_error_seconds: u32,
    /// A request with this field goes past the cache.
    bypass_header: Option<String>,
    /// How long responses of these statuses (`"404"`, `"5xx"`) are fresh that say nothing about it.
    #[serde(default)]
    negative_ttl_seconds: BTreeMap<String, u32>,
    /// How long a request waits for another one that fetches the same. 0: not at all. Default: 5000.
    #[serde(default = "five_thousand")]
    collapse_wait_ms: u32,
}

fn sixty() -> u32 {
    60
}

fn five_thousand() -> u32 {
    5000
}

/// What the operator wants where responses say nothing. Times are seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) ttl: u64,
    pub(crate) heuristic_percent: u64,
    pub(crate) while_revalidate: u64,
    pub(crate) if_error: u64,
    /// Statuses and classes of them, as written.
    pub(crate) negative: Vec<(String, u64)>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ttl: 60,
            heuristic_percent: 0,
            while_revalidate: 0,
            if_error: 60,
            negative: Vec::new(),
        }
    }
}

/// Whether a class of errors means this status. An odd field in one request is enough for 400, 403 or 500, and
/// then everybody would get what one client has brought about; what these say is about the URL or the
/// upstream (RFC 9110 §15.1 lets caches guess how long for those of them that are about the URL).
fn is_meant_by_class(status: u16) -> bool {
    matches!(status, 200..=399 | 404 | 405 | 410 | 414 | 451 | 501..=504)
}

impl Policy {
    /// What is configured for a status, else for its class.
    pub(crate) fn by_status(&self, status: u16) -> Option<u64> {
        let of = |wanted: &str| {
            self.negative.iter().find(|(known, _)| known == wanted).map(|(_, seconds)| *seconds)
        };
        if self.negative.is_empty() {
            return None;
        }
        let class = || of(&format!("{}xx", status / 100)).filter(|_| is_meant_by_class(status));
        of(&status.to_string()).or_else(class)
    }
}

/// What tells requests apart. What is no part is among the problems, and left out.
fn parts(key: Option<&[String]>, vary: &[String], problems: &mut Vec<Problem>) -> Vec<Part> {
    let mut parts = vec![Part::Scheme, Part::Host, Part::Path, Part::Query];
    if let Some(key) = key {
        parts.clear();
        for (index, text) in key.iter().enumerate() {
            match Part::read(text) {
                Some(part) => parts.push(part),
                None => problems.push(Problem::new(
                    format!("/key/{index}"),
                    format!(
                        "`{text}` is no part of a request; write `scheme`, `host`, `path`, `query`, `query:NAME`, \
                         `header:NAME` or `cookie:NAME`"
                    ),
                )),
            }
        }
        if !parts.contains(&Part::Path) {
            problems.push(Problem::new(
                "/key",
                "without `path` all paths would share one response; add it",
            ));
        }
    }
    for (index, name) in vary.iter().enumerate() {
        match is_token(name) {
            true => parts.push(Part::Header(name.to_ascii_lowercase())),
            false => problems.push(Problem::new(
                format!("/vary/{index}"),
                format!("`{name}` cannot name a field"),
            )),
        }
    }
    if parts.len() > PARTS_MAX {
        problems.push(Problem::new("/key", "write at most 24 parts, those of `vary` among them"));
    }
    parts
}

/// Whether this is a status, or a class of them, that can be stored.
fn is_storable(status: &str) -> bool {
    match status.as_bytes() {
        [b'2'..=b'5', b'x', b'x'] => true,
        [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'] => !matches!(status, "206" | "304"),
        _ => false,
    }
}

impl From<Config> for Cache {
    fn from(config: Config) -> Self {
        let mut problems = Vec::new();
        if config.heuristic_percent > 100 {
            problems.push(Problem::new("/heuristic_percent", "write 0 to 100"));
        }
        if config.max_body_bytes == Some(0) {
            problems.push(Problem::new("/max_body_bytes", "write 1 or more"));
        }
        for status in config.negative_ttl_seconds.keys().filter(|status| !is_storable(status)) {
            let place = status.replace('~', "~0").replace('/', "~1");
            let message = format!(
                "`{status}` is no status that can be stored; write one like \"404\" or a class like \"5xx\""
            );
            problems.push(Problem::new(format!("/negative_ttl_seconds/{place}"), message));
        }
        let parts = parts(config.key.as_deref(), &config.vary, &mut problems);
        let bypass = config.bypass_header.map(|name| name.to_ascii_lowercase());
        if let Some(name) = bypass.as_ref().filter(|name| !is_token(name)) {
            problems.push(Problem::new("/bypass_header", format!("`{name}` cannot name a field")));
        }
        let negative = config.negative_ttl_seconds.into_iter();
        Self {
            policy: Policy {
                ttl: config.ttl_seconds.into(),
                heuristic_percent: config.heuristic_percent.into(),
                while_revalidate: config.stale_while_revalidate_seconds.into(),
                if_error: config.stale_if_error_seconds.into(),
                negative: negative.map(|(status, seconds)| (status, seconds.into())).collect(),
            },
            body_bytes_max: config.max_body_bytes,
            parts,
            bypass,
            wait_ms: config.collapse_wait_ms,
            problems,
        }
    }
}
