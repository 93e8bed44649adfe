//! Where in a request the token is.

use std::borrow::Cow;

use serde::Deserialize;
use zproxy_sdk::Request;

use crate::Refusal;

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

const MISSING: Refusal = "there is no token";

impl Source {
    /// Whether a request can hold a token under this name.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (key, name, forbidden) = match self {
            Self::Header => return Ok(()),
            Self::Cookie(name) => ("cookie", name, "=; "),
            Self::Query(name) => ("query", name, "=&# "),
        };
        if name.is_empty()
            || name.contains(|c: char| !c.is_ascii_graphic() || forbidden.contains(c))
        {
            return Err(format!("token_from.{key}: `{name}` cannot be a name there"));
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
            Self::Cookie(name) => request.cookie(name).map(Cow::Owned).ok_or(MISSING),
            Self::Query(name) => request.query_parameter(name).map(Cow::Owned).ok_or(MISSING),
        }
    }

    /// Takes the token out of the request.
    pub(crate) fn strip(&self, request: &mut Request) {
        match self {
            Self::Header => request.remove_header("authorization"),
            Self::Cookie(name) => {
                let Some(cookies) = request.header("cookie") else { return };
                let left = without(cookies.split(';').map(str::trim), name, "; ");
                if left.is_empty() {
                    request.remove_header("cookie");
                } else {
                    request.set_header("cookie", left);
                }
            }
            Self::Query(name) => {
                let path = request.path();
                let Some(query) = request.query() else { return };
                let left = without(query.split('&'), name, "&");
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
    let (scheme, _) = value.split_once(' ').ok_or("the field has no scheme and token")?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err("the scheme is not Bearer");
    }
    let start = scheme.len();
    Ok(match value {
        Cow::Borrowed(value) => Cow::Borrowed(value[start..].trim_matches(' ')),
        Cow::Owned(value) => Cow::Owned(value[start..].trim_matches(' ').to_owned()),
    })
}

/// The pairs whose name is another.
fn without<'a>(pairs: impl Iterator<Item = &'a str>, name: &str, separator: &str) -> String {
    let left: Vec<&str> =
        pairs.filter(|pair| pair.split_once('=').is_none_or(|(found, _)| found != name)).collect();
    left.join(separator)
}
