//! Watches the frames that a peer sends, without reading them.
//!
//! Many frames cost their sender next to nothing, ask for work, and lead nowhere: pings, settings, resets,
//! window updates, empty data. Crate `h2` bounds the memory that they can take; [`Watch`] bounds the rest. It
//! sees the headers of frames as bytes pass by, and keeps an account: such frames are paid for by useful
//! work (requests answered, content moved) and by time.
//!
//! And it knows which requests a client has ended: crate `h2` forgets a stream with its response, and takes
//! content that comes later for a stream's error.
//!
//! Not here: reading and writing (`wire`), what becomes of a connection whose account is empty
//! (`connection`, `upstream`).

use std::collections::VecDeque;

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What an account can hold. A browser that leaves a page resets a hundred streams; a burst of window
/// updates after a large upload is a few hundred frames.
const CREDIT_MAX: u64 = 2_000;

/// What a tick of 50 ms adds: 100 idle frames a second can go on for ever.
const CREDIT_PER_TICK: u64 = 5;

/// What a piece of useful work adds.
const CREDIT_PER_WORK: u64 = 4;

const FRAME_HEADER_BYTES: usize = 9;

/// Requests whose end is waited for at a time. Of more, the oldest are no longer looked at: their client does not
/// end what has been answered.
const OPEN_MAX: usize = 256;

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// Too much that leads nowhere.
    Flood,
    /// Content of a request that its client has ended itself.
    AfterEnd,
}

impl Offence {
    /// As HTTP/2 says it.
    pub fn reason(self) -> h2::Reason {
        match self {
            Self::Flood => h2::Reason::ENHANCE_YOUR_CALM,
            Self::AfterEnd => h2::Reason::STREAM_CLOSED,
        }
    }
}

/// Follows the frames of one direction of a connection.
#[derive(Debug)]
pub struct Watch {
    /// Of the preface, or of a frame's payload, so much is still to come.
    left: usize,
    header: [u8; FRAME_HEADER_BYTES],
    /// So much of the next frame's header is there.
    filled: usize,
    /// The frame whose payload passes is the last of a header block.
    ends_block: bool,
    in_block: bool,
    heard: bool,
    going_away: bool,
    credit: u64,
    tick: u64,
    work: u64,
    /// Of a client.
    requests: Option<Requests>,
}

/// What a client has begun and ended.
#[derive(Debug, Default)]
struct Requests {
    count: u64,
    newest: u32,
    /// Begun and not ended, in their order.
    open: VecDeque<u32>,
    /// Up to this one, nothing is known.
    forgotten: u32,
}

impl Watch {
    /// For what a client sends, beginning with its preface.
    pub fn client(tick: u64) -> Self {
        let requests = Some(Requests::default());
        Self { left: PREFACE.len(), requests, ..Self::server(tick) }
    }

    /// For what a server sends.
    pub fn server(tick: u64) -> Self {
        Self {
            left: 0,
            header: [0; FRAME_HEADER_BYTES],
            filled: 0,
            ends_block: false,
            in_block: false,
            heard: false,
            going_away: false,
            credit: CREDIT_MAX,
            tick,
            work: 0,
            requests: None,
        }
    }

    /// Requests that a client has begun.
    pub fn requests(&self) -> u64 {
        self.requests.as_ref().map_or(0, |requests| requests.count)
    }

    /// The peer has sent its settings, so that its limits are known.
    pub fn has_heard_settings(&self) -> bool {
        self.heard
    }

    /// The peer has announced that it takes no more requests.
    pub fn is_going_away(&self) -> bool {
        self.going_away
    }

    /// The peer is in the middle of the head of a message.
    pub fn is_in_block(&self) -> bool {
        self.in_block
    }

