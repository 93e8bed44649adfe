//! One side of a WebSocket whose messages are seen: frames in, frames out.
//!
//! Frames are tungstenite's, but for text that is none, which is noticed earlier (`text`); what is added here
//! are bounds. One poll reads so much and no more, whatever
//! the peer sends. A message is written in fragments (RFC 6455 §5.4), so that no more than one of them is
//! copied, and nothing is taken on while something waits to be written.
//!
//! Not here: what messages mean, and when a side is closed (`websocket`).

mod text;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use self::text::Text;
use crate::config::Inspection;
use crate::http::websocket::{code, code_of};
use crate::io::Stream;
use crate::plugin::SocketMessage;

/// Bytes of a message that are written as one frame.
const FRAGMENT_BYTES_MAX: usize = 64 * 1024;

/// Answers to pings that may wait for a peer that sends pings and does not read. Of more than these the
/// last one is sent.
const PONG_BYTES_MAX: usize = 16 * 1024;

/// Each side holds a buffer of this size while nothing is said. tungstenite keeps what a larger frame took
/// ([`Side::shed`]).
const READ_BYTES: usize = 8 * 1024;

/// Reads in one poll before others get their turn.
const READS_MAX: usize = 32;

/// What came from a side.
#[derive(Debug)]
pub(super) enum Heard {
    Note(SocketMessage),
    /// A ping, which is answered, or a pong.
    Ping,
    Pong,
    /// It closes, and an answer is on its way.
    Close(Option<CloseFrame>),
    /// It broke a rule, and is to be told this code. Nothing more is read from it.
    Broken(u16, String),
    /// It has gone.
    Lost,
}

/// How far a side's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    Open,
    /// It has closed; what is written last is our answer.
    Answering,
    /// We have closed, and wait for its answer.
    Asking,
    Done,
}

/// One side.
pub(super) struct Side<'a> {
    socket: WebSocketStream<Metered<'a>>,
    /// Ours.
    role: Role,
    /// Whether tungstenite has handed over all that came and is whole.
    drained: bool,
    /// Whether its buffers have grown.
    grown: bool,
    /// The rest of a message, and whether its first fragment is still to be written.
    unsent: Option<(SocketMessage, bool)>,
    parting: Parting,
    /// It takes nothing at the moment.
    stalled: bool,
    /// Bytes may be left that nobody will read.
    pub(super) cut: bool,
    /// Bytes read and written so far, when that was last looked at.
    seen: (u64, u64),
    /// When something last came from it.
    pub(super) heard: Duration,
    /// When it was asked whether it is there, if it has said nothing since.
    pub(super) pinged: Option<Duration>,
    /// Our pings that it has not answered.
    unanswered: u32,
}

impl<'a> Side<'a> {
    /// A side behind a stream from which `early` has been read already. `role` is ours.
    pub(super) async fn new(
        stream: &'a mut Stream,
        early: Vec<u8>,
        role: Role,
        rules: &Inspection,
        now: Duration,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(FRAGMENT_BYTES_MAX + PONG_BYTES_MAX)
            .max_message_size(Some(rules.message_bytes_max))
            .max_frame_size(Some(rules.frame_bytes_max));
        let mut text = Text::new(role, rules.message_bytes_max, rules.frame_bytes_max);
        text.see(&early);
        let read = early.len() as u64;
        let metered =
            Metered { stream: Some(stream), text, reads: READS_MAX, read, written: 0, deaf: false };
        let socket = WebSocketStream::from_partially_read(metered, early, role, Some(config)).await;
        Self {
            socket,
            role,
            drained: false,
            grown: false,
            unsent: None,
            parting: Parting::Open,
            stalled: false,
            cut: false,
            seen: (0, 0),
            heard: now,
            pinged: None,
            unanswered: 0,
        }
    }

    /// Bytes written to it.
    pub(super) fn written(&self) -> u64 {
        self.socket.get_ref().written
    }

    /// Whether something waits to be written to it, or can never be.
    pub(super) fn is_behind(&self) -> bool {
        self.stalled || self.unsent.is_some() || self.is_deaf()
    }

