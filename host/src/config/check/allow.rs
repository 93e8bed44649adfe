//! What plugins are granted: `plugins.NAME.allow`.
//!
//! Not here: whether a component asks for more (`plugin`).

use std::collections::BTreeMap;

use super::address::{self, json};
use super::upstream::Upstreams;
use crate::config::environment::Environment;
use crate::config::file::{AllowConfig, CacheGrantConfig, CacheSizeConfig, StoreGrantConfig};
use crate::config::problem::{At, Refusal, Report, quote};
use crate::config::settings::{Allow, CacheSize, HostPattern, Secret};
use crate::config::{Destination, UrlPattern};
use crate::config::{ServerAddress, StoreSizeConfig};

/// The largest body that a cache keeps, unless the operator says otherwise.
const OBJECT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What stands before the name of an upstream.
const UPSTREAM: &str = "upstream:";

/// Checks what was written at `at`.
pub(super) fn check(
    written: &AllowConfig,
    at: &At,
    environment: &dyn Environment,
    upstreams: &mut Upstreams,
    report: &mut Report,
) -> Allow {
    Allow {
        callouts: false,
        http: destinations(&written.http, &at.key("http"), upstreams, report),
        env: variables(&written.env, &at.key("env"), environment, report),
        secrets: secrets(&written.secrets, &at.key("secrets"), report),
        counters: store(&written.counters),
        redis: None,
        kv: store(&written.kv),
        cache: cache(&written.cache, &at.key("cache"), report),
    }
}

fn destinations(
    written: &[String],
    at: &At,
    upstreams: &mut Upstreams,
    report: &mut Report,
) -> Vec<Destination> {
    let mut destinations = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let at = at.index(index);
        match text.strip_prefix(UPSTREAM) {
            // A URL is an upstream of a route only.
            Some(name) if !name.contains("://") => {
                let found = upstreams.find(name, "/", &at, report);
                destinations.extend(found.map(Destination::Upstream));
            }
            _ => destinations.extend(report.take(&at, url(text).map(Destination::Url))),
        }
    }
    destinations
}

/// A URL as requests have it: it stands for itself, with any query.
pub(super) fn url_of_one(text: &str) -> Result<UrlPattern, Refusal> {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let has_path = text.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    let pattern = url(&if has_path { text.to_owned() } else { format!("{text}/") })?;
    let is_wild = pattern.below || matches!(pattern.host, HostPattern::Suffix(_));
    if is_wild { Err((format!("{} has a `*`", quote(text)), String::new())) } else { Ok(pattern) }
}

/// A URL with or without stars.
fn url(text: &str) -> Result<UrlPattern, Refusal> {
    const CURE: &str = "write one like \"https://idp.example/*\" or \"upstream:NAME\"";
    let refuse = |what: &str, cure: String| Err((format!("{} {what}", quote(text)), cure));
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        "" => return refuse("is no URL", CURE.into()),
        _ => return refuse("has a scheme that is not served", CURE.into()),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return refuse("holds a user name", CURE.into());
    }
    if path.is_empty() {
        let cure = format!("write {} for everything there", json(&format!("{text}/*")));
        return refuse("has no path", cure);
    }
    if path.contains(['?', '#']) {
        return refuse("has a query", "leave it out: every query is allowed".into());
    }
    let (path, below) = path.strip_suffix('*').map_or((path, false), |path| (path, true));
    if path.contains('*') || (below && !path.ends_with('/')) {
        return refuse("has a `*` in its path", "write it last, after a `/`".into());
    }
    if path.split('/').any(|segment| matches!(segment, "." | ".."))
        || !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"%\\".contains(&byte))
    {
        return refuse("has a path that requests do not have", "write it plain".into());
    }
    let (host, port) = host(authority, if tls { 443 } else { 80 })?;
    Ok(UrlPattern { tls, host, port, path: path.into(), below })
}

