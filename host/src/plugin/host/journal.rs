//! The lines that an instance writes: by `log.write`, to stdout and to stderr.
//!
//! Every line is cut to [`LINE_BYTES_MAX`], stripped of control characters (a plugin must not forge
//! lines of others, nor move an operator's cursor) and marked with the plugin's name. The last
//! lines of stderr are kept: a Rust guest writes the message of a panic there before it traps.
//!
//! Not here: where lines end up (whoever listens to the `log` crate).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use log::Level;

/// More of a line is cut off.
const LINE_BYTES_MAX: usize = 4096;

/// Lines of stderr kept for the text of a failure; a panic message has two or three.
const LAST_LINES_MAX: usize = 4;

/// Bytes of each of them.
const LAST_LINE_BYTES_MAX: usize = 512;

/// An instance may write this many lines a second: one for each of 10,000 requests. A loop that
/// does nothing but write gets no further.
const LINES_PER_SECOND_MAX: u32 = 10_000;

/// And so many bytes a second: those lines, were they 100 bytes each.
const BYTES_PER_SECOND_MAX: usize = 1024 * 1024;

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Written as information.
    Stdout,
    /// Written as warnings, and kept for the text of a failure.
    Stderr,
}

/// The lines of one instance.
pub(in crate::plugin) struct Journal {
    plugin: Arc<str>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    last: VecDeque<(Instant, String)>,
    /// Lines in the second that began at `second`.
    lines: u32,
    /// Bytes likewise.
    bytes: usize,
    second: Option<Instant>,
    dropped: u64,
}

impl Journal {
    pub(super) fn new(plugin: Arc<str>) -> Self {
        Self {
            plugin,
            stdout: Vec::new(),
            stderr: Vec::new(),
            last: VecDeque::new(),
            lines: 0,
            bytes: 0,
            second: None,
            dropped: 0,
        }
    }

    /// Writes one line.
    #[expect(
        clippy::disallowed_methods,
        reason = "a line that is written costs more than the clock"
    )]
    pub(super) fn line(&mut self, level: Level, line: &[u8]) {
        if level > log::max_level() {
            return;
        }
        if !self.take(line.len().min(LINE_BYTES_MAX), Instant::now()) {
            self.dropped += 1;
            return;
        }
        log::log!(target: "zproxy::plugin", level, "{}: {}", self.plugin, clean(line, LINE_BYTES_MAX));
    }

    /// Takes bytes of a standard stream and writes each line that they complete.
    pub(super) fn print(&mut self, stream: Stream, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let pending = self.pending(stream);
            let room = LINE_BYTES_MAX.saturating_sub(pending.len());
            pending.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_line(stream);
            }
        }
    }

    /// The last lines of stderr written since a moment, oldest first.
    pub(in crate::plugin) fn last_lines(&mut self, since: Instant) -> Vec<&str> {
        self.end_line(Stream::Stdout);
        self.end_line(Stream::Stderr);
        let recent = self.last.iter().filter(|(when, _)| *when >= since);
        recent.map(|(_, line)| line.as_str()).collect()
    }

    /// Lines that were not written since this was last asked.
    pub(in crate::plugin) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn pending(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a line that is written costs more than the clock"
    )]
    fn end_line(&mut self, stream: Stream) {
        let line = std::mem::take(self.pending(stream));
        let text = line.trim_ascii_end();
        if text.is_empty() {
            return;
        }
        if stream == Stream::Stdout {
            self.line(Level::Info, text);
            return;
        }
        if self.last.len() == LAST_LINES_MAX {
            self.last.pop_front();
        }
        self.last.push_back((Instant::now(), clean(text, LAST_LINE_BYTES_MAX)));
        self.line(Level::Warn, text);
    }

    fn take(&mut self, bytes: usize, now: Instant) -> bool {
        if self.second.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.lines = 0;
            self.bytes = 0;
        }
        self.lines = self.lines.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        self.lines <= LINES_PER_SECOND_MAX && self.bytes <= BYTES_PER_SECOND_MAX
    }
}

/// Text that is safe to show: valid, on one line, without control characters, not too long.
pub(in crate::plugin) fn clean(bytes: &[u8], bytes_max: usize) -> String {
    let cut = &bytes[..bytes.len().min(bytes_max)];
    let mut text = String::with_capacity(cut.len());
    for character in String::from_utf8_lossy(cut).chars() {
        if character.is_control() && character != '\t' {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    if cut.len() < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_cannot_forge_others() {
        assert_eq!(clean(b"a\nb\x1b[2J\xff", 100), "a\\nb\\u{1b}[2J\u{fffd}");
        assert_eq!(clean(b"abcdef", 3), "abc…");
    }

    #[test]
    fn the_last_lines_of_stderr_are_kept() {
        let mut journal = Journal::new("p".into());
        let began = Instant::now();

        journal.print(Stream::Stderr, b"one\ntwo\nthree\nfo");
        journal.print(Stream::Stderr, b"ur\nfive");
        journal.print(Stream::Stdout, b"not this\n");

        assert_eq!(journal.last_lines(began), ["two", "three", "four", "five"]);
        let later = Instant::now() + Duration::from_secs(1);
        assert!(journal.last_lines(later).is_empty(), "written before the failing call");
    }

    /// A line without an end must not grow the process.
    #[test]
    fn an_endless_line_takes_bounded_memory() {
        let mut journal = Journal::new("p".into());

        for _ in 0..10_000 {
            journal.print(Stream::Stdout, &[b'x'; 4096]);
        }

        assert!(journal.stdout.capacity() <= 2 * LINE_BYTES_MAX);
    }

    #[test]
    fn lines_are_dropped_and_counted_beyond_the_limit() {
        let mut journal = Journal::new("p".into());
        let now = Instant::now();

        let later = now + Duration::from_secs(1);

        let short = (0..LINES_PER_SECOND_MAX + 5).filter(|_| journal.take(9, now)).count();
        let long = (0..LINES_PER_SECOND_MAX).filter(|_| journal.take(4096, later)).count();

        assert_eq!(short, LINES_PER_SECOND_MAX as usize);
        assert_eq!(long, BYTES_PER_SECOND_MAX / 4096);
        assert!(journal.take(9, later + Duration::from_secs(1)), "a new second");
    }
}
