//! HTTP/1 heads: from bytes to [`RequestHead`] and [`ResponseHead`] (RFC 9112).
//!
//! Functions over bytes, no I/O. Strict on purpose: what two parsers could read differently is
//! refused, because somebody else's parser is at the other end (RFC 9112 §11.2). In particular
//! a line ends with CR LF and nothing else (§2.2 would allow a bare LF), folded lines (§5.2) and
//! white space before a colon (§5.1) are errors.
//!
//! Not here: reading bytes (`connection`), what a body looks like (`body`).

use std::sync::LazyLock;

use memchr::{memchr, memmem};

use super::fields::{Fields, Name, at, is_client_certificate, is_forwarding, is_token, is_value};
use super::head::{Method, RequestHead, ResponseHead, Version};
use super::line;
use crate::error::RequestError;

/// What a head may take up.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// The whole head.
    pub bytes_max: usize,
    /// Field lines.
    pub fields_max: usize,
    /// A request target.
    pub target_bytes_max: usize,
}

/// How long a body is (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// As `Content-Length` says; never zero.
    Length(u64),
    /// In chunks, with trailers perhaps.
    Chunked,
    /// Until the sender closes: responses of HTTP/1, and what HTTP/2 ends without having said when.
    UntilClose,
}

/// What a request's head says about the connection.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts {
    /// Its body.
    pub framing: Framing,
    /// The client may send another request after this one.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The client asks for another protocol, one that can be tunnelled.
    pub wants_upgrade: bool,
    /// `Connection` names fields, and so perhaps some that come in trailers.
    pub names_fields: bool,
}

/// What a response's head says about the connection.
#[derive(Clone, Copy, Debug)]
pub struct ResponseFacts {
    /// Its body.
    pub framing: Framing,
    /// The upstream will take another request on this connection.
    pub keep_alive: bool,
    /// It has no body by rule, and a sender that does not know the rule may send one.
    pub bodiless: bool,
    /// As for a request.
    pub names_fields: bool,
}

/// Looks for the end of a head: the position after its empty line.
///
/// `searched` bytes are known not to hold it. Line ends that a lenient parser would take for
/// CR LF are refused as soon as they are seen, not when a time-out finds them.
pub fn find_end(bytes: &[u8], searched: usize) -> Result<Option<usize>, RequestError> {
    static END: LazyLock<memmem::Finder<'static>> =
        LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));
    let from = searched.saturating_sub(3);
    if let Some(found) = END.find(&bytes[from..]) {
        return Ok(Some(from + found + 4));
    }
    let mut rest = from;
    while let Some(lf) = memchr(b'\n', &bytes[rest..]) {
        let lf = rest + lf;
        if lf == 0 || bytes[lf - 1] != b'\r' {
            return Err(RequestError::Malformed("bare LF"));
        }
        rest = lf + 1;
    }
    Ok(None)
}

/// Bytes of empty lines before a request line, which are ignored (RFC 9112 §2.2).
pub fn leading_empty_lines(bytes: &[u8]) -> usize {
    bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count() * 2
}

/// Parses a whole request head, empty line included.
pub fn request(
    bytes: &[u8],
    head: &mut RequestHead,
    limits: &HeadLimits,
) -> Result<RequestFacts, RequestError> {
    head.clear();
    head.fields.bytes.extend_from_slice(bytes);
    let line_end = line::end(bytes, 0)?;
    request_line(&bytes[..line_end], head, limits)?;
    head.received.target_at = head.path_at;
    let indexed = fields(&mut head.fields, line_end + 2, limits);
    let host = head.authority_at.or_else(|| head.fields.first_at(Name::Host));
    head.received.authority_at = host.unwrap_or_default();
    indexed?;
    check_host(head)?;
    request_facts(head)
}

/// Parses a whole response head, empty line included. `method` is the request's.
pub fn response(
    bytes: &[u8],
    head: &mut ResponseHead,
    method: Method,
    limits: &HeadLimits,
) -> Result<ResponseFacts, RequestError> {
    head.clear();
    head.fields.bytes.extend_from_slice(bytes);
    let parsed = line::end(bytes, 0).and_then(|line_end| {
        status_line(&bytes[..line_end], head)?;
        fields(&mut head.fields, line_end + 2, limits)?;
        response_facts(head, method)
    });
    parsed.map_err(|error| match error {
        RequestError::Malformed(what) | RequestError::NotImplemented(what) => {
            RequestError::BadResponse(what)
        }
        RequestError::HeadTooLarge => RequestError::ResponseHeadTooLarge,
        other => other,
    })
}

