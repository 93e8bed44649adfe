//! A connection on which frames are said and heard, and the frames that the cases are made of.

use crate::harness::http2::{Frame, PREFACE, block, frame, next_frame, try_next_frame};
use crate::harness::{Wire, WireError};

pub(super) const PROTOCOL: u32 = 1;
pub(super) const FLOW_CONTROL: u32 = 3;
pub(super) const CLOSED: u32 = 5;
pub(super) const FRAME_SIZE: u32 = 6;
pub(super) const REFUSED: u32 = 7;
pub(super) const CANCEL: u32 = 8;
pub(super) const COMPRESSION: u32 = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW: u8 = 8;
pub(super) const MORE: u8 = 9;

pub(super) const ACK: u8 = 1;
/// The last frame of a stream.
pub(super) const END: u8 = 1;
/// The last frame of a head.
pub(super) const WHOLE: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const RANKED: u8 = 0x20;

/// What came until it was clear that it is not what should come.
pub(super) type Told = Result<(), Vec<Frame>>;
pub(super) type Case = (&'static str, fn(&mut Talk) -> Told);

pub(super) struct Talk {
    wire: Wire,
    /// Said, and not sent yet.
    said: Vec<u8>,
}

impl Talk {
    /// With both sides' settings said and acknowledged.
    pub(super) fn begin(wire: Wire) -> Self {
        let mut talk = Self { wire, said: Vec::new() };
        talk.send(PREFACE);
        talk.send(frame(SETTINGS, 0, 0, &[]));
        talk.flush();
        let (mut said, mut heard) = (false, false);
        while !said || !heard {
            let frame = next_frame(&mut talk.wire).expect("settings and their acknowledgement");
            if frame.kind == SETTINGS {
                said |= frame.flags == 0;
                heard |= frame.flags == ACK;
            }
        }
        talk.send(frame(SETTINGS, ACK, 0, &[]));
        talk
    }

    /// Goes out with all that is said before something is waited for: a fault must not come so much later than its
    /// request that this has been answered, and the stream forgotten.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.said.extend_from_slice(bytes.as_ref());
    }

    /// The other end may have had enough already.
    fn flush(&mut self) {
        let _ = self.wire.try_send(std::mem::take(&mut self.said));
    }

    pub(super) fn setting(&mut self, name: u8, value: u32) {
        self.send(frame(SETTINGS, 0, 0, &setting(name, value)));
    }

    /// Reads until `wanted` says yes or no. Whether the connection's end is what is wanted is `ends`.
    pub(super) fn until(&mut self, ends: bool, wanted: impl Fn(&Frame) -> Option<bool>) -> Told {
        self.flush();
        let mut seen = Vec::new();
        loop {
            let frame = match try_next_frame(&mut self.wire) {
                Ok(frame) => frame,
                Err(WireError::Late(_)) => return Err(seen),
                Err(_) => return if ends { Ok(()) } else { Err(seen) },
            };
            let verdict = wanted(&frame);
            seen.push(frame);
            match verdict {
                Some(true) => return Ok(()),
                Some(false) => return Err(seen),
                None => {}
            }
        }
    }

    /// The connection ends, and this is why if that is said.
    pub(super) fn fails(&mut self, codes: &[u32]) -> Told {
        self.until(true, |it| (it.kind == GOAWAY && codes.contains(&code(it))).then_some(true))
    }

    /// The stream ends, or the connection does.
    pub(super) fn resets(&mut self, codes: &[u32]) -> Told {
        self.until(true, |it| {
            ([RESET, GOAWAY].contains(&it.kind) && codes.contains(&code(it))).then_some(true)
        })
    }

    pub(super) fn closes(&mut self) -> Told {
        self.until(true, |_| None)
    }

    pub(super) fn answers(&mut self) -> Told {
        self.until(false, |it| match it.kind {
            HEADERS => Some(it.stream == 1),
            RESET | GOAWAY => Some(false),
            _ => None,
        })
    }

    /// The response is there as a whole.
    pub(super) fn ends(&mut self) -> Told {
        self.until(false, |it| {
            ([DATA, HEADERS].contains(&it.kind) && it.flags & END != 0).then_some(true)
        })
    }

    /// As much content as this, and no more.
    pub(super) fn gives(&mut self, length: usize) -> Told {
        self.until(false, |it| (it.kind == DATA).then_some(it.payload.len() == length))
    }

    /// A ping is answered: what came before was taken.
    pub(super) fn lives(&mut self) -> Told {
        self.send(frame(PING, 0, 0, b"conforms"));
        self.until(false, |it| match it.kind {
            PING => Some(it.flags == ACK && it.payload == b"conforms"),
            GOAWAY => Some(false),
            _ => None,
        })
    }

    pub(super) fn acknowledges(&mut self) -> Told {
        self.until(false, |it| (it.kind == SETTINGS).then_some(it.flags == ACK))
    }
}

pub(super) fn code(frame: &Frame) -> u32 {
    let at = if frame.kind == GOAWAY { 4 } else { 0 };
    u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap())
}

pub(super) fn setting(name: u8, value: u32) -> Vec<u8> {
    [&[0, name][..], &value.to_be_bytes()].concat()
}

pub(super) fn fields(method: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "a")]
}

pub(super) fn common() -> Vec<u8> {
    block(&fields("GET"))
}

/// A GET; what is missing in the flags is to follow.
pub(super) fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags, stream, &common())
}

pub(super) fn post(more: &[(&'static str, &'static str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &block(&[fields("POST"), more.to_vec()].concat()))
}

/// A GET with these bytes of HPACK at its end.
pub(super) fn with(bytes: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE | END, 1, &[&common(), bytes].concat())
}

/// A GET of just these fields.
pub(super) fn just(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE | END, 1, &block(fields))
}

pub(super) fn but(name: &str) -> Vec<u8> {
    just(&fields("GET").into_iter().filter(|field| field.0 != name).collect::<Vec<_>>())
}

pub(super) fn and(more: (&'static str, &'static str)) -> Vec<u8> {
    just(&[fields("GET"), vec![more]].concat())
}

pub(super) fn more(stream: u32, flags: u8) -> Vec<u8> {
    frame(MORE, flags, stream, &block(&[("x-more", "of it")]))
}

pub(super) fn rank(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    frame(PRIORITY, 0, stream, &[&on.to_be_bytes()[..], &[weight]].concat())
}

pub(super) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RESET, 0, stream, &code.to_be_bytes())
}

pub(super) fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW, 0, stream, &by.to_be_bytes())
}