    /// Whether nothing can be written to it any more.
    pub(super) fn is_deaf(&self) -> bool {
        self.socket.get_ref().deaf
    }

    /// Whether it took nothing when something was last written to it.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// It has shown that it is there.
    pub(super) fn is_there(&mut self, now: Duration) {
        self.heard = now;
        self.pinged = None;
    }

    /// Whether a pong from it can be the answer to a ping of ours.
    pub(super) fn has_answered(&mut self) -> bool {
        let asked = self.unanswered > 0;
        self.unanswered = self.unanswered.saturating_sub(1);
        asked
    }

    /// Begins a poll of the whole.
    pub(super) fn begin(&mut self) {
        self.socket.get_mut().reads = READS_MAX;
    }

    /// Whether bytes have come since this was last asked.
    pub(super) fn has_sent(&mut self) -> bool {
        let read = self.socket.get_ref().read;
        std::mem::replace(&mut self.seen.0, read) != read
    }

    /// Whether it has taken bytes since this was last asked.
    pub(super) fn has_taken(&mut self) -> bool {
        let written = self.socket.get_ref().written;
        std::mem::replace(&mut self.seen.1, written) != written
    }

    /// What comes from it next.
    pub(super) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let heard = Pin::new(&mut self.socket).poll_next(cx);
        self.drained = heard.is_pending();
        if let Poll::Ready(Some(Ok(message))) = &heard {
            self.grown |= message.len() > READ_BYTES;
        }
        if matches!(heard, Poll::Pending | Poll::Ready(None | Some(Err(_))))
            && self.socket.get_ref().text.is_bad()
        {
            return Poll::Ready(Heard::Broken(code::INVALID, "text that is not UTF-8".to_owned()));
        }
        Poll::Ready(match ready!(heard) {
            Some(Ok(Message::Text(text))) => {
                Heard::Note(SocketMessage { is_text: true, data: text.into() })
            }
            Some(Ok(Message::Binary(data))) => Heard::Note(SocketMessage { is_text: false, data }),
            Some(Ok(Message::Ping(_))) => Heard::Ping,
            // A frame as such is only ever sent.
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => Heard::Pong,
            Some(Ok(Message::Close(frame))) => Heard::Close(frame),
            Some(Err(error)) => match code_of(&error) {
                Some(code) => Heard::Broken(code, error.to_string()),
                None => Heard::Lost,
            },
            None => Heard::Lost,
        })
    }

    /// Takes a message on. Only when [`poll_sent`](Self::poll_sent) was ready.
    pub(super) fn send(&mut self, note: SocketMessage) {
        debug_assert!(self.unsent.is_none(), "one at a time");
        self.unsent = Some((note, true));
    }

    /// Writes what waits to be written. An error: nothing can be, now or later. What it has said before may
    /// still be here to be heard.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        let written = self.poll_written(cx);
        if self.is_deaf() || matches!(written, Poll::Ready(Err(()))) {
            self.socket.get_mut().deaf = true;
            self.unsent = None;
            return Poll::Ready(Err(()));
        }
        written
    }

    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        loop {
            let flushed = Pin::new(&mut self.socket).poll_flush(cx);
            self.stalled = flushed.is_pending();
            ready!(flushed).map_err(|_| ())?;
            let Some((note, first)) = &mut self.unsent else { return Poll::Ready(Ok(())) };
            let kind = match (*first, note.is_text) {
                (true, true) => Data::Text,
                (true, false) => Data::Binary,
                (false, _) => Data::Continue,
            };
            let part = note.data.split_to(note.data.len().min(FRAGMENT_BYTES_MAX));
            let last = note.data.is_empty();
            self.grown |= part.len() > READ_BYTES;
            let frame = Frame::message(part, OpCode::Data(kind), last);
            *first = false;
            if last {
                self.unsent = None;
            }
            Pin::new(&mut self.socket).start_send(Message::Frame(frame)).map_err(|_| ())?;
        }
    }

    /// Gives back what large frames have left in tungstenite's buffers, which never shrink: it begins anew,
    /// where nothing is under way.
    pub(super) fn shed(&mut self, cx: &mut Context<'_>) {
        let is_between = self.drained && self.socket.get_ref().text.is_between();
        let is_open = self.parting == Parting::Open && !self.is_behind();
        let may = self.grown && is_between && is_open;
        if !may || !matches!(Pin::new(&mut self.socket).poll_flush(cx), Poll::Ready(Ok(()))) {
            return;
        }
        self.grown = false;
        let (role, config) = (self.role, *self.socket.get_config());
        let text = Text::new(role, 0, 0);
        let nobody = Metered { stream: None, text, reads: 0, read: 0, written: 0, deaf: true };
        let metered = std::mem::replace(self.socket.get_mut(), nobody);
        // It waits for nothing.
        let made = WebSocketStream::from_raw_socket(metered, role, Some(config)).now_or_never();
        if let Some(socket) = made {
            self.socket = socket;
        }
        // It does not know yet whom to wake.
        cx.waker().wake_by_ref();
    }

    /// Asks whether it is there.
    pub(super) fn ping(&mut self, now: Duration) {
        self.pinged = Some(now);
        self.unanswered = self.unanswered.saturating_add(1);
        // An error: it has gone, or takes nothing, which will be noticed.
        let _ = Pin::new(&mut self.socket).start_send(Message::Ping(Bytes::new()));
    }

    /// Closes it, unless it has closed itself.
    pub(super) fn close(&mut self, frame: Option<CloseFrame>) {
        self.unsent = None;
        if self.parting == Parting::Open {
            let sent = Pin::new(&mut self.socket).start_send(Message::Close(frame));
            self.parting = if sent.is_ok() { Parting::Asking } else { Parting::Done };
        }
    }

    /// It has closed itself.
    pub(super) fn has_closed(&mut self) {
        self.unsent = None;
        self.parting = Parting::Answering;
    }

    /// It has gone, and hears nothing more.
    pub(super) fn has_gone(&mut self) {
        self.parting = Parting::Done;
    }

    /// Waits until nothing more is to be said to it or heard of it. What it still sends is thrown away.
    pub(super) fn poll_parted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.parting == Parting::Done {
            return Poll::Ready(());
        }
        let written = ready!(Pin::new(&mut self.socket).poll_flush(cx));
        if self.parting == Parting::Asking && written.is_ok() && !self.cut {
            // Until it closes, breaks a rule or goes.
            while let Heard::Note(_) | Heard::Ping | Heard::Pong = ready!(self.poll_heard(cx)) {}
        }
        self.parting = Parting::Done;
        Poll::Ready(())
    }
}

