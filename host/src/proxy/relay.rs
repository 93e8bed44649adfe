//! Moves one body from one socket to another.
//!
//! ```text
//!   inbox ─┐
//!          ├─► BodyReader ─► pending ─► write
//!   read  ─┘    (framing)
//!   splice ───────────────► pipe ─────► splice     (content that nobody looks at, if it is much)
//!
//!   inbox ─► BodyReader ─► plugins ─► framing ─► pending      (content that plugins are shown)
//! ```
//!
//! A stream of an HTTP/2 connection frames content by itself: it is given content, then its end with the
//! trailers; and what comes from one is content until it ends.
//!
//! Bytes stay in the buffer that they were read into: a message head takes the place of the one that
//! was received with them, chunk sizes go around them. Nothing is read while something is pending,
//! so a slow receiver holds at most one buffer here and the rest stays in the kernel, where it slows
//! the sender down.
//!
//! Cancel safety: dropping a [`Pump`] loses pending bytes, so both connections must be closed then.
//!
//! Not here: when a body may be sent (`proxy`), where it ends (`http::body`).

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Write as _};
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderMap;

use super::shown::{LAST_CHUNK, Shown};
use crate::error::RequestError;
use crate::http::body::BodyReader;
use crate::http::connection::{consume, poll_fill};
use crate::http::h2;
use crate::http::websocket::Frames;
use crate::io::{Buffer, BufferPool, Pipe, PipePool, Reader, Timer, Writer};
use crate::plugin::body::CHUNK_BYTES_MAX;
use crate::plugin::{BodyFilter, Exchange};
use crate::state::cache::Capture;

/// Reads and writes in one go before other connections get their turn.
const ROUNDS_MAX: usize = 16;

/// So much content still to come is spliced and not copied. Below, the pipe costs more system calls
/// than it saves copying.
const SPLICE_BYTES_MIN: u64 = 1024 * 1024;

/// A read of so much, of content that ends with its connection: a bulk transfer has begun.
const BULK_READ_BYTES: usize = 64 * 1024;

/// Memory that every poll of a worker uses and none keeps.
#[derive(Debug, Default)]
pub struct Scratch {
    pieces: Vec<Range<usize>>,
    start: Vec<u8>,
    tail: Vec<u8>,
}

/// What a pump borrows from its worker.
#[derive(Clone, Copy, Debug)]
pub struct Lanes<'a> {
    /// Read buffers.
    pub pool: &'a Rc<BufferPool>,
    /// Pipes to splice through.
    pub pipes: &'a PipePool,
    /// Scratch memory.
    pub scratch: &'a RefCell<Scratch>,
    /// Armed anew with every progress.
    pub timer: &'a Timer,
    /// Longest time without progress.
    pub idle: Duration,
}

/// Where an exchange is, but for the time of a hook's call.
pub type Place = Option<Box<Exchange>>;

/// Why a body did not arrive whole.
#[derive(Debug)]
pub enum PumpError {
    /// The sender left or failed in the middle.
    Source,
    /// The sender's bytes are no body, or too many.
    Bad(RequestError),
    /// The receiver failed.
    Sink(io::Error),
}

/// One body on its way.
#[derive(Debug)]
pub struct Pump {
    reader: BodyReader,
    /// The receiver gets chunks, the sender sends none.
    to_chunks: bool,
    /// The receiver frames content by itself.
    to_frames: bool,
    /// Lines that it gets after the content.
    trailers: Vec<u8>,
    /// It has been told that there is no more.
    ended: bool,
    /// Ready to be written; never an empty buffer.
    pending: Option<Buffer>,
    /// Content on its way past this process; kept only while there is some.
    pipe: Option<Pipe>,
    /// Content is spliced from here on.
    bulk: bool,
    /// It cannot be: no pipe is to be had, or the socket is of a kind that does not splice.
    copies: bool,
    /// Plugins that are shown the content; once nobody wants to see more, none.
    shown: Option<Box<Shown>>,
    /// The body comes from memory, and this is what is left of it.
    own: Option<Buffer>,
    is_own: bool,
    /// All of the body has been read and framed.
    finished: bool,
    /// Bytes written, head included.
    written: u64,
    /// Keeps what passes.
    tap: Option<Box<Tap>>,
    /// Follows what passes, where it is frames.
    course: Option<Box<Course>>,
}

