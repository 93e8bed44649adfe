//! Bodies in HTTP/1: where they end, and which of the received bytes are forwarded.
//!
//! [`BodyReader`] is a frame counter: it looks at bytes as they come and says which *pieces* of
//! them go on. Nothing is copied. For chunked bodies (RFC 9112 §7.1):
//!
//! ```text
//!   Size ──digits──► Size ──;──► Extension ──CR──► SizeLf ──LF──┬──► Data ──► DataCr ──► DataLf ─► Size
//!                     └───────────CR──────────────► SizeLf      └─0─► Trailers ──empty line──► Done
//! ```
//!
//! Line ends are CR LF and nothing else: a bare LF that ends a chunk line for one parser and not for
//! another hides a request. Extensions are taken off (§7.1.1), trailers checked.
//!
//! Not here: how a message says which framing it uses (`parse`), moving bytes (`proxy::relay`).

use std::ops::Range;

use http::HeaderMap;
use memchr::memmem;

use super::parse::{self, Framing, HeadLimits};
use crate::error::RequestError;

/// Extensions are ignored by everyone, so all that they can do is cost: this much a body.
const EXTENSION_BYTES_MAX: usize = 4 * 1024;

/// What a body looks like when it is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As received: content as it is, chunks as chunks.
    Same,
    /// Content only.
    Content,
    /// Content, and the end of a chunked body with its trailers.
    Bare,
}

#[derive(Debug)]
enum State {
    Length(u64),
    UntilClose,
    Size {
        digits: u8,
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    Trailers(Vec<u8>),
    Done,
    /// For good: what comes after an error has no known place in the body.
    Failed(RequestError),
}

/// Follows one body through the bytes of its connection.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    form: Form,
    extension_bytes: usize,
    content_bytes: u64,
    /// What was seen besides content.
    framing_bytes: u64,
    content_max: u64,
    trailer_limits: HeadLimits,
    drops_trailers: bool,
}

/// What became of the bytes shown to a [`BodyReader`].
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// So many of them belong to the body; the rest comes after it.
    pub consumed: usize,
    /// The body has ended.
    pub done: bool,
}

impl BodyReader {
    /// A reader for a body of this framing, to be forwarded in this form.
    pub fn new(framing: Framing, form: Form, content_max: u64, limits: &HeadLimits) -> Self {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { digits: 0, size: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            state,
            form,
            extension_bytes: 0,
            content_bytes: 0,
            framing_bytes: 0,
            content_max,
            trailer_limits: *limits,
            drops_trailers: false,
        }
    }

    /// Takes trailers off when `Connection` names fields: they may be the ones that it names (RFC 9110
    /// §7.6.1).
    #[must_use]
    pub fn without_trailers(mut self, names_fields: bool) -> Self {
        self.drops_trailers = names_fields;
        self
    }

    /// Checks the trailers of a body that does not have them among its bytes, and writes to `out` the
    /// lines that may be forwarded.
    pub fn take_trailers(
        &self,
        trailers: &HeaderMap,
        out: &mut Vec<u8>,
    ) -> Result<(), RequestError> {
        super::h2::read_trailers(trailers, &self.trailer_limits, out)
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the sender's close is the end of the body, and not the loss of its rest.
    pub fn ends_at_close(&self) -> bool {
        matches!(self.state, State::UntilClose)
    }

    /// Bytes still to come, when that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Bytes of the body so far, as they came.
    pub fn received(&self) -> u64 {
        self.content_bytes + self.framing_bytes
    }

    /// How many of the next bytes are content and go on as they are, so that nobody needs to look at
    /// them: all up to the end, or none.
    pub fn plain(&self) -> u64 {
        match self.state {
            State::Length(left) => left,
            State::UntilClose => u64::MAX,
            _ => 0,
        }
    }

    /// Takes note of `count` bytes of [`plain`](Self::plain) content that went on without a look.
    pub fn skip(&mut self, count: u64) -> Result<(), RequestError> {
        debug_assert!(count <= self.plain(), "no more than were plain");
        if let State::Length(left) = &mut self.state {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.state = State::Done;
            }
        }
        self.count(count)
    }

    /// Looks at the next bytes. What is to be forwarded is added to `pieces` as ranges of `bytes`, in
    /// order; neighbours are one piece. `tail` receives what follows the pieces and is not among
    /// `bytes` as it stands: the end of a chunked body with its checked trailers. An error is final.
    pub fn advance(
        &mut self,
        bytes: &[u8],
        pieces: &mut Vec<Range<usize>>,
        tail: &mut Vec<u8>,
    ) -> Result<Step, RequestError> {
        let mut position = 0;
        let content_before = self.content_bytes;
        while position < bytes.len() && !self.is_done() {
            position = self.step(bytes, position, pieces, tail).inspect_err(|error| {
                self.state = State::Failed(*error);
            })?;
        }
        self.framing_bytes += position as u64 - (self.content_bytes - content_before);
        Ok(Step { consumed: position, done: self.is_done() })
    }

