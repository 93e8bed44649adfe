//! `zproxy:gateway/counters`.

use super::State;
use super::bindings::zproxy::gateway::counters::{Decision, Host, Quota, Shortage, Wanted};
use crate::state;
use crate::state::counters::Wanted as Take;

impl State {
    /// Whether a key is short enough; if not, the hook fails when it returns.
    pub(super) fn takes_key(&mut self, what: &str, key: &[u8]) -> bool {
        let takes = key.len() <= state::KEY_BYTES_MAX;
        if !takes {
            self.violate(format_args!("{what}"), "a key has at most 256 bytes");
        }
        takes
    }

    /// Whether these may be asked for together; if not, the hook fails when it returns.
    pub(super) fn takes_all(&mut self, wanted: &[Take]) -> Result<(), state::counters::Shortage> {
        let too_many = wanted.len() > TAKES_MAX;
        if too_many {
            self.violate(format_args!("counters.take-all"), "at most 64 quotas at once");
        }
        let long = wanted.iter().position(|one| !self.takes_key("counters.take-all", &one.key));
        let refused = state::counters::Decision {
            allowed: false,
            remaining: 0,
            retry_after_ms: 0,
            reset_after_ms: 0,
        };
        match long.or(too_many.then_some(0)) {
            Some(index) => Err(state::counters::Shortage { index, decision: refused }),
            None => Ok(()),
        }
    }
}

/// Quotas that are taken from at once.
const TAKES_MAX: usize = 64;

impl From<Quota> for state::counters::Quota {
    fn from(Quota { count, period_ms, burst }: Quota) -> Self {
        Self { count, period_ms, burst }
    }
}

impl From<state::counters::Decision> for Decision {
    fn from(decision: state::counters::Decision) -> Self {
        let state::counters::Decision { allowed, remaining, retry_after_ms, reset_after_ms } =
            decision;
        Self { allowed, remaining, retry_after_ms, reset_after_ms }
    }
}

impl From<state::counters::Shortage> for Shortage {
    fn from(shortage: state::counters::Shortage) -> Self {
        let index = u32::try_from(shortage.index).unwrap_or(u32::MAX);
        Self { index, decision: shortage.decision.into() }
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
            self.kept.counters().give_back(&key, quota.into(), cost, self.passed());
        }
    }

    fn take(&mut self, key: Vec<u8>, quota: Quota, cost: u32) -> Decision {
        if !self.takes_key("counters.take", &key) {
            return Decision { allowed: false, remaining: 0, retry_after_ms: 0, reset_after_ms: 0 };
        }
        self.kept.counters().take(&key, quota.into(), cost, self.passed()).into()
    }

    fn take_all(&mut self, wanted: Vec<Wanted>) -> Result<Vec<Decision>, Shortage> {
        let wanted: Vec<Take> = wanted
            .into_iter()
            .map(|Wanted { key, quota, cost }| Take { key, quota: quota.into(), cost })
            .collect();
        self.takes_all(&wanted)?;
        let taken = self.kept.counters().take_all(&wanted, self.passed());
        Ok(taken?.into_iter().map(Decision::from).collect())
    }
}
