//! Requests that plugins send: what may be asked, and by whom.
//!
//! ```text
//!   guest, on a fiber ── Ask ──► the task of its request ──► client ──► some other server
//!          ▲                                │
//!          └──────────── answer ────────────┘
//! ```
//!
//! The fiber only waits; everything else is done by the task that waits for the fiber, on its worker. So an
//! instance can be given up at any time without a request of its own left behind, and no socket has to
//! follow wasmtime's rules for what may be kept over a wait.
//!
//! A client that leaves, or a request whose time is up, ends the wait: the guest is told, gets no further
//! callouts, and ends in good order within the time of a hook.
//!
//! Not here: addresses (`address`), connections (`client`), the WIT interface (`host::callout`).

mod address;
mod client;

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::config::{Allow, Destination, HostPattern};
use crate::route::path;
pub use client::{Answer, Callouts, Outside, Scope};

/// Longest body of an answer.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Time for a callout that says nothing about it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time for one.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// What can come of a callout, as metrics name it.
pub const OUTCOMES: [&str; 7] =
    ["answered", "denied", "invalid", "unreachable", "timeout", "too-large", "busy"];

/// The place of an answer in [`OUTCOMES`].
pub(super) fn outcome_of(answer: &Answer) -> usize {
    match answer {
        Ok(_) => 0,
        Err(CalloutError::Denied(_)) => 1,
        Err(CalloutError::Invalid(_)) => 2,
        Err(CalloutError::Unreachable(_)) => 3,
        Err(CalloutError::Timeout) => 4,
        Err(CalloutError::TooLarge) => 5,
        Err(CalloutError::Busy) => 6,
    }
}

/// What a plugin asks.
#[derive(Clone, Debug)]
pub struct CalloutRequest {
    /// A token.
    pub method: String,
    /// Where to.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// For all of it; zero: 1 second.
    pub timeout: Duration,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalloutResponse {
    /// The status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why it gets nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CalloutError {
    /// Not allowed.
    Denied(String),
    /// No request.
    Invalid(String),
    /// Nobody there.
    Unreachable(String),
    /// Time.
    Timeout,
    /// Too long an answer.
    TooLarge,
    /// Too many.
    Busy,
}

/// A question on its way from a fiber to its task.
pub(super) struct Ask {
    pub(super) request: CalloutRequest,
    pub(super) answer: oneshot::Sender<Result<CalloutResponse, CalloutError>>,
}

/// Where a fiber leaves its questions.
pub(super) type Asks = mpsc::UnboundedSender<Ask>;

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// To a server of this upstream.
    Upstream { index: usize, path: String },
    /// To a host. `private`: also if its address is not public. `secure`: by TLS.
    Host { host: String, port: u16, private: bool, secure: bool, authority: String, path: String },
}

/// Reads a URL and looks whether a plugin may go there.
fn check(url: &str, allow: &Allow, upstreams: &[&str]) -> Result<Target, CalloutError> {
    let invalid = |why: &str| CalloutError::Invalid(format!("the URL {why}"));
    let denied = || CalloutError::Denied("no entry of `allow.http` covers the URL".to_owned());
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("has no scheme"))?;
    let (authority, target) = match rest.find(['/', '?', '#']) {
        Some(end) if rest[end..].starts_with('/') => rest.split_at(end),
        Some(_) => return Err(invalid("has no path")),
        None => (rest, "/"),
    };
    let target = path::normalize(target).map_err(|error| invalid(&error.to_string()))?;
    let path = target.split_once('?').map_or(&*target, |(path, _)| path);
    if scheme == "upstream" {
        let index = upstreams.iter().position(|name| *name == authority).ok_or_else(denied)?;
        let granted = allow.http.contains(&Destination::Upstream(index));
        return match granted {
            true => Ok(Target::Upstream { index, path: target.into_owned() }),
            false => Err(denied()),
        };
    }
    let (tls, usual) = match scheme {
        "http" => (false, 80),
        "https" => (true, 443),
        _ => return Err(invalid("has a scheme other than http, https and upstream")),
    };
    let (host, port) = host_and_port(authority).ok_or_else(|| invalid("has no host"))?;
    let port = port.unwrap_or(usual);
    let covering = allow.http.iter().filter_map(|one| match one {
        Destination::Url(pattern) => pattern.covers(tls, &host, port, path).then_some(pattern),
        Destination::Upstream(_) => None,
    });
    let mut private = None;
    for pattern in covering {
        // Who has named the host has named its address.
        let named = matches!(pattern.host, HostPattern::Exact(_));
        private = Some(private.unwrap_or(false) || named);
    }
    let private = private.ok_or_else(denied)?;
    let authority = authority.to_ascii_lowercase();
    let path = target.into_owned();
    Ok(Target::Host { host, port, private, secure: tls, authority, path })
}

