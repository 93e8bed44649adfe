//! How fast a client may send.

use std::time::Duration;

/// A second's worth may come at once.
const BURST: Duration = Duration::from_secs(1);

/// Counts by one time (GCRA): when the last message would have been due, had they come evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two messages; `None`: any number may come.
    apart: Option<Duration>,
    due: Duration,
}

impl Pace {
    pub(super) fn new(per_second: Option<u32>) -> Self {
        Self { apart: per_second.map(|count| BURST / count.max(1)), due: Duration::ZERO }
    }

    /// Whether one more may come now.
    pub(super) fn allows(&mut self, now: Duration) -> bool {
        let Some(apart) = self.apart else { return true };
        let due = self.due.max(now) + apart;
        let allowed = due <= now + BURST;
        if allowed {
            self.due = due;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_at_once_and_then_evenly() {
        let mut pace = Pace::new(Some(10));
        let at = |tenths: u32| Duration::from_millis(100) * tenths;

        assert_eq!((0..20).filter(|_| pace.allows(at(50))).count(), 10);
        assert!(pace.allows(at(51)));
        assert!(!pace.allows(at(51)));
        assert_eq!((0..20).filter(|_| pace.allows(at(99))).count(), 10);
    }

    #[test]
    fn without_a_limit_any_number_may_come() {
        let mut pace = Pace::new(None);

        assert!((0..1000).all(|_| pace.allows(Duration::ZERO)));
    }
}
