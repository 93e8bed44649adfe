//! As much of WebSocket as a tunnel is loaded with: the handshake, and frames of 128 bytes that come
//! back unmasked (RFC 6455).
//!
//! Not here: any other frame.

use zproxy::load::Tunnel;

/// Bytes of a message.
const MESSAGE_BYTES: usize = 128;
/// A client's frame: two bytes, two of length, four of mask (RFC 6455 §5.2).
pub(crate) const FRAME_BYTES: usize = 8 + MESSAGE_BYTES;
/// Not random: nobody caches here, and the same bytes each time are what a load wants.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x88];

/// The handshake of RFC 6455 §1.3, whose key has this answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The request that asks for a tunnel.
pub(crate) fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: bench.example\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// The answer to it.
pub(crate) fn accepted() -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
    .into_bytes()
}

/// One message and what comes back.
pub(crate) fn tunnel() -> Tunnel {
    let mut frame = vec![0x82, 0xfe, 0, 128];
    frame.extend(MASK);
    frame.extend(
        (b'a'..=b'z').cycle().zip(MASK.into_iter().cycle()).map(|(b, m)| b ^ m).take(MESSAGE_BYTES),
    );
    Tunnel { reply_bytes: (frame.len() - MASK.len()) as u64, message: frame.into() }
}

/// The echo of a client's frame: the same message, without the mask.
pub(crate) fn echo(frame: &[u8; FRAME_BYTES]) -> Vec<u8> {
    let mut reply = vec![frame[0], frame[1] & 0x7f, frame[2], frame[3]];
    let mask = [frame[4], frame[5], frame[6], frame[7]];
    reply.extend(frame[8..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_unmasked() {
        let tunnel = tunnel();

        let reply = echo(&(*tunnel.message).try_into().unwrap());

        assert_eq!(reply.len() as u64, tunnel.reply_bytes);
        assert_eq!(&reply[..8], b"\x82\x7e\x00\x80abcd");
    }
}