/// Parses a trailer section, empty line included, and writes to `out` what may be forwarded.
///
/// Fields that frame or route a message must not come in trailers (RFC 9110 §6.5.1): acting on
/// them is how requests are smuggled, so they are refused. Those of one connection are dropped.
pub fn trailers(bytes: &[u8], limits: &HeadLimits, out: &mut Vec<u8>) -> Result<(), RequestError> {
    let mut section = Fields::default();
    section.bytes.extend_from_slice(bytes);
    fields(&mut section, 0, limits)?;
    for name in [Name::ContentLength, Name::TransferEncoding, Name::Host] {
        if section.has(name) {
            return Err(RequestError::Malformed("forbidden field in trailers"));
        }
    }
    section.remove_if(|name, known| {
        (known != Name::Other && known != Name::Date)
            || is_forwarding(name)
            || is_client_certificate(name)
    });
    section.write(out);
    Ok(())
}

/// RFC 9112 §3: `method SP request-target SP HTTP-version`.
fn request_line(
    line: &[u8],
    head: &mut RequestHead,
    limits: &HeadLimits,
) -> Result<(), RequestError> {
    let method_end = memchr(b' ', line).ok_or(RequestError::Malformed("request line"))?;
    let target_start = method_end + 1;
    let target_end = memchr::memrchr(b' ', line).unwrap_or(method_end);
    if !is_token(&line[..method_end]) {
        return Err(RequestError::Malformed("method"));
    }
    if target_end <= target_start {
        return Err(RequestError::Malformed("request line"));
    }
    head.method = Method::of(&line[..method_end]);
    head.method_at = (0, at(method_end));
    head.version = version(&line[target_end + 1..])?;
    if target_end - target_start > limits.target_bytes_max {
        return Err(RequestError::TargetTooLong);
    }
    target(line, target_start, target_end, head)
}

/// RFC 9112 §2.3. A later minor version of 1 is answered as 1.1.
fn version(bytes: &[u8]) -> Result<Version, RequestError> {
    match bytes {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit() => {
            Ok(Version::Http11)
        }
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(RequestError::Version)
        }
        _ => Err(RequestError::Malformed("HTTP version")),
    }
}

/// RFC 9112 §3.2: origin-form, absolute-form, asterisk-form; authority-form is for CONNECT only.
fn target(
    line: &[u8],
    start: usize,
    end: usize,
    head: &mut RequestHead,
) -> Result<(), RequestError> {
    let target = &line[start..end];
    let visible = target.iter().fold(true, |good, byte| good & byte.is_ascii_graphic());
    if !visible || memchr(b'#', target).is_some() {
        return Err(RequestError::Malformed("request target"));
    }
    if head.method == Method::Connect {
        return Err(RequestError::NotImplemented("CONNECT"));
    }
    if target[0] == b'/' || (target == b"*" && head.method == Method::Options) {
        head.path_at = (at(start), at(end));
        return Ok(());
    }
    let scheme = ["http://", "https://"]
        .iter()
        .find(|scheme| {
            target.len() > scheme.len()
                && target[..scheme.len()].eq_ignore_ascii_case(scheme.as_bytes())
        })
        .ok_or(RequestError::Malformed("request target"))?;
    let authority_start = start + scheme.len();
    let rest = &line[authority_start..end];
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    if !is_host(&rest[..length]) {
        return Err(RequestError::Malformed("authority of the request target"));
    }
    let authority_end = authority_start + length;
    head.authority_at = Some((at(authority_start), at(authority_end)));
    if rest.get(length) == Some(&b'/') {
        head.path_at = (at(authority_end), at(end));
    } else {
        // `http://a?q` means `/?q` (RFC 9110 §4.2.3).
        let path_start = head.fields.bytes.len();
        head.fields.bytes.push(b'/');
        head.fields.bytes.extend_from_slice(&line[authority_end..end]);
        head.path_at = (at(path_start), at(head.fields.bytes.len()));
    }
    Ok(())
}

