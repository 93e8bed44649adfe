//! A response, for people: [`Response`], which is on its way back, and [`Reply`], which a plugin
//! makes itself.

use std::borrow::Cow;

use crate::Request;
use crate::fields::{Fields, Known, Pushed, text};
use crate::host::{reply, response as host};

/// The response of the exchange whose hook is running.
///
/// What is said of [`Request`] about costs, names and values holds here too.
#[derive(Debug)]
pub struct Response {
    /// `None`: the host knows.
    status: Option<u16>,
    pushed: Pushed,
    replacement: Option<Reply>,
}

impl Response {
    pub(crate) fn new(status: u16, pushed: Pushed) -> Self {
        Self { status: Some(status), pushed, replacement: None }
    }

    /// For a hook that is not handed the status.
    pub(crate) fn unseen() -> Self {
        Self { status: None, pushed: Pushed::default(), replacement: None }
    }

    /// The request that it answers, as it was sent on; edits are lost.
    #[must_use]
    pub fn request(&self) -> Request {
        Request::new(Pushed::default())
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.unwrap_or_else(host::status)
    }

    /// All values of a field joined with `, `, as text: bytes that are not UTF-8 become U+FFFD.
    /// `set-cookie` is not joined: its first value. None when there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.header_bytes(name).map(text)
    }

    /// The same, as bytes.
    #[must_use]
    pub fn header_bytes(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match self.pushed.find(name) {
            Known::Value(value) => value.map(Cow::Borrowed),
            Known::Ask => host::get(name).map(Cow::Owned),
        }
    }

    /// Each value of a field, in the order received.
    #[must_use]
    pub fn header_all(&self, name: &str) -> Vec<Vec<u8>> {
        host::get_all(name)
    }

    /// All fields, in one call.
    #[must_use]
    pub fn headers(&self) -> Fields {
        Fields::new(host::packed())
    }

    /// Changes the status code: 200 to 599, else the hook fails. A status without content (204,
    /// 304) drops the body.
    pub fn set_status(&mut self, status: u16) {
        host::set_status(status);
        self.status = Some(status);
    }

    /// Replaces every field of this name by one.
    pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        host::set(name, value.as_ref());
        self.pushed.forget(name);
    }

    /// Adds a field and keeps those of the same name.
    pub fn append_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        host::append(name, value.as_ref());
        self.pushed.forget(name);
    }

    /// Removes every field of this name.
    pub fn remove_header(&mut self, name: &str) {
        host::remove(name);
        self.pushed.forget(name);
    }

    /// Sends `reply` instead of this response, body included, once the hook returns.
    pub fn replace_with(&mut self, reply: Reply) {
        self.replacement = Some(reply);
    }

    pub(crate) fn into_replacement(self) -> Option<Reply> {
        self.replacement
    }
}

/// An answer that a plugin makes itself. The gateway adds `content-length` and `date`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a reply is sent only when it is given to the gateway"]
pub struct Reply {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    /// The host has it already.
    is_sent: bool,
}

impl Reply {
    /// An answer without fields or body. `status` is 200 to 599, else the hook fails.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), is_sent: false }
    }

    /// A refusal in the form of the gateway's own: problem+json (RFC 9457) when the client names a type of JSON in
    /// `Accept`, else a line of text; `Proxy-Status` (RFC 9209) says that it is the gateway's decision. `title` is
    /// the status in words; neither it nor `detail` has quotes, backslashes or control characters.
    pub fn refusal(request: &Request, status: u16, title: &str, detail: &str) -> Self {
        let (kind, body) = if request.header("accept").is_some_and(|accept| names_json(&accept)) {
            let body = format!(
                r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}"#
            );
            ("application/problem+json", body)
        } else {
            ("text/plain; charset=utf-8", format!("{status} {title}: {detail}\n"))
        };
        let reply = Self::status(status).header("content-type", kind).body(body);
        reply.header("proxy-status", "zproxy; error=http_request_denied")
    }

    /// Adds a field.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Sets the body, up to 1 MiB.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The answer that the host was given last.
    pub(crate) fn sent() -> Self {
        Self { is_sent: true, ..Self::status(0) }
    }

    /// Hands the answer to the host.
    pub(crate) fn send(&self) {
        if self.is_sent {
            return;
        }
        reply::send(self.status, &self.headers, &self.body);
    }
}

/// Whether a type of JSON is named, and not with `q=0`.
fn names_json(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0"));
        let json =
            matches!(&*media, "application/json" | "application/*") || media.ends_with("+json");
        json && !refused
    })
}
