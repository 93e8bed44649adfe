//! `zproxy:gateway/clock`.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use super::State;
use super::bindings::zproxy::gateway::clock::Host;

impl Host for State {
    fn unix_ms(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic_us(&mut self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