/// RFC 9112 §4: `HTTP-version SP status-code SP [reason]`. The last space is often forgotten.
fn status_line(line: &[u8], head: &mut ResponseHead) -> Result<(), RequestError> {
    let bad = RequestError::Malformed("status line");
    let (version_bytes, rest) = line.split_at_checked(8).ok_or(bad)?;
    head.version = match version_bytes {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(bad),
    };
    let [b' ', hundreds @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9', reason @ ..] = rest
    else {
        return Err(bad);
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    head.status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    match reason {
        [] => Ok(()),
        [b' ', words @ ..] if is_value(words) => {
            head.reason_at = (at(13.min(line.len())), at(line.len()));
            Ok(())
        }
        _ => Err(bad),
    }
}

/// Indexes the field lines of `fields.bytes` from `position` to the empty line (RFC 9112 §5).
fn fields(
    fields: &mut Fields,
    mut position: usize,
    limits: &HeadLimits,
) -> Result<(), RequestError> {
    let Fields { bytes, lines, seen, .. } = fields;
    loop {
        if bytes[position..].starts_with(b"\r\n") {
            return Ok(());
        }
        let line = line::field(bytes, position)?;
        if lines.len() == limits.fields_max {
            return Err(RequestError::HeadTooLarge);
        }
        *seen |= line.name.bit();
        position = line.end as usize;
        lines.push(line);
    }
}

/// RFC 9112 §3.2: exactly one valid `Host` in 1.1, at most one in 1.0. The authority of an
/// absolute target replaces it (§3.2.2).
fn check_host(head: &mut RequestHead) -> Result<(), RequestError> {
    let mut hosts = head.fields.known(Name::Host);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => {}
        (None, _) if head.version == Version::Http10 => {}
        (None, _) => return Err(RequestError::Malformed("missing Host")),
        (Some(_), Some(_)) => return Err(RequestError::Malformed("more than one Host")),
        (Some(_), None) => return Err(RequestError::Malformed("Host")),
    }
    drop(hosts);
    if let Some((start, end)) = head.authority_at {
        let authority = head.fields.bytes[start as usize..end as usize].to_vec();
        head.fields.remove_known(Name::Host);
        head.fields.push("Host", &authority);
    }
    Ok(())
}

/// `uri-host [":" port]` (RFC 3986 §3.2.2, §3.2.3), no user information, never empty.
pub fn is_host(host: &[u8]) -> bool {
    let (name, port) = if host.first() == Some(&b'[') {
        let Some(close) = memchr(b']', host) else { return false };
        let literal = &host[1..close];
        let address = std::str::from_utf8(literal).ok().map(str::parse::<std::net::Ipv6Addr>);
        if !matches!(address, Some(Ok(_))) {
            return false;
        }
        (&host[..=close], &host[close + 1..])
    } else {
        let colon = memchr(b':', host).unwrap_or(host.len());
        host.split_at(colon)
    };
    let port_fits = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let escapes_fit = memchr(b'%', name).is_none() || escapes_are_whole(name);
    escapes_fit
        && !name.is_empty()
        && port_fits
        && (name[0] == b'[' || name.iter().all(|byte| HOST[usize::from(*byte)]))
}

/// Bytes of a registered name (RFC 3986 §3.2.2), but for the comma, which separates hosts in lists.
const HOST: [bool; 256] = {
    let mut table = [false; 256];
    let known = b"-._~!$&'()*+;=%0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut position = 0;
    while position < known.len() {
        table[known[position] as usize] = true;
        position += 1;
    }
    table
};

/// Whether every `%` is followed by two hexadecimal digits (RFC 3986 §2.1).
fn escapes_are_whole(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'%')
        .skip(1)
        .all(|rest| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit))
}

fn request_facts(head: &mut RequestHead) -> Result<RequestFacts, RequestError> {
    let fields = &head.fields;
    let http11 = head.version == Version::Http11;
    let (mut close, mut keep, mut upgrade, mut names_fields) = (false, http11, false, false);
    for token in list(fields, Name::Connection) {
        names_fields |= !is_usual_option(token);
        close |= token.eq_ignore_ascii_case(b"close");
        keep |= token.eq_ignore_ascii_case(b"keep-alive");
        upgrade |= token.eq_ignore_ascii_case(b"upgrade");
    }
    let framing = framing(fields, head.version)?.unwrap_or(Framing::None);
    Ok(RequestFacts {
        framing,
        keep_alive: keep && !close,
        wants_upgrade: upgrade && http11 && framing == Framing::None && can_tunnel(fields),
        expects_continue: expects(&mut head.fields, framing, http11)?,
        names_fields,
    })
}

/// Whether the client waits to be told to go on. An `Expect` that cannot mean that is taken off.
pub(super) fn expects(
    fields: &mut Fields,
    framing: Framing,
    may_expect: bool,
) -> Result<bool, RequestError> {
    let mut expects = false;
    for expectation in fields.known(Name::Expect) {
        if may_expect && !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(RequestError::Expectation);
        }
        expects = true;
    }
    // A 1.0 client cannot mean it, nor one that has no body to send (RFC 9110 §10.1.1).
    let waits = expects && may_expect && framing != Framing::None;
    if expects && !waits {
        fields.remove_known(Name::Expect);
    }
    Ok(waits)
}

