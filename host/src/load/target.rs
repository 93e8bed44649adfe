//! From URL, fields and body to whom to ask and the bytes of the request.
//!
//! Not here: looking up the name, which waits (`main`).

use std::sync::Arc;

use bytes::Bytes;

use crate::http::fields::{is_token, is_value};
use crate::http::parse::{self, is_host};
use crate::http::{HeadLimits, RequestHead, h2};

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address, without brackets.
    pub host: String,
    /// When it names none, 80, and with TLS 443.
    pub port: u16,
    /// Whether it is asked over TLS.
    pub tls: bool,
    /// As it stands in the URL.
    authority: String,
    /// Path and query.
    path: String,
}

/// A request, the same every time.
#[derive(Clone, Debug)]
pub struct Request {
    /// Head and body.
    pub bytes: Arc<[u8]>,
    /// Whether a body follows the head of its answer, as for all but HEAD.
    pub answer_has_body: bool,
    /// Whether it may be sent again when a kept connection was closed under it (RFC 9110 §9.2.2).
    pub repeatable: bool,
    scheme: &'static str,
    /// The same for HTTP/2, if it is to be sent so.
    pub(super) http2: Option<Http2>,
}

/// A request as crate `h2` sends it.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    pub(super) head: http::Request<()>,
    pub(super) body: Bytes,
    /// Requests at a time on one connection.
    pub(super) streams: usize,
}

impl Target {
    /// Reads `http://host[:port][/path][?query]`, or `https://…`; without a scheme it is `http`. Else says what
    /// is wrong and how to write it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (tls, rest) = match url.split_once("://") {
            None => (false, url),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some(_) => return Err(format!("`{url}`: write http://host:port/path, or https://…")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "`{url}`: write spaces and letters beyond ASCII as %20 and the like"
            ));
        }
        if !is_host(authority.as_bytes()) {
            return Err(format!("`{url}` names no host; write http://host:port/path"));
        }
        let colon = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
        let (host, port) = match colon {
            None => (authority, ""),
            Some(colon) => (&authority[..colon], &authority[colon + 1..]),
        };
        let port = match port {
            "" if tls => "443",
            "" => "80",
            port => port,
        };
        let port = port.parse().ok().filter(|port| *port > 0);
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.ok_or_else(|| format!("`{url}`: a port is a number from 1 to 65535"))?,
            tls,
            authority: authority.to_owned(),
            path,
        })
    }
}

impl Request {
    /// A request as a plain client would send it. `fields` are `Name: value`; they win over the few
    /// that are set here. Those that frame the message are refused.
    pub fn new(
        target: &Target,
        method: &str,
        fields: &[String],
        body: Option<&[u8]>,
        per_request: bool,
    ) -> Result<Self, String> {
        if !is_token(method.as_bytes()) || method == "CONNECT" {
            return Err(format!("`{method}` is no method to load a server with"));
        }
        let fields = fields.iter().map(|text| field(text)).collect::<Result<Vec<_>, _>>()?;
        let mut lines = vec![format!("{method} {} HTTP/1.1", target.path)];
        let agent = concat!("zproxy-bench/", env!("CARGO_PKG_VERSION"));
        let own = [("Host", &*target.authority), ("User-Agent", agent), ("Accept", "*/*")];
        let is_given = |name: &str| fields.iter().any(|given| given.0.eq_ignore_ascii_case(name));
        lines.extend(
            own.iter()
                .filter(|own| !is_given(own.0))
                .map(|(name, value)| format!("{name}: {value}")),
        );
        lines.extend(fields.iter().map(|(name, value)| format!("{name}: {value}")));
        lines.extend(per_request.then(|| "Connection: close".to_owned()));
        lines.extend(body.map(|body| format!("Content-Length: {}", body.len())));
        let mut bytes = lines.join("\r\n").into_bytes();
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes.extend_from_slice(body.unwrap_or_default());
        Ok(Self {
            bytes: bytes.into(),
            answer_has_body: method != "HEAD",
            repeatable: crate::http::Method::of(method.as_bytes()).is_idempotent(),
            scheme: if target.tls { "https" } else { "http" },
            http2: None,
        })
    }

