//! The fields that a plugin asked for in `init`, found and laid out for each call.
//!
//! Not here: the WIT functions that look up fields one by one (`host/request`, `host/response`).

use std::io::Write;
use std::net::IpAddr;

use super::exchange::Exchange;
use crate::http::Fields;
use crate::http::fields::is_token;

/// Names per hook. Far above any honest use; each costs every call.
const NAMES_MAX: usize = 64;

/// One declared field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    Method,
    Path,
    Query,
    Authority,
    Scheme,
    Protocol,
    ClientIp,
    ClientAddress,
    Route,
    RequestId,
    Upstream,
    Server,
    TlsVersion,
    TlsCipher,
    TlsServerName,
    TlsClientCertificate,
    Cookie,
    SetCookie,
    Named(Box<str>),
}

impl Field {
    /// The pseudo field of this name.
    pub(super) fn pseudo(name: &str) -> Option<Self> {
        Some(match name {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":query" => Self::Query,
            ":authority" => Self::Authority,
            ":scheme" => Self::Scheme,
            ":protocol" => Self::Protocol,
            ":client-ip" => Self::ClientIp,
            ":client-address" => Self::ClientAddress,
            ":route" => Self::Route,
            ":request-id" => Self::RequestId,
            ":upstream" => Self::Upstream,
            ":server" => Self::Server,
            ":tls-version" => Self::TlsVersion,
            ":tls-cipher" => Self::TlsCipher,
            ":tls-server-name" => Self::TlsServerName,
            ":tls-client-certificate" => Self::TlsClientCertificate,
            _ => return None,
        })
    }

    fn named(name: &str) -> Option<Self> {
        is_token(name.as_bytes()).then(|| match name.to_ascii_lowercase() {
            name if name == "cookie" => Self::Cookie,
            name if name == "set-cookie" => Self::SetCookie,
            name => Self::Named(name.into()),
        })
    }

    /// Appends the field's value of a request to `out`; false when there is none.
    pub(super) fn of_request(&self, exchange: &Exchange, out: &mut Vec<u8>) -> bool {
        let (request, tls) = (&exchange.request, exchange.tls.as_deref());
        match self {
            Self::Method => put(out, Some(request.method_name().as_bytes())),
            Self::Path => put(out, Some(request.target().as_bytes())),
            Self::Query => put(out, request.query().map(str::as_bytes)),
            Self::Authority => put(out, request.authority().map(str::as_bytes)),
            Self::Scheme => put(out, Some(exchange.scheme.as_bytes())),
            Self::Protocol => put(out, Some(request.version.as_str().as_bytes())),
            // Writing to memory cannot fail.
            Self::ClientIp => exchange.client_ip.is_some_and(|ip| write!(out, "{ip}").is_ok()),
            Self::ClientAddress => match exchange.client_ip.map(|ip| ip.to_canonical()) {
                Some(IpAddr::V4(v4)) => put(out, Some(&v4.octets())),
                Some(IpAddr::V6(v6)) => put(out, Some(&v6.octets())),
                None => false,
            },
            Self::Route => put(out, exchange.route.as_ref().map(|route| route.as_bytes())),
            Self::RequestId => put(out, request.fields.get("x-request-id")),
            Self::Upstream => {
                put(out, exchange.sent_to.as_ref().map(|(upstream, _)| upstream.as_bytes()))
            }
            Self::Server => {
                let server = exchange.sent_to.as_ref().and_then(|(_, server)| server.as_ref());
                put(out, server.map(|server| server.as_bytes()))
            }
            Self::TlsVersion => put(out, tls.map(|tls| tls.version.as_bytes())),
            Self::TlsCipher => put(out, tls.map(|tls| tls.cipher.as_bytes())),
            Self::TlsServerName => {
                put(out, tls.and_then(|tls| tls.server_name.as_ref()).map(|name| name.as_bytes()))
            }
            Self::TlsClientCertificate => {
                let own = tls.and_then(|tls| tls.client_cert.as_ref());
                own.is_some_and(|own| put_pem(out, own))
            }
            Self::Cookie => join(out, request.fields.all("cookie"), b"; "),
            Self::SetCookie => join(out, request.fields.all("set-cookie"), b", "),
            Self::Named(name) => join(out, request.fields.all(name), b", "),
        }
    }

