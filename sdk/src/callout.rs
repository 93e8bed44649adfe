//! Requests to other services, for plugins that the operator grants them to:
//! `"allow": {"http": ["https://idp.example/*", "upstream:auth"]}`.
//!
//! ```no_run
//! use zproxy_sdk::callout;
//!
//! let answer = callout::get("upstream://auth/check").header("x-user", "kim").timeout_ms(200).send();
//! let allowed = answer.is_ok_and(|answer| answer.status() == 200);
//! ```
//!
//! A hook waits in [`Request::send`] while its worker goes on with other requests. It may be called in
//! `on_request`, in `on_response`, in the body hook of a body that is held, and in `on_tick`.

use crate::host::callout as host;

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a request does nothing before `send`"]
pub struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout_ms: u32,
}

/// A GET request for this URL.
pub fn get(url: &str) -> Request {
    request("GET", url)
}

/// A POST request to this URL with this body.
pub fn post(url: &str, body: impl Into<Vec<u8>>) -> Request {
    request("POST", url).body(body)
}

/// A request of any method.
pub fn request(method: &str, url: &str) -> Request {
    let (method, url) = (method.to_owned(), url.to_owned());
    Request { method, url, headers: Vec::new(), body: Vec::new(), timeout_ms: 0 }
}

impl Request {
    /// Adds a field.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// How long it may take altogether, up to 30 seconds; one second when nothing is said.
    pub fn timeout_ms(mut self, timeout_ms: u32) -> Self {
        self.timeout_ms = timeout_ms;
        self
    }

    /// Sends the request and waits for the whole answer, whatever its status. Redirects are not followed.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn send(self) -> Result<Response, Error> {
        host::send(self)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// An answer, for tests.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// Adds a field, for tests.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first value of a field.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.headers.iter();
        fields
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The URL is not one that the operator allows, or leads to an address that is not public, or this hook
    /// may not send requests. Says which.
    Denied(String),
    /// No such URL, method, field.
    Invalid(String),
    /// Nobody took the connection, or it was lost.
    Unreachable(String),
    /// The time was up.
    Timeout,
    /// The answer was longer than 1 MiB.
    TooLarge,
    /// This request has made as many callouts as it may.
    Busy,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(what) => write!(f, "denied: {what}"),
            Self::Invalid(what) => write!(f, "invalid: {what}"),
            Self::Unreachable(what) => write!(f, "unreachable: {what}"),
            Self::Timeout => f.write_str("timed out"),
            Self::TooLarge => f.write_str("too large an answer"),
            Self::Busy => f.write_str("too many callouts"),
        }
    }
}

impl std::error::Error for Error {}
