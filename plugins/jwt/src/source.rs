//! Where in a request the token is.

use std::borrow::Cow;

use serde::Deserialize;
use zproxy_sdk::Request;

use crate::refusal::{Kind, Refusal};

/// Where in a request the token is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// `Authorization: Bearer TOKEN` (RFC 6750 §2.1).
    #[default]
    Header,
    /// A cookie of this name.
    Cookie(String),
    /// A parameter of this name in the query (RFC 6750 §2.3, which advises against it).
    Query(String),
}

const MISSING: Refusal = Refusal { kind: Kind::Missing, why: "there is no token" };

/// The upstream may read the other one, which nobody has checked.
const TWICE: Refusal = Refusal { kind: Kind::Ambiguous, why: "there are two tokens" };

impl Source {
    /// Whether a request can hold a token under this name; if not, the key that says so and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let (key, name, forbidden) = match self {
            Self::Header => return Ok(()),
            Self::Cookie(name) => ("cookie", name, "=; "),
            Self::Query(name) => ("query", name, "=&# "),
        };
        if name.is_empty()
            || name.contains(|c: char| !c.is_ascii_graphic() || forbidden.contains(c))
        {
            return Err((key, format!("`{name}` cannot be a name there")));
        }
        Ok(())
    }

    /// The field that every call reads.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Header => "authorization",
            Self::Cookie(_) => "cookie",
            Self::Query(_) => ":path",
        }
    }

    /// The token, as sent.
    pub(crate) fn find<'a>(&self, request: &'a Request) -> Result<Cow<'a, str>, Refusal> {
        match self {
            Self::Header => bearer(request.header("authorization").ok_or(MISSING)?),
            Self::Cookie(name) => {
                let cookies = request.header("cookie").ok_or(MISSING)?;
                only(cookie_pairs(&cookies), |found| is_cookie(found, name))
            }
            Self::Query(name) => {
                let query = request.query().ok_or(MISSING)?;
                only(query.split('&'), |found| is_parameter(found, name))
            }
        }
    }

    /// Takes the token out of the request.
    pub(crate) fn strip(&self, request: &mut Request) {
        match self {
            Self::Header => request.remove_header("authorization"),
            Self::Cookie(name) => {
                let Some(cookies) = request.header("cookie") else { return };
                let left = without(cookie_pairs(&cookies), |found| is_cookie(found, name), "; ");
                if left.is_empty() {
                    request.remove_header("cookie");
                } else {
                    request.set_header("cookie", left);
                }
            }
            Self::Query(name) => {
                let path = request.path();
                let Some(query) = request.query() else { return };
                let left = without(query.split('&'), |found| is_parameter(found, name), "&");
                let separator = if left.is_empty() { "" } else { "?" };
                let path = format!("{path}{separator}{left}");
                request.set_path(&path);
            }
        }
    }
}

/// The token after the scheme, whose case does not matter (RFC 9110 §11.1). Two fields come joined
/// by a comma, which no token has.
fn bearer(value: Cow<'_, str>) -> Result<Cow<'_, str>, Refusal> {
    let malformed = |why| Kind::Malformed.because(why);
    let no_scheme = malformed("the field has no scheme and token");
    let (scheme, rest) = value.split_once(' ').ok_or(no_scheme)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        // Another kind of credentials is no token (RFC 6750 §3.1).
        return Err(Refusal { why: "the scheme is not Bearer", ..MISSING });
    }
    if rest.contains(',') {
        return Err(TWICE);
    }
    let start = scheme.len();
    Ok(match value {
        Cow::Borrowed(value) => Cow::Borrowed(value[start..].trim_matches(' ')),
        Cow::Owned(value) => Cow::Owned(value[start..].trim_matches(' ').to_owned()),
    })
}

fn cookie_pairs(cookies: &str) -> impl Iterator<Item = &str> {
    cookies.split(';').map(str::trim)
}

/// Whether this name is the cookie's. White space around it does not count (RFC 6265 §5.2, step 4):
/// so upstreams read it, too.
fn is_cookie(found: &str, name: &str) -> bool {
    found.trim() == name
}

/// Whether this name, once its percent-encoding is undone, is the parameter's: so an upstream reads
/// it, too.
fn is_parameter(found: &str, name: &str) -> bool {
    let mut rest = found.as_bytes();
    let decoded = std::iter::from_fn(|| {
        let (&byte, behind) = rest.split_first()?;
        let digits = behind.first_chunk::<2>().filter(|_| byte == b'%');
        let code = digits.and_then(|&[high, low]| Some(hex(high)? << 4 | hex(low)?));
        rest = if code.is_some() { &behind[2..] } else { behind };
        Some(code.unwrap_or(byte))
    });
    decoded.eq(name.bytes())
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The value of the one pair with this name.
fn only<'a>(
    pairs: impl Iterator<Item = &'a str>,
    is_it: impl Fn(&str) -> bool,
) -> Result<Cow<'static, str>, Refusal> {
    let mut values = pairs.filter_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_it(found).then_some(value.trim())
    });
    let value = values.next().ok_or(MISSING)?;
    match values.next() {
        None => Ok(Cow::Owned(value.to_owned())),
        Some(_) => Err(TWICE),
    }
}

/// The pairs whose name is another.
fn without<'a>(
    pairs: impl Iterator<Item = &'a str>,
    is_it: impl Fn(&str) -> bool,
    separator: &str,
) -> String {
    let left: Vec<&str> = pairs
        .filter(|pair| !is_it(pair.split_once('=').map_or(*pair, |(found, _)| found)))
        .collect();
    left.join(separator)
}
