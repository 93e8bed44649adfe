//! What gRPC asks of a proxy beside HTTP/2: its own words for errors, and deadlines.
//!
//! Not here: messages, which pass as bytes do.

use std::time::Duration;

use bytes::Bytes;

use crate::error::RequestError;
use crate::http::{Fields, RequestHead, ResponseHead, head};

/// The longest text that becomes a call's message.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Whether a request is one of gRPC: its media type says so. `application/grpc-web` is another protocol,
/// whose clients read HTTP.
pub(super) fn is_grpc(head: &RequestHead) -> bool {
    let media = head.fields.get("content-type").unwrap_or_default();
    let Some((start, rest)) = media.split_at_checked(b"application/grpc".len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest, [] | [b'+' | b';' | b' ', ..])
}

/// How long the client waits: at most eight digits and a unit.
pub(super) fn timeout(fields: &Fields) -> Option<Duration> {
    let (unit, digits) = fields.get("grpc-timeout")?.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Makes an error that is told in `head` by its status one that gRPC understands: a head that is all
/// there is, with the status of the call among its fields.
pub(super) fn error(head: &mut ResponseHead, error: RequestError, detail: &str) {
    head.assign(200);
    let fields = &mut head.fields;
    fields.push("Content-Type", b"application/grpc");
    fields.push("grpc-status", code(error).to_string().as_bytes());
    fields.push("grpc-message", escaped(detail).as_bytes());
}

/// Makes an answer that a plugin or a route has given in HTTP's words one that gRPC understands; says so. What is
/// gRPC already, or a success, stays as it is.
pub(super) fn translate(head: &mut ResponseHead, body: &mut Option<Bytes>) -> bool {
    let status = head.status;
    let spoken = status == 200 || head.fields.get("grpc-status").is_some();
    if spoken || head.set_status(200).is_err() {
        return false;
    }
    let text =
        head.fields.get("content-type").is_some_and(|media| media.starts_with(b"text/plain"));
    let told = body.replace(Bytes::new()).filter(|body| text && body.len() <= MESSAGE_BYTES_MAX);
    let told = told.as_deref().and_then(|body| std::str::from_utf8(body).ok()).map(str::trim);
    let message = told.filter(|told| !told.is_empty()).unwrap_or(head::reason(status));
    let message = escaped(message);
    let fields = &mut head.fields;
    fields.remove_if(|name, _| {
        let name = name.to_ascii_lowercase();
        matches!(
            &*name,
            b"content-type" | b"content-length" | b"content-encoding" | b"grpc-message"
        )
    });
    fields.push("Content-Type", b"application/grpc");
    fields.push("grpc-status", code_of(status).to_string().as_bytes());
    fields.push("grpc-message", message.as_bytes());
    true
}

/// What gRPC takes a status of HTTP for.
fn code_of(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The status of a call, of those that gRPC lists. Clients repeat a call that was `UNAVAILABLE`.
fn code(error: RequestError) -> u8 {
    const CANCELLED: u8 = 1;
    const DEADLINE_EXCEEDED: u8 = 4;
    const RESOURCE_EXHAUSTED: u8 = 8;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    match error {
        RequestError::ClientTimeout | RequestError::ResponseTimeout => DEADLINE_EXCEEDED,
        RequestError::Cancelled => CANCELLED,
        RequestError::HeadTooLarge
        | RequestError::TargetTooLong
        | RequestError::BodyTooLarge
        | RequestError::Exhausted => RESOURCE_EXHAUSTED,
        RequestError::NoRoute
        | RequestError::MethodNotAllowed
        | RequestError::NotImplemented(_) => UNIMPLEMENTED,
        RequestError::Malformed(_)
        | RequestError::PlainHttp
        | RequestError::Expectation
        | RequestError::Version
        | RequestError::ClientGone
        | RequestError::BadResponse(_)
        | RequestError::ResponseHeadTooLarge => INTERNAL,
        RequestError::Overloaded
        | RequestError::WebSocketsTaken
        | RequestError::Plugin
        | RequestError::Aborted
        | RequestError::Dns
        | RequestError::Refused
        | RequestError::Connect
        | RequestError::ConnectTimeout
        | RequestError::TlsCertificate
        | RequestError::TlsAlert
        | RequestError::TlsProtocol
        // A client makes another connection then.
        | RequestError::Misdirected
        | RequestError::Unprocessed
        | RequestError::Closed => UNAVAILABLE,
    }
}

/// A message as `grpc-message` carries it: other than visible ASCII is escaped, and so is `%`.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            // Cannot fail: it is memory that is written to.
            _ => _ = write!(out, "%{byte:02X}"),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Version;

    fn head(name: &str, value: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.assign("POST", "/", Version::Http2);
        head.fields.push(name, value.as_bytes());
        head
    }

    #[test]
    fn grpc_is_told_by_its_media_type() {
        for (media, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/gRPC; charset=x", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&head("content-type", media)), expected, "{media}");
        }
    }

    #[test]
    fn a_timeout_has_a_unit() {
        for (text, expected) in [
            ("10S", Some(Duration::from_secs(10))),
            ("2M", Some(Duration::from_secs(120))),
            ("1H", Some(Duration::from_secs(3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("100000000n", None),
            ("S", None),
            ("-1S", None),
            ("1", None),
            ("", None),
        ] {
            assert_eq!(timeout(&head("grpc-timeout", text).fields), expected, "{text}");
        }
    }

    #[test]
    fn an_answer_of_http_becomes_one_of_grpc() {
        let mut head = ResponseHead::default();
        for (status, media, text, code, message) in [
            (401, "text/plain; charset=utf-8", "who are you?\n", "16", "who are you?"),
            (403, "text/html", "<b>no</b>", "7", "Forbidden"),
            (429, "text/plain", "", "14", "Too Many Requests"),
            (301, "text/plain", "there", "2", "there"),
        ] {
            head.assign(status);
            head.fields.push("Content-Type", media.as_bytes());
            head.fields.push("WWW-Authenticate", b"Bearer");
            let mut body = Some(Bytes::from(text));

            assert!(translate(&mut head, &mut body));

            let field = |name| std::str::from_utf8(head.fields.get(name).unwrap()).unwrap();
            assert_eq!((head.status, field("grpc-status")), (200, code));
            assert_eq!(
                (field("grpc-message"), field("content-type")),
                (message, "application/grpc")
            );
            assert_eq!((field("www-authenticate"), body.unwrap().len()), ("Bearer", 0));
            assert!(!translate(&mut head, &mut None), "once");
        }
    }

    #[test]
    fn a_message_is_visible_ascii() {
        assert_eq!(escaped("50% \u{e9}\n"), "50%25 %C3%A9%0A");
    }
}