/// A stream that is read so often in one poll and no more: tungstenite reads for as long as bytes come that
/// make no message.
struct Metered<'a> {
    /// `None`: another one has it.
    stream: Option<&'a mut Stream>,
    /// Looks at what is read.
    text: Text,
    /// Reads that are left.
    reads: usize,
    read: u64,
    written: u64,
    /// Nothing can be written any more; what is, is thrown away. Not an error to tungstenite, which answers
    /// pings before it reads on.
    deaf: bool,
}

impl AsyncRead for Metered<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reads == 0 {
            // There may be more, but others wait too.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let count = ready!(stream.poll_read(cx, buffer.initialize_unfilled()))?;
        self.text.see(&buffer.initialize_unfilled()[..count]);
        buffer.advance(count);
        self.reads -= 1;
        self.read += count as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let deaf = self.deaf;
        let Some(stream) = self.stream.as_mut().filter(|_| !deaf) else {
            return Poll::Ready(Ok(bytes.len()));
        };
        let Ok(count) = ready!(stream.poll_write(cx, bytes)) else {
            self.deaf = true;
            return Poll::Ready(Ok(bytes.len()));
        };
        self.written += count as u64;
        Poll::Ready(Ok(count))
    }

    /// What was written is with the kernel.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => stream.poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests;
