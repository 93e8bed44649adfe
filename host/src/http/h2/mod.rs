//! HTTP/2 heads: from the messages of crate `h2` to [`RequestHead`] and [`ResponseHead`], and back.
//!
//! RFC 9113 §8. What is checked by the crate before a message gets here: names are lower-case tokens,
//! values hold no control characters, pseudo-fields are known, come first and once, there are no fields
//! about connections, `te` is `trailers`, and `content-length` is as long as the content.
//!
//! Layout: `wire` is the socket below a connection, `watch` looks at what passes there, `alive` asks a silent
//! peer for a sign of life.
//!
//! Not here: frames and streams (crate `h2`, by way of `io::Multiplexed`).

mod alive;
mod watch;
mod wire;

use http::header::{CONNECTION, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, request, response};

pub use alive::Alive;
pub use watch::{Offence, PREFACE, Watch};
pub use wire::{Account, Outlet, Wire};

use super::fields::{Fields, Name, is_token, is_value};
use super::head::{Method, RequestHead, ResponseHead, Version};
use super::parse::{self, Framing, HeadLimits, RequestFacts, ResponseFacts};
use crate::error::RequestError;

/// Takes over the head of a request. `ended`: nothing comes after it.
pub fn request(
    parts: &request::Parts,
    ended: bool,
    head: &mut RequestHead,
    limits: &HeadLimits,
) -> Result<RequestFacts, RequestError> {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let connect = parts.method == http::Method::CONNECT;
    let extended = connect && parts.extensions.get::<::h2::ext::Protocol>().is_some();
    // RFC 8441 §5: what is a CONNECT here is a GET that asks for an upgrade in HTTP/1.
    let method = if extended { "GET" } else { parts.method.as_str() };
    if target.len() > limits.target_bytes_max {
        head.assign(method, "", Version::Http2);
        return Err(RequestError::TargetTooLong);
    }
    head.assign(method, target, Version::Http2);
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    let named = authority.or(host);
    if let Some(named) = named.filter(|named| is_value(named)) {
        head.fields.push("host", named);
        head.received.authority_at = head.fields.first_at(Name::Host).unwrap_or_default();
    }
    let protocol = parts.extensions.get::<::h2::ext::Protocol>().map(|protocol| protocol.as_str());
    let tunnel = connect && protocol.is_some_and(|it| it.eq_ignore_ascii_case("websocket"));
    if connect && !tunnel {
        return Err(RequestError::NotImplemented("CONNECT"));
    }
    // RFC 9113 §8.3.1: an authority that two recipients could read differently is malformed.
    match named {
        None => return Err(RequestError::Malformed("missing :authority")),
        Some(named) if !parse::is_host(named) => return Err(RequestError::Malformed(":authority")),
        Some(_) if hosts.next().is_some() => {
            return Err(RequestError::Malformed("more than one Host"));
        }
        Some(named) if host.is_some_and(|host| !host.eq_ignore_ascii_case(named)) => {
            return Err(RequestError::Malformed("Host differs from :authority"));
        }
        Some(_) => {}
    }
    let visible = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let whole = target.starts_with('/') || (target == "*" && head.method == Method::Options);
    if !visible || !whole {
        return Err(RequestError::Malformed("request target"));
    }
    let named = authority.map_or(0, <[u8]>::len) + target.len();
    if parts.headers.len() > limits.fields_max
        || size(&parts.headers) + named as u64 > limits.bytes_max as u64
    {
        return Err(RequestError::HeadTooLarge);
    }
    take_fields(&parts.headers, &mut head.fields)?;
    if tunnel {
        if head.fields.has(Name::ContentLength) {
            return Err(RequestError::Malformed("Content-Length"));
        }
        // As of a GET, which has no content that could be waited for.
        parse::expects(&mut head.fields, Framing::None, true)?;
        head.fields.push("upgrade", b"websocket");
        return Ok(RequestFacts {
            framing: Framing::None,
            keep_alive: true,
            expects_continue: false,
            wants_upgrade: true,
            names_fields: false,
        });
    }
    let framing = match parse::framing(&head.fields, Version::Http2)? {
        Some(Framing::Length(_)) if ended => return Err(RequestError::Malformed("Content-Length")),
        _ if ended => Framing::None,
        Some(framing) => framing,
        None => Framing::UntilClose,
    };
    let expects_continue = parse::expects(&mut head.fields, framing, true)?;
    Ok(RequestFacts {
        framing,
        keep_alive: true,
        expects_continue,
        wants_upgrade: false,
        names_fields: false,
    })
}

