//! Which fields go on, and which are added: RFC 9110 §7.6, and the forwarding fields.
//!
//! [`request_to_upstream`] runs before the plugins: a client must not be able to name, in
//! `Connection`, a field that a plugin adds later. [`response_to_client`] runs, for the same
//! reason, when the upstream's response arrives.
//!
//! | field | to the upstream | to the client |
//! |---|---|---|
//! | `Connection` and what it names, `Keep-Alive`, `Proxy-Connection`, `TE`, `Upgrade`, `HTTP2-Settings` | removed | removed |
//! | `Proxy-Authorization`, `Proxy-Authenticate` | removed | removed |
//! | `Host`, `Content-Length`, `Transfer-Encoding`, `Expect` | kept, even if `Connection` names them | likewise |
//! | `Trailer` | kept: trailers are forwarded | kept |
//! | `X-Forwarded-*`, `Forwarded` | from trusted proxies extended, else replaced | untouched |
//! | `Client-Cert`, `Client-Cert-Chain` | removed; ours, if a certificate was verified | untouched |
//! | `X-Request-Id` | kept from trusted proxies, else made | untouched |
//! | `traceparent`, `tracestate` | continued or begun | untouched |
//! | `Via` | extended | extended |
//! | `Date` | untouched | added if missing |
//!
//! Not here: framing and the fields about our own connections, tunnels included (`http::write`);
//! a new `Host` (`RequestHead::set_authority`); names for one exchange (`trace`).

use super::client::ClientFacts;
use super::trace::{Trace, is_request_id, uuid_v7};
use crate::error::RequestError;
use crate::http::fields::{is_client_certificate, is_forwarding};
use crate::http::parse::is_usual_option;
use crate::http::{Fields, Method, Name, RequestHead, ResponseHead, Version};
use crate::io::TlsFacts;

/// Members of `Connection`. Honest messages have one or two; each costs a look at every field.
pub const CONNECTION_OPTIONS_MAX: usize = 64;

const TOO_MANY_OPTIONS: RequestError = RequestError::Malformed("too many connection options");
const BAD_MAX_FORWARDS: RequestError = RequestError::Malformed("Max-Forwards");

/// `Max-Forwards: 0` asks the gateway itself, which has no answer to TRACE or OPTIONS of its own.
const LAST_HOP: RequestError = RequestError::NotImplemented("Max-Forwards: 0");

/// Time and chance for one request.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Fresh random numbers.
    pub random: [u64; 5],
    /// Whether a trace that begins here is recorded.
    pub sampled: bool,
}

/// Makes of the head that a client sent the head that its upstream gets.
///
/// Whoever needs to know what the client said about its connection, its upgrade or its address
/// reads it before.
pub fn request_to_upstream(
    head: &mut RequestHead,
    client: &ClientFacts,
    stamp: &Stamp,
) -> Result<Trace, RequestError> {
    if matches!(head.method, Method::Trace | Method::Options) {
        spend_hop(&mut head.fields)?;
    }
    remove_named_by_connection(&mut head.fields)?;
    let kept = sift_request(&mut head.fields, client.trusted);
    let fields = &mut head.fields;
    if !kept.host {
        // Only HTTP/1.0 may come without (RFC 9112 §3.2); what we send is 1.1.
        fields.push("Host", b"");
    }
    // An untrusted client's fields are gone by now, so the list begins with the client.
    if client.peer.is_some() {
        fields.extend_list("X-Forwarded-For", client.peer_text());
    }
    if !kept.forwarded_proto {
        fields.push("X-Forwarded-Proto", client.scheme().as_bytes());
    }
    if !kept.forwarded_host && kept.host {
        fields.push_copy("X-Forwarded-Host", Name::Host);
    }
    if kept.forwarded {
        extend_forwarded(fields, client);
    }
    push_via(fields, head.version);
    let [request_high, request_low, trace_high, trace_low, span] = stamp.random;
    if !kept.request_id {
        fields.push("X-Request-Id", &uuid_v7(stamp.unix_ms, [request_high, request_low]));
    }
    if kept.trace.is_none() && kept.trace_state {
        // It belongs to a parent that could not be read (Trace Context §4.3).
        fields.remove_if(|name, _| is_trace_state(name));
    }
    let trace = kept.trace.unwrap_or_else(|| Trace::new([trace_high, trace_low], stamp.sampled));
    fields.push("traceparent", &trace.parent(span));
    Ok(trace)
}

