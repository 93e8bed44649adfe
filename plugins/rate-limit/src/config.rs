//! From what the operator writes to [`RateLimit`]. What is wrong is collected, each problem with its place.

use std::cell::RefCell;
use std::time::Duration;

use serde::Deserialize;
use zproxy_sdk::counters::Quota;
use zproxy_sdk::metrics::Counter;
use zproxy_sdk::{Problem, random};

use crate::address::Network;
use crate::key::Part;
use crate::{Cost, Limit, RateLimit};

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Whether anything is limited. Default: true.
    enabled: bool,
    /// The first limit, in the short form: so many requests…
    requests_per_second: Option<u32>,
    requests_per_minute: Option<u32>,
    requests_per_hour: Option<u32>,
    requests_per_day: Option<u32>,
    /// …and of these so many at once. Default: all of them.
    burst: Option<u32>,
    /// What is counted apart: `client-ip` (default), `header:NAME`, `claim:NAME`, `route`, or a list of these.
    key: Option<OneOrMany>,
    /// More limits; a request has to pass all of them.
    limits: Vec<LimitConfig>,
    /// `gateway` (default): over all workers. `worker`: each for itself.
    scope: Option<String>,
    /// What a request takes: a number (default 1), or `{"header": NAME}`.
    cost: Option<CostConfig>,
    /// Addresses and networks that are not limited.
    allow_list: Vec<String>,
    /// Nothing is refused: what would have been is counted. Default: false.
    dry_run: bool,
    /// Whether answers carry `RateLimit` and `RateLimit-Policy`. Default: true.
    headers: bool,
    /// Addresses that begin with so many same bits are one client. Default: 32.
    ipv4_prefix: u8,
    /// The same for IPv6. Default: 64, what a customer is given at least.
    ipv6_prefix: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            requests_per_second: None,
            requests_per_minute: None,
            requests_per_hour: None,
            requests_per_day: None,
            burst: None,
            key: None,
            limits: Vec::new(),
            scope: None,
            cost: None,
            allow_list: Vec::new(),
            dry_run: false,
            headers: true,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
        }
    }
}

/// One of several limits.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitConfig {
    /// What answers call it. Default: its numbers.
    name: Option<String>,
    requests_per_second: Option<u32>,
    requests_per_minute: Option<u32>,
    requests_per_hour: Option<u32>,
    requests_per_day: Option<u32>,
    /// So many in `window_seconds`.
    requests: Option<u32>,
    window_seconds: Option<u32>,
    burst: Option<u32>,
    /// Default: the `key` beside `limits`.
    key: Option<OneOrMany>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "write a string or an array of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "write a number, or {\"header\": NAME}")]