    /// The same over HTTP/2, so many of them at a time on each connection.
    pub fn over_http2(mut self, streams: usize) -> Result<Self, String> {
        let limits = HeadLimits {
            bytes_max: usize::MAX,
            fields_max: usize::MAX,
            target_bytes_max: usize::MAX,
        };
        let end = memchr::memmem::find(&self.bytes, b"\r\n\r\n").map_or(0, |found| found + 4);
        let mut head = RequestHead::default();
        let parsed = parse::request(&self.bytes[..end], &mut head, &limits);
        let written = parsed.and_then(|_| h2::write_request(&head, self.scheme, ""));
        let head = written.map_err(|error| format!("over HTTP/2: {error}"))?;
        let body = Bytes::copy_from_slice(&self.bytes[end..]);
        self.http2 = Some(Http2 { head, body, streams: streams.max(1) });
        Ok(self)
    }

    /// These bytes, whatever they are.
    pub fn raw(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.into(),
            answer_has_body: true,
            repeatable: false,
            scheme: "http",
            http2: None,
        }
    }
}

/// Name and value of a field.
fn field(text: &str) -> Result<(&str, &str), String> {
    let parts = text.split_once(':').map(|(name, value)| (name, value.trim()));
    let fits =
        |(name, value): &(&str, &str)| is_token(name.as_bytes()) && is_value(value.as_bytes());
    let Some((name, value)) = parts.filter(fits) else {
        return Err(format!("`{text}` is no field; write `Name: value`"));
    };
    let framing = ["Content-Length", "Transfer-Encoding", "Connection", "Expect"];
    match framing.iter().find(|framing| framing.eq_ignore_ascii_case(name)) {
        Some(name) => Err(format!("{name} is set by the load generator itself")),
        None => Ok((name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_whom_to_ask_for_what() {
        for (url, host, port, authority, path) in [
            ("http://a.example:81/b?c=d#e", "a.example", 81, "a.example:81", "/b?c=d"),
            ("HTTP://a.example", "a.example", 80, "a.example", "/"),
            ("127.0.0.1:8080", "127.0.0.1", 8_080, "127.0.0.1:8080", "/"),
            ("http://[::1]:81?x", "::1", 81, "[::1]:81", "/?x"),
            ("http://[::1]/", "::1", 80, "[::1]", "/"),
            ("https://a.example/b", "a.example", 443, "a.example", "/b"),
            ("HTTPS://a.example:81", "a.example", 81, "a.example:81", "/"),
        ] {
            let target = Target::parse(url).unwrap();

            assert_eq!((&*target.host, target.port), (host, port), "{url}");
            assert_eq!((&*target.authority, &*target.path), (authority, path), "{url}");
            assert_eq!(target.tls, url.to_lowercase().starts_with("https:"), "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_asked_is_refused() {
        for url in [
            "",
            "http://",
            "https://a.example:0/",
            "ftp://a.example/",
            "http://a:0/",
            "http://a:99999/",
            "http://a.example/ b",
            "http://user@a.example/",
            "http://a.example/\r\nX: y",
            "http://:80/",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_request_is_what_a_plain_client_sends() {
        let target = Target::parse("http://a.example:81/b").unwrap();
        let fields = ["x-one: 1".to_owned(), "host:other".to_owned()];

        let get = Request::new(&target, "GET", &[], None, false).unwrap();
        let post = Request::new(&target, "POST", &fields, Some(b"hello"), true).unwrap();

        let get_text = String::from_utf8(get.bytes.to_vec()).unwrap();
        assert!(get_text.starts_with("GET /b HTTP/1.1\r\nHost: a.example:81\r\n"), "{get_text}");
        assert!(get.repeatable && get.answer_has_body);
        let text = String::from_utf8(post.bytes.to_vec()).unwrap();
        assert!(text.contains("\r\nx-one: 1\r\nhost: other\r\n"), "{text}");
        assert!(!text.contains("a.example"), "{text}");
        assert!(
            text.ends_with("\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"),
            "{text}"
        );
        assert!(!post.repeatable);
        assert!(!Request::new(&target, "HEAD", &[], None, false).unwrap().answer_has_body);
    }

    #[test]
    fn fields_that_would_break_the_message_are_refused() {
        let target = Target::parse("http://a.example/").unwrap();
        for text in ["no colon", "a b: c", "x: y\r\nz: 1", "Content-Length: 3", "connection: close"]
        {
            let request = Request::new(&target, "GET", &[text.to_owned()], None, false);
            assert!(request.is_err(), "{text}");
        }
        assert!(Request::new(&target, "G T", &[], None, false).is_err());
    }
}