/// A WebSocket's frames on their way.
#[derive(Debug)]
struct Course {
    frames: Frames,
    /// What is sent when the frame that is passing is over, and ends it all.
    farewell: Option<Vec<u8>>,
}

impl Course {
    /// What is to be sent now, before nothing follows. Nothing where its sender has closed.
    fn farewell(&mut self) -> Option<Vec<u8>> {
        if self.frames.is_closed() {
            self.farewell.take().map(|_| Vec::new())
        } else if self.frames.is_between() {
            self.farewell.take()
        } else {
            None
        }
    }
}

/// Copies a body's content for those who keep it.
#[derive(Debug)]
struct Tap {
    captures: Vec<Capture>,
    /// Follows the same body as the pump's, but wants content only.
    content: BodyReader,
    pieces: Vec<Range<usize>>,
}

impl Tap {
    fn see(&mut self, bytes: &[u8]) {
        self.pieces.clear();
        if self.content.advance(bytes, &mut self.pieces, &mut Vec::new()).is_err() {
            self.captures.clear();
        }
        for piece in &self.pieces {
            self.captures.iter_mut().for_each(|capture| capture.write(&bytes[piece.clone()]));
        }
    }
}

impl Pump {
    /// A pump for the body that `reader` follows. `to_frames`: the receiver frames content by itself, and the
    /// reader must not be one for [`Form::Same`](crate::http::body::Form::Same) if the sender sends chunks.
    pub fn new(reader: BodyReader, to_chunks: bool, to_frames: bool) -> Self {
        let finished = reader.is_done();
        Self {
            reader,
            to_chunks,
            to_frames,
            trailers: Vec::new(),
            ended: false,
            pending: None,
            pipe: None,
            bulk: false,
            copies: false,
            shown: None,
            own: None,
            is_own: false,
            finished,
            written: 0,
            tap: None,
            course: None,
        }
    }

    /// Keeps the body as well, whose content `content` follows; to be called before anything moves.
    pub fn keep(&mut self, captures: Vec<Capture>, content: BodyReader) {
        self.tap = Some(Box::new(Tap { captures, content, pieces: Vec::new() }));
        if self.finished {
            self.end_tap();
        }
    }

    /// All of the body has come.
    fn end_tap(&mut self) {
        if let Some(tap) = self.tap.take() {
            tap.captures.into_iter().for_each(Capture::end);
        }
    }

    /// Follows the frames of a WebSocket, so that it can be [closed](Self::part).
    pub fn follow(&mut self, frames: Frames) {
        self.course = Some(Box::new(Course { frames, farewell: None }));
    }

    /// Ends what passes with `farewell`, a frame, as soon as another frame may follow. Whether that can be
    /// known.
    pub fn part(&mut self, farewell: Vec<u8>) -> bool {
        let Some(course) = self.course.as_mut().filter(|course| !course.frames.is_lost()) else {
            return false;
        };
        course.farewell = Some(farewell);
        true
    }

    /// Shows the content to plugins on its way. `to_chunks`: the receiver gets chunks, whatever the
    /// sender sends. The reader must be one for [`Form::Bare`](crate::http::body::Form::Bare).
    pub fn show_to(&mut self, filter: Option<Box<BodyFilter>>, to_chunks: bool) {
        self.shown = filter.map(|filter| Box::new(Shown::new(filter, to_chunks)));
    }

    /// Sends a body that is in memory, to which the reader must fit.
    pub fn send_own(&mut self, body: Buffer) {
        self.own = (!body.is_empty()).then_some(body);
        self.is_own = true;
    }