    /// Handles what begins at `position`; returns where the next thing begins.
    fn step(
        &mut self,
        bytes: &[u8],
        position: usize,
        pieces: &mut Vec<Range<usize>>,
        tail: &mut Vec<u8>,
    ) -> Result<usize, RequestError> {
        let rest = &bytes[position..];
        let byte = rest[0];
        let raw = self.form == Form::Same;
        let ends = self.form != Form::Content;
        // A framing byte that goes on as it is.
        let keep = |pieces: &mut Vec<Range<usize>>| {
            if raw {
                add(pieces, position..position + 1);
            }
        };
        let next = match &mut self.state {
            State::Done => return Ok(position),
            State::Failed(error) => return Err(*error),
            State::UntilClose => {
                add(pieces, position..bytes.len());
                self.count(rest.len() as u64)?;
                return Ok(bytes.len());
            }
            State::Length(left) => {
                let taken = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                let done = *left == 0;
                add(pieces, position..position + taken);
                self.count(taken as u64)?;
                if done {
                    self.state = State::Done;
                }
                return Ok(position + taken);
            }
            State::Data(left) => {
                let taken = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                let done = *left == 0;
                add(pieces, position..position + taken);
                self.count(taken as u64)?;
                if done {
                    self.state = State::DataCr;
                }
                return Ok(position + taken);
            }
            State::Trailers(held) if held.is_empty() && rest.starts_with(b"\r\n") => {
                // The usual case, no trailers: the end goes on as it came.
                if raw {
                    add(pieces, position..position + 2);
                } else if ends {
                    tail.extend_from_slice(b"\r\n");
                }
                self.state = State::Done;
                return Ok(position + 2);
            }
            State::Trailers(held) => {
                let before = tail.len();
                let consumed = trailers(rest, held, &self.trailer_limits, ends, tail)?;
                if self.drops_trailers && ends && consumed.is_some() {
                    tail.truncate(before);
                    tail.extend_from_slice(b"\r\n");
                }
                if let Some(consumed) = consumed {
                    self.state = State::Done;
                    return Ok(position + consumed);
                }
                return Ok(bytes.len());
            }
            State::Size { digits, size } => match (byte as char).to_digit(16) {
                // Sixteen digits are all that 64 bits can hold.
                Some(digit) if *digits < 16 => {
                    State::Size { digits: *digits + 1, size: *size << 4 | u64::from(digit) }
                }
                None if *digits > 0 && byte == b'\r' => State::SizeLf { size: *size },
                None if *digits > 0 && byte == b';' => State::Extension { size: *size },
                _ => return Err(RequestError::Malformed("chunk size")),
            },
            State::Extension { size } => {
                let size = *size;
                self.extension_bytes += 1;
                if self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(RequestError::Malformed("chunk extensions too long"));
                }
                match byte {
                    b'\r' => State::SizeLf { size },
                    b'\t' | b' '..=b'~' | 0x80..=0xff => return Ok(position + 1),
                    _ => return Err(RequestError::Malformed("chunk extension")),
                }
            }
            State::SizeLf { size } if byte == b'\n' => {
                if *size == 0 {
                    State::Trailers(Vec::new())
                } else {
                    State::Data(*size)
                }
            }
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => State::Size { digits: 0, size: 0 },
            State::SizeLf { .. } | State::DataCr | State::DataLf => {
                return Err(RequestError::Malformed("chunk line end"));
            }
        };
        // The `;` of an extension goes with it; everything else of the framing stays.
        if !matches!(next, State::Extension { .. }) {
            keep(pieces);
        }
        self.state = next;
        Ok(position + 1)
    }

    fn count(&mut self, bytes: u64) -> Result<(), RequestError> {
        self.content_bytes += bytes;
        if self.content_bytes > self.content_max {
            return Err(RequestError::BodyTooLarge);
        }
        Ok(())
    }
}

/// Takes up trailers until their empty line; then writes what goes on to `tail` and returns how much
/// of `bytes` was theirs.
fn trailers(
    bytes: &[u8],
    held: &mut Vec<u8>,
    limits: &HeadLimits,
    raw: bool,
    tail: &mut Vec<u8>,
) -> Result<Option<usize>, RequestError> {
    let before = held.len();
    let room = limits.bytes_max.saturating_sub(before);
    held.extend_from_slice(&bytes[..bytes.len().min(room)]);
    let end = if held.starts_with(b"\r\n") {
        Some(2)
    } else {
        memmem::find(held, b"\r\n\r\n").map(|found| found + 4)
    };
    let Some(end) = end else {
        // Refuses a bare LF at once instead of waiting for the end of the section.
        parse::find_end(held, 0)?;
        if held.len() >= limits.bytes_max {
            return Err(RequestError::HeadTooLarge);
        }
        return Ok(None);
    };
    let mut checked = Vec::new();
    parse::trailers(&held[..end], limits, &mut checked)?;
    if raw {
        tail.extend_from_slice(&checked);
        tail.extend_from_slice(b"\r\n");
    }
    Ok(Some(end - before))
}

fn add(pieces: &mut Vec<Range<usize>>, piece: Range<usize>) {
    match pieces.last_mut() {
        Some(last) if last.end == piece.start => last.end = piece.end,
        _ => pieces.push(piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever goes on after an error would read chunks where there are none.
    #[test]
    fn an_error_is_final() {
        let limits = HeadLimits { bytes_max: 1024, fields_max: 10, target_bytes_max: 100 };
        for (framing, bad) in [(Framing::Chunked, &b"1Z"[..]), (Framing::Length(9), b"123456")] {
            let mut reader = BodyReader::new(framing, Form::Same, 5, &limits);
            let mut advance = |bytes| reader.advance(bytes, &mut Vec::new(), &mut Vec::new());

            let error = advance(bad).unwrap_err();

            for next in [&b"0\r\n"[..], b"789", b"\r\n"] {
                assert_eq!(advance(next), Err(error), "{framing:?}");
            }
        }
    }
}
