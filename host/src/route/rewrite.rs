//! Changes to the target of a request, and where redirects lead.
//!
//! Templates are cut into parts at load; a request only fills them in. What is filled in comes
//! from the client and stays a part of what it was: a path stays below the root, a host's place
//! holds no `@` or `:`, and no byte can end a line or begin another field.
//!
//! Not here: finding the route and its parameters (`route`).

use std::net::Ipv6Addr;

use super::Params;
use super::host::{self, HOST_BYTES_MAX};
use super::path::{PathError, encode, is_encoded_always, is_unreserved, normalize, push_encoded};
use super::pattern::PatternError;
use crate::config;

/// A route's changes to the target.
#[derive(Debug, Default)]
pub struct Rewrite {
    /// Normalized, without a final slash.
    strip_prefix: Option<Box<str>>,
    path: Option<Vec<Part>>,
    host: Option<Box<str>>,
}

/// Where a redirect leads.
#[derive(Debug)]
pub struct Redirect {
    parts: Vec<Part>,
    needs_host: bool,
    /// Whether it begins with a path of our own host, and must not become `//host`.
    is_local: bool,
}

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    /// A parameter of the route, by its place.
    Parameter(usize),
    /// A parameter in the place of a host.
    HostParameter(usize),
    Host,
    Path,
    /// `{query}`; with the `?` before it, which goes away together with an absent query.
    Query {
        mark: bool,
    },
}

impl Rewrite {
    /// Compiles a route's changes; `parameters` are the names of the route's.
    pub fn new(rewrite: &config::Rewrite, parameters: &[Box<str>]) -> Result<Self, PatternError> {
        let path = rewrite.path.as_ref().map(|path| path_template(path, parameters)).transpose()?;
        let strip_prefix = match &rewrite.strip_prefix {
            Some(prefix) => {
                let normal = normal_literal(prefix)?;
                Some(normal.trim_end_matches('/').into())
            }
            None => None,
        };
        let host = rewrite.host.as_deref().map(Into::into);
        Ok(Self { strip_prefix, path, host })
    }

    /// What `Host` is replaced by.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Whether [`target`](Self::target) never changes anything.
    pub fn keeps_target(&self) -> bool {
        self.path.is_none() && self.strip_prefix.as_deref().is_none_or(str::is_empty)
    }

    /// Whether values of parameters are filled in, so that the routed path must be at hand.
    pub fn reads_parameters(&self) -> bool {
        let is_value = |part: &Part| matches!(part, Part::Parameter(_));
        self.path.as_ref().is_some_and(|parts| parts.iter().any(is_value))
    }

    /// Writes the new target to `out` and says true, or says false when it stays as it is.
    ///
    /// `target` is path and query as they are now, normalized; `routed` is the path that was
    /// routed, in which `params` are found: the same path, unless a plugin changed it since. The
    /// result is normalized. The query is kept. Fails when filling in makes a path that
    /// [`normalize`] refuses.
    pub fn target(
        &self,
        target: &str,
        routed: &str,
        params: &Params,
        out: &mut String,
    ) -> Result<bool, PathError> {
        let (path, query) = split_query(target);
        out.clear();
        if let Some(parts) = &self.path {
            for part in parts {
                match part {
                    Part::Literal(text) => out.push_str(text),
                    Part::Parameter(place) => out.push_str(params.get(*place, routed)),
                    _ => debug_assert!(false, "a path template has no other parts"),
                }
            }
            // An empty `{rest}` can turn `.{rest}` into a dot segment.
            if let std::borrow::Cow::Owned(normal) = normalize(out)? {
                *out = normal;
            }
            out.push_str(query);
            return Ok(true);
        }
        let Some(prefix) = self.strip_prefix.as_deref().filter(|prefix| !prefix.is_empty()) else {
            return Ok(false);
        };
        match path.strip_prefix(prefix) {
            // Only at a border between segments: `/api` is no prefix of `/apix`.
            Some("") => out.push('/'),
            Some(rest) if rest.starts_with('/') => out.push_str(rest),
            _ => return Ok(false),
        }
        out.push_str(query);
        Ok(true)
    }
}