/// `host[:port]`, the host in lower case and without brackets.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let address: std::net::Ipv6Addr = address.parse().ok()?;
            (IpAddr::V6(address).to_string(), port)
        }
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if host.is_empty() || !host.bytes().all(plain) {
                return None;
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    if port.is_empty() {
        return Some((host, None));
    }
    let port: u16 = port.strip_prefix(':')?.parse().ok()?;
    (port != 0).then_some((host, Some(port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UrlPattern;

    fn allow(patterns: &[(&str, &str, u16)]) -> Allow {
        let pattern = |(host, path, port): &(&str, &str, u16)| {
            let host = match host.strip_prefix('*') {
                Some(suffix) => HostPattern::Suffix(suffix.into()),
                None => HostPattern::Exact((*host).into()),
            };
            let below = path.ends_with('*');
            let path = path.trim_end_matches('*').into();
            Destination::Url(UrlPattern { tls: false, host, port: *port, path, below })
        };
        let mut http: Vec<Destination> = patterns.iter().map(pattern).collect();
        http.push(Destination::Upstream(1));
        Allow { http, ..Allow::default() }
    }

    fn checked(url: &str) -> Result<Target, CalloutError> {
        let allow = allow(&[
            ("idp.test", "/auth/*", 80),
            ("*.open.test", "/*", 8080),
            ("10.0.0.1", "/", 80),
        ]);
        check(url, &allow, &["first", "second"])
    }

    #[test]
    fn what_is_allowed_goes_where_it_says() {
        let host = |host: &str, port, private, authority: &str, path: &str| Target::Host {
            host: host.into(),
            port,
            private,
            secure: false,
            authority: authority.into(),
            path: path.into(),
        };
        for (url, expected) in [
            ("http://idp.test/auth/a?b=c", host("idp.test", 80, true, "idp.test", "/auth/a?b=c")),
            ("http://IDP.test:80/auth/", host("idp.test", 80, true, "idp.test:80", "/auth/")),
            ("http://a.open.test:8080/", host("a.open.test", 8080, false, "a.open.test:8080", "/")),
            ("http://10.0.0.1", host("10.0.0.1", 80, true, "10.0.0.1", "/")),
        ] {
            assert_eq!(checked(url), Ok(expected), "{url}");
        }
        let upstream = Target::Upstream { index: 1, path: "/x".into() };
        assert_eq!(checked("upstream://second/x"), Ok(upstream));
    }

    #[test]
    fn all_else_is_denied() {
        for url in [
            "http://idp.test/",
            "http://idp.test/author",
            "http://idp.test/auth/../secret",
            "http://idp.test/auth/%2e%2e/secret",
            "http://idp.test:81/auth/a",
            "http://idp.test./auth/a",
            "http://evil.test/auth/a",
            "http://open.test:8080/",
            "http://evilopen.test:8080/",
            "https://idp.test/auth/a",
            "http://127.0.0.1/",
            "http://[::1]/",
            "upstream://first/",
            "upstream://third/",
        ] {
            assert!(matches!(checked(url), Err(CalloutError::Denied(_))), "{url}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_no_url() {
        for url in [
            "",
            "idp.test/auth/",
            "//idp.test/auth/",
            "file:///etc/passwd",
            "http://",
            "http:///auth/",
            "http://user@idp.test/auth/",
            "http://idp.test@evil.test/auth/",
            "http://idp.test:/auth/",
            "http://idp.test:0/auth/",
            "http://idp.test:80:80/auth/",
            "http://idp.test:99999/auth/",
            "http://[::1/auth/",
            "http://[v1.x]/auth/",
            "http://idp.test\\@evil.test/auth/",
            "http://idp.test/auth/\r\nX: y",
            "http://idp.test/auth/#x",
            "http://idp.test?x",
            "http://idp%2etest/auth/",
        ] {
            assert!(matches!(checked(url), Err(CalloutError::Invalid(_))), "{url}");
        }
    }
}
