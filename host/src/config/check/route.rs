//! Routes: one target each, changes that fit it, and none that can never match.
//!
//! Not here: which route wins (`route`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::address::json;
use super::milliseconds;
use super::pattern::{self, PathPattern};
use super::plugin::Plugins;
use super::rewrite;
use super::upstream::Upstreams;
use super::websocket;
use crate::config::file::{
    MatchConfig, RedirectConfig, RespondConfig, RouteConfig, RouteUpstreamConfig,
};
use crate::config::problem::{At, Refusal, Report, quote};
use crate::config::settings::{HostPattern, Matching, Route, Target};

/// Methods that are written in upper case by definition. RFC 9110 §9.3, RFC 5789.
const METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Fields that the gateway writes itself, since they describe the framing or the connection.
const OWN_FIELDS: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Routes of one identity that are compared with another one, so that a huge file is checked in time.
const RIVALS_MAX: usize = 64;

/// Upstreams that one route may split its requests among.
const SHARES_MAX: usize = 1000;

/// What routes that match the same requests have in common: hosts, shape of the path, kind of match.
type Identity = (Vec<String>, String, bool);

/// A route among those of one identity.
struct Rival<'a> {
    route: &'a RouteConfig,
    at: At,
}

impl Rival<'_> {
    /// Whether this route, which comes first in the file, leaves the other no request.
    fn hides(&self, other: &RouteConfig) -> bool {
        let takes = |method: &String| {
            self.route.methods.contains(method)
                || method == "HEAD" && self.route.methods.iter().any(|taken| taken == "GET")
        };
        let all = self.route.methods.is_empty()
            || !other.methods.is_empty() && other.methods.iter().all(takes);
        all && self.route.priority >= other.priority
    }
}

/// Checks all routes.
pub(super) fn check(
    written: &[RouteConfig],
    upstreams: &mut Upstreams,
    plugins: &mut Plugins<'_>,
    report: &mut Report,
) -> Vec<Route> {
    let mut names = Names::given(written, report);
    let mut seen: HashMap<Identity, Vec<Rival<'_>>> = HashMap::new();
    let mut routes = Vec::new();
    for (index, route) in written.iter().enumerate() {
        let at = At::default().key("routes").index(index);
        let hosts = hosts(&route.hosts, &at.key("hosts"), report);
        let methods = methods(&route.methods, &at.key("methods"), report);
        let path_at = at.key("path");
        let pattern = report.take(&path_at, pattern::path(&route.path));
        if let Some(pattern) = &pattern
            && !report.is_broken(&path_at)
        {
            let rivals = seen.entry(identity(route, pattern)).or_default();
            if let Some(other) = rivals.iter().take(RIVALS_MAX).find(|rival| rival.hides(route)) {
                let message =
                    format!("matches the same requests as `{}`, which comes first", other.at);
                report.problem(&at, message, "remove one of both, or give one a higher `priority`");
            }
            rivals.push(Rival { route, at: at.clone() });
        }
        let pattern = pattern.unwrap_or_default();
        let target = target(route, &pattern, upstreams, &at, report);
        routes.push(Route {
            name: names.of(index, route),
            hosts,
            path: route.path.clone(),
            matching: match route.matching {
                MatchConfig::Prefix => Matching::Prefix,
                MatchConfig::Exact => Matching::Exact,
            },
            methods,
            priority: route.priority,
            rewrite: rewrite::check(route, &pattern, &at, report),
            target,
            chain: plugins.chain(&route.middleware, &at.key("middleware"), report),
            request_timeout: route.timeouts.request_ms.map(milliseconds),
            idle_timeout: route.timeouts.idle_ms.map(milliseconds),
            body_bytes_max: route.limits.body_bytes_max,
            websocket: websocket::check(route, &at, report),
        });
    }
    routes
}

/// Names of routes: given ones first, so that a made one never takes one of them.
struct Names {
    given: Vec<Option<Arc<str>>>,
    taken: HashSet<Arc<str>>,
}

impl Names {
    fn given(routes: &[RouteConfig], report: &mut Report) -> Self {
        let mut names = Self { given: Vec::new(), taken: HashSet::new() };
        for (index, route) in routes.iter().enumerate() {
            let name: Option<Arc<str>> = route.name.as_deref().map(Into::into);
            if let Some(name) = &name {
                let at = At::default().key("routes").index(index).key("name");
                if name.is_empty() || name.len() > 128 || name.contains(char::is_control) {
                    let message = format!("{} cannot name a route", quote(name));
                    report.problem(&at, message, "use 1 to 128 bytes without control characters");
                }
                if !names.taken.insert(name.clone()) {
                    let message = format!("another route has the name {}", quote(name));
                    report.problem(&at, message, "give each route its own name");
                }
            }
            names.given.push(name);
        }
        names
    }

