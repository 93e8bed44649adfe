//! HTTP/1 heads: from [`RequestHead`] and [`ResponseHead`] to bytes (RFC 9112).
//!
//! Untouched field lines go out as the bytes that came in. `Content-Length` stays as it was
//! received; everything else about framing is written here and nowhere else.
//!
//! Not here: which fields may be forwarded (`proxy::headers`).

use super::fields::Name;
use super::head::{RequestHead, ResponseHead};
use super::parse::Framing;

/// Writes a request head. `upgrade` asks for the protocol that the client wants.
pub fn request(
    out: &mut Vec<u8>,
    head: &mut RequestHead,
    framing: Framing,
    upgrade: Option<&[u8]>,
) {
    frame(&mut head.fields, framing);
    let (method, target) = head.start();
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    head.fields.write(out);
    if let Some(protocol) = upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: ");
        out.extend_from_slice(protocol);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// What a response head says about the connection that it is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionField {
    /// Nothing: HTTP/1.1 stays open by itself.
    Absent,
    /// A 1.0 client must be told that the connection stays open.
    KeepAlive,
    /// This is the last response.
    Close,
}

/// Writes a response head with the framing of its body.
///
/// `Framing::None` leaves a `Content-Length` alone: the answer to HEAD and 304 may have one.
pub fn response(
    out: &mut Vec<u8>,
    head: &mut ResponseHead,
    framing: Framing,
    connection: ConnectionField,
) {
    frame(&mut head.fields, framing);
    status_line(out, head);
    head.fields.write(out);
    match connection {
        ConnectionField::Absent => {}
        ConnectionField::KeepAlive => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        ConnectionField::Close => out.extend_from_slice(b"Connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim response: 1xx other than 101.
pub fn interim(out: &mut Vec<u8>, head: &ResponseHead) {
    status_line(out, head);
    head.fields.write(out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the response that turns a connection into a tunnel (RFC 9110 §15.2.2).
pub fn switching_protocols(out: &mut Vec<u8>, head: &ResponseHead, protocol: &[u8]) {
    status_line(out, head);
    head.fields.write(out);
    out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: ");
    out.extend_from_slice(protocol);
    out.extend_from_slice(b"\r\n\r\n");
}

fn status_line(out: &mut Vec<u8>, head: &ResponseHead) {
    if head.status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 ");
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
        let status = head.status;
        let digit = |value: u16| b'0' + u8::try_from(value % 10).unwrap_or_default();
        out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
    }
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
}

/// Makes the framing fields say what is sent.
pub(super) fn frame(fields: &mut super::Fields, framing: Framing) {
    match framing {
        Framing::None => fields.remove_known(Name::TransferEncoding),
        Framing::Length(length) => {
            fields.remove_known(Name::TransferEncoding);
            if !fields.has(Name::ContentLength) {
                fields.push("Content-Length", length.to_string().as_bytes());
            }
        }
        Framing::Chunked => {
            fields.remove_known(Name::ContentLength);
            if !fields.has(Name::TransferEncoding) {
                fields.push("Transfer-Encoding", b"chunked");
            }
        }
        Framing::UntilClose => {
            fields.remove_known(Name::ContentLength);
            fields.remove_known(Name::TransferEncoding);
        }
    }
}
