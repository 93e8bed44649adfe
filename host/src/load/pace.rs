//! When requests are due, and how many there may be.
//!
//! At a rate, request number n is due n / rate seconds after the beginning, whatever happens: this
//! is what keeps a slow answer from delaying the requests behind it out of sight. With several
//! threads each takes every so-manieth number. Pure: time comes in as an argument.

use super::Share;

/// The requests that one thread still has to send.
#[derive(Debug)]
pub(super) struct Pace {
    /// None in a closed loop, where a request is due as soon as there is a connection for it.
    rate: Option<u64>,
    share: Share,
    /// Its own next request, by number.
    next: u64,
    /// How many it may still begin.
    left: u64,
}

impl Pace {
    /// The beginning.
    pub(super) fn new(rate: Option<u64>, share: Share, requests: Option<u64>) -> Self {
        Self { rate, share, next: 0, left: requests.unwrap_or(u64::MAX) }
    }

    /// Whether no request is left.
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Takes the next request if it is due at `now`; answers with the moment at which it was due,
    /// which in a closed loop is now. Nanoseconds of the run.
    pub(super) fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.due_ns(now_ns);
        if self.left == 0 || due_ns > now_ns {
            return None;
        }
        self.left -= 1;
        self.next += 1;
        Some(due_ns)
    }

    /// Whether a request is due at `now` that nobody has taken.
    pub(super) fn is_behind(&self, now_ns: u64) -> bool {
        self.rate.is_some() && self.left > 0 && self.due_ns(now_ns) <= now_ns
    }

    /// Between two requests of this thread.
    pub(super) fn interval_ns(&self) -> Option<u64> {
        Some(self.share.of.saturating_mul(1_000_000_000) / self.rate?.max(1))
    }

    /// When the next request is due.
    fn due_ns(&self, now_ns: u64) -> u64 {
        let Some(rate) = self.rate else { return now_ns };
        let number =
            u128::from(self.next) * u128::from(self.share.of) + u128::from(self.share.index);
        u64::try_from(number * 1_000_000_000 / u128::from(rate.max(1))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn alone(rate: Option<u64>, requests: Option<u64>) -> Pace {
        Pace::new(rate, Share { index: 0, of: 1 }, requests)
    }

    /// One connection, 1,000 requests a second, answers after 0.1 ms, but for one that takes a
    /// second. A closed loop would show one slow request in ten thousand; in truth a thousand
    /// requests were due in that second and waited, the first for all of it, the last for none.
    #[test]
    fn a_stall_shows_in_every_request_that_it_delayed() {
        let mut pace = alone(Some(1_000), Some(10_000));
        let mut latencies_ms = Vec::new();
        let mut now = 0;

        while !pace.is_spent() {
            let Some(due) = pace.take(now) else {
                now += MS / 10;
                continue;
            };
            let took = if latencies_ms.len() == 5_000 { 1_000 * MS } else { MS / 10 };
            now = now.max(due) + took;
            latencies_ms.push((now - due) / MS);
        }

        let delayed = latencies_ms.iter().filter(|latency| **latency >= 1).count();
        assert!((1_000..=1_200).contains(&delayed), "{delayed}");
        assert_eq!(latencies_ms[5_000], 1_000);
        // Each waits one interval less than the one before, but for the 0.1 ms that each takes.
        assert!((899..=902).contains(&latencies_ms[5_111]), "{}", latencies_ms[5_111]);
        assert_eq!(latencies_ms[7_000], 0);
    }

    #[test]
    fn nothing_is_due_early_and_nothing_is_forgotten() {
        let mut pace = alone(Some(3), None);

        assert_eq!(pace.take(0), Some(0));
        assert_eq!(pace.take(333_333_332), None);
        assert!(!pace.is_behind(333_333_332) && pace.is_behind(333_333_333));
        assert_eq!(pace.take(2_000 * MS), Some(333_333_333));
        assert_eq!(pace.take(2_000 * MS), Some(666_666_666));
        assert_eq!(pace.take(2_000 * MS), Some(1_000_000_000));
    }

    /// Together the threads send each request once, at its moment.
    #[test]
    fn threads_deal_out_the_due_moments_among_themselves() {
        let mut all: Vec<u64> = (0..3)
            .flat_map(|index| {
                let mut pace = Pace::new(Some(7), Share { index, of: 3 }, None);
                std::iter::from_fn(move || pace.take(10_000 * MS)).collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();

        let mut one = alone(Some(7), None);
        let alone: Vec<u64> = std::iter::from_fn(|| one.take(10_000 * MS)).collect();

        assert_eq!(all, alone);
        assert_eq!(alone.len(), 71);
    }

    #[test]
    fn a_closed_loop_is_always_due_until_it_is_spent() {
        let mut pace = alone(None, Some(2));

        assert_eq!((pace.take(5), pace.take(9), pace.take(9)), (Some(5), Some(9), None));
        assert!(pace.is_spent() && !pace.is_behind(u64::MAX));
    }

    /// Ten hours at half a million a second: more than 64 bits of nanoseconds times requests.
    #[test]
    fn long_runs_at_high_rates_stay_exact() {
        let mut pace = alone(Some(500_000), None);
        pace.next = 500_000 * 36_000;

        assert_eq!(pace.take(u64::MAX), Some(36_000 * 1_000_000_000));
    }
}