    /// The name of a route: the given one, or host and path, with a number if that is taken.
    fn of(&mut self, index: usize, route: &RouteConfig) -> Arc<str> {
        if let Some(name) = self.given.get(index).cloned().flatten() {
            return name;
        }
        let host = route.hosts.first().map_or("", String::as_str);
        let base = format!("{host}{}", route.path);
        let mut name: Arc<str> = base.as_str().into();
        if self.taken.contains(&name) {
            // The index is unique among made names; a given one like it is most unlikely.
            name = format!("{base}#{index}").into();
            while self.taken.contains(&name) {
                name = format!("{name}#").into();
            }
        }
        self.taken.insert(name.clone());
        name
    }
}

fn identity(route: &RouteConfig, pattern: &PathPattern<'_>) -> Identity {
    let fold = |host: &String| host.trim_end_matches('.').to_ascii_lowercase();
    let mut hosts: Vec<_> = route.hosts.iter().map(fold).collect();
    hosts.sort_unstable();
    let exact = route.matching == MatchConfig::Exact;
    let shape = &pattern.shape;
    // The prefixes `/a` and `/a/` are one.
    let shape = if exact { shape } else { shape.strip_suffix('/').unwrap_or(shape) };
    (hosts, shape.to_owned(), exact)
}

fn hosts(written: &[String], at: &At, report: &mut Report) -> Vec<HostPattern> {
    let mut hosts = Vec::new();
    let mut seen = HashSet::new();
    for (index, text) in written.iter().enumerate() {
        let at = at.index(index);
        let Some(host) = report.take(&at, pattern::host(text)) else { continue };
        if !seen.insert(host.clone()) {
            report.problem(&at, format!("{} is there twice", quote(text)), "remove one of both");
        }
        hosts.push(host);
    }
    hosts
}

fn methods(written: &[String], at: &At, report: &mut Report) -> Vec<String> {
    let mut seen = HashSet::new();
    for (index, method) in written.iter().enumerate() {
        let at = at.index(index);
        let upper = method.to_ascii_uppercase();
        if method != &upper && METHODS.contains(&upper.as_str()) {
            let message = format!("{} is not a method: upper and lower case differ", quote(method));
            report.problem(&at, message, format!("write \"{upper}\""));
        } else if method == "CONNECT" {
            let message = "`CONNECT` asks for a tunnel to anywhere, which this gateway never makes";
            report.problem(&at, message, "remove it");
        } else if method == "*" {
            report.problem(&at, "`*` is not a method", "leave `methods` out for any method");
        } else if !is_field_name(method) {
            let message = format!("{} is not a method", quote(method));
            report.problem(&at, message, "write one like \"GET\", without spaces");
        } else if !seen.insert(method) {
            let message = format!("{} is there twice", quote(method));
            report.problem(&at, message, "remove one of both");
        }
    }
    written.to_vec()
}

/// What answers the route. A harmless answer when that is not clear, which has been reported.
fn target(
    route: &RouteConfig,
    pattern: &PathPattern<'_>,
    upstreams: &mut Upstreams,
    at: &At,
    report: &mut Report,
) -> Target {
    let nothing = || Target::Respond { status: 404, headers: Vec::new(), body: Arc::default() };
    let given: Vec<_> = [
        ("upstream", route.upstream.is_some()),
        ("redirect", route.redirect.is_some()),
        ("respond", route.respond.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, given)| given.then_some(key))
    .collect();
    match given.as_slice() {
        [] => {
            let cure = "write `\"upstream\": \"http://127.0.0.1:3000\"`, `\"redirect\": {\"to\": …}` \
                        or `\"respond\": {\"body\": …}`";
            report.incomplete(at, "the route has no target", cure);
            return nothing();
        }
        [_] => {}
        [first, others @ ..] => {
            let both = format!("`{first}` and `{}`", others.join("` and `"));
            let message = format!("the route has {both}, but one target answers it");
            report.problem(at, message, format!("keep one of {both}"));
        }
    }
    if let Some(redirect) = &route.redirect {
        return self::redirect(redirect, pattern, &at.key("redirect"), report);
    }
    if let Some(respond) = &route.respond {
        return self::respond(respond, &at.key("respond"), report);
    }
    let at = at.key("upstream");
    match &route.upstream {
        Some(RouteUpstreamConfig::One(text)) => {
            upstreams.find(text, &route.path, &at, report).map_or_else(nothing, Target::Upstream)
        }
        Some(RouteUpstreamConfig::Split(split)) => {
            // Weights are at most a million: a thousand of them fit the sum that a picker makes.
            if split.len() > SHARES_MAX {
                let message = format!("more than {SHARES_MAX} upstreams");
                report.problem(&at, message, "use fewer");
            }
            let mut shares: Vec<(usize, u32)> = Vec::new();
            for (index, share) in split.iter().take(SHARES_MAX).enumerate() {
                let at = at.index(index).key("upstream");
                let Some(found) = upstreams.find(&share.upstream, &route.path, &at, report) else {
                    continue;
                };
                if shares.iter().any(|(upstream, _)| *upstream == found) {
                    let message = format!("{} is there twice", quote(&share.upstream));
                    report.problem(&at, message, "remove one and add up the weights");
                }
                shares.push((found, share.weight));
            }
            if !split.is_empty() && split.iter().all(|share| share.weight == 0) {
                report.incomplete(&at, "every weight is 0", "give one upstream a weight above 0");
            }
            shares.retain(|(_, weight)| *weight > 0);
            match shares.as_slice() {
                [] => nothing(),
                [(only, _)] => Target::Upstream(*only),
                _ => Target::Split(shares),
            }
        }
        None => nothing(),
    }
}

