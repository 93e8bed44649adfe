//! The syntax of route paths, hosts and placeholders.
//!
//! Not here: which route wins (`route`).

use super::address::{is_host_name, json};
use crate::config::problem::{Refusal, quote};
use crate::config::settings::HostPattern;
use crate::config::suggest;

/// Longest path or template. Far longer than any in use, and short enough for every check.
pub(super) const TEXT_BYTES_MAX: usize = 4096;

/// Parameters of one route. The router keeps their places on the stack.
const PARAMETERS_MAX: usize = 16;

/// Segments of one path. The router recurses once per segment.
const SEGMENTS_MAX: usize = 128;

/// A route's path, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PathPattern<'a> {
    /// Names of the parameters and of the wildcard, in order.
    pub(super) parameters: Vec<&'a str>,
    /// The path with all names taken out: equal for paths that match the same requests.
    pub(super) shape: String,
    /// The path up to the first parameter.
    pub(super) literal: &'a str,
}

/// Takes a route's path apart.
pub(super) fn path(text: &str) -> Result<PathPattern<'_>, Refusal> {
    short_enough(text)?;
    let Some(segments) = text.strip_prefix('/') else {
        let message = format!("{} does not begin with `/`", quote(text));
        return Err((message, format!("write {}", json(&format!("/{text}")))));
    };
    let mut pattern = PathPattern { literal: text, ..PathPattern::default() };
    let mut start = 0;
    let count = segments.split('/').count();
    if count > SEGMENTS_MAX {
        let message = format!("{} has more than {SEGMENTS_MAX} segments", quote(text));
        return Err((message, "write less".into()));
    }
    for (index, segment) in segments.split('/').enumerate() {
        pattern.shape.push('/');
        let last = index + 1 == count;
        if let Some(name) = parameter(segment)? {
            if pattern.parameters.is_empty() {
                pattern.literal = &text[..=start];
            }
            if name.starts_with('*') && !last {
                let message = format!("nothing can follow the wildcard `{segment}`");
                return Err((message, "end the path with it, or use a `{name}` parameter".into()));
            }
            let plain = name.trim_start_matches('*');
            if pattern.parameters.contains(&plain) {
                let message = format!("the parameter `{plain}` is there twice");
                return Err((message, "give each its own name".into()));
            }
            if pattern.parameters.len() == PARAMETERS_MAX {
                let message = format!("{} has more than {PARAMETERS_MAX} parameters", quote(text));
                return Err((message, "take the rest as one wildcard: `{*rest}`".into()));
            }
            pattern.parameters.push(plain);
            pattern.shape.push_str(if name.starts_with('*') { "{*}" } else { "{}" });
        } else {
            literal(segment, last, text)?;
            pattern.shape.push_str(&one_spelling(segment));
        }
        start += segment.len() + 1;
    }
    Ok(pattern)
}

/// The name in a segment that is a parameter (`*name` for a wildcard); `None` for a literal.
fn parameter(segment: &str) -> Result<Option<&str>, Refusal> {
    let wrong = |cure: String| Err((format!("the segment {} is not valid", quote(segment)), cure));
    if let Some(name) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
        let plain = name.strip_prefix('*').unwrap_or(name);
        if !is_parameter_name(plain) {
            return wrong(
                "name it with letters, digits, `_` and `-`: `{name}` or `{*rest}`".into(),
            );
        }
        return Ok(Some(name));
    }
    match segment.strip_prefix(':') {
        _ if segment.contains(['{', '}']) => {
            wrong("a parameter is a whole segment: `/{name}/`".into())
        }
        Some(name) if is_parameter_name(name) => wrong(format!("write `{{{name}}}`")),
        _ if segment == "*" || segment == "**" => {
            wrong("write `{name}` for one segment or `{*rest}` for all that remains".into())
        }
        _ => Ok(None),
    }
}

/// Checks a segment that stands for itself.
fn literal(segment: &str, last: bool, path: &str) -> Result<(), Refusal> {
    let wrong = |cure: String| Err((format!("the path {} is not valid", quote(path)), cure));
    if segment.is_empty() && !last {
        return wrong("write one `/` between segments".into());
    }
    if segment.contains('?') || segment.contains('#') {
        return wrong("remove the query: only the path is compared".into());
    }
    if !is_path_text(segment) {
        return wrong("write unusual characters percent-encoded, a space as `%20`".into());
    }
    let decoded = decode(segment);
    if decoded.contains(&0) {
        return wrong("remove `%00`: a request with it is refused".into());
    }
    // Requests are compared without dot segments, and refused where these are hidden beside
    // what some servers take for a separator.
    let parts = decoded.split(|byte| b"/\\;".contains(byte));
    if parts.into_iter().any(|part| part == b"." || part == b"..") {
        return wrong("remove `.` and `..`: no request's path holds them".into());
    }
    Ok(())
}

