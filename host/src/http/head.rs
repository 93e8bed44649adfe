//! The head of a message: start line and fields. One type for every protocol version.
//!
//! Not here: parsing and writing HTTP/1 (`parse`, `write`), fields and their edits (`fields`).

use std::ops::Range;

use super::fields::{EditError, Fields, Mark, at, range};

/// The version of HTTP that a message came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// RFC 1945.
    Http10,
    /// RFC 9112.
    #[default]
    Http11,
    /// RFC 9113.
    Http2,
}

impl Version {
    /// As access logs and start lines write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A request method; those that the gateway treats in a way of their own, and all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// RFC 9110 §9.3.1.
    #[default]
    Get,
    /// RFC 9110 §9.3.2: the response never has a body.
    Head,
    /// RFC 9110 §9.3.3.
    Post,
    /// RFC 9110 §9.3.4.
    Put,
    /// RFC 9110 §9.3.5.
    Delete,
    /// RFC 9110 §9.3.6: refused, this is no forward proxy.
    Connect,
    /// RFC 9110 §9.3.7.
    Options,
    /// RFC 9110 §9.3.8.
    Trace,
    /// RFC 5789.
    Patch,
    /// Any other token.
    Other,
}

impl Method {
    /// Classifies a method, which is case-sensitive (RFC 9110 §9.1).
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// Whether sending the request twice has the effect of sending it once (RFC 9110 §9.2.2).
    pub fn is_idempotent(self) -> bool {
        matches!(
            self,
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace
        )
    }
}

/// The head of a request.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// The header fields; `Host` is among them when the request has an authority.
    pub fields: Fields,
    /// What kind of request it is.
    pub method: Method,
    /// The client's version of HTTP.
    pub version: Version,
    pub(super) method_at: (u32, u32),
    /// Path and query, within `fields.bytes`.
    pub(super) path_at: (u32, u32),
    /// The authority of an absolute-form target, within `fields.bytes`.
    pub(super) authority_at: Option<(u32, u32)>,
    pub(super) received: Received,
}

/// Where the client's own words are within `fields.bytes`. Edits add to these bytes and never change
/// them, so that nothing has to be copied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    pub(super) target_at: (u32, u32),
    pub(super) authority_at: (u32, u32),
}

/// A path that a [`RequestHead`] had, also when it has another one since.
#[derive(Clone, Copy, Debug)]
pub struct PathAt((u32, u32));

/// A moment in the life of a [`RequestHead`] that it can go back to.
#[derive(Clone, Copy, Debug)]
pub struct RequestMark {
    fields: Mark,
    path_at: (u32, u32),
    authority_at: Option<(u32, u32)>,
}

/// A moment in the life of a [`ResponseHead`] that it can go back to.
#[derive(Clone, Copy, Debug)]
pub struct ResponseMark {
    fields: Mark,
    status: u16,
    reason_at: (u32, u32),
}

impl RequestHead {
    /// Remembers this moment.
    pub fn mark(&self) -> RequestMark {
        RequestMark {
            fields: self.fields.mark(),
            path_at: self.path_at,
            authority_at: self.authority_at,
        }
    }

    /// Undoes every edit since `mark`. False, and nothing is done, when the message of that mark
    /// is gone.
    pub fn roll_back(&mut self, mark: &RequestMark) -> bool {
        if !self.fields.roll_back(&mark.fields) {
            return false;
        }
        self.path_at = mark.path_at;
        self.authority_at = mark.authority_at;
        true
    }

