//! A request, for people: [`Request`] over the host's functions on the current exchange.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;

use crate::fields::{Fields, Known, Pushed, text};
use crate::host::request as host;

/// What is kept of a buffer that has grown.
const PACKED_BYTES_KEPT: usize = 4096;

/// The request of the exchange whose hook is running.
///
/// Reading a field that [`Middleware::request_fields`](crate::Middleware::request_fields) names
/// costs nothing; any other look-up and any edit is a call to the host.
/// Names are compared without regard to case. What an edit may hold is checked by the host when
/// the hook returns: a name that is no token, a value with a line end, or a field that frames the
/// message make the hook fail, and nothing of it is sent.
#[derive(Debug)]
pub struct Request {
    pushed: Pushed,
}

impl Request {
    pub(crate) fn new(pushed: Pushed) -> Self {
        Self { pushed }
    }

    /// The method, as received.
    #[must_use]
    pub fn method(&self) -> Cow<'_, str> {
        self.pseudo(":method")
    }

    /// The path without the query.
    #[must_use]
    pub fn path(&self) -> Cow<'_, str> {
        match self.path_and_query() {
            Cow::Borrowed(all) => Cow::Borrowed(split_query(all).0),
            Cow::Owned(all) => Cow::Owned(split_query(&all).0.to_owned()),
        }
    }

    /// What follows the first `?`, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<Cow<'_, str>> {
        match self.path_and_query() {
            Cow::Borrowed(all) => split_query(all).1.map(Cow::Borrowed),
            Cow::Owned(all) => split_query(&all).1.map(|query| Cow::Owned(query.to_owned())),
        }
    }

    /// Adds fields to the response when it passes this plugin, whoever makes it: what
    /// [`on_response`](crate::Middleware::on_response) would append, without the price of that hook. Not to a
    /// reply of this plugin's own. Names and values are checked as those of other edits are; one that is longer
    /// than 65,535 bytes is left out.
    pub fn append_to_response<N, V>(&mut self, fields: impl IntoIterator<Item = (N, V)>)
    where
        N: AsRef<str>,
        V: AsRef<[u8]>,
    {
        thread_local! {
            /// Memory that is used again.
            static PACKED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let mut packed = PACKED.take();
        packed.clear();
        for (name, value) in fields {
            let (name, value) = (name.as_ref().as_bytes(), value.as_ref());
            let lengths = (u16::try_from(name.len()), u16::try_from(value.len()));
            let (Ok(name_length), Ok(value_length)) = lengths else { continue };
            packed.reserve(4 + name.len() + value.len());
            packed.extend_from_slice(&name_length.to_le_bytes());
            packed.extend_from_slice(&value_length.to_le_bytes());
            packed.extend_from_slice(name);
            packed.extend_from_slice(value);
        }
        crate::host::response::append_later(&packed);
        packed.shrink_to(PACKED_BYTES_KEPT);
        PACKED.set(packed);
    }

    /// Path and query as they stand.
    #[must_use]
    pub fn path_and_query(&self) -> Cow<'_, str> {
        self.pseudo(":path")
    }

    /// The host and port that the client asked for.
    #[must_use]
    pub fn authority(&self) -> Cow<'_, str> {
        self.pseudo(":authority")
    }

    /// `http` or `https`, as the client has used it; behind a trusted proxy, what that one says.
    #[must_use]
    pub fn scheme(&self) -> Cow<'_, str> {
        self.pseudo(":scheme")
    }

    /// The client's address, without a port.
    #[must_use]
    pub fn client_ip(&self) -> Cow<'_, str> {
        self.pseudo(":client-ip")
    }

    /// The client's address, one of IPv4 that is written as one of IPv6 as what it is; none of a client on a Unix
    /// socket. Costs nothing when [`Middleware::request_fields`](crate::Middleware::request_fields) names
    /// `:client-address`.
    #[must_use]
    pub fn client_address(&self) -> Option<IpAddr> {
        let bytes = self.header_bytes(":client-address")?;
        let v4 = <[u8; 4]>::try_from(&*bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(&*bytes).map(IpAddr::from)).ok()
    }

    /// The name of the route that was chosen.
    #[must_use]
    pub fn route(&self) -> Cow<'_, str> {
        self.pseudo(":route")
    }

    /// `HTTP/1.1`, as the client speaks it.
    #[must_use]
    pub fn protocol(&self) -> Cow<'_, str> {
        self.pseudo(":protocol")
    }

    /// The id of this request, which upstream and access log know too.
    #[must_use]
    pub fn id(&self) -> Cow<'_, str> {
        self.pseudo(":request-id")
    }

    /// The upstream that the request was sent to; none before, and when it was sent to none.
    #[must_use]
    pub fn upstream(&self) -> Option<String> {
        host::get(":upstream").map(|name| text(Cow::Owned(name)).into_owned())
    }

    /// The server of that upstream.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        host::get(":server").map(|name| text(Cow::Owned(name)).into_owned())
    }

    /// A parameter of the route's path (`{name}`, `{*rest}`), as it was sent.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<String> {
        host::param(name).map(|value| text(Cow::Owned(value)).into_owned())
    }

    /// All values of a field joined with `, ` (`cookie` with `; `), as text: bytes that are not
    /// UTF-8 become U+FFFD. None when there is none.
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

    /// The first cookie of this name (RFC 6265 §4.2.1), as sent.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<String> {
        let cookies = self.header("cookie")?;
        find_pair(cookies.split(';').map(str::trim), name)
    }

    /// The first parameter of this name in the query, as sent: nothing is decoded.
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<String> {
        let query = self.query()?;
        find_pair(query.split('&'), name)
    }

    /// Replaces every field of this name by one. `host` sets the authority.
    pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        host::set(name, value.as_ref());
        self.forget(name);
    }

    /// Adds a field and keeps those of the same name.
    pub fn append_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        host::append(name, value.as_ref());
        self.forget(name);
    }

    /// Removes every field of this name.
    pub fn remove_header(&mut self, name: &str) {
        host::remove(name);
        self.forget(name);
    }

    /// Replaces path and query; the route stays as it was chosen.
    ///
    /// It must begin with `/` and hold visible ASCII only, else the hook fails.
    pub fn set_path(&mut self, path_and_query: &str) {
        host::set_path(path_and_query);
        self.pushed.forget(":path");
        self.pushed.forget(":query");
    }

    /// Sends the request to this upstream of the configuration, whatever the route says. False, and
    /// nothing changes, when there is none of this name.
    pub fn set_upstream(&mut self, name: &str) -> bool {
        host::set_upstream(name)
    }

    /// A pseudo field. The host has one of each, so none means an old host: then it is empty.
    fn pseudo(&self, name: &str) -> Cow<'_, str> {
        self.header(name).unwrap_or_default()
    }

    fn forget(&mut self, name: &str) {
        self.pushed.forget(name);
        if name.eq_ignore_ascii_case("host") {
            self.pushed.forget(":authority");
        }
    }
}

fn split_query(path_and_query: &str) -> (&str, Option<&str>) {
    match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    }
}

/// The value of the first `name=value` among `pairs`.
fn find_pair<'a>(mut pairs: impl Iterator<Item = &'a str>, name: &str) -> Option<String> {
    pairs.find_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        (found == name).then(|| value.to_owned())
    })
}
