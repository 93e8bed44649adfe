//! `zproxy:gateway/random`.

use super::State;
use super::bindings::zproxy::gateway::random::Host;

/// Bytes of one call.
const BYTES_MAX: usize = 64 * 1024;

impl State {
    fn fill(&mut self, bytes: &mut [u8]) {
        if aws_lc_rs::rand::fill(bytes).is_err() {
            self.violate(format_args!("random"), "the system gave no random bytes");
        }
    }
}

impl Host for State {
    fn bytes(&mut self, count: u32) -> Vec<u8> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > BYTES_MAX {
            self.violate(format_args!("random.bytes({count})"), "at most 65,536 are given at once");
            return Vec::new();
        }
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }

    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}