    /// Forgets the message, keeps the memory.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.method = Method::Get;
        self.version = Version::Http11;
        self.method_at = (0, 0);
        self.path_at = (0, 0);
        self.authority_at = None;
        self.received = Received::default();
    }

    /// The target as received, whatever became of it; empty when it could not be read.
    pub fn received_target(&self) -> &str {
        self.text(self.received.target_at)
    }

    /// The authority as received, whatever became of it.
    pub fn received_authority(&self) -> Option<&str> {
        Some(self.text(self.received.authority_at)).filter(|authority| !authority.is_empty())
    }

    /// The method as received.
    pub fn method_name(&self) -> &str {
        self.text(self.method_at)
    }

    /// Method and target, for writing them.
    pub(super) fn start(&self) -> (&[u8], &[u8]) {
        let bytes = |(start, end)| &self.fields.bytes[range(start, end)];
        (bytes(self.method_at), bytes(self.path_at))
    }

    /// Path and query; `*` for an OPTIONS request about the server itself.
    pub fn target(&self) -> &str {
        self.text(self.path_at)
    }

    /// The target up to the query.
    pub fn path(&self) -> &str {
        let target = self.target();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    /// Where [`path`](Self::path) is now; edits add to what there is and leave that in place.
    pub fn path_at(&self) -> PathAt {
        let (start, _) = self.path_at;
        PathAt((start, start + at(self.path().len())))
    }

    /// The path that was there then.
    pub fn text_at(&self, PathAt(span): PathAt) -> &str {
        self.text(span)
    }

    /// What follows the first `?` of the target.
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// Host and port that the client asked for: of the target (RFC 9112 §3.2.2), else of `Host`.
    pub fn authority(&self) -> Option<&str> {
        if let Some(authority) = self.authority_at {
            return Some(self.text(authority));
        }
        let host = self.fields.known(super::fields::Name::Host).next()?;
        std::str::from_utf8(host).ok()
    }

    /// Replaces path and query.
    pub fn set_target(&mut self, target: &str) -> Result<(), EditError> {
        let visible = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !target.starts_with('/') || !visible {
            return Err(EditError::Path);
        }
        self.fields.spend(target.len())?;
        self.path_at = self.store(target.as_bytes());
        Ok(())
    }

    /// Replaces the authority, and with it `Host`.
    pub fn set_authority(&mut self, authority: &str) -> Result<(), EditError> {
        self.fields.set("Host", authority.as_bytes())?;
        self.authority_at = None;
        Ok(())
    }

    /// Makes a request from its parts, as protocols without a start line do.
    pub fn assign(&mut self, method: &str, target: &str, version: Version) {
        self.clear();
        self.method_at = self.store(method.as_bytes());
        self.path_at = self.store(target.as_bytes());
        self.received.target_at = self.path_at;
        self.method = Method::of(method.as_bytes());
        self.version = version;
    }

    fn store(&mut self, bytes: &[u8]) -> (u32, u32) {
        let start = at(self.fields.bytes.len());
        self.fields.bytes.extend_from_slice(bytes);
        (start, at(self.fields.bytes.len()))
    }

    fn text(&self, (start, end): (u32, u32)) -> &str {
        // Method, path and authority are ASCII: checked when parsed, and by the setters above.
        std::str::from_utf8(&self.fields.bytes[range(start, end)]).unwrap_or_default()
    }
}

/// The head of a response.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// The header fields.
    pub fields: Fields,
    /// 100 to 599; 0 while there is no response.
    pub status: u16,
    /// The sender's version of HTTP.
    pub version: Version,
    /// The upstream's words, within `fields.bytes`.
    pub(super) reason_at: (u32, u32),
}

impl ResponseHead {
    /// Remembers this moment.
    pub fn mark(&self) -> ResponseMark {
        ResponseMark { fields: self.fields.mark(), status: self.status, reason_at: self.reason_at }
    }

    /// Undoes every edit since `mark`. False, and nothing is done, when the message of that mark
    /// is gone.
    pub fn roll_back(&mut self, mark: &ResponseMark) -> bool {
        if !self.fields.roll_back(&mark.fields) {
            return false;
        }
        self.status = mark.status;
        self.reason_at = mark.reason_at;
        true
    }

    /// Forgets the message, keeps the memory.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.status = 0;
        self.version = Version::Http11;
        self.reason_at = (0, 0);
    }

    /// Begins a response that the gateway or a plugin makes.
    pub fn assign(&mut self, status: u16) {
        self.clear();
        self.status = status;
    }

    /// Changes the status; the upstream's reason phrase goes with the old one.
    pub fn set_status(&mut self, status: u16) -> Result<(), EditError> {
        if !(200..600).contains(&status) {
            return Err(EditError::Status);
        }
        self.status = status;
        self.reason_at = (0, 0);
        Ok(())
    }

    /// The upstream's reason phrase, else the usual one.
    pub fn reason(&self) -> &[u8] {
        let (start, end) = self.reason_at;
        let given: Range<usize> = range(start, end);
        if given.is_empty() { reason(self.status).as_bytes() } else { &self.fields.bytes[given] }
    }

    /// Whether a response of this status has no content by definition (RFC 9110 §6.4.1).
    pub fn is_bodiless(&self) -> bool {
        self.status < 200 || self.status == 204 || self.status == 304
    }
}

/// The usual reason phrase of a status code (RFC 9110 §15), empty for one that has none.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_what_a_client_may_send() {
        let mut head = RequestHead::default();
        head.assign("GET", "/", Version::Http11);

        for bad in ["", "x", "*", "/a b", "/a#b", "/\u{e9}", "/\t"] {
            assert_eq!(head.set_target(bad), Err(EditError::Path), "{bad:?}");
        }
        assert_eq!(head.set_target("/a?b=%23"), Ok(()));
        assert_eq!((head.path(), head.query()), ("/a", Some("b=%23")));
        assert_eq!(head.received_target(), "/");
    }
}
