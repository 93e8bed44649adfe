//! When a plugin that failed gets its next instance: by what its failures cost, not by their number.
//!
//! Everything that a failure takes of its worker, the failing call and the instance that is made
//! anew, is a debt, and a tenth of the time that goes by is paid off. As long as the debt is small
//! a failure is answered by a new instance at once; beyond that the plugin waits. So requests that
//! make a plugin fail, however many there are, take a tenth of a worker and no more, be it by
//! traps, by loops or by an `init` that is slow, and good requests in between change nothing.
//!
//! Not here: clocks (`now` is an argument), and what is made (`instance`).

use std::time::Duration;
use std::time::Instant;

/// A debt up to this keeps nobody waiting: some 3,000 traps, or ten loops at the usual limit.
const FREE: Duration = Duration::from_millis(200);

/// A plugin that may run long, or starts slowly, has so many failures free all the same.
const FREE_FAILURES: u32 = 3;

/// One part in so many of the time is paid off.
const SHARE: u32 = 10;

/// What an instance's failures have cost its worker.
#[derive(Default)]
pub(super) struct Debt {
    owed: Duration,
    /// When it was that much.
    at: Option<Instant>,
}

impl Debt {
    /// A call failed, or a new instance was made for one that did.
    pub(super) fn add(&mut self, cost: Duration, now: Instant) {
        self.owed = self.owed(now).saturating_add(cost);
        self.at = Some(now);
    }

    /// `init` failed. It does so whatever requests bring, so nothing is free: the next attempt waits.
    pub(super) fn add_init(&mut self, cost: Duration, failure: Duration, now: Instant) {
        self.owed = self.owed(now).max(free(failure));
        self.at = Some(now);
        self.add(cost, now);
    }

    /// Whether a new instance has to wait; `failure` is what one failure of this plugin may cost.
    pub(super) fn is_due(&self, failure: Duration, now: Instant) -> bool {
        self.owed(now) > free(failure)
    }

    /// Whether so little is left that a failure or two change nothing.
    pub(super) fn is_small(&self, failure: Duration, now: Instant) -> bool {
        self.owed(now) <= free(failure) / 2
    }

    fn owed(&self, now: Instant) -> Duration {
        let paid = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at) / SHARE);
        self.owed.saturating_sub(paid)
    }
}

fn free(failure: Duration) -> Duration {
    FREE.max(failure.saturating_mul(FREE_FAILURES))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Fails whenever it may, with `pause` and a success in between; the share of the time that took.
    fn abused(call: Duration, init: Duration, pause: Duration) -> f64 {
        let began = Instant::now();
        let mut now = began;
        let mut debt = Debt::default();
        let mut spent = Duration::ZERO;
        while now - began < secs(600) {
            now += pause;
            if !debt.is_due(call + init, now) {
                now += call + init;
                debt.add(call + init, now);
                spent += call + init;
            }
        }
        spent.as_secs_f64() / (now - began).as_secs_f64()
    }

    #[test]
    fn abuse_costs_a_tenth_of_a_worker_whatever_a_failure_costs() {
        for (call, init) in [(0, 1), (22, 0), (0, 300), (1003, 1), (1003, 1000)] {
            let share = abused(TICK * call, TICK * init, TICK);
            assert!(share < 0.12, "{share} for a call of {call} ms and an init of {init} ms");
        }
    }

    #[test]
    fn the_first_failures_are_free() {
        let now = Instant::now();
        for (cost, free) in [(TICK * 22, 9), (secs(1), 3), (Duration::from_micros(60), 3000)] {
            let mut debt = Debt::default();

            for _ in 0..free {
                debt.add(cost, now);
                assert!(!debt.is_due(cost, now), "{cost:?}");
            }
            debt.add(cost * 500, now);
            assert!(debt.is_due(cost, now), "{cost:?}");
        }
    }

    #[test]
    fn a_debt_is_forgiven_in_time() {
        let now = Instant::now();
        let mut debt = Debt::default();

        debt.add(TICK * 300, now);

        assert!(debt.is_due(TICK, now + TICK * 999));
        assert!(!debt.is_due(TICK, now + TICK * 1000));
        assert!(!debt.is_small(TICK, now + TICK * 1999));
        assert!(debt.is_small(TICK, now + TICK * 2000));
        debt.add(TICK * 150, now + secs(60));
        assert!(!debt.is_due(TICK, now + secs(60)), "all of it");
    }

    #[test]
    fn an_init_that_fails_waits_at_once_and_for_as_long_as_it_is_worth() {
        let now = Instant::now();
        let mut debt = Debt::default();

        debt.add_init(TICK, TICK, now);

        assert!(debt.is_due(TICK, now + TICK * 9));
        assert!(!debt.is_due(TICK, now + TICK * 10));
    }
}
