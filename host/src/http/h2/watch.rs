//! Watches the frames that a peer sends, without reading them.
//!
//! Many frames cost their sender next to nothing, ask for work, and lead nowhere: pings, settings, resets,
//! window updates, empty data. Crate `h2` bounds the memory that they can take; [`Watch`] bounds the rest. It
//! sees the headers of frames as bytes pass by, and keeps an account: such frames are paid for by useful
//! work (requests answered, content moved) and by time.
//!
//! Not here: reading and writing (`wire`), what becomes of a connection whose account is empty
//! (`connection`, `upstream`).

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
}

impl Watch {
    /// For what a client sends, beginning with its preface.
    pub fn client(tick: u64) -> Self {
        Self { left: PREFACE.len(), ..Self::server(tick) }
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
        }
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
    /// connection began. False: there is too much that is not.
    #[must_use]
    pub fn see(&mut self, mut bytes: &[u8], tick: u64, work: u64) -> bool {
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
                let cost = self.frame();
                let Some(rest) = self.credit.checked_sub(cost) else { return false };
                self.credit = rest;
            }
        }
        true
    }

    /// Takes note of the frame whose header is there; says what it costs.
    fn frame(&mut self) -> u64 {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let has = |flag: u8| flags & flag != 0;
        (self.ends_block, self.in_block) = match kind {
            1 | 5 | 9 => (has(0x4), self.left > 0 || !has(0x4)),
            _ => (false, self.in_block),
        };
        match kind {
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
        }
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
        assert!(watch.see(PREFACE, 0, 0));
        watch
    }

    #[test]
    fn frames_that_lead_nowhere_end_the_patience() {
        for (length, kind, flags) in
            [(8, 6, 0), (0, 4, 0), (5, 2, 0), (4, 3, 0), (4, 8, 0), (0, 0, 0)]
        {
            let mut watch = client();
            let one = frame(length, kind, flags);

            let endured = (0..10_000).take_while(|_| watch.see(&one, 0, 0)).count();

            assert!((400..=2_000).contains(&endured), "{kind}: {endured}");
        }
    }

    #[test]
    fn time_and_work_pay() {
        let ping = frame(8, 6, 0);
        let mut slow = client();
        assert!((0..20_000).all(|count| slow.see(&ping, count / 5, 0)));
        let mut useful = client();
        assert!((0..20_000).all(|count| useful.see(&ping, 0, count / 4)));
    }

    #[test]
    fn content_and_requests_cost_nothing() {
        let mut watch = client();
        for one in [frame(1, 0, 0), frame(0, 0, 1), frame(10, 1, 4)] {
            assert!((0..10_000).all(|_| watch.see(&one, 0, 0)));
        }
    }

    /// However the bytes are cut.
    #[test]
    fn a_head_is_open_until_its_last_frame_is_whole() {
        let mut watch = client();
        let frames = [frame(10, 1, 0), frame(3, 9, 0), frame(4, 9, 4)].concat();
        for (index, byte) in frames.iter().enumerate() {
            assert_eq!(watch.is_in_block(), index >= 9, "{index}");
            assert!(watch.see(&[*byte], 0, 0));
        }
        assert!(!watch.is_in_block());
        assert!(!watch.has_heard_settings() && !watch.is_going_away());
        assert!(watch.see(&frame(6, 4, 0), 0, 0) && watch.has_heard_settings());
        assert!(watch.see(&frame(8, 7, 0), 0, 0) && watch.is_going_away());
    }
}