/// Checks a path without parameters: what is stripped, or what a template becomes.
pub(super) fn literal_path(text: &str) -> Result<(), Refusal> {
    short_enough(text)?;
    let segments: Vec<_> = text.strip_prefix('/').unwrap_or(text).split('/').collect();
    let last = segments.len() - 1;
    segments.iter().enumerate().try_for_each(|(at, segment)| literal(segment, at == last, text))
}

/// `text` without its percent-encoding.
fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<u8>| char::from(byte.unwrap_or_default()).to_digit(16);
        let escaped =
            if byte == b'%' { (digit(bytes.next()), digit(bytes.next())) } else { (None, None) };
        match escaped {
            (Some(high), Some(low)) => decoded.extend(u8::try_from(high * 16 + low)),
            _ => decoded.push(byte),
        }
    }
    decoded
}

/// A segment with one spelling for paths that match the same requests. RFC 3986 §6.2.2.
fn one_spelling(segment: &str) -> String {
    use std::fmt::Write;

    let mut spelling = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some((before, after)) = rest.split_once('%') {
        spelling.push_str(before);
        let (digits, after) = after.split_at_checked(2).unwrap_or((after, ""));
        match u8::from_str_radix(digits, 16) {
            Ok(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                spelling.push(byte.into());
            }
            // Writing to a string cannot fail.
            _ => _ = write!(spelling, "%{}", digits.to_ascii_uppercase()),
        }
        rest = after;
    }
    spelling.push_str(rest);
    spelling
}

/// Whether `text` holds only what a path may hold. RFC 3986 §3.3.
fn is_path_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
    let escaped = |(index, byte): (usize, &u8)| {
        *byte != b'%'
            || bytes
                .get(index + 1..index + 3)
                .is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit))
    };
    bytes.iter().copied().all(plain) && bytes.iter().enumerate().all(escaped)
}

fn is_parameter_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Checks that `text` is not longer than what the other checks are made for.
pub(super) fn short_enough(text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("{} is longer than {TEXT_BYTES_MAX} bytes", quote(text));
        return Err((message, "write less".into()));
    }
    Ok(())
}

/// Checks that every `{name}` in `text` is one of `known`; `what` says what they are.
pub(super) fn placeholders(text: &str, known: &[&str], what: &str) -> Result<(), Refusal> {
    short_enough(text)?;
    let mut rest = text;
    while let Some(brace) = rest.find(['{', '}']) {
        let inner = rest[brace..].strip_prefix('{').and_then(|after| after.split_once('}'));
        let Some((name, after)) = inner else {
            let message = format!("{} has a brace without its partner", quote(text));
            return Err((message, "write `{name}`".into()));
        };
        if !known.contains(&name) {
            let message = format!("`{{{}}}` is not {what}", crate::config::problem::shorten(name));
            let plain = name.trim_start_matches('*');
            let cure = match suggest::closest(plain, known.iter().copied()) {
                Some(close) => format!("did you mean `{{{close}}}`?"),
                None if known.is_empty() => "there is none here; remove it".into(),
                None => {
                    let known: Vec<_> = known.iter().map(|name| format!("`{{{name}}}`")).collect();
                    format!("write one of {}", known.join(", "))
                }
            };
            return Err((message, cure));
        }
        rest = after;
    }
    Ok(())
}