enum CostConfig {
    Fixed(u32),
    From(CostHeader),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CostHeader {
    header: String,
}

/// Thirty days: times are milliseconds in 32 bits.
const WINDOW_SECONDS_MAX: u32 = 30 * 24 * 3600;

/// Each one is a call of the host.
const LIMITS_MAX: usize = 8;

impl From<Config> for RateLimit {
    fn from(config: Config) -> Self {
        let mut problems = Problems(Vec::new());
        let limits = limits(&config, &mut problems);
        let mut names: Vec<&str> = limits.iter().map(|limit| limit.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            problems
                .add("/limits", format!("two limits are called `{}`; give them a `name`", pair[0]));
        }
        let mut allow_list = Vec::new();
        for (index, text) in config.allow_list.iter().enumerate() {
            match Network::parse(text) {
                Some(network) => allow_list.push(network),
                None => problems.add(
                    format!("/allow_list/{index}"),
                    format!("`{text}` is no network; write one like \"10.0.0.0/8\""),
                ),
            }
        }
        let cost = cost(config.cost, &limits, &mut problems);
        let policy: Vec<String> = limits.iter().map(Limit::policy).collect();
        let (name, help) = match config.dry_run {
            true => ("would_refuse", "Requests that would have been refused, in a dry run."),
            false => ("refused", "Requests refused."),
        };
        Self {
            enabled: config.enabled,
            allow_list,
            cost,
            dry_run: config.dry_run,
            policy: config.headers.then(|| policy.join(", ")),
            refused: Counter::new(name, help).map_err(|error| problems.add("", error)).ok(),
            key: RefCell::default(),
            left: RefCell::default(),
            limits,
            problems: problems.0,
        }
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    /// One mistake is told once, however many limits it is in.
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let problem = Problem::new(path, message);
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }
}

/// What the parts of all limits have in common.
struct Common {
    bits_v4: u8,
    bits_v6: u8,
    /// Told apart by it: what only this instance counts. Empty when all count together.
    owner: String,
}

fn limits(config: &Config, problems: &mut Problems) -> Vec<Limit> {
    let owner = match config.scope.as_deref() {
        None | Some("gateway") => String::new(),
        Some("worker") => format!("{:x}", random::number()),
        Some(other) => {
            problems.add(
                "/scope",
                format!("there is no scope `{other}`; write \"gateway\" or \"worker\""),
            );
            String::new()
        }
    };
    for (name, bits, most) in
        [("ipv4_prefix", config.ipv4_prefix, 32), ("ipv6_prefix", config.ipv6_prefix, 128)]
    {
        if bits == 0 || bits > most {
            problems.add(format!("/{name}"), format!("`{bits}` is no length; write 1 to {most}"));
        }
    }
    let common =
        Common { bits_v4: config.ipv4_prefix.min(32), bits_v6: config.ipv6_prefix.min(128), owner };
    let short = LimitConfig {
        requests_per_second: config.requests_per_second,
        requests_per_minute: config.requests_per_minute,
        requests_per_hour: config.requests_per_hour,
        requests_per_day: config.requests_per_day,
        burst: config.burst,
        ..LimitConfig::default()
    };
    let mut limits = Vec::new();
    let says_nothing = short.rates().is_empty();
    if says_nothing && config.limits.is_empty() {
        problems.add(
            "",
            "there is no limit; write one like \"requests_per_minute\": 60, or a list of `limits`",
        );
    }
    if says_nothing && config.burst.is_some() {
        problems.add("/burst", "belongs to a limit; write it beside its number of requests");
    }
    if !says_nothing {
        limits.extend(short.check("", config.key.as_ref(), &common, problems));
    }
    if config.limits.len() > LIMITS_MAX {
        problems.add("/limits", format!("more than {LIMITS_MAX}"));
    }
    for (index, limit) in config.limits.iter().enumerate() {
        limits.extend(limit.check(
            &format!("/limits/{index}"),
            config.key.as_ref(),
            &common,
            problems,
        ));
    }
    limits
}

impl LimitConfig {
    /// Keys, numbers and windows that were written.
    fn rates(&self) -> Vec<(&'static str, &'static str, u32, u32)> {
        let window = self.window_seconds.unwrap_or(0);
        [
            ("requests_per_second", "second", self.requests_per_second, 1),
            ("requests_per_minute", "minute", self.requests_per_minute, 60),
            ("requests_per_hour", "hour", self.requests_per_hour, 3600),
            ("requests_per_day", "day", self.requests_per_day, 24 * 3600),
            ("requests", "", self.requests, window),
        ]
        .into_iter()
        .filter_map(|(key, unit, count, seconds)| Some((key, unit, count?, seconds)))
        .collect()
    }