fn redirect(
    redirect: &RedirectConfig,
    pattern: &PathPattern<'_>,
    at: &At,
    report: &mut Report,
) -> Target {
    if ![301, 302, 303, 307, 308].contains(&redirect.status) {
        let message = format!("{} is not the status of a redirect", redirect.status);
        let cure = "write 301 or 308 (for good), 302, 303 or 307 (for now)";
        report.problem(&at.key("status"), message, cure);
    }
    let mut known = vec!["path", "query", "host"];
    known.extend(&pattern.parameters);
    report.take(&at.key("to"), location(&redirect.to, &known));
    Target::Redirect { status: redirect.status, to: redirect.to.clone() }
}

fn location(to: &str, known: &[&str]) -> Result<(), Refusal> {
    if to.is_empty() {
        return Err(("the target is empty".into(), "write a URL or a path".into()));
    }
    if !to.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("{} holds a space or an unusual character", quote(to));
        return Err((message, "write it percent-encoded, a space as `%20`".into()));
    }
    let url = to.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('{'));
    if !url && !to.starts_with('/') && !to.starts_with("{path}") {
        if to.starts_with('{') {
            // `{rest}` could be `https://evil.example`.
            let message = format!("{} would let the client choose where to be sent", quote(to));
            return Err((message, format!("write {}", json(&format!("/{to}")))));
        }
        let message = format!("{} is neither a URL nor a path", quote(to));
        return Err((
            message,
            format!("write {} or {}", json(&format!("https://{to}")), json(&format!("/{to}"))),
        ));
    }
    pattern::placeholders(to, known, "filled in here")?;
    own_host(to)
}

/// Checks that no client chooses the host of a redirect: where a URL has its host, a parameter
/// must be followed by a domain.
fn own_host(to: &str) -> Result<(), Refusal> {
    let Some((scheme, authority)) = to.split_once("//") else { return Ok(()) };
    if scheme.contains('{') {
        return Ok(());
    }
    let mut rest = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    while let Some((_, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        // A path begins with a slash, and so ends the host.
        if name == "path" {
            return Ok(());
        }
        if name == "query" || name != "host" && !after.starts_with('.') {
            let message = format!("`{{{name}}}` would let the client choose where to be sent");
            let cure = format!(
                "write a domain or `/` around it: `https://{{{name}}}.example.com/` \
                                or `https://example.com/{{{name}}}`"
            );
            return Err((message, cure));
        }
        rest = after;
    }
    Ok(())
}

fn respond(respond: &RespondConfig, at: &At, report: &mut Report) -> Target {
    // RFC 9110 §15.3.5, §15.3.6, §15.4.5: these never have a body.
    if [204, 205, 304].contains(&respond.status) && !respond.body.is_empty() {
        let message = format!("a response with status {} has no body", respond.status);
        report.problem(&at.key("body"), message, "remove the body, or use another status");
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut seen = HashSet::new();
    for (name, value) in &respond.headers {
        let at = at.key("headers").key(name);
        let lower = name.to_ascii_lowercase();
        if !is_field_name(name) {
            let message = format!("{} is not the name of a header field", quote(name));
            report.problem(&at, message, "write one like \"content-type\"");
        } else if OWN_FIELDS.contains(&lower.as_str()) {
            report.problem(&at, format!("`{lower}` is set by the gateway"), "remove it");
        } else if seen.contains(&lower) {
            report.problem(&at, format!("`{lower}` is there twice"), "remove one of both");
        }
        seen.insert(lower);
        report.take(&at, field_value(value));
        headers.push((name.clone(), value.clone()));
    }
    let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if !typed && !respond.body.is_empty() {
        headers.push(("content-type".into(), "text/plain; charset=utf-8".into()));
    }
    Target::Respond { status: respond.status, headers, body: respond.body.as_bytes().into() }
}

/// Whether `text` is a token. RFC 9110 §5.6.2.
pub(super) fn is_field_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

/// Checks the value of a header field. RFC 9110 §5.5, less what is not ASCII.
fn field_value(value: &str) -> Result<(), Refusal> {
    if !value.bytes().all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte)) {
        let message = "the value holds a line break or a character that is not ASCII".into();
        return Err((message, "use printable ASCII on one line".into()));
    }
    if value.trim() != value {
        let message = "the value begins or ends with a space".into();
        return Err((message, format!("write {}", json(value.trim()))));
    }
    Ok(())
}