/// Whether the one protocol that `Upgrade` offers can be tunnelled. HTTP/2 and TLS cannot: behind
/// the gateway's back they would carry requests that no route and no plugin has seen.
fn can_tunnel(fields: &Fields) -> bool {
    let mut offers = list(fields, Name::Upgrade);
    let (Some(offer), None) = (offers.next(), offers.next()) else { return false };
    let protocol = offer.split(|byte| *byte == b'/').next().unwrap_or_default();
    is_token(protocol)
        && !["h2c", "h2", "http", "tls"]
            .iter()
            .any(|never| protocol.eq_ignore_ascii_case(never.as_bytes()))
}

/// RFC 9112 §6.3, for responses.
fn response_facts(head: &mut ResponseHead, method: Method) -> Result<ResponseFacts, RequestError> {
    let http11 = head.version == Version::Http11;
    let (mut close, mut keep, mut names_fields) = (false, http11, false);
    for token in list(&head.fields, Name::Connection) {
        names_fields |= !is_usual_option(token);
        close |= token.eq_ignore_ascii_case(b"close");
        keep |= token.eq_ignore_ascii_case(b"keep-alive");
    }
    let mut keep_alive = keep && !close;
    let declared = framing(&head.fields, head.version)?;
    let bodiless = head.is_bodiless();
    if bodiless && head.status != 304 {
        // RFC 9110 §8.6, RFC 9112 §6.1: neither field may be there. A sender that breaks the rule
        // may also send the body; its connection is not used again.
        keep_alive &= matches!(declared, None | Some(Framing::None));
        head.fields.remove_known(Name::ContentLength);
        head.fields.remove_known(Name::TransferEncoding);
    }
    let bodiless = bodiless || method == Method::Head;
    let framing = match declared {
        _ if bodiless => Framing::None,
        Some(framing) => framing,
        None => Framing::UntilClose,
    };
    keep_alive &= framing != Framing::UntilClose;
    Ok(ResponseFacts { framing, keep_alive, bodiless, names_fields })
}

/// Whether a member of `Connection` is about the connection itself. All others name fields.
pub fn is_usual_option(option: &[u8]) -> bool {
    ["keep-alive", "close", "upgrade", "te"]
        .iter()
        .any(|usual| option.eq_ignore_ascii_case(usual.as_bytes()))
}

/// What `Content-Length` and `Transfer-Encoding` say; `None` when neither is there.
pub(super) fn framing(fields: &Fields, version: Version) -> Result<Option<Framing>, RequestError> {
    if fields.seen & (Name::TransferEncoding.bit() | Name::ContentLength.bit()) == 0 {
        return Ok(None);
    }
    let mut codings = fields.known(Name::TransferEncoding);
    let mut lengths = fields.known(Name::ContentLength);
    let (coding, length) = (codings.next(), lengths.next());
    if codings.next().is_some() {
        return Err(RequestError::Malformed("more than one Transfer-Encoding"));
    }
    if lengths.next().is_some() {
        return Err(RequestError::Malformed("more than one Content-Length"));
    }
    match (coding, length) {
        (None, None) => Ok(None),
        (None, Some(digits)) => Ok(Some(match content_length(digits)? {
            0 => Framing::None,
            length => Framing::Length(length),
        })),
        // RFC 9112 §6.1: whoever sends both, or chunks in 1.0, is confused or an attacker.
        (Some(_), Some(_)) => {
            Err(RequestError::Malformed("both Transfer-Encoding and Content-Length"))
        }
        (Some(_), None) if version == Version::Http10 => {
            Err(RequestError::Malformed("Transfer-Encoding in HTTP/1.0"))
        }
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Some(Framing::Chunked))
        }
        (Some(coding), None) => {
            let last = coding.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            let chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
            let others = coding[..coding.len() - last.len()].to_ascii_lowercase();
            if chunked && memmem::find(&others, b"chunked").is_none() {
                Err(RequestError::NotImplemented("transfer coding"))
            } else {
                Err(RequestError::Malformed("Transfer-Encoding"))
            }
        }
    }
}

/// RFC 9110 §8.6: digits and nothing else.
fn content_length(digits: &[u8]) -> Result<u64, RequestError> {
    let bad = RequestError::Malformed("Content-Length");
    if digits.is_empty() {
        return Err(bad);
    }
    digits.iter().try_fold(0u64, |length, byte| {
        if !byte.is_ascii_digit() {
            return Err(bad);
        }
        length
            .checked_mul(10)
            .and_then(|length| length.checked_add(u64::from(byte - b'0')))
            .ok_or(bad)
    })
}

/// The members of a list field (RFC 9110 §5.6.1), empty ones left out.
pub fn list(fields: &Fields, name: Name) -> impl Iterator<Item = &[u8]> {
    fields
        .known(name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}
