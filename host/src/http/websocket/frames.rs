//! Follows the frames of one direction while their bytes pass, to know when one is over (RFC 6455 §5.2).
//!
//! Not here: what frames mean (tungstenite, where messages are seen), and whose bytes pass (`proxy::relay`,
//! `proxy::websocket`).

/// Longest head of a frame: two bytes, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

/// Opcode of a close.
const CLOSE: u8 = 8;

/// The head of a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    /// Its first byte: whether it is the last of its message, reserved bits, opcode.
    pub first: u8,
    /// What its payload is masked with; zeros where it is not.
    pub mask: [u8; 4],
    /// Bytes of its payload.
    pub length: u64,
}

impl Frame {
    /// Its opcode (RFC 6455 §5.2).
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// Whether it is the last of its message.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }
}

/// The frames of one direction.
#[derive(Clone, Debug)]
pub struct Frames {
    /// They are a client's.
    masked: bool,
    /// What of the next frame's head has passed.
    head: [u8; HEAD_BYTES_MAX],
    held: usize,
    /// The frame whose payload passes, and what of it is still to come.
    frame: Frame,
    left: u64,
    /// What has passed is no WebSocket, and where a frame would end is not known.
    lost: bool,
}

impl Frames {
    /// Those that a client sends.
    #[must_use]
    pub fn of_client() -> Self {
        Self {
            masked: true,
            head: [0; HEAD_BYTES_MAX],
            held: 0,
            frame: Frame::default(),
            left: 0,
            lost: false,
        }
    }

    /// Those that a server sends.
    #[must_use]
    pub fn of_server() -> Self {
        Self { masked: false, ..Self::of_client() }
    }

    /// Bytes pass.
    pub fn pass(&mut self, bytes: &[u8]) {
        self.read(bytes, |_, _, _| {});
    }

    /// Bytes pass, of which `see` gets what is payload, and where in its frame that begins. It gets that of
    /// an empty frame as well.
    pub fn read(&mut self, mut bytes: &[u8], mut see: impl FnMut(&Frame, u64, &[u8])) {
        while !self.lost && !self.is_closed() {
            let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            if payload > 0 {
                see(&self.frame, self.frame.length - self.left, &bytes[..payload]);
                self.skip(payload as u64);
            }
            let Some((first, rest)) = bytes[payload..].split_first() else { return };
            bytes = rest;
            self.head[self.held] = *first;
            self.held += 1;
            if self.held == self.head_bytes() {
                self.begin();
                if self.left == 0 && !self.lost {
                    see(&self.frame, 0, &[]);
                }
            }
        }
    }

    /// So many bytes of payload pass unseen.
    pub fn skip(&mut self, count: u64) {
        debug_assert!(count <= self.payload(), "a head passes seen");
        self.left = self.left.saturating_sub(count);
    }

    /// How many bytes may pass unseen.
    #[must_use]
    pub fn payload(&self) -> u64 {
        if self.lost || self.is_closed() { u64::MAX } else { self.left }
    }

    /// Whether another frame could follow here.
    #[must_use]
    pub fn is_between(&self) -> bool {
        !self.lost && self.frame.opcode() != CLOSE && self.left == 0 && self.held == 0
    }

    /// Whether a close has passed. Nothing follows it (RFC 6455 §5.5.1).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.frame.opcode() == CLOSE && self.left == 0
    }

    /// Whether what has passed is no WebSocket.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Bytes of the head, as far as what is there of it says.
    fn head_bytes(&self) -> usize {
        if self.held < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.masked { 4 } else { 0 }
    }

    /// The head is whole.
    fn begin(&mut self) {
        let [first, second, length @ ..] = self.head;
        let short = second & 0x7f;
        let length = match (short, length) {
            (126, [a, b, ..]) => u16::from_be_bytes([a, b]).into(),
            (127, [a, b, c, d, e, f, g, h, ..]) => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            _ => short.into(),
        };
        let mask = match self.head[..self.held] {
            [.., a, b, c, d] if self.masked => [a, b, c, d],
            _ => [0; 4],
        };
        self.frame = Frame { first, mask, length };
        let (opcode, is_control) = (self.frame.opcode(), first & 0x08 != 0);
        // The first reserved bit is what compression uses (RFC 7692 §6); nobody uses the others.
        self.lost = (second & 0x80 != 0) != self.masked
            || first & 0x30 != 0
            || !matches!(opcode, 0..=2 | CLOSE..=10)
            || is_control && (!self.frame.is_final() || short >= 126)
            || length > i64::MAX.unsigned_abs();
        self.left = length;
        self.held = 0;
    }
}