    /// Appends the field's value of a response to `out`; false when there is none.
    pub(super) fn of_response(&self, fields: &Fields, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Named(name) => join(out, fields.all(name), b", "),
            Self::Cookie => join(out, fields.all("cookie"), b", "),
            // RFC 9110 §5.3: the one field that must not be joined.
            Self::SetCookie => put(out, fields.get("set-cookie")),
            _ => false,
        }
    }
}

/// Checks the names that a plugin declared for requests.
pub(super) fn request_fields(names: &[String]) -> Result<Box<[Field]>, String> {
    fields("request-fields", names, |name| Field::pseudo(name).or_else(|| Field::named(name)))
}

/// Checks the names that a plugin declared for responses.
pub(super) fn response_fields(names: &[String]) -> Result<Box<[Field]>, String> {
    fields("response-fields", names, Field::named)
}

fn fields(
    list: &str,
    names: &[String],
    field: impl Fn(&str) -> Option<Field>,
) -> Result<Box<[Field]>, String> {
    if names.len() > NAMES_MAX {
        return Err(format!("`{list}` has {} names, at most {NAMES_MAX} are allowed", names.len()));
    }
    let field = |name: &String| {
        field(name).ok_or_else(|| {
            let name = super::host::clean(name.as_bytes(), 64);
            format!("`{list}` holds `{name}`, which names no field")
        })
    };
    names.iter().map(field).collect()
}

/// The values of a call's declared fields. Its memory is used again for every call.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Values {
    bytes: Vec<u8>,
    /// End of each value in `bytes`, and whether there is one.
    ends: Vec<(usize, bool)>,
}

/// A long field must not stay in the memory of every instance for ever.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Up to this many values are handed over without allocation.
const FEW: usize = 8;

impl Values {
    /// Finds the values of `declared`, each by `find`.
    pub(super) fn find(
        &mut self,
        declared: &[Field],
        mut find: impl FnMut(&Field, &mut Vec<u8>) -> bool,
    ) {
        // Both hooks of an instance share this; what one was shown is not the other's.
        self.ends.clear();
        if declared.is_empty() {
            return;
        }
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        for field in declared {
            let found = find(field, &mut self.bytes);
            self.ends.push((self.bytes.len(), found));
        }
    }

    /// All values, without what tells one from the next.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing is declared.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Calls `hook` with the values as slices.
    pub(super) fn hand<R>(&self, hook: impl FnOnce(&[Option<&[u8]>]) -> R) -> R {
        let count = self.ends.len();
        if count == 0 {
            hook(&[])
        } else if count <= FEW {
            let mut few = [None; FEW];
            few.iter_mut().zip(self.slices()).for_each(|(place, value)| *place = value);
            hook(&few[..count])
        } else {
            hook(&self.slices().collect::<Vec<_>>())
        }
    }

    /// The values as slices.
    pub(super) fn all(&self) -> Vec<Option<&[u8]>> {
        self.slices().collect()
    }

    fn slices(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut start = 0;
        self.ends.iter().map(move |(end, found)| {
            let value = &self.bytes[start..*end];
            start = *end;
            found.then_some(value)
        })
    }
}

/// A certificate as PEM; `item` is it as a structured field has it.
fn put_pem(out: &mut Vec<u8>, item: &str) -> bool {
    out.extend_from_slice(b"-----BEGIN CERTIFICATE-----\n");
    // RFC 7468 §2: lines of 64.
    for line in item.trim_matches(':').as_bytes().chunks(64) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(b"-----END CERTIFICATE-----\n");
    true
}

fn put(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    let Some(value) = value else { return false };
    out.extend_from_slice(value);
    true
}