    /// Puts a message head, and what is there of the body, on its way as one run.
    pub fn begin(
        &mut self,
        head: &[u8],
        inbox: &mut Option<Buffer>,
        lanes: &Lanes<'_>,
        place: &mut Place,
    ) -> Result<(), RequestError> {
        let mut own = self.own.take();
        let source = if self.is_own { &mut own } else { inbox };
        let begun = match source.take() {
            Some(buffer) if !self.finished => self.stage(buffer, head, source, lanes, place),
            buffer => {
                *source = buffer.map(Buffer::settle);
                self.pending = (!head.is_empty()).then(|| lanes.pool.copy_of(head));
                Ok(())
            }
        };
        self.own = own;
        begun
    }

    /// Whether nothing is left to be done.
    pub fn is_done(&self) -> bool {
        self.finished && !self.waits_for_receiver() && (self.ended || !self.to_frames)
    }

    /// Whether a head that was sent apart is all that there is.
    pub fn is_nothing(&self) -> bool {
        self.finished && self.pending.is_none() && self.trailers.is_empty()
    }

    /// Whether it is the receiver who is waited for.
    pub fn waits_for_receiver(&self) -> bool {
        self.pending.is_some() || self.pipe.is_some()
    }

    /// Bytes of the body taken from the sender so far, as they came.
    pub fn received(&self) -> u64 {
        self.reader.received()
    }

