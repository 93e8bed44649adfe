//! `zproxy:gateway/counters`.

use super::State;
use super::bindings::zproxy::gateway::counters::{Decision, Host, Quota};
use crate::state;

impl State {
    /// Whether a key is short enough; if not, the hook fails when it returns.
    pub(super) fn takes_key(&mut self, what: &str, key: &[u8]) -> bool {
        let takes = key.len() <= state::KEY_BYTES_MAX;
        if !takes {
            self.violate(format_args!("{what}"), "a key has at most 256 bytes");
        }
        takes
    }
}

impl Host for State {
    fn add(&mut self, key: Vec<u8>, delta: i64, window_ms: u32) -> i64 {
        if !self.takes_key("counters.add", &key) {
            return 0;
        }
        self.kept.counters().add(&key, delta, window_ms, self.now())
    }

    fn get(&mut self, key: Vec<u8>, window_ms: u32) -> i64 {
        if !self.takes_key("counters.get", &key) {
            return 0;
        }
        self.kept.counters().get(&key, window_ms, self.now())
    }

    fn give_back(&mut self, key: Vec<u8>, quota: Quota, cost: u32) {
        if self.takes_key("counters.give-back", &key) {
            let Quota { count, period_ms, burst } = quota;
            let quota = state::counters::Quota { count, period_ms, burst };
            self.kept.counters().give_back(&key, quota, cost);
        }
    }

    fn take(&mut self, key: Vec<u8>, quota: Quota, cost: u32) -> Decision {
        if !self.takes_key("counters.take", &key) {
            return Decision { allowed: false, remaining: 0, retry_after_ms: 0, reset_after_ms: 0 };
        }
        let Quota { count, period_ms, burst } = quota;
        let quota = state::counters::Quota { count, period_ms, burst };
        let decision = self.kept.counters().take(&key, quota, cost, self.now());
        Decision {
            allowed: decision.allowed,
            remaining: decision.remaining,
            retry_after_ms: decision.retry_after_ms,
            reset_after_ms: decision.reset_after_ms,
        }
    }
}
