//! Under which keys responses are stored.
//!
//! A key begins with the URL and a line feed, by which operators remove what is stored. Then come the other
//! fields that the operator has named, each with its value, which cannot hold a line feed. Path and query
//! are taken byte by byte: what the upstream may tell apart is apart here, too. So is a host that a trusted
//! proxy names besides `Host`.

use std::borrow::Cow;

use zproxy_sdk::Request;

use crate::note::Vary;

/// The host that a client has asked a trusted proxy for; from others the gateway has put `Host` there.
pub(crate) const FORWARDED_HOST: &str = "x-forwarded-host";

/// Keys that are longer are not used: such a request goes upstream.
const BYTES_MAX: usize = 4096;

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Scheme,
    Host,
    Path,
    Query,
    QueryParameter(String),
    Header(String),
    Cookie(String),
}

impl Part {
    /// Reads what the operator has written.
    pub(crate) fn read(text: &str) -> Option<Self> {
        Some(match (text, text.split_once(':')) {
            ("scheme", _) => Self::Scheme,
            ("host", _) => Self::Host,
            ("path", _) => Self::Path,
            ("query", _) => Self::Query,
            (_, Some(("query", name))) if !name.is_empty() => Self::QueryParameter(name.to_owned()),
            (_, Some(("header", name))) if is_token(name) => {
                Self::Header(name.to_ascii_lowercase())
            }
            (_, Some(("cookie", name))) if is_token(name) => Self::Cookie(name.to_owned()),
            _ => return None,
        })
    }
}

/// Whether a text can name a field (RFC 9110 §5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Url<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) authority: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
}