/// The scheme that the client has used: with a trusted proxy between, the one that it names. Of fields that
/// [`request_to_upstream`] has left; others' words are gone by then.
pub fn scheme(fields: &Fields, client: &ClientFacts) -> &'static str {
    let named = fields.known(Name::XForwardedProto).next().filter(|_| client.trusted);
    // Of several proxies the first has met the client.
    let first = named.and_then(|list| list.split(|byte| *byte == b',').next());
    match first.map(<[u8]>::trim_ascii) {
        Some(named) if named.eq_ignore_ascii_case(b"https") => "https",
        Some(named) if named.eq_ignore_ascii_case(b"http") => "http",
        _ => client.scheme(),
    }
}

/// RFC 9440: the certificate that the client was verified by.
pub fn push_client_certificate(fields: &mut Fields, tls: &TlsFacts) {
    if let Some(own) = &tls.client_cert {
        fields.push("Client-Cert", own.as_bytes());
    }
    if let Some(chain) = &tls.client_cert_chain {
        fields.push("Client-Cert-Chain", chain.as_bytes());
    }
}

/// Makes of the head that an upstream sent the head that the client gets. `date` is an
/// IMF-fixdate (RFC 9110 §5.6.7).
pub fn response_to_client(head: &mut ResponseHead, date: &[u8; 29]) -> Result<(), RequestError> {
    let has_date = sift_response(head)?;
    // RFC 9110 §6.6.1: whoever has a clock adds it for the next recipient.
    if !has_date {
        head.fields.push("Date", date);
    }
    Ok(())
}

/// [`response_to_client`] for an interim response, which needs no `Date` (RFC 9110 §6.6.1).
pub fn interim_to_client(head: &mut ResponseHead) -> Result<(), RequestError> {
    sift_response(head).map(drop)
}

/// Says whether the response has a `Date`.
fn sift_response(head: &mut ResponseHead) -> Result<bool, RequestError> {
    remove_named_by_connection(&mut head.fields)
        .map_err(|_| RequestError::BadResponse("too many connection options"))?;
    // RFC 9110 §15.5.22: a 426 must say what to upgrade to, and WebSocket we can carry.
    let demands_upgrade = head.status == 426;
    let (mut has_date, mut keeps_upgrade) = (false, false);
    head.fields.sift(|known, _, value| match known {
        Name::Upgrade if demands_upgrade && value.eq_ignore_ascii_case(b"websocket") => {
            keeps_upgrade = true;
            false
        }
        Name::Date => {
            has_date = true;
            false
        }
        known => is_hop_by_hop(known),
    });
    if keeps_upgrade {
        head.fields.push("Connection", b"upgrade");
    }
    push_via(&mut head.fields, head.version);
    Ok(has_date)
}

/// What is left of a request's fields after sifting.
#[derive(Debug, Default)]
struct Kept {
    host: bool,
    forwarded: bool,
    forwarded_proto: bool,
    forwarded_host: bool,
    request_id: bool,
    /// That of the one valid `traceparent`; the field itself is removed.
    trace: Option<Trace>,
    trace_state: bool,
}

fn sift_request(fields: &mut Fields, trusted: bool) -> Kept {
    let mut kept = Kept::default();
    let mut parents = 0;
    fields.sift(|known, name, value| match known {
        Name::Other => {
            kept.trace_state |= is_trace_state(name);
            is_client_certificate(name) || (!trusted && is_forwarding(name))
        }
        Name::Host => {
            kept.host = true;
            false
        }
        Name::XForwardedFor => !trusted,
        Name::Forwarded => {
            kept.forwarded |= trusted;
            !trusted
        }
        Name::XForwardedProto => first(&mut kept.forwarded_proto, trusted && !value.is_empty()),
        Name::XForwardedHost => first(&mut kept.forwarded_host, trusted && !value.is_empty()),
        Name::XRequestId => first(&mut kept.request_id, trusted && is_request_id(value)),
        Name::Traceparent => {
            parents += 1;
            kept.trace = Trace::parse(value).filter(|_| parents == 1);
            true
        }
        known => is_hop_by_hop(known),
    });
    kept
}