fn join<'a>(
    out: &mut Vec<u8>,
    mut values: impl Iterator<Item = &'a [u8]>,
    separator: &[u8],
) -> bool {
    if !put(out, values.next()) {
        return false;
    }
    for value in values {
        out.extend_from_slice(separator);
        out.extend_from_slice(value);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Version;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn values(names: &[&str], exchange: &Exchange) -> Vec<Option<String>> {
        let declared = request_fields(&self::names(names)).unwrap();
        let mut values = Values::default();
        values.find(&declared, |field, out| field.of_request(exchange, out));
        values.hand(|values| {
            let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
            values.iter().map(|value| value.map(text)).collect()
        })
    }

    fn exchange() -> Exchange {
        let mut exchange = Exchange::default();
        exchange.scheme = "https";
        exchange.request.assign("PUT", "/a?b", Version::Http11);
        for (name, value) in [("Host", "h"), ("Accept", "1"), ("cookie", "a"), ("accept", "2")] {
            exchange.request.fields.push(name, value.as_bytes());
        }
        exchange.request.fields.push("Cookie", b"b");
        exchange.client_ip = Some([127, 0, 0, 1].into());
        exchange
    }

    #[test]
    fn values_come_in_the_order_declared_and_joined() {
        let found = values(
            &[":method", "x-none", "Accept", "cookie", ":path", ":client-ip", ":route"],
            &exchange(),
        );

        let expected = ["PUT", "", "1, 2", "a; b", "/a?b", "127.0.0.1", ""];
        let expected = expected.map(|value| (!value.is_empty()).then(|| value.to_owned()));
        assert_eq!(found, expected);
    }

    /// So that nobody has to read what was a number before.
    #[test]
    fn addresses_come_as_bytes_too() {
        let declared = request_fields(&names(&[":client-address"])).unwrap();
        let mut exchange = exchange();
        for (address, expected) in [
            (Some("192.0.2.1"), Some(&[192, 0, 2, 1][..])),
            (Some("::ffff:192.0.2.1"), Some(&[192, 0, 2, 1])),
            (Some("::1"), Some(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
            (None, None),
        ] {
            exchange.client_ip = address.map(|text| text.parse().unwrap());
            let mut values = Values::default();
            values.find(&declared, |field, out| field.of_request(&exchange, out));
            values.hand(|found| assert_eq!(found, [expected]));
        }
    }

    #[test]
    fn more_values_than_a_few_come_too() {
        let found = values(&[":method"; NAMES_MAX], &exchange());

        assert_eq!(found, vec![Some("PUT".to_owned()); NAMES_MAX]);
    }

    #[test]
    fn names_that_are_no_fields_are_refused() {
        let refusal = |list: &[&str]| request_fields(&names(list)).unwrap_err();

        assert_eq!(refusal(&["a b"]), "`request-fields` holds `a b`, which names no field");
        assert_eq!(refusal(&[":what"]), "`request-fields` holds `:what`, which names no field");
        assert_eq!(refusal(&["a"; 65]), "`request-fields` has 65 names, at most 64 are allowed");
        assert!(response_fields(&names(&[":method"])).is_err());
    }

    #[test]
    fn set_cookie_is_never_joined() {
        let mut fields = Fields::default();
        fields.push("set-cookie", b"a=1");
        fields.push("set-cookie", b"b=2");
        let mut out = Vec::new();

        assert!(Field::named("Set-Cookie").unwrap().of_response(&fields, &mut out));

        assert_eq!(out, b"a=1");
    }

    #[test]
    fn a_hook_that_declares_nothing_is_handed_nothing_of_the_other_hook() {
        let exchange = exchange();
        let declared = request_fields(&names(&["accept"])).unwrap();
        let mut values = Values::default();

        values.find(&declared, |field, out| field.of_request(&exchange, out));
        values.find(&[], |_, _| unreachable!("nothing is declared"));

        values.hand(|values| assert_eq!(values, &[] as &[Option<&[u8]>]));
    }
}
