//! When a link begins.
//!
//! Not here: what that is for (`instance`: what a failure has cost).

use std::time::Instant;

use super::super::engine::Ticks;
use super::clock;

/// When each link of a chain begins, to within a tick of the plugins' clock (5 ms): the first when the chain does,
/// and the others are taken to, as long as no tick has gone by.
///
/// A clock read for each hook of each link would cost five plugins a tenth of all that they cost. The moment matters
/// when a hook fails only: what its links before took since the last tick is then charged to it.
pub(super) struct Beginning<'a> {
    ticks: &'a Ticks,
    at: Instant,
    /// Ticks at that moment, of links that have begun.
    tick: Option<u64>,
}

impl<'a> Beginning<'a> {
    pub(super) fn new(ticks: &'a Ticks, at: Instant) -> Self {
        Self { ticks, at, tick: None }
    }

    /// The next link begins.
    pub(super) fn next(&mut self) -> Instant {
        let tick = self.ticks.count();
        if self.tick.replace(tick).is_some_and(|last| last != tick) {
            self.at = clock();
        }
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_a_tick_is_not_a_later_links_time() {
        let ticks = Ticks::default();
        let began = clock();
        let mut beginning = Beginning::new(&ticks, began);

        ticks.go_by();
        assert_eq!(beginning.next(), began, "the first begins with its chain");
        assert_eq!(beginning.next(), began);
        ticks.go_by();
        let later = beginning.next();

        assert!(later > began);
        assert_eq!(beginning.next(), later);
    }
}