/// Says no to the first field of a name, if it is wanted at all, and yes to all others.
fn first(seen: &mut bool, wanted: bool) -> bool {
    let keep = wanted && !*seen;
    *seen |= keep;
    !keep
}

/// RFC 9110 §7.6.1: what concerns one connection only, whether `Connection` names it or not.
/// `Transfer-Encoding` does too, and is `http::write`'s.
fn is_hop_by_hop(name: Name) -> bool {
    matches!(
        name,
        Name::Connection
            | Name::Http2Settings
            | Name::KeepAlive
            // RFC 9110 §11.7: meant for a proxy that the client chose. This one it did not.
            | Name::ProxyAuthenticate
            | Name::ProxyAuthorization
            | Name::ProxyConnection
            | Name::Te
            | Name::Upgrade
    )
}

/// RFC 9110 §7.6.1: fields named by Connection are removed too.
///
/// A sender must not name a field that is meant for every recipient; removing one that frames or
/// routes the message, or says whom it comes from, would turn that fault into an attack. Such
/// names are ignored.
fn remove_named_by_connection(fields: &mut Fields) -> Result<(), RequestError> {
    let (mut count, mut names_fields) = (0, false);
    for value in fields.known(Name::Connection) {
        for option in value.split(|byte| *byte == b',') {
            count += 1;
            names_fields |= !is_usual_option(option.trim_ascii());
            if count > CONNECTION_OPTIONS_MAX {
                return Err(TOO_MANY_OPTIONS);
            }
        }
    }
    if names_fields {
        fields.remove_listed(Name::Connection, |name| {
            matches!(
                name,
                Name::ContentLength
                    | Name::Expect
                    | Name::Forwarded
                    | Name::Host
                    | Name::TransferEncoding
                    | Name::Via
                    | Name::XForwardedFor
                    | Name::XForwardedHost
                    | Name::XForwardedProto
            )
        });
    }
    Ok(())
}

fn is_trace_state(name: &[u8]) -> bool {
    name.len() == 10 && name.eq_ignore_ascii_case(b"tracestate")
}

/// RFC 9110 §7.6.3: every intermediary adds itself, with the version that it received.
///
/// A line of its own is the same as a further member of the list (§5.3), and leaves the received
/// lines untouched.
fn push_via(fields: &mut Fields, version: Version) {
    let member: &[u8] = match version {
        Version::Http10 => b"1.0 zproxy",
        Version::Http11 => b"1.1 zproxy",
        Version::Http2 => b"2.0 zproxy",
    };
    fields.push("Via", member);
}

/// RFC 7239 §4: a list that a trusted proxy began is continued; `X-Forwarded-*` is what we begin.
fn extend_forwarded(fields: &mut Fields, client: &ClientFacts) {
    let mut member = [0; 80];
    let (open, close): (&[u8], &[u8]) = match client.peer {
        Some(std::net::IpAddr::V6(_)) => (b"for=\"[", b"]\""),
        Some(_) => (b"for=", b""),
        None => (b"for=unknown", b""),
    };
    let parts = [open, client.peer_text(), close, b";proto=", client.scheme().as_bytes()];
    let mut length = 0;
    for part in parts {
        let Some(room) = member.get_mut(length..length + part.len()) else { return };
        room.copy_from_slice(part);
        length += part.len();
    }
    fields.extend_list("Forwarded", &member[..length]);
}