/// The key of a URL, for this request. None: too long.
pub(crate) fn primary(parts: &[Part], url: Url<'_>, request: &Request) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(url.target.len() + url.authority.len() + 16);
    let has = |part: &Part| parts.contains(part);
    if has(&Part::Scheme) {
        key.extend_from_slice(url.scheme.as_bytes());
        key.extend_from_slice(b"://");
    }
    if has(&Part::Host) {
        key.extend(host(url).bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    let (path, query) = match url.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (url.target, None),
    };
    if has(&Part::Path) {
        key.extend_from_slice(path.as_bytes());
    }
    if let Some(query) = query.filter(|_| has(&Part::Query)) {
        key.push(b'?');
        key.extend_from_slice(query.as_bytes());
    }
    key.push(b'\n');
    if has(&Part::Host)
        && let Some(outer) = request.header_bytes(FORWARDED_HOST)
        && !outer.eq_ignore_ascii_case(url.authority.as_bytes())
    {
        field(&mut key, b"", FORWARDED_HOST, Some(&outer));
    }
    for part in parts {
        match part {
            Part::QueryParameter(name) => {
                key.extend_from_slice(b"q:");
                key.extend_from_slice(name.as_bytes());
                parameters(&mut key, query.unwrap_or_default(), name);
                key.push(b'\n');
            }
            Part::Header(name) => field(&mut key, b"", name, request.header_bytes(name).as_deref()),
            Part::Cookie(name) => {
                let value = request.cookie(name);
                field(&mut key, b"c:", name, value.as_deref().map(str::as_bytes));
            }
            Part::Scheme | Part::Host | Part::Path | Part::Query => {}
        }
    }
    (key.len() <= BYTES_MAX).then_some(key)
}

/// Host and port, without the port that goes without saying.
fn host(url: Url<'_>) -> &str {
    let usual = if url.scheme == "https" { ":443" } else { ":80" };
    url.authority.strip_suffix(usual).unwrap_or(url.authority)
}

/// Appends every parameter of this name, as it stands: which of several an upstream heeds is not known here,
/// and a name in disguise (`%70` for `p`) is that name to it.
fn parameters(key: &mut Vec<u8>, query: &str, name: &str) {
    for pair in query.split('&') {
        let known = pair.split_once('=').map_or(pair, |(known, _)| known);
        if known == name || (known.contains('%') && decoded(known) == name.as_bytes()) {
            key.push(b'&');
            key.extend_from_slice(pair.as_bytes());
        }
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        rest = after;
        let byte = match (first, after) {
            (b'%', [high, low, behind @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = behind;
                    high << 4 | low
                }
                _ => *first,
            },
            _ => *first,
        };
        out.push(byte);
    }
    out
}

/// Appends a field; one that is not there is another than an empty one.
fn field(key: &mut Vec<u8>, kind: &[u8], name: &str, value: Option<&[u8]>) {
    key.extend_from_slice(kind);
    key.extend_from_slice(name.as_bytes());
    if let Some(value) = value {
        key.push(b'=');
        key.extend_from_slice(value);
    }
    key.push(b'\n');
}

/// The key of one of several responses (RFC 9111 §4.1). None: too long.
pub(crate) fn variant(primary: &[u8], vary: &Vary, request: &Request) -> Option<Vec<u8>> {
    variant_of(primary, vary, |name| request.header_bytes(name).map(Cow::into_owned))
}

fn variant_of(
    primary: &[u8],
    vary: &Vary,
    value: impl Fn(&str) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut key = primary.to_vec();
    for byte in vary.id {
        key.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    key.push(b'\n');
    for name in &vary.names {
        let value = value(name).map(|value| normal(name, &value));
        field(&mut key, b"", name, value.as_deref());
    }
    (key.len() <= BYTES_MAX).then_some(key)
}

/// A value in a form that is the same for values that mean the same. White space around commas means
/// nothing in any list, and case and spaces nothing in lists of codings and languages; the order of codings,
/// too. What clients write only in one way is left alone.
fn normal(name: &str, value: &[u8]) -> Vec<u8> {
    if name == "cookie" || name == "authorization" || name == "user-agent" {
        return value.trim_ascii().to_vec();
    }
    let members = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let mut members: Vec<Vec<u8>> =
        members.filter(|member| !member.is_empty()).map(<[u8]>::to_vec).collect();
    if matches!(name, "accept-encoding" | "accept-language" | "accept-charset") {
        for member in &mut members {
            member.retain(|byte| !byte.is_ascii_whitespace());
            member.make_ascii_lowercase();
        }
    }
    if name == "accept-encoding" {
        members.sort();
    }
    members.join(&b", "[..])
}

/// The URL that a field like `Location` leads to, if it is of the same origin (RFC 9111 §4.4).
pub(crate) fn same_origin(url: Url<'_>, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default().trim();
    let lower = reference.to_ascii_lowercase();
    let rest = match lower.find("://") {
        Some(end) if !lower[..end].contains(['/', '?']) => {
            if lower[..end] != *url.scheme {
                return None;
            }
            Some(&reference[end + 3..])
        }
        _ => reference.strip_prefix("//"),
    };
    if let Some(rest) = rest {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let other = Url { authority: &rest[..end], ..url };
        if !host(other).eq_ignore_ascii_case(host(url)) {
            return None;
        }
        let target = &rest[end..];
        return Some(if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("/{target}")
        });
    }
    let path = url.target.split('?').next().unwrap_or_default();
    match reference.chars().next() {
        None => Some(url.target.to_owned()),
        Some('/') => Some(dotless(reference)),
        Some('?') => Some(format!("{path}{reference}")),
        Some(_) => {
            let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
            Some(dotless(&format!("{folder}{reference}")))
        }
    }
}

/// Resolves dot segments (RFC 3986 §5.2.4) of a path, with its query.
fn dotless(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: Url<'static> = Url { scheme: "http", authority: "h:80", target: "/a/b?c=d" };

    #[test]
    fn parts_are_read() {
        assert_eq!(Part::read("host"), Some(Part::Host));
        assert_eq!(Part::read("header:X-A"), Some(Part::Header("x-a".to_owned())));
        assert_eq!(Part::read("query:p"), Some(Part::QueryParameter("p".to_owned())));
        for bad in ["", "hosts", "header:", "header:a b", "cookie", "query:"] {
            assert_eq!(Part::read(bad), None, "{bad}");
        }
    }

    /// An upstream may heed the first, the last or all of them.
    #[test]
    fn all_parameters_of_a_name_are_in_the_key() {
        let of = |query: &str| {
            let mut key = Vec::new();
            parameters(&mut key, query, "p");
            String::from_utf8(key).unwrap()
        };
        assert_eq!(of("a=1&p=2&b=3&p=4"), "&p=2&p=4");
        assert_eq!([of(""), of("p"), of("p=")], ["", "&p", "&p="]);
        assert_eq!(of("%70=1&%7=2&pp=3&%zz=4&p%"), "&%70=1");
        assert_eq!(of("%+0=1&%é=2"), "");
    }

    #[test]
    fn values_that_mean_the_same_are_the_same() {
        let vary = |names: &[&str]| Vary {
            id: [1; 8],
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let of = |name: &str, value: Option<&str>| {
            variant_of(b"u\n", &vary(&[name]), |_| value.map(|value| value.as_bytes().to_vec()))
        };
        let same = |name, a, b| of(name, Some(a)) == of(name, Some(b));
        assert!(same("foo", "1,2", " 1, 2 "));
        assert!(same("accept-language", "en, de", "eN ,   De"));
        assert!(same("accept-encoding", "gzip, br", "br,gzip"));
        assert!(!same("accept-language", "en, de", "de, en"));
        assert!(!same("foo", "a", "A"));
        assert!(!same("cookie", "a=1,2", "a=1, 2"));
        assert_ne!(of("foo", None), of("foo", Some("")));
        assert_eq!(of("foo", Some(&"x".repeat(5000))), None);
        let two = |a: &str, b: &str| {
            let vary = vary(&["a", "b"]);
            let value = |name: &str| Some(if name == "a" { a } else { b }.as_bytes().to_vec());
            variant_of(b"u\n", &vary, value)
        };
        assert_ne!(two("1\tb=2", "3"), two("1", "2\tb=3"));
    }

    /// RFC 9111 §4.4: what is elsewhere is not ours to invalidate.
    #[test]
    fn references_are_resolved_within_their_origin() {
        let to = |reference| same_origin(URL, reference);
        assert_eq!(to("/x?y#z").as_deref(), Some("/x?y"));
        assert_eq!(to("x").as_deref(), Some("/a/x"));
        assert_eq!(to("../x/./y/").as_deref(), Some("/x/y/"));
        assert_eq!(to("../../../x").as_deref(), Some("/x"));
        assert_eq!(to("?q").as_deref(), Some("/a/b?q"));
        assert_eq!(to("").as_deref(), Some("/a/b?c=d"));
        assert_eq!(to("http://H/x").as_deref(), Some("/x"));
        assert_eq!(to("//h:80?x").as_deref(), Some("/?x"));
        for elsewhere in ["https://h/x", "http://other/x", "//other/x", "http://h:81/x"] {
            assert_eq!(to(elsewhere), None, "{elsewhere}");
        }
    }
}