    fn check(
        &self,
        at: &str,
        key: Option<&OneOrMany>,
        common: &Common,
        problems: &mut Problems,
    ) -> Option<Limit> {
        let before = problems.0.len();
        let rates = self.rates();
        let &[(written, unit, count, seconds)] = rates.as_slice() else {
            problems.add(at, match rates.len() {
                0 => "says how many requests by none of `requests_per_second`, `…_minute`, `…_hour`, `…_day` and `requests`",
                _ => "says how many requests twice; make a list of `limits` for more than one",
            });
            return None;
        };
        if count == 0 {
            problems.add(
                format!("{at}/{written}"),
                "0 allows nothing; to refuse everything use `respond` on the route",
            );
        }
        if written == "requests" && self.window_seconds.is_none() {
            problems
                .add(format!("{at}/requests"), "in what time? write `window_seconds` beside it");
        } else if !(1..=WINDOW_SECONDS_MAX).contains(&seconds) {
            problems
                .add(format!("{at}/window_seconds"), format!("write 1 to {WINDOW_SECONDS_MAX}"));
        } else if written != "requests" && self.window_seconds.is_some() {
            problems.add(
                format!("{at}/window_seconds"),
                format!("`{written}` says that; write `requests` with it"),
            );
        }
        let burst = self.burst.unwrap_or(count);
        if self.burst == Some(0) {
            problems.add(
                format!("{at}/burst"),
                "0 allows nothing; write 1 for no request before its time",
            );
        }
        let name = self.name.clone().unwrap_or_else(|| match unit {
            "" => format!("{count}-per-{seconds}s"),
            unit => format!("{count}-per-{unit}"),
        });
        // It goes into a string of RFC 9651 §3.3.3; a subset that needs no quoting anywhere.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            problems.add(
                format!("{at}/name"),
                "write letters, digits, `-`, `_`, `.` and `:`, at most 64",
            );
        }
        let (own, at_key) = match &self.key {
            Some(own) => (Some(own), format!("{at}/key")),
            None => (key, "/key".to_owned()),
        };
        let parts = parts(own, &at_key, common, problems);
        if problems.0.len() > before || parts.is_empty() {
            return None;
        }
        let quota = Quota { count, period: Duration::from_secs(seconds.into()), burst };
        let text = format!("{name} {quota:?} {parts:?} {}", common.owner);
        Some(Limit { name, quota, prefix: digest(&text).to_le_bytes(), parts })
    }
}

impl Limit {
    /// This limit in `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    fn policy(&self) -> String {
        format!("\"{}\";q={};w={}", self.name, self.quota.count, self.quota.period.as_secs())
    }
}

fn parts(
    written: Option<&OneOrMany>,
    at: &str,
    common: &Common,
    problems: &mut Problems,
) -> Vec<Part> {
    let client = || Part::Client { bits_v4: common.bits_v4, bits_v6: common.bits_v6 };
    let one = |text: &str, at: String, problems: &mut Problems| {
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        match (kind, name) {
            ("client-ip", "") => Some(client()),
            ("route", "") => Some(Part::Route),
            ("claim", name) if !name.is_empty() => {
                Some(Part::Claim { name: name.to_owned(), or: Box::new(client()) })
            }
            ("header", name) if is_token(name) => {
                Some(Part::Header { name: name.to_ascii_lowercase(), or: Box::new(client()) })
            }
            _ => {
                let cure = "write \"client-ip\", \"header:NAME\", \"claim:NAME\" or \"route\"";
                problems.add(at, format!("there is no key `{text}`; {cure}"));
                None
            }
        }
    };
    match written {
        None => vec![client()],
        Some(OneOrMany::One(text)) => one(text, at.to_owned(), problems).into_iter().collect(),
        Some(OneOrMany::Many(list)) if list.is_empty() => {
            problems.add(at, "is empty; leave it out to count by client");
            Vec::new()
        }
        Some(OneOrMany::Many(list)) => {
            let parts = list.iter().enumerate();
            parts.filter_map(|(index, text)| one(text, format!("{at}/{index}"), problems)).collect()
        }
    }
}

fn cost(written: Option<CostConfig>, limits: &[Limit], problems: &mut Problems) -> Cost {
    match written {
        None => Cost::Fixed(1),
        Some(CostConfig::Fixed(0)) => {
            problems.add("/cost", "0 limits nothing; write 1 or more");
            Cost::Fixed(1)
        }
        Some(CostConfig::Fixed(cost)) => {
            if let Some(limit) = limits.iter().find(|limit| limit.quota.burst < cost) {
                let (name, burst) = (&limit.name, limit.quota.burst);
                problems.add("/cost", format!("`{cost}` is more than the burst of `{name}` ({burst}), so that no request would pass"));
            }
            Cost::Fixed(cost)
        }
        Some(CostConfig::From(CostHeader { header })) => {
            if !is_token(&header) {
                problems.add("/cost/header", format!("`{header}` cannot name a field"));
            }
            Cost::Header(header.to_ascii_lowercase())
        }
    }
}

/// RFC 9110 §5.6.2: what names of fields are made of.
fn is_token(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token)
}

/// FNV-1a: tells a handful of limits of one operator apart, nothing more.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