    /// Looks at the bytes that have come next. `tick` is the time, `work` all that was useful since the
    /// connection began.
    ///
    /// # Errors
    ///
    /// The connection must end.
    pub fn see(&mut self, mut bytes: &[u8], tick: u64, work: u64) -> Result<(), Offence> {
        let passed = tick.saturating_sub(self.tick).saturating_mul(CREDIT_PER_TICK);
        let earned = work.saturating_sub(self.work).saturating_mul(CREDIT_PER_WORK);
        (self.tick, self.work) = (tick, work);
        self.credit = self.credit.saturating_add(passed).saturating_add(earned).min(CREDIT_MAX);
        while !bytes.is_empty() {
            if self.left > 0 {
                let passing = self.left.min(bytes.len());
                bytes = &bytes[passing..];
                self.left -= passing;
                if self.left == 0 && self.ends_block {
                    self.in_block = false;
                }
                continue;
            }
            let taken = (FRAME_HEADER_BYTES - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == FRAME_HEADER_BYTES {
                self.filled = 0;
                let cost = self.frame()?;
                self.credit = self.credit.checked_sub(cost).ok_or(Offence::Flood)?;
            }
        }
        Ok(())
    }

    /// Takes note of the frame whose header is there; says what it costs.
    fn frame(&mut self) -> Result<u64, Offence> {
        let [high, middle, low, kind, flags, stream @ ..] = self.header;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let has = |flag: u8| flags & flag != 0;
        (self.ends_block, self.in_block) = match kind {
            1 | 5 | 9 => (has(0x4), self.left > 0 || !has(0x4)),
            _ => (false, self.in_block),
        };
        if let Some(requests) = &mut self.requests {
            requests.see(kind, u32::from_be_bytes(stream) & !(1 << 31), has(0x1))?;
        }
        Ok(match kind {
            // DATA that neither is nor ends anything.
            0 => u64::from(self.left == 0 && !has(0x1)),
            // HEADERS: the number of streams is limited, and what comes of them is counted with RST_STREAM.
            1 => 0,
            // RST_STREAM: somebody has begun to work for nothing.
            3 => 4,
            // SETTINGS other than an acknowledgement: is acknowledged.
            4 => {
                self.heard = true;
                if has(0x1) { 1 } else { 4 }
            }
            // GOAWAY.
            7 => {
                self.going_away = true;
                4
            }
            // PRIORITY, PING, WINDOW_UPDATE, CONTINUATION and what nobody knows.
            _ => 1,
        })
    }
}

impl Requests {
    /// RFC 9113 §5.1: nothing but a reset follows the end of a request. What was never begun, and heads that
    /// follow an end, crate `h2` finds out.
    fn see(&mut self, kind: u8, stream: u32, ends: bool) -> Result<(), Offence> {
        match kind {
            0 if stream > self.newest || stream <= self.forgotten => {}
            0 => match self.open.binary_search(&stream) {
                Ok(at) if ends => _ = self.open.remove(at),
                Ok(_) => {}
                Err(_) => return Err(Offence::AfterEnd),
            },
            1 if stream > self.newest => {
                self.newest = stream;
                self.count += 1;
                if !ends {
                    self.open.push_back(stream);
                }
                if self.open.len() > OPEN_MAX {
                    self.forgotten = self.open.pop_front().unwrap_or_default();
                }
            }
            1 | 3 if ends || kind == 3 => {
                if let Ok(at) = self.open.binary_search(&stream) {
                    self.open.remove(at);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u32, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.resize(FRAME_HEADER_BYTES + length as usize, 0);
        frame
    }

    fn client() -> Watch {
        let mut watch = Watch::client(0);
        watch.see(PREFACE, 0, 0).unwrap();
        watch
    }

    #[test]
    fn frames_that_lead_nowhere_end_the_patience() {
        for (length, kind, flags) in
            [(8, 6, 0), (0, 4, 0), (5, 2, 0), (4, 3, 0), (4, 8, 0), (0, 0, 0)]
        {
            let mut watch = client();
            let one = frame(length, kind, flags);

            let endured = (0..10_000).take_while(|_| watch.see(&one, 0, 0).is_ok()).count();

            assert!((400..=2_000).contains(&endured), "{kind}: {endured}");
        }
    }

    #[test]
    fn time_and_work_pay() {
        let ping = frame(8, 6, 0);
        let mut slow = client();
        assert!((0..20_000).all(|count| slow.see(&ping, count / 5, 0).is_ok()));
        let mut useful = client();
        assert!((0..20_000).all(|count| useful.see(&ping, 0, count / 4).is_ok()));
    }

    #[test]
    fn content_and_requests_cost_nothing() {
        let mut watch = client();
        watch.see(&frame(10, 1, 4), 0, 0).unwrap();
        for one in [frame(1, 0, 0), frame(10, 1, 4)] {
            assert!((0..10_000).all(|_| watch.see(&one, 0, 0).is_ok()));
        }
    }

    /// However the bytes are cut.
    #[test]
    fn a_head_is_open_until_its_last_frame_is_whole() {
        let mut watch = client();
        let frames = [frame(10, 1, 0), frame(3, 9, 0), frame(4, 9, 4)].concat();
        for (index, byte) in frames.iter().enumerate() {
            assert_eq!(watch.is_in_block(), index >= 9, "{index}");
            watch.see(&[*byte], 0, 0).unwrap();
        }
        assert!(!watch.is_in_block());
        assert!(!watch.has_heard_settings() && !watch.is_going_away());
        watch.see(&frame(6, 4, 0), 0, 0).unwrap();
        watch.see(&frame(8, 7, 0), 0, 0).unwrap();
        assert!(watch.has_heard_settings() && watch.is_going_away());
    }

    fn of(stream: u32, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = frame(1, kind, flags);
        frame[5..9].copy_from_slice(&stream.to_be_bytes());
        frame
    }

    /// RFC 9113 §5.1.
    #[test]
    fn nothing_follows_the_end_of_a_request() {
        for end in [of(3, 0, 1), of(3, 1, 5), of(3, 3, 0)] {
            let mut watch = client();
            for one in [of(1, 1, 5), of(3, 1, 4), of(5, 1, 4), of(3, 0, 0), end, of(5, 0, 0)] {
                watch.see(&one, 0, 0).unwrap();
            }
            assert_eq!(watch.see(&of(3, 0, 0), 0, 0), Err(Offence::AfterEnd));
            assert_eq!(watch.requests(), 3);
        }
        let mut watch = client();
        watch.see(&of(1, 1, 5), 0, 0).unwrap();
        assert_eq!(watch.see(&of(1, 0, 1), 0, 0), Err(Offence::AfterEnd));
        assert_eq!(watch.see(&of(3, 0, 1), 0, 0), Ok(()), "never begun");
        // A server's streams are those that it was asked on.
        assert_eq!(Watch::server(0).see(&of(1, 0, 1), 0, 0), Ok(()));
    }

    #[test]
    fn requests_that_are_never_ended_take_no_room() {
        let mut watch = client();
        for stream in (1..200_001).step_by(2) {
            watch.see(&of(stream, 1, 4), 0, 0).unwrap();
        }
        assert_eq!(watch.requests.as_ref().unwrap().open.len(), OPEN_MAX);
        for stream in [1, 199_999] {
            assert_eq!(watch.see(&of(stream, 0, 0), 0, 0), Ok(()), "{stream}");
        }
    }
}