/// A host that a route answers for.
pub(super) fn host(text: &str) -> Result<HostPattern, Refusal> {
    let message = || format!("{} is not a host", quote(text));
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    if name == "*" {
        let cure = "leave `hosts` out: the route then answers for every host";
        return Err((message(), cure.into()));
    }
    if let Some((_, rest)) = name.split_once("://") {
        let bare = rest.split(['/', ':']).next().unwrap_or_default();
        return Err((message(), format!("write {}", json(bare))));
    }
    if let Some(parent) = name.strip_prefix("*.") {
        if !is_host_name(parent) {
            return Err((message(), "write \"*.example.com\"".into()));
        }
        return Ok(HostPattern::Suffix(format!(".{parent}")));
    }
    if name.contains('*') {
        let cure = "`*` stands only in front, for every name below: \"*.example.com\"";
        return Err((message(), cure.into()));
    }
    let inner = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    if inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
        || name.parse::<std::net::Ipv4Addr>().is_ok()
        || is_host_name(name)
    {
        return Ok(HostPattern::Exact(name.to_owned()));
    }
    if name.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err((message(), format!("write \"[{name}]\"")));
    }
    if let Some((bare, port)) = name.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && is_host_name(bare)
    {
        return Err((message(), format!("leave the port out: {}", json(bare))));
    }
    if !name.is_ascii() {
        return Err((message(), "write the name in its ASCII form (`xn--…`)".into()));
    }
    Err((message(), "write \"example.com\" or \"*.example.com\"".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_apart() {
        for (text, parameters, shape, literal) in [
            ("/", vec![], "/", "/"),
            ("/api/", vec![], "/api/", "/api/"),
            ("/users/{id}/posts", vec!["id"], "/users/{}/posts", "/users/"),
            ("/{*rest}", vec!["rest"], "/{*}", "/"),
            ("/{a}/{b}/{*c}", vec!["a", "b", "c"], "/{}/{}/{*}", "/"),
            ("/a%20b", vec![], "/a%20b", "/a%20b"),
            ("/%61%2f/{a-b}", vec!["a-b"], "/a%2F/{}", "/%61%2f/"),
        ] {
            let shape = shape.to_owned();
            assert_eq!(path(text), Ok(PathPattern { parameters, shape, literal }), "{text}");
        }
    }

    #[test]
    fn a_wrong_path_names_its_cure() {
        for (text, cure) in [
            ("api", "write \"/api\""),
            ("/users/:id", "write `{id}`"),
            ("/users/*", "write `{name}` for one segment or `{*rest}` for all that remains"),
            ("/{*rest}/x", "end the path with it, or use a `{name}` parameter"),
            ("/{a}/{a}", "give each its own name"),
            ("/file-{id}", "a parameter is a whole segment: `/{name}/`"),
            ("/{a.b}", "name it with letters, digits, `_` and `-`: `{name}` or `{*rest}`"),
            ("/{}", "name it with letters, digits, `_` and `-`: `{name}` or `{*rest}`"),
            ("/a//b", "write one `/` between segments"),
            ("/a/../b", "remove `.` and `..`: no request's path holds them"),
            ("/a/%2E%2e", "remove `.` and `..`: no request's path holds them"),
            ("/a/..%2fb", "remove `.` and `..`: no request's path holds them"),
            ("/a/..;b", "remove `.` and `..`: no request's path holds them"),
            ("/a%00", "remove `%00`: a request with it is refused"),
            ("/a?b=c", "remove the query: only the path is compared"),
            ("/a b", "write unusual characters percent-encoded, a space as `%20`"),
            ("/ä", "write unusual characters percent-encoded, a space as `%20`"),
            ("/%zz", "write unusual characters percent-encoded, a space as `%20`"),
            ("/%2", "write unusual characters percent-encoded, a space as `%20`"),
        ] {
            assert_eq!(path(text).unwrap_err().1, cure, "{text}");
        }
    }

    #[test]
    fn hosts_are_folded_and_wrong_ones_cured() {
        let exact = |name: &str| Ok(HostPattern::Exact(name.into()));
        for (text, expected) in [
            ("Example.COM", exact("example.com")),
            ("example.com.", exact("example.com")),
            ("127.0.0.1", exact("127.0.0.1")),
            ("[::1]", exact("[::1]")),
            ("*.example.com", Ok(HostPattern::Suffix(".example.com".into()))),
            ("*", Err("leave `hosts` out: the route then answers for every host")),
            ("example.com:80", Err("leave the port out: \"example.com\"")),
            ("http://example.com/", Err("write \"example.com\"")),
            ("a.*.b", Err("`*` stands only in front, for every name below: \"*.example.com\"")),
            ("::1", Err("write \"[::1]\"")),
            ("bücher.example", Err("write the name in its ASCII form (`xn--…`)")),
            ("a b", Err("write \"example.com\" or \"*.example.com\"")),
            ("", Err("write \"example.com\" or \"*.example.com\"")),
        ] {
            let found = host(text).map_err(|(_, cure)| cure);
            assert_eq!(found, expected.map_err(String::from), "{text}");
        }
    }

    #[test]
    fn placeholders_must_be_known() {
        let known = ["path", "host", "id"];
        for (text, cure) in [
            ("/new/{id}", None),
            ("https://{host}{path}", None),
            ("/{*id}", Some("did you mean `{id}`?")),
            ("/{hots}", Some("did you mean `{host}`?")),
            ("/{other}", Some("write one of `{path}`, `{host}`, `{id}`")),
            ("/{id", Some("write `{name}`")),
            ("/id}", Some("write `{name}`")),
        ] {
            let found = placeholders(text, &known, "known").err().map(|(_, cure)| cure);
            assert_eq!(found.as_deref(), cure, "{text}");
        }
    }
}