impl Redirect {
    /// Compiles the template of a `Location`; `parameters` are the names of the route's.
    pub fn new(to: &str, parameters: &[Box<str>]) -> Result<Self, PatternError> {
        let mut parts = split(to, |name| match name {
            "host" => Ok(Part::Host),
            "path" => Ok(Part::Path),
            "query" => Ok(Part::Query { mark: false }),
            name => parameter(name, parameters),
        })?;
        for place in 1..parts.len() {
            if let (before, [Part::Query { mark }, ..]) = parts.split_at_mut(place)
                && let Some(Part::Literal(text)) = before.last_mut()
                && let Some(shorter) = text.strip_suffix('?')
            {
                *text = shorter.into();
                *mark = true;
            }
        }
        guard_authority(&mut parts, parameters)?;
        let needs_host = parts.contains(&Part::Host);
        let is_local = match parts.first() {
            Some(Part::Literal(text)) => text.starts_with('/') && !text.starts_with("//"),
            first => first.is_some(),
        };
        Ok(Self { parts, needs_host, is_local })
    }

    /// Whether values of parameters are filled in, so that the routed path must be at hand.
    pub fn reads_parameters(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Parameter(_) | Part::HostParameter(_)))
    }

    /// The value of `Location`; `None` when it needs a host and the request has none.
    ///
    /// `host` is as the client sent it; `target`, `routed` and `params` as for
    /// [`Rewrite::target`].
    pub fn location(
        &self,
        host: Option<&str>,
        target: &str,
        routed: &str,
        params: &Params,
    ) -> Option<String> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let host = host.and_then(|host| host::canonical(host, &mut buffer));
        if self.needs_host && host.is_none() {
            return None;
        }
        let (path, query) = split_query(target);
        let mut out = Vec::with_capacity(target.len() + 64);
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Parameter(place) => push_uri(&mut out, params.get(*place, routed)),
                Part::HostParameter(place) => push_name(&mut out, params.get(*place, routed)),
                Part::Host => push_host(&mut out, host.unwrap_or_default()),
                Part::Path => push_uri(&mut out, path),
                Part::Query { mark: true } if query.len() > 1 => push_uri(&mut out, query),
                Part::Query { mark: true } => {}
                Part::Query { mark: false } => {
                    push_uri(&mut out, query.strip_prefix('?').unwrap_or_default());
                }
            }
        }
        let mut location = String::from_utf8(out).ok()?;
        if self.is_local {
            // `//evil.example` would lead to another host (RFC 3986 §4.2).
            let slashes = location.bytes().take_while(|byte| *byte == b'/').count();
            location.drain(..slashes.saturating_sub(1));
        }
        Some(location)
    }
}

/// Path, and query with its `?`.
fn split_query(target: &str) -> (&str, &str) {
    target.split_at(memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len()))
}

/// Cuts a template into literals and what `meaning` makes of the names in braces.
fn split(
    template: &str,
    meaning: impl Fn(&str) -> Result<Part, PatternError>,
) -> Result<Vec<Part>, PatternError> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) =
            after.split_once('}').ok_or_else(|| PatternError::Brace(template.to_owned()))?;
        push_literal(&mut parts, literal)?;
        parts.push(meaning(name)?);
        rest = after;
    }
    push_literal(&mut parts, rest)?;
    Ok(parts)
}

fn push_literal(parts: &mut Vec<Part>, text: &str) -> Result<(), PatternError> {
    if text.contains('}') {
        return Err(PatternError::Brace(text.to_owned()));
    }
    if !text.is_empty() {
        parts.push(Part::Literal(encode(text).into()));
    }
    Ok(())
}