/// Takes over the head of a response. `method` is the request's; `ended`: nothing comes after it.
pub fn response(
    parts: &response::Parts,
    ended: bool,
    head: &mut ResponseHead,
    method: Method,
    limits: &HeadLimits,
) -> Result<ResponseFacts, RequestError> {
    head.assign(parts.status.as_u16());
    head.version = Version::Http2;
    if parts.headers.len() > limits.fields_max {
        return Err(RequestError::ResponseHeadTooLarge);
    }
    let bad = |_| RequestError::BadResponse("field");
    take_fields(&parts.headers, &mut head.fields).map_err(bad)?;
    if !(100..600).contains(&head.status) || head.status == 101 {
        return Err(RequestError::BadResponse("status"));
    }
    let declared = parse::framing(&head.fields, Version::Http2);
    let declared = declared.map_err(|_| RequestError::BadResponse("Content-Length"))?;
    let bodiless = head.is_bodiless() || method == Method::Head;
    if head.is_bodiless() && head.status != 304 {
        head.fields.remove_known(Name::ContentLength);
    }
    let framing = match declared {
        _ if bodiless || ended => Framing::None,
        Some(framing) => framing,
        None => Framing::UntilClose,
    };
    Ok(ResponseFacts { framing, keep_alive: false, bodiless, names_fields: false })
}

/// The fields of a message, but for `host`.
fn take_fields(map: &HeaderMap, fields: &mut Fields) -> Result<(), RequestError> {
    let mut cookies = map.get_all(COOKIE).iter();
    let crumbs = cookies.next().is_some() && cookies.next().is_some();
    for (name, value) in map {
        let (name, value) = (name.as_str(), value.as_bytes());
        if !is_token(name.as_bytes()) || !is_value(value) {
            return Err(RequestError::Malformed("field"));
        }
        match Name::of(name.as_bytes()) {
            Name::Host => {}
            Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::TransferEncoding
            | Name::Upgrade => return Err(RequestError::Malformed("field about a connection")),
            Name::Other if crumbs && name == COOKIE.as_str() => {}
            _ => fields.push(name, value),
        }
    }
    if crumbs {
        // RFC 9113 §8.2.3: for others than HTTP/2 they are one.
        let crumbs: Vec<_> = map.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        fields.push(COOKIE.as_str(), &crumbs.join(&b"; "[..]));
    }
    Ok(())
}

/// A response head as crate `h2` sends it.
pub fn write_response(head: &ResponseHead) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    // Cannot fail: a head has a status that it may have.
    *response.status_mut() = http::StatusCode::from_u16(head.status).unwrap_or_default();
    write_fields(&head.fields, response.headers_mut());
    response
}

/// A request head as crate `h2` sends it, for a server that is called `server` where the request does
/// not say whom it is for.
pub fn write_request(
    head: &RequestHead,
    scheme: &str,
    server: &str,
) -> Result<http::Request<()>, RequestError> {
    let bad = RequestError::Malformed("request target");
    let authority = head.fields.known(Name::Host).next().filter(|host| !host.is_empty());
    let uri = http::Uri::builder()
        .scheme(scheme)
        .authority(authority.unwrap_or(server.as_bytes()))
        .path_and_query(head.target());
    let mut request = http::Request::new(());
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = uri.build().map_err(|_| bad)?;
    let method = http::Method::from_bytes(head.method_name().as_bytes());
    *request.method_mut() = method.map_err(|_| RequestError::Malformed("method"))?;
    let fields = request.headers_mut();
    write_fields(&head.fields, fields);
    fields.remove(HOST);
    // RFC 9113 §8.2.2. Trailers are passed on, to clients of HTTP/1 in chunks; gRPC wants to hear it.
    fields.insert(TE, HeaderValue::from_static("trailers"));
    Ok(request)
}

/// All fields but those about a connection.
fn write_fields(fields: &Fields, map: &mut HeaderMap) {
    map.reserve(fields.len());
    for (name, value) in fields.iter() {
        // Cannot fail: fields are checked where they come from. Each value has memory of its own: crate `h2`
        // remembers some of them with the connection.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        let connection = [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE].contains(&name)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection");
        if !connection {
            map.append(name, value);
        }
    }
}

/// Checks trailers, and writes to `out` the lines that may be forwarded.
pub fn read_trailers(
    trailers: &HeaderMap,
    limits: &HeadLimits,
    out: &mut Vec<u8>,
) -> Result<(), RequestError> {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    lines.extend_from_slice(b"\r\n");
    parse::trailers(&lines, limits, out)
}

/// Trailers as crate `h2` sends them, from lines that have been checked; `None` when there are none.
pub fn write_trailers(lines: &[u8]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    (!map.is_empty()).then_some(map)
}

/// Bytes that a head takes up by RFC 9113 §6.5.2: what there is to count where nobody sees its bytes.
pub fn size(fields: &HeaderMap) -> u64 {
    fields.iter().map(|(name, value)| (name.as_str().len() + value.len() + 32) as u64).sum()
}
