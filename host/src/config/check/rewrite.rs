//! Rewrites: what a route changes in a request on its way to an upstream.
//!
//! Not here: applying them (`proxy`).

use super::address::json;
use super::pattern::{self, PathPattern};
use crate::config::file::{RewriteConfig, RouteConfig};
use crate::config::problem::{At, Refusal, Report, quote};
use crate::config::settings::Rewrite;

/// Checks what a route changes in requests.
pub(super) fn check(
    route: &RouteConfig,
    pattern: &PathPattern<'_>,
    at: &At,
    report: &mut Report,
) -> Rewrite {
    let Some(rewrite) = &route.rewrite else { return Rewrite::default() };
    let at = at.key("rewrite");
    if route.upstream.is_none() {
        let message = "changes requests to an upstream, and this route has none";
        report.incomplete(&at, message, "remove it, or give the route an `upstream`");
    }
    let RewriteConfig { strip_prefix, path, host } = rewrite;
    if strip_prefix.is_some() && path.is_some() {
        let message = "`path` replaces what `strip_prefix` would leave";
        report.problem(&at, message, "keep one of `path` and `strip_prefix`");
    }
    let strip_prefix = strip_prefix
        .as_ref()
        .and_then(|prefix| report.take(&at.key("strip_prefix"), strip(prefix, pattern)));
    if let Some(path) = path {
        report.take(&at.key("path"), new_path(path, pattern));
    }
    if let Some(host) = host
        && !is_authority(host)
    {
        let message = format!("{} is not a host", quote(host));
        report.problem(&at.key("host"), message, "write \"example.com\" or \"example.com:8080\"");
    }
    Rewrite { strip_prefix, path: path.clone(), host: host.clone() }
}

/// The prefix to strip, without a slash at its end.
fn strip(prefix: &str, pattern: &PathPattern<'_>) -> Result<String, Refusal> {
    let wrong = |cure: String| Err((format!("{} is not a prefix to strip", quote(prefix)), cure));
    let bare = prefix.trim_end_matches('/');
    if !prefix.starts_with('/') {
        return wrong(format!("write {}", json(&format!("/{prefix}"))));
    }
    if bare.is_empty() {
        return wrong("remove it: there is nothing to strip".into());
    }
    if bare.contains(['{', '}']) {
        return wrong("it takes no parameters: use `rewrite.path` with `{*rest}`".into());
    }
    pattern::literal_path(bare)?;
    let literal = pattern.literal.trim_end_matches('/');
    let below = |long: &str, short: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    // A parameter may hold what the prefix goes on with, but only behind the literal part.
    if !below(literal, bare) && !below(bare, literal) {
        let message = format!("{} is not in front of the route's path", quote(prefix));
        return Err((message, format!("write the beginning of {}", quote(pattern.literal))));
    }
    Ok(bare.to_owned())
}

fn new_path(path: &str, pattern: &PathPattern<'_>) -> Result<(), Refusal> {
    let wrong = |cure: String| Err((format!("{} is not a path", quote(path)), cure));
    if !path.starts_with('/') {
        return wrong(format!("write {}", json(&format!("/{path}"))));
    }
    pattern::placeholders(path, &pattern.parameters, "a parameter of the route's path")?;
    if path.contains(['?', '#']) {
        return wrong("remove the query: the request's own stays".into());
    }
    // Filled in as harmlessly as can be, it must be a path.
    let mut sample = String::new();
    for (index, part) in path.split(['{', '}']).enumerate() {
        sample.push_str(if index % 2 == 0 { part } else { "x" });
    }
    pattern::literal_path(&sample)
}

/// Whether `text` can stand in `Host`. RFC 9110 §7.2.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, "0"),
    };
    port.parse::<u16>().is_ok() && !host.contains('*') && pattern::host(host).is_ok()
}