    /// Bytes written so far, head included.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Moves what can be moved. Ready when the body has been written to its end.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Reader<'_>,
        inbox: &mut Option<Buffer>,
        to: &mut Writer<'_>,
        lanes: &Lanes<'_>,
        place: &mut Place,
    ) -> Poll<Result<(), PumpError>> {
        if !self.is_own {
            return self.poll_from(cx, from, inbox, to, lanes, place);
        }
        let mut own = self.own.take();
        let polled = self.poll_from(cx, from, &mut own, to, lanes, place);
        self.own = own;
        polled
    }

    fn poll_from(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Reader<'_>,
        inbox: &mut Option<Buffer>,
        to: &mut Writer<'_>,
        lanes: &Lanes<'_>,
        place: &mut Place,
    ) -> Poll<Result<(), PumpError>> {
        for _ in 0..ROUNDS_MAX {
            if let Some(buffer) = &mut self.pending {
                let last = self.finished && self.trailers.is_empty();
                match to.poll_write_part(cx, buffer.filled(), last) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(PumpError::Sink(io::ErrorKind::WriteZero.into())));
                    }
                    Poll::Ready(Ok(count)) => {
                        self.written += count as u64;
                        lanes.timer.arm(lanes.idle);
                        consume(&mut self.pending, count);
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Sink(error))),
                    Poll::Pending => {
                        self.pending = self.pending.take().map(Buffer::settle);
                        return Poll::Pending;
                    }
                }
            }
            if let Some(pipe) = &mut self.pipe {
                match ready!(to.poll_splice(cx, pipe)) {
                    Ok(0) => {
                        return Poll::Ready(Err(PumpError::Sink(io::ErrorKind::WriteZero.into())));
                    }
                    Ok(count) => {
                        self.written += count as u64;
                        lanes.timer.arm(lanes.idle);
                        if let Some(empty) = self.pipe.take_if(|pipe| pipe.is_empty()) {
                            lanes.pipes.give_back(empty);
                        }
                        continue;
                    }
                    Err(error) => return Poll::Ready(Err(PumpError::Sink(error))),
                }
            }
            if !self.finished
                && let Some(farewell) = self.course.as_mut().and_then(|course| course.farewell())
            {
                self.finished = true;
                self.pending = (!farewell.is_empty()).then(|| lanes.pool.hold(farewell));
                continue;
            }
            if self.finished {
                self.ended = true;
                let end = to.end(|| h2::write_trailers(&self.trailers));
                return Poll::Ready(end.map_err(PumpError::Sink));
            }
            if inbox.is_none() && self.splices() && from.splices() && to.splices() {
                ready!(self.poll_splice(cx, from, lanes))?;
                continue;
            }
            if inbox.is_none() {
                match ready!(poll_fill(cx, from, inbox, lanes.pool)) {
                    Ok(0) if self.reader.ends_at_close() => {
                        let trailers = ready!(from.poll_trailers(cx));
                        let trailers = trailers.map_err(|_| PumpError::Source)?;
                        self.finish(trailers.as_ref(), lanes, place).map_err(PumpError::Bad)?;
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Err(PumpError::Source)),
                    Ok(count) => {
                        lanes.timer.arm(lanes.idle);
                        self.bulk = count >= BULK_READ_BYTES && self.reader.ends_at_close();
                    }
                }
            }
            if let Some(buffer) = inbox.take() {
                self.stage(buffer, &[], inbox, lanes, place).map_err(PumpError::Bad)?;
            }
        }
        // There may be more, but others wait too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether what comes next is content, much of it, and goes on as it is.
    fn splices(&self) -> bool {
        let long = self.reader.remaining().is_some_and(|left| left >= SPLICE_BYTES_MIN);
        (self.bulk || long)
            && !self.copies
            && !self.to_chunks
            && !self.to_frames
            && self.tap.is_none()
            && self.shown.is_none()
            && self
                .course
                .as_ref()
                .is_none_or(|course| course.frames.payload() >= BULK_READ_BYTES as u64)
    }

    /// Moves what the sender has sent into a pipe.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Reader<'_>,
        lanes: &Lanes<'_>,
    ) -> Poll<Result<(), PumpError>> {
        let Ok(mut pipe) = lanes.pipes.take() else {
            self.copies = true;
            return Poll::Ready(Ok(()));
        };
        let plain = self.reader.plain();
        // Heads of frames are looked at.
        let plain = self.course.as_ref().map_or(plain, |it| plain.min(it.frames.payload()));
        let max = usize::try_from(plain).unwrap_or(usize::MAX);
        let moved = from.poll_splice(cx, &mut pipe, max);
        if !pipe.is_empty() {
            self.pipe = Some(pipe);
        } else {
            lanes.pipes.give_back(pipe);
        }
        match moved {
            // Much or little may come next, where no length says which.
            Poll::Pending => {
                self.bulk &= !self.reader.ends_at_close();
                return Poll::Pending;
            }
            Poll::Ready(Ok(0)) if self.reader.ends_at_close() => {
                self.finish(None, lanes, &mut None).map_err(PumpError::Bad)?;
            }
            Poll::Ready(Ok(count @ 1..)) => {
                lanes.timer.arm(lanes.idle);
                self.bulk = true;
                if let Some(course) = &mut self.course {
                    course.frames.skip(count as u64);
                }
                self.reader.skip(count as u64).map_err(PumpError::Bad)?;
                self.finished = self.reader.is_done();
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                self.copies = true;
            }
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(PumpError::Source)),
        }
        Poll::Ready(Ok(()))
    }

    /// The sender's close, or its word, was the end of the body.
    fn finish(
        &mut self,
        trailers: Option<&HeaderMap>,
        lanes: &Lanes<'_>,
        place: &mut Place,
    ) -> Result<(), RequestError> {
        let mut lines = Vec::new();
        if let Some(trailers) = trailers {
            self.reader.take_trailers(trailers, &mut lines)?;
        }
        self.finished = true;
        self.end_tap();
        if let Some(shown) = &mut self.shown {
            if !lines.is_empty() && !self.to_frames {
                lines.extend_from_slice(b"\r\n");
            }
            let run = shown.run(&[], &[], Some(&lines), place)?;
            self.pending = (!run.is_empty()).then(|| lanes.pool.hold(run));
        } else if self.to_chunks && lines.is_empty() {
            self.pending = Some(lanes.pool.copy_of(LAST_CHUNK));
        } else if self.to_chunks {
            self.pending = Some(lanes.pool.hold([b"0\r\n", &lines[..], b"\r\n"].concat()));
        }
        if self.to_frames {
            self.trailers = lines;
        }
        Ok(())
    }

    /// As [`stage`](Self::stage), by way of the plugins: no more at a time than they are shown at a
    /// time, and the rest goes back to `inbox`.
    fn stage_shown(
        &mut self,
        mut buffer: Buffer,
        head: &[u8],
        inbox: &mut Option<Buffer>,
        lanes: &Lanes<'_>,
        place: &mut Place,
    ) -> Result<(), RequestError> {
        let Some(shown) = &mut self.shown else { return Ok(()) };
        let mut scratch = lanes.scratch.borrow_mut();
        let Scratch { pieces, tail, .. } = &mut *scratch;
        pieces.clear();
        tail.clear();
        let part = &buffer.filled()[..buffer.len().min(CHUNK_BYTES_MAX)];
        let step = self.reader.advance(part, pieces, tail)?;
        if self.to_frames && step.done && tail.len() > 2 {
            self.trailers.clone_from(tail);
        }
        let content = match pieces.as_slice() {
            [] => Cow::Borrowed(&part[..0]),
            [piece] => Cow::Borrowed(&part[piece.clone()]),
            // Many small chunks are shown as one.
            many => {
                Cow::Owned(many.iter().flat_map(|piece| &part[piece.clone()]).copied().collect())
            }
        };
        let end = step.done.then_some(tail.as_slice());
        let run = shown.run(head, &content, end, place)?;
        self.finished = step.done;
        self.pending = (!run.is_empty()).then(|| lanes.pool.hold(run));
        buffer.consume(step.consumed);
        *inbox = (!buffer.is_empty()).then_some(buffer);
        // Nobody wants to see more, and what comes can go its direct way.
        if shown.filter.is_idle() && self.reader.plain() > 0 {
            self.to_chunks = shown.to_chunks;
            self.shown = None;
        }
        Ok(())
    }

    /// Frames what is in `buffer` and makes it pending, after `head`. What follows the body goes back
    /// to `inbox`.
    fn stage(
        &mut self,
        mut buffer: Buffer,
        head: &[u8],
        inbox: &mut Option<Buffer>,
        lanes: &Lanes<'_>,
        place: &mut Place,
    ) -> Result<(), RequestError> {
        if self.shown.is_some() {
            return self.stage_shown(buffer, head, inbox, lanes, place);
        }
        let mut scratch = lanes.scratch.borrow_mut();
        let Scratch { pieces, start, tail } = &mut *scratch;
        pieces.clear();
        tail.clear();
        if let Some(tap) = &mut self.tap {
            tap.see(buffer.filled());
        }
        if let Some(course) = &mut self.course {
            course.frames.pass(buffer.filled());
        }
        let step = self.reader.advance(buffer.filled(), pieces, tail)?;
        self.finished = step.done;
        if self.finished {
            self.end_tap();
        }
        if self.to_frames {
            // An empty line alone ends a body without trailers.
            if tail.len() > 2 {
                self.trailers.clone_from(tail);
            }
            tail.clear();
        }
        let rest = buffer.len() - step.consumed;
        // The shorter part is the one that is copied: a short body may have much behind it.
        let leaves = rest > step.consumed;
        if rest > 0 && !leaves {
            *inbox = Some(lanes.pool.copy_of(&buffer.filled()[step.consumed..]));
            buffer.truncate(step.consumed);
        }
        let mut before = head;
        if self.to_chunks && !pieces.is_empty() {
            let size: usize = pieces.iter().map(Range::len).sum();
            start.clear();
            start.extend_from_slice(head);
            // Cannot fail: it is memory that is written to.
            let _ = write!(start, "{size:x}\r\n");
            before = start;
            tail.extend_from_slice(b"\r\n");
        }
        if self.to_chunks && step.done {
            tail.extend_from_slice(LAST_CHUNK);
        }
        let in_place = match pieces.as_slice() {
            _ if leaves => false,
            [piece] => buffer.wrap(piece.clone(), before, tail),
            _ => false,
        };
        if !in_place {
            let size: usize = pieces.iter().map(Range::len).sum();
            let mut run = lanes.pool.sized(before.len() + size + tail.len());
            run.push(before);
            pieces.iter().for_each(|piece| run.push(&buffer.filled()[piece.clone()]));
            run.push(tail);
            if leaves {
                buffer.consume(step.consumed);
                *inbox = Some(buffer.settle());
            }
            buffer = run;
        }
        self.pending = (!buffer.is_empty()).then_some(buffer);
        Ok(())
    }
}
