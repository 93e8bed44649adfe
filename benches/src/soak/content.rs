//! Bodies that both ends can make from a number, so that every byte can be checked where it arrives.

use std::io::{self, Read, Write};

/// Bytes that are made or checked at once.
const BLOCK_BYTES: usize = 16 * 1024;

/// The content of one body: the same seed always gives the same bytes.
#[derive(Clone, Debug)]
pub(super) struct Content {
    state: u64,
    word: [u8; 8],
    used: usize,
    left: u64,
}

/// How a body differed from what it should be.
#[derive(Debug)]
pub(super) enum Broken {
    /// Another byte than was sent: what must never happen.
    Wrong {
        /// Bytes that were still to come.
        left: u64,
    },
    /// It ended too early, in a way that the receiver can see.
    Short(io::Error),
}

impl Content {
    pub(super) fn new(seed: u64, length: u64) -> Self {
        Self { state: seed | 1, word: [0; 8], used: 8, left: length }
    }

    /// Bytes still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes; fewer at the end.
    pub(super) fn take<'a>(&mut self, block: &'a mut [u8]) -> &'a [u8] {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(block.len());
        for byte in &mut block[..count] {
            if self.used == 8 {
                // Xorshift (Marsaglia 2003): no two seeds share long runs.
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                (self.word, self.used) = (self.state.to_le_bytes(), 0);
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
        self.left -= count as u64;
        &block[..count]
    }

    /// Whether these are the next bytes.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        let mut block = [0; BLOCK_BYTES];
        while !bytes.is_empty() {
            let room = bytes.len().min(BLOCK_BYTES);
            let expected = self.take(&mut block[..room]);
            if expected.is_empty() || expected != &bytes[..expected.len()] {
                return Err(Broken::Wrong { left: self.left });
            }
            bytes = &bytes[expected.len()..];
        }
        Ok(())
    }

    /// Sends what is left as it is.
    pub(super) fn send(&mut self, to: &mut impl Write) -> io::Result<()> {
        let mut block = [0; BLOCK_BYTES];
        while self.left > 0 {
            to.write_all(self.take(&mut block))?;
        }
        Ok(())
    }

    /// Sends what is left in chunks (RFC 9112 §7.1), the last one too.
    pub(super) fn send_chunks(&mut self, to: &mut impl Write, size: usize) -> io::Result<()> {
        let mut block = vec![0; size];
        while self.left > 0 {
            let piece = self.take(&mut block);
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
            to.write_all(&chunk)?;
        }
        to.write_all(b"0\r\n\r\n")
    }

    /// Receives what is left and checks it.
    pub(super) fn receive(&mut self, from: &mut impl Read) -> Result<(), Broken> {
        let mut block = [0; BLOCK_BYTES];
        while self.left > 0 {
            let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(BLOCK_BYTES);
            match from.read(&mut block[..room]) {
                Ok(0) => return Err(Broken::Short(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.check(&block[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Broken::Short(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_expected_whatever_the_pieces() {
        let mut sent = Vec::new();
        Content::new(7, 40_001).send(&mut sent).unwrap();

        assert_eq!(sent.len(), 40_001);
        let mut expected = Content::new(7, 40_001);
        for piece in sent.chunks(333) {
            expected.check(piece).unwrap();
        }
        assert_eq!(expected.left(), 0);
    }

    #[test]
    fn another_byte_another_seed_or_one_too_many_is_wrong() {
        let mut sent = Vec::new();
        Content::new(7, 100).send(&mut sent).unwrap();
        sent[50] ^= 1;

        assert!(matches!(Content::new(7, 100).check(&sent), Err(Broken::Wrong { .. })));
        sent[50] ^= 1;
        assert!(matches!(Content::new(9, 100).check(&sent), Err(Broken::Wrong { .. })));
        assert!(matches!(Content::new(7, 99).check(&sent), Err(Broken::Wrong { .. })));
        assert!(matches!(Content::new(7, 101).receive(&mut &sent[..]), Err(Broken::Short(_))));
    }
}