/// RFC 9110 §7.6.2: takes one off `Max-Forwards`.
fn spend_hop(fields: &mut Fields) -> Result<(), RequestError> {
    let mut values = fields.all("Max-Forwards");
    let Some(value) = values.next() else { return Ok(()) };
    let digits =
        std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let hops: u32 = match (digits.map(str::parse), values.next()) {
        (Some(Ok(hops)), None) => hops,
        _ => return Err(BAD_MAX_FORWARDS),
    };
    drop(values);
    let left = hops.checked_sub(1).ok_or(LAST_HOP)?;
    fields.remove_if(|name, _| name.eq_ignore_ascii_case(b"max-forwards"));
    fields.push("Max-Forwards", left.to_string().as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const STAMP: Stamp = Stamp { unix_ms: 1, random: [1, 2, 3, 4, 5], sampled: true };
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn client(trusted: bool) -> ClientFacts {
        let nets = if trusted { vec!["10.0.0.0/8".parse().unwrap()] } else { vec![] };
        ClientFacts::new("10.0.0.1".parse().ok(), "https", &nets)
    }

    fn request(lines: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.assign("GET", "/", Version::Http11);
        for (name, value) in lines {
            head.fields.push(name, value.as_bytes());
        }
        head
    }

    fn forwarded(lines: &[(&str, &str)], trusted: bool) -> RequestHead {
        let mut head = request(lines);
        request_to_upstream(&mut head, &client(trusted), &STAMP).unwrap();
        head
    }

    fn response(status: u16, lines: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::default();
        head.assign(status);
        for (name, value) in lines {
            head.fields.push(name, value.as_bytes());
        }
        response_to_client(&mut head, DATE).unwrap();
        head
    }

    /// All values of a name, joined by `|`: one `|` less than fields.
    fn values(fields: &Fields, name: &str) -> Option<String> {
        fields.joined(name, b"|").map(|value| String::from_utf8(value.into_owned()).unwrap())
    }

    fn written(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// What a plain request costs: the received lines go on as they are.
    #[test]
    fn a_plain_request_gets_the_forwarding_fields() {
        let head = forwarded(&[("Host", "a.b:80"), ("Accept", "*/*")], false);

        assert_eq!(
            written(&head.fields),
            "Host: a.b:80\r\nAccept: */*\r\n\
             X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: a.b:80\r\nVia: 1.1 zproxy\r\n\
             X-Request-Id: 00000000-0001-7001-8000-000000000000\r\n\
             traceparent: 00-00000000000000030000000000000004-0000000000000005-01\r\n"
        );
    }

    /// RFC 9110 §7.6.1.
    #[test]
    fn hop_by_hop_fields_are_removed() {
        let lines = [
            ("Host", "a"),
            ("Connection", "keep-alive, X-Secret,upgrade"),
            ("x-secret", "1"),
            ("connection", "X-Other"),
            ("X-Other", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
            ("Proxy-Authorization", "Basic x"),
            ("Proxy-Authenticate", "Basic"),
        ];
        let names = |fields: &Fields| {
            fields
                .iter()
                .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
                .collect::<Vec<_>>()
        };

        assert_eq!(names(&forwarded(&lines, true).fields)[..2], ["Host", "X-Forwarded-For"]);
        assert_eq!(names(&response(200, &lines).fields), ["Host", "Via", "Date"]);
    }

    /// A client that names fields which frame or route its request would otherwise smuggle one.
    #[test]
    fn connection_cannot_remove_what_is_meant_for_everybody() {
        let list =
            "host, content-length, transfer-encoding, x-forwarded-for, via, x-gone, connection";
        let lines = [
            ("Host", "a"),
            ("Content-Length", "1"),
            ("Transfer-Encoding", "chunked"),
            ("X-Forwarded-For", "1.1.1.1"),
            ("Via", "1.1 front"),
            ("X-Gone", "1"),
            ("Connection", list),
        ];
        let head = forwarded(&lines, true);

        assert_eq!(values(&head.fields, "host").as_deref(), Some("a"));
        assert_eq!(values(&head.fields, "content-length").as_deref(), Some("1"));
        assert_eq!(values(&head.fields, "transfer-encoding").as_deref(), Some("chunked"));
        assert_eq!(values(&head.fields, "x-forwarded-for").as_deref(), Some("1.1.1.1, 10.0.0.1"));
        assert_eq!(values(&head.fields, "via").as_deref(), Some("1.1 front|1.1 zproxy"));
        assert_eq!(values(&head.fields, "x-gone"), None);
        assert_eq!(values(&head.fields, "connection"), None);
    }

    #[test]
    fn connection_options_are_bounded() {
        let mut head = request(&[("Connection", &"a,".repeat(CONNECTION_OPTIONS_MAX))]);
        let refused = request_to_upstream(&mut head, &client(false), &STAMP);

        assert_eq!(refused, Err(TOO_MANY_OPTIONS));
        let mut head = ResponseHead::default();
        head.assign(200);
        head.fields.push("Connection", ",".repeat(CONNECTION_OPTIONS_MAX).as_bytes());
        assert!(matches!(response_to_client(&mut head, DATE), Err(RequestError::BadResponse(_))));
    }

    #[test]
    fn trailers_are_still_announced() {
        let head = forwarded(&[("Host", "a"), ("Trailer", "x-sum")], false);

        assert_eq!(values(&head.fields, "trailer").as_deref(), Some("x-sum"));
    }

    #[test]
    fn forwarding_fields_of_strangers_are_replaced() {
        let head = forwarded(
            &[
                ("Host", "a"),
                ("X-Forwarded-For", "1.1.1.1"),
                ("x-forwarded-proto", "ftp"),
                ("X-Forwarded-Host", "evil"),
                ("X-Forwarded-Port", "1"),
                ("X_Forwarded_For", "1.1.1.1"),
                ("Forwarded", "for=1.1.1.1"),
                ("X-Request-Id", "theirs"),
            ],
            false,
        );

        assert_eq!(values(&head.fields, "x-forwarded-for").as_deref(), Some("10.0.0.1"));
        assert_eq!(values(&head.fields, "x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(values(&head.fields, "x-forwarded-host").as_deref(), Some("a"));
        for gone in ["x-forwarded-port", "x_forwarded_for", "forwarded"] {
            assert_eq!(values(&head.fields, gone), None, "{gone}");
        }
        assert_eq!(values(&head.fields, "x-request-id").unwrap().len(), 36);
    }

    #[test]
    fn forwarding_fields_of_trusted_proxies_are_continued() {
        let head = forwarded(
            &[
                ("Host", "a"),
                ("X-Forwarded-For", "1.1.1.1"),
                ("X-Forwarded-For", "2.2.2.2"),
                ("X-Forwarded-Proto", "http"),
                ("X-Forwarded-Proto", "ftp"),
                ("X-Forwarded-Host", "outside"),
                ("X-Forwarded-Port", "1"),
                ("Forwarded", "for=1.1.1.1"),
                ("X-Request-Id", "theirs"),
            ],
            true,
        );

        let list = values(&head.fields, "x-forwarded-for");
        assert_eq!(list.as_deref(), Some("1.1.1.1, 2.2.2.2, 10.0.0.1"));
        assert_eq!(values(&head.fields, "x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(values(&head.fields, "x-forwarded-host").as_deref(), Some("outside"));
        assert_eq!(values(&head.fields, "x-forwarded-port").as_deref(), Some("1"));
        let forwarded = values(&head.fields, "forwarded");
        assert_eq!(forwarded.as_deref(), Some("for=1.1.1.1, for=10.0.0.1;proto=https"));
        assert_eq!(values(&head.fields, "x-request-id").as_deref(), Some("theirs"));
    }

    /// RFC 7239 §6: an IPv6 address is quoted.
    #[test]
    fn the_scheme_is_what_a_trusted_proxy_says_and_nobody_else() {
        let of = |lines: &[(&str, &str)], trusted| {
            let head = forwarded(lines, trusted);
            scheme(&head.fields, &client(trusted))
        };
        let says = |proto| [("Host", "a"), ("X-Forwarded-Proto", proto)];
        assert_eq!(of(&says("http"), true), "http");
        assert_eq!(of(&says("HTTP, https"), true), "http");
        assert_eq!(of(&says("http"), false), "https", "our own connection's");
        assert_eq!(of(&says("ws"), true), "https");
        assert_eq!(of(&[("Host", "a")], true), "https");
    }

    #[test]
    fn forwarded_names_every_kind_of_peer() {
        for (peer, expected) in [
            (
                "fd00:1:1:1:1111:1111:1111:1111",
                "x, for=\"[fd00:1:1:1:1111:1111:1111:1111]\";proto=https",
            ),
            ("::ffff:10.1.1.1", "x, for=10.1.1.1;proto=https"),
        ] {
            let nets = ["fd00::/8", "10.0.0.0/8"].map(|net| net.parse().unwrap());
            let facts = ClientFacts::new(peer.parse().ok(), "https", &nets);
            let mut head = request(&[("Forwarded", "x")]);
            request_to_upstream(&mut head, &facts, &STAMP).unwrap();

            assert_eq!(values(&head.fields, "forwarded").as_deref(), Some(expected));
        }
    }

    #[test]
    fn an_unfit_request_id_is_replaced_even_from_trusted_proxies() {
        for id in ["", "a b", "a\"b", &"x".repeat(129)] {
            let head = forwarded(&[("X-Request-Id", id)], true);

            assert_eq!(values(&head.fields, "x-request-id").unwrap().len(), 36, "{id}");
        }
        let head = forwarded(&[("X-Request-Id", "one"), ("X-Request-Id", "two")], true);
        assert_eq!(values(&head.fields, "x-request-id").as_deref(), Some("one"));
    }

    /// Trace Context §3.2, §4.3.
    #[test]
    fn a_trace_is_continued_or_begun() {
        let head = forwarded(&[("traceparent", PARENT), ("tracestate", "a=1")], false);
        let continued = "00-0af7651916cd43dd8448eb211c80319c-0000000000000005-01";
        assert_eq!(values(&head.fields, "traceparent").as_deref(), Some(continued));
        assert_eq!(values(&head.fields, "tracestate").as_deref(), Some("a=1"));

        for parents in [vec![], vec!["junk"], vec![PARENT, PARENT], vec![PARENT; 3]] {
            let mut lines = vec![("Tracestate", "a=1")];
            lines.extend(parents.iter().map(|parent| ("traceparent", *parent)));
            let head = forwarded(&lines, false);
            let begun = "00-00000000000000030000000000000004-0000000000000005-01";
            assert_eq!(values(&head.fields, "traceparent").as_deref(), Some(begun), "{parents:?}");
            assert_eq!(values(&head.fields, "tracestate"), None);
        }
    }

    #[test]
    fn an_old_request_without_host_gets_an_empty_one() {
        let mut head = RequestHead::default();
        head.assign("GET", "/", Version::Http10);
        request_to_upstream(&mut head, &ClientFacts::new(None, "http", &[]), &STAMP).unwrap();

        assert_eq!(values(&head.fields, "host").as_deref(), Some(""));
        assert_eq!(values(&head.fields, "via").as_deref(), Some("1.0 zproxy"));
        assert_eq!(values(&head.fields, "x-forwarded-host"), None);
        assert_eq!(values(&head.fields, "x-forwarded-for"), None);
    }

    /// RFC 9110 §7.6.2.
    #[test]
    fn max_forwards_is_counted_down() {
        let forward = |method: &str, lines: &[(&str, &str)]| {
            let mut head = request(lines);
            head.method = Method::of(method.as_bytes());
            request_to_upstream(&mut head, &client(false), &STAMP)
                .map(|_| values(&head.fields, "max-forwards").unwrap())
        };

        assert_eq!(forward("TRACE", &[("Max-Forwards", "10")]), Ok("9".into()));
        assert_eq!(forward("OPTIONS", &[("max-forwards", "0")]), Err(LAST_HOP));
        assert_eq!(forward("OPTIONS", &[("max-forwards", "+1")]), Err(BAD_MAX_FORWARDS));
        let twice = [("max-forwards", "1"), ("max-forwards", "2")];
        assert_eq!(forward("OPTIONS", &twice), Err(BAD_MAX_FORWARDS));
        assert_eq!(forward("GET", &[("Max-Forwards", "0")]), Ok("0".into()));
    }

    /// RFC 9110 §6.6.1, §7.6.3.
    #[test]
    fn a_response_gets_via_and_a_missing_date() {
        let head = response(200, &[("Server", "x"), ("Content-Length", "0")]);
        let expected = "Server: x\r\nContent-Length: 0\r\nVia: 1.1 zproxy\r\n\
                        Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        assert_eq!(written(&head.fields), expected);

        let head = response(200, &[("Date", "theirs"), ("Via", "1.0 x")]);
        assert_eq!(written(&head.fields), "Date: theirs\r\nVia: 1.0 x\r\nVia: 1.1 zproxy\r\n");

        let mut head = ResponseHead::default();
        head.assign(103);
        head.fields.push("Keep-Alive", b"timeout=5");
        interim_to_client(&mut head).unwrap();
        assert_eq!(written(&head.fields), "Via: 1.1 zproxy\r\n");
    }

    /// RFC 9110 §15.5.22.
    #[test]
    fn an_upgrade_that_is_required_is_named() {
        let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")];

        let head = response(426, &upgrade);
        assert_eq!(values(&head.fields, "upgrade").as_deref(), Some("websocket"));
        assert_eq!(values(&head.fields, "connection").as_deref(), Some("upgrade"));
        assert_eq!(values(&response(426, &[("Upgrade", "h2c")]).fields, "upgrade"), None);
        assert_eq!(values(&response(200, &upgrade).fields, "upgrade"), None);
    }

    const HOP_BY_HOP: [&str; 8] = [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "upgrade",
    ];
    const PROTECTED: [&str; 8] = [
        "content-length",
        "forwarded",
        "host",
        "transfer-encoding",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ];
    const OTHERS: [&str; 6] =
        ["accept", "cookie", "x-a", "x-request-id", "traceparent", "x-forwarded-port"];

    fn name() -> impl Strategy<Value = String> {
        let names = [HOP_BY_HOP.as_slice(), &PROTECTED, &OTHERS].concat();
        (prop::sample::select(names), any::<bool>())
            .prop_map(|(name, upper)| if upper { name.to_uppercase() } else { name.to_owned() })
    }

    fn lines() -> impl Strategy<Value = Vec<(String, String)>> {
        let list = prop::collection::vec(name(), 0..4).prop_map(|names| names.join(" ,"));
        let value = prop_oneof![list, "[a-z0-9=;,. ]{0,12}".prop_map(|v| v.trim().to_owned())];
        let line = prop_oneof![(name(), value.clone()), (Just("Connection".to_owned()), value),];
        prop::collection::vec(line, 0..12)
    }

    /// Names in `Connection` fields.
    fn named(lines: &[(String, String)]) -> Vec<String> {
        let lists = lines.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
        lists
            .flat_map(|(_, list)| list.split(','))
            .map(|name| name.trim().to_lowercase())
            .filter(|name| !PROTECTED.contains(&name.as_str()))
            .collect()
    }

    proptest! {
        #[test]
        fn nothing_hop_by_hop_survives(lines in lines(), trusted: bool, status in 200u16..600) {
            let mut head = request(&[("Host", "a.b")]);
            let mut answer = ResponseHead::default();
            answer.assign(status);
            for (name, value) in lines.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
                head.fields.push(name, value.as_bytes());
                answer.fields.push(name, value.as_bytes());
            }
            let named = named(&lines);
            let made = ["x-request-id", "traceparent"];

            request_to_upstream(&mut head, &client(trusted), &STAMP).unwrap();
            response_to_client(&mut answer, DATE).unwrap();

            for gone in HOP_BY_HOP {
                prop_assert_eq!(values(&head.fields, gone), None);
                if status != 426 {
                    prop_assert_eq!(values(&answer.fields, gone), None);
                }
            }
            for gone in &named {
                prop_assert!(made.contains(&&**gone) || !head.fields.all(gone).any(|_| true));
                prop_assert!(status == 426 || !answer.fields.all(gone).any(|_| true));
            }
            for kept in ["content-length", "transfer-encoding"] {
                let before = lines.iter().filter(|(name, _)| name.eq_ignore_ascii_case(kept)).count();
                prop_assert_eq!(head.fields.all(kept).count(), before);
                prop_assert_eq!(answer.fields.all(kept).count(), before);
            }
            prop_assert_eq!(values(&head.fields, "host"), Some("a.b".to_owned()));
            for once in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "traceparent"] {
                prop_assert_eq!(head.fields.all(once).count(), 1, "{}", once);
            }
            let list = values(&head.fields, "x-forwarded-for").unwrap();
            prop_assert!(list == "10.0.0.1" || (trusted && list.ends_with(", 10.0.0.1")));
            prop_assert!(trusted || !head.fields.all("x-forwarded-port").any(|_| true));
        }
    }
}
