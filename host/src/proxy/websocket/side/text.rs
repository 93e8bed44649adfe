//! Text that is no UTF-8 is noticed while its frame is still on its way (RFC 6455 §8.1).
//!
//! tungstenite looks at a frame when all of it is there, which a peer may put off. What is wrong in any other
//! way is left to tungstenite, and so are messages that come in one piece.

use tokio_tungstenite::tungstenite::protocol::Role;

use crate::http::websocket::{Frame, Frames};

/// Bytes that are looked at in one go, with what was left of a character before.
const PIECE_BYTES: usize = 512;

/// The longest beginning of a character that is not whole.
const CARRIED_MAX: usize = 3;

/// Follows the text that comes from a side.
#[derive(Debug)]
pub(super) struct Text {
    frames: Frames,
    message: Message,
}

/// The message that is on its way.
#[derive(Debug)]
struct Message {
    bytes_max: u64,
    frame_bytes_max: u64,
    kind: Kind,
    /// Its bytes so far, those of the current frame included.
    bytes: u64,
    carried: [u8; CARRIED_MAX],
    carried_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// None: the next frame begins one.
    None,
    Text,
    Binary,
    /// It is no text.
    Bad,
    /// Something else is wrong, or will be found to be.
    Other,
}

impl Text {
    /// Of the other side of one whose role is `role`.
    pub(super) fn new(role: Role, message_bytes_max: usize, frame_bytes_max: usize) -> Self {
        let frames = match role {
            Role::Server => Frames::of_client(),
            Role::Client => Frames::of_server(),
        };
        let message = Message {
            bytes_max: message_bytes_max as u64,
            frame_bytes_max: frame_bytes_max as u64,
            kind: Kind::None,
            bytes: 0,
            carried: [0; CARRIED_MAX],
            carried_len: 0,
        };
        Self { frames, message }
    }

    /// Bytes come from the side.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        let Self { frames, message } = self;
        frames.read(bytes, |frame, at, payload| message.see(frame, at, payload));
    }

    /// Whether a message could begin here.
    pub(super) fn is_between(&self) -> bool {
        self.frames.is_between() && self.message.kind == Kind::None
    }

    /// Whether there is text that is none.
    pub(super) fn is_bad(&self) -> bool {
        self.message.kind == Kind::Bad
    }
}

impl Message {
    fn see(&mut self, frame: &Frame, at: u64, payload: &[u8]) {
        let is_control = frame.opcode() >= 8;
        if is_control || matches!(self.kind, Kind::Bad | Kind::Other) {
            return;
        }
        if at == 0 {
            self.begin(frame);
        }
        let over = at + payload.len() as u64 == frame.length;
        let whole = at == 0 && over && frame.opcode() == 1 && frame.is_final();
        if self.kind == Kind::Text && !whole && !self.is_text(frame, at, payload) {
            self.kind = Kind::Bad;
        } else if over && frame.is_final() && self.kind != Kind::Other {
            self.kind = Kind::None;
        }
    }

    fn begin(&mut self, frame: &Frame) {
        self.kind = match (frame.first & 0x7f, self.kind) {
            (1, Kind::None) => Kind::Text,
            (2, Kind::None) => Kind::Binary,
            (0, kind @ (Kind::Text | Kind::Binary)) => kind,
            _ => Kind::Other,
        };
        if frame.opcode() != 0 {
            self.bytes = 0;
            self.carried_len = 0;
        }
        self.bytes = self.bytes.saturating_add(frame.length);
        if self.bytes > self.bytes_max || frame.length > self.frame_bytes_max {
            self.kind = Kind::Other;
        }
    }

    /// Whether text goes on with this.
    fn is_text(&mut self, frame: &Frame, at: u64, payload: &[u8]) -> bool {
        let mut masks = frame.mask.iter().cycle().skip(usize::try_from(at % 4).unwrap_or_default());
        let mut buffer = [0; PIECE_BYTES];
        for piece in payload.chunks(PIECE_BYTES - CARRIED_MAX) {
            let before = self.carried_len;
            buffer[..before].copy_from_slice(&self.carried[..before]);
            let end = before + piece.len();
            for ((to, byte), mask) in buffer[before..end].iter_mut().zip(piece).zip(&mut masks) {
                *to = byte ^ mask;
            }
            let rest = match std::str::from_utf8(&buffer[..end]) {
                Ok(_) => &[][..],
                Err(error) if error.error_len().is_none() => &buffer[error.valid_up_to()..end],
                Err(_) => return false,
            };
            self.carried_len = rest.len();
            self.carried[..rest.len()].copy_from_slice(rest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100;

    /// After how many bytes text is known to be none.
    fn noticed(role: Role, bytes: &[u8]) -> Option<usize> {
        let mut text = Text::new(role, LIMIT, LIMIT);
        bytes.iter().position(|byte| {
            text.see(&[*byte]);
            text.is_bad()
        })
    }

    #[test]
    fn the_first_byte_that_cannot_be_text_is_noticed() {
        // In one frame; in two, with a ping in between; in the second half of a character.
        assert_eq!(noticed(Role::Client, &[0x81, 5, b'a', 0xc3, 0xa4, 0xff, b'b']), Some(5));
        let parts = [0x01, 2, b'a', 0xf4, 0x89, 1, 0xff, 0x80, 9, 0x90, b'b'];
        assert_eq!(noticed(Role::Client, &parts), Some(9));
        let masked = [0x81, 0x85, 1, 2, 3, 4, b'a' ^ 1, 0xce ^ 2, 0xba ^ 3, 0xed ^ 4, 0xa0 ^ 1];
        assert_eq!(noticed(Role::Server, &masked), Some(10));
        // After text that was good, and after what is no text.
        let second = [0x81, 2, 0xc3, 0xa4, 0x82, 1, 0xff, 0x81, 2, 0xc0];
        assert_eq!(noticed(Role::Client, &second), Some(9));
    }

    #[test]
    fn what_is_not_only_no_text_is_left_to_others() {
        for bytes in [
            // Binary; compressed; a continuation of nothing, a beginning in the middle; too large.
            &[0x82, 2, 0xff][..],
            &[0xc1, 2, 0xff],
            &[0x80, 2, 0xff],
            &[0x01, 1, b'a', 0x81, 2, 0xff],
            &[0x81, 101, 0xff],
            &[0x01, 1, b'a', 0x80, 100, 0xff],
            // Text to its end, where more of a character is missing.
            &[0x81, 2, b'a', 0xc3],
        ] {
            assert_eq!(noticed(Role::Client, bytes), None, "{bytes:x?}");
        }
    }

    #[test]
    fn long_text_is_text_wherever_it_is_cut() {
        let content = "aä€𐍈".repeat(1000);
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        let bytes = [&[0x81, 126][..], &length, content.as_bytes()].concat();
        for cut in [1, 7, 511, 512, 513, 5000] {
            let mut text = Text::new(Role::Client, 20_000, 20_000);
            bytes.chunks(cut).for_each(|part| text.see(part));
            assert!(!text.is_bad(), "{cut}");
        }
    }
}