/// A close without a reason; with a mask, a client's.
#[must_use]
pub fn close(code: u16, mask: Option<[u8; 4]>) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    match mask {
        None => vec![0x80 | CLOSE, 2, high, low],
        Some([a, b, c, d]) => vec![0x80 | CLOSE, 0x80 | 2, a, b, c, d, high ^ a, low ^ b],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(mut frames: Frames, bytes: &[u8], cut: usize) -> Frames {
        bytes.chunks(cut).for_each(|part| frames.pass(part));
        frames
    }

    #[test]
    fn frames_are_over_where_they_end_however_they_are_cut() {
        let long = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        let longer = [&[0xc1, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65_536]].concat();
        let masked = [0x81, 0x83, 1, 2, 3, 4, b'a', b'b', b'c'];
        for (frames, bytes) in [
            (Frames::of_server(), vec![0x81, 0]),
            (Frames::of_server(), vec![0x01, 1, b'x', 0x89, 0, 0x80, 1, b'y']),
            (Frames::of_server(), [long, longer].concat()),
            (Frames::of_client(), masked.to_vec()),
            (Frames::of_client(), vec![0x8a, 0x80, 1, 2, 3, 4]),
        ] {
            for cut in [1, 2, 3, 100, bytes.len()] {
                let before = passed(frames.clone(), &bytes[..bytes.len() - 1], cut);
                assert!(!before.is_between() && !before.is_lost(), "{bytes:x?}");
                assert!(passed(frames.clone(), &bytes, cut).is_between(), "{bytes:x?}");
            }
        }
    }

    #[test]
    fn nothing_follows_a_close() {
        for (frames, mask) in
            [(Frames::of_server(), None), (Frames::of_client(), Some([1, 2, 3, 4]))]
        {
            let bytes = close(1001, mask);
            let whole = passed(frames.clone(), &[&bytes[..], b"GET /"].concat(), 1);
            assert!(whole.is_closed() && !whole.is_between() && !whole.is_lost());
            let part = passed(frames, &bytes[..bytes.len() - 1], 1);
            assert!(!part.is_closed() && !part.is_between());
        }
        assert!(passed(Frames::of_server(), &[0x88, 0], 2).is_closed());
    }

    #[test]
    fn payload_may_pass_unseen() {
        let mut frames = Frames::of_server();
        frames.pass(&[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0, b'x']);
        assert_eq!(frames.payload(), (1 << 32) - 1);
        frames.skip((1 << 32) - 1);
        assert!(frames.is_between());
        assert_eq!(frames.payload(), 0);
    }

    #[test]
    fn what_is_no_websocket_is_noticed() {
        for bytes in [
            b"hello".as_slice(),
            b"HTTP/1.1 200 OK\r\n",
            &[0x83, 0],
            &[0x08, 0],
            &[0x88, 126, 0, 126],
            &[0xa1, 0],
            // Masked, and a server's.
            &[0x81, 0x80, 0, 0, 0, 0],
            &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let frames = passed(Frames::of_server(), bytes, 1);
            assert!(frames.is_lost() && !frames.is_between(), "{bytes:x?}");
            assert_eq!(frames.payload(), u64::MAX);
        }
        // Not masked, and a client's.
        assert!(passed(Frames::of_client(), &[0x81, 4, 0, 0, 0, 0], 1).is_lost());
    }
}