fn host(authority: &str, port: u16) -> Result<(HostPattern, u16), Refusal> {
    let (wild, name) = match authority.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, authority),
    };
    let (address, ..) = address::url(&format!("http://{}", with_port(name, port)), "/")?;
    match (address, wild) {
        (ServerAddress::Name { host, port }, true) => {
            Ok((HostPattern::Suffix(format!(".{host}")), port))
        }
        (ServerAddress::Name { host, port }, false) => {
            Ok((HostPattern::Exact(host.to_string()), port))
        }
        (ServerAddress::Ip(address), false) => {
            Ok((HostPattern::Exact(address.ip().to_string()), address.port()))
        }
        _ => Err((format!("{} is not a host", quote(authority)), "write a host name".into())),
    }
}

fn with_port(authority: &str, port: u16) -> String {
    if address::has_port(authority) { authority.to_owned() } else { format!("{authority}:{port}") }
}

/// Values are read here, so that they are those of the moment of the (re)load.
fn variables(
    written: &[String],
    at: &At,
    environment: &dyn Environment,
    report: &mut Report,
) -> BTreeMap<Box<str>, Option<Box<str>>> {
    let mut variables = BTreeMap::new();
    for (index, name) in written.iter().enumerate() {
        let at = at.index(index);
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("{} cannot name a variable", quote(name));
            report.problem(&at, message, "write its name alone, such as \"REGION\"");
            continue;
        }
        match environment.variable(name).map(std::ffi::OsString::into_string) {
            None => _ = variables.insert(name.as_str().into(), None),
            Some(Ok(value)) => {
                variables.insert(name.as_str().into(), Some(value.into_boxed_str()));
            }
            Some(Err(_)) => {
                let message = format!("the value of {} is no text", quote(name));
                report.problem(&at, message, "set it to UTF-8, or leave it out");
            }
        }
    }
    variables
}

fn secrets(
    written: &BTreeMap<String, String>,
    at: &At,
    report: &mut Report,
) -> BTreeMap<Box<str>, Secret> {
    let mut secrets = BTreeMap::new();
    for (name, value) in written {
        if value.is_empty() {
            let cure = "write where it is: \"${file:/run/secrets/NAME}\" or \"${env:NAME}\"";
            report.problem(&at.key(name), "the secret is empty", cure);
        }
        secrets.insert(name.as_str().into(), Secret::new(value.as_bytes()));
    }
    secrets
}

fn store(written: &StoreGrantConfig) -> Option<usize> {
    match written {
        StoreGrantConfig::Plain(false) => None,
        StoreGrantConfig::Plain(true) => Some(StoreSizeConfig::default().bytes_max),
        StoreGrantConfig::Sized(size) => Some(size.bytes_max),
    }
}

/// As much of a cache as there is when nothing is said about it.
pub(super) fn usual_cache() -> CacheSize {
    let bytes_max = CacheSizeConfig::default().bytes_max;
    CacheSize { bytes_max, object_bytes_max: OBJECT_BYTES_MAX.min(bytes_max / 4) }
}

fn cache(written: &CacheGrantConfig, at: &At, report: &mut Report) -> Option<CacheSize> {
    let size = match written {
        CacheGrantConfig::Plain(false) => return None,
        CacheGrantConfig::Plain(true) => CacheSizeConfig::default(),
        CacheGrantConfig::Sized(size) => size.clone(),
    };
    let bytes_max = size.bytes_max;
    // What is on its way may take as much as that.
    let most = bytes_max / 4;
    let object_bytes_max = size.object_bytes_max.unwrap_or(OBJECT_BYTES_MAX.min(most));
    if object_bytes_max > most
        && !report.is_broken(&at.key("bytes_max"))
        && !report.is_broken(&at.key("object_bytes_max"))
    {
        let message = format!(
            "`{object_bytes_max}` is more than a quarter of `bytes_max`, which is `{most}`"
        );
        report.problem(&at.key("object_bytes_max"), message, "lower it, or raise `bytes_max`");
    }
    Some(CacheSize { bytes_max, object_bytes_max })
}