fn parameter(name: &str, parameters: &[Box<str>]) -> Result<Part, PatternError> {
    let bare = name.strip_prefix('*').unwrap_or(name);
    let place = parameters.iter().position(|known| **known == *bare);
    place.map(Part::Parameter).ok_or_else(|| PatternError::Unknown(name.to_owned()))
}

fn path_template(path: &str, parameters: &[Box<str>]) -> Result<Vec<Part>, PatternError> {
    if !path.starts_with('/') {
        return Err(PatternError::NotAbsolute);
    }
    if path.contains(['?', '#']) {
        return Err(PatternError::Query);
    }
    let parts = split(path, |name| parameter(name, parameters))?;
    // Filled in as harmlessly as can be, it must be a path.
    let sample = parts.iter().map(|part| match part {
        Part::Literal(text) => text,
        _ => "x",
    });
    normalize(&sample.collect::<String>())?;
    Ok(parts)
}

/// A literal path as it looks in a normalized request.
fn normal_literal(path: &str) -> Result<String, PatternError> {
    if path.contains(['{', '}']) {
        return Err(PatternError::Brace(path.to_owned()));
    }
    if path.contains(['?', '#']) {
        return Err(PatternError::Query);
    }
    match normalize(&encode(path)) {
        Ok(normal) => Ok(normal.into_owned()),
        Err(PathError::NotAbsolute) => Err(PatternError::NotAbsolute),
        Err(error) => Err(error.into()),
    }
}

/// Sees to it that parameters cannot choose the host of an absolute redirect.
///
/// `https://{tenant}.example.com/` is fine: whatever the tenant, the domain is ours.
/// `https://example.com{rest}` is not: the rest could be `.evil.example`.
/// Nor is `{rest}` in front of everything, which could be a whole URL.
fn guard_authority(parts: &mut [Part], parameters: &[Box<str>]) -> Result<(), PatternError> {
    let name = |index: usize| parameters.get(index).map(ToString::to_string).unwrap_or_default();
    match parts.first() {
        Some(Part::Parameter(index)) => return Err(PatternError::Authority(name(*index))),
        Some(Part::Query { mark: false }) => {
            return Err(PatternError::Authority("query".to_owned()));
        }
        _ => {}
    }
    let mut inside = false;
    for place in 0..parts.len() {
        let (before, after) = parts.split_at_mut(place + 1);
        match &mut before[place] {
            Part::Literal(text) => {
                let authority = match text.find("//") {
                    Some(slashes) if place == 0 => &text[slashes + 2..],
                    _ if inside => text,
                    _ => return Ok(()),
                };
                inside = !authority.contains(['/', '?', '#']);
            }
            // A path begins with a slash, a query with a mark.
            Part::Path | Part::Query { mark: true } => return Ok(()),
            Part::Host if inside => {}
            part @ Part::Parameter(_) if inside => {
                let Part::Parameter(index) = *part else { return Ok(()) };
                if !matches!(after.first(), Some(Part::Literal(text)) if text.starts_with('.')) {
                    return Err(PatternError::Authority(name(index)));
                }
                *part = Part::HostParameter(index);
            }
            Part::Query { mark: false } if inside => {
                return Err(PatternError::Authority("query".to_owned()));
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// What was in a request target, as it may stand in a URI.
fn push_uri(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !is_encoded_always(byte) {
            out.push(byte);
        } else {
            push_encoded(out, byte);
        }
    }
}

/// What was in a path, as it may stand in a host.
fn push_name(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        if is_unreserved(byte) { out.push(byte) } else { push_encoded(out, byte) }
    }
}

fn push_host(out: &mut Vec<u8>, host: &str) {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if literal.is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok()) {
        out.extend_from_slice(host.as_bytes());
    } else {
        push_name(out, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The target after a rewrite of a request that was routed by `{a}` and `{*rest}`, where
    /// `a` is the first segment.
    fn rewritten(rewrite: &config::Rewrite, target: &str) -> String {
        let (params, names) = params(target);
        let rewrite = Rewrite::new(rewrite, &names).unwrap();
        let mut out = String::new();
        let path = split_query(target).0;
        let changed = rewrite.target(target, path, &params, &mut out).unwrap();
        assert!(!(changed && rewrite.keeps_target()));
        if changed { out } else { target.to_owned() }
    }

    fn params(target: &str) -> (Params, [Box<str>; 2]) {
        let path = split_query(target).0;
        let mut params = Params::default();
        let border = path[1..].find('/').map_or(path.len(), |slash| slash + 1);
        params.push(1, border);
        params.push((border + 1).min(path.len()), path.len());
        (params, ["a".into(), "rest".into()])
    }

    fn strip(prefix: &str) -> config::Rewrite {
        config::Rewrite { strip_prefix: Some(prefix.into()), ..Default::default() }
    }

    fn template(path: &str) -> config::Rewrite {
        config::Rewrite { path: Some(path.into()), ..Default::default() }
    }

    #[test]
    fn a_prefix_is_stripped_at_a_border() {
        for (prefix, target, expected) in [
            ("/api", "/api", "/"),
            ("/api", "/api/", "/"),
            ("/api", "/api/x?y=/api", "/x?y=/api"),
            ("/api", "/api?q", "/?q"),
            ("/api", "/apix", "/apix"),
            ("/api", "/x/api", "/x/api"),
            ("/api/", "/api/x", "/x"),
            ("/api/", "/api", "/"),
            ("/caf%c3%a9", "/caf%C3%A9/x", "/x"),
            ("/café", "/caf%C3%A9/x", "/x"),
            ("/", "/x", "/x"),
        ] {
            assert_eq!(rewritten(&strip(prefix), target), expected, "{prefix} {target}");
        }
    }

    #[test]
    fn a_path_template_is_filled_in() {
        for (path, target, expected) in [
            ("/new", "/x/y?q=1", "/new?q=1"),
            ("/v2/{a}.html", "/x/y", "/v2/x.html"),
            ("/{rest}/{a}", "/x/y/z?", "/y/z/x?"),
            ("/f/{*rest}", "/x/", "/f/"),
            ("/é/{a}", "/%2F/", "/%C3%A9/%2F"),
            // An empty remainder must not leave a dot segment behind.
            ("/f/.{rest}", "/x/", "/f/"),
        ] {
            assert_eq!(rewritten(&template(path), target), expected, "{path} {target}");
        }
        let names = ["rest".into()];
        let rewrite = Rewrite::new(&template("/..{rest}"), &names).unwrap();
        let mut out = String::new();
        let refused = rewrite.target("/", "/", &Params::default(), &mut out);
        assert_eq!(refused, Err(PathError::AboveRoot));
    }

    #[test]
    fn templates_that_cannot_work_are_refused() {
        use PatternError as E;
        let error = |rewrite: &config::Rewrite| Rewrite::new(rewrite, &["a".into()]).unwrap_err();

        assert_eq!(error(&template("x")), E::NotAbsolute);
        assert_eq!(error(&template("/{b}")), E::Unknown("b".into()));
        assert_eq!(error(&template("/{a")), E::Brace("/{a".into()));
        assert_eq!(error(&template("/a}")), E::Brace("/a}".into()));
        assert_eq!(error(&template("/a?b")), E::Query);
        assert_eq!(error(&template("/../{a}")), E::Path(PathError::AboveRoot));
        assert_eq!(error(&strip("api")), E::NotAbsolute);
        assert_eq!(error(&strip("/{a}")), E::Brace("/{a}".into()));
    }

    fn location(to: &str, target: &str) -> Option<String> {
        let (params, names) = params(target);
        let routed = split_query(target).0;
        Redirect::new(to, &names).unwrap().location(Some("Ex.com:8080"), target, routed, &params)
    }

    #[test]
    fn a_redirect_is_filled_in() {
        for (to, target, expected) in [
            ("https://{host}{path}?{query}", "/x/y?q=1", "https://ex.com/x/y?q=1"),
            ("https://{host}{path}?{query}", "/x/y", "https://ex.com/x/y"),
            ("https://{host}{path}?{query}", "/x/y?", "https://ex.com/x/y"),
            ("/login?to={path}&{query}", "/x?q", "/login?to=/x&q"),
            ("https://{a}.example.com/{rest}", "/x/y/z", "https://x.example.com/y/z"),
            ("/neu ö", "/x", "/neu%20%C3%B6"),
            ("?{query}", "/x?q", "?q"),
            ("{path}/", "/x", "/x/"),
        ] {
            assert_eq!(location(to, target).as_deref(), Some(expected), "{to} {target}");
        }
    }

    #[test]
    fn a_client_cannot_choose_where_a_redirect_leads() {
        assert_eq!(location("/{path}", "/x\r\ny:").as_deref(), Some("/x%0D%0Ay:"));
        for (to, target, expected) in [
            ("{path}", "//evil.example", "/evil.example"),
            ("/{rest}", "/x//evil.example", "/evil.example"),
            ("/{rest}", "/x///evil.example", "/evil.example"),
            ("https://{a}.ex.com/", "/evil.example:80@/y", "https://evil.example%3A80%40.ex.com/"),
        ] {
            assert_eq!(location(to, target).as_deref(), Some(expected), "{to} {target}");
        }
        let refused = |to| Redirect::new(to, &["a".into()]).unwrap_err();
        assert_eq!(refused("https://ex.com{a}"), PatternError::Authority("a".into()));
        assert_eq!(refused("https://{a}/"), PatternError::Authority("a".into()));
        assert_eq!(refused("{a}"), PatternError::Authority("a".into()));
        assert_eq!(refused("{a}/x"), PatternError::Authority("a".into()));
        assert_eq!(refused("{query}"), PatternError::Authority("query".into()));
        assert_eq!(refused("//{host}{a}"), PatternError::Authority("a".into()));
        assert_eq!(refused("https://ex.com{query}"), PatternError::Authority("query".into()));
        assert_eq!(refused("/{nobody}"), PatternError::Unknown("nobody".into()));
    }

    #[test]
    fn a_redirect_to_a_missing_host_is_not_made() {
        let redirect = Redirect::new("https://{host}/", &[]).unwrap();

        assert_eq!(redirect.location(None, "/", "/", &Params::default()), None);
        assert_eq!(redirect.location(Some(""), "/", "/", &Params::default()), None);
        let v6 = redirect.location(Some("[0::1]:80"), "/", "/", &Params::default());
        assert_eq!(v6.as_deref(), Some("https://[::1]/"));
    }

    proptest! {
        /// Even of texts that `normalize` would have refused.
        #[test]
        fn a_location_never_breaks_a_line(host: String, path: String, query: String) {
            let target = format!("/{path}?{query}");
            let (params, names) = params(&target);
            let to = "https://{a}.x/{rest}{path}{host}?{query}";
            let redirect = Redirect::new(to, &names).unwrap();
            if let Some(location) = redirect.location(Some(&host), &target, &target, &params) {
                prop_assert!(location.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }

        /// Whatever is filled in, the upstream sees a normal path.
        #[test]
        fn a_rewritten_target_is_normal(target in "/[a.%;]{0,3}(/[a./;]{0,4})?(\\?[a/.]{0,3})?") {
            if let Ok(target) = normalize(&target) {
                let (params, names) = params(&target);
                let path = split_query(&target).0;
                for rewrite in [template("/x/.{rest}"), template("/{rest}.{a}/"), strip("/a")] {
                    let rewrite = Rewrite::new(&rewrite, &names).unwrap();
                    let mut out = String::new();
                    if rewrite.target(&target, path, &params, &mut out) == Ok(true) {
                        prop_assert_eq!(normalize(&out), Ok((&*out).into()));
                        prop_assert_eq!(split_query(&out).1, split_query(&target).1);
                    }
                }
            }
        }
    }
}
