//! Counts and quotas that hold over all workers.
//!
//! A count belongs to a window, a quota to none; one key can have both, and counts in windows of
//! different lengths. Each is changed in one step: between two workers that take the last of a quota,
//! one gets it.
//!
//! A quota is kept as one number, the *theoretical arrival time* of the generic cell rate algorithm
//! (ITU-T I.371 A): when all that was taken will have come back. It is exact: times are whole numbers
//! of microseconds divided by the quota's count, so that the time for one of `count` in a period needs
//! no rounding.

use super::Now;
use super::slots::{Kind, Numbers, Slots};

/// How much may be taken: `count` in every `period_ms`, and up to `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// So many
    pub count: u32,
    /// in so long,
    pub period_ms: u32,
    /// of these so many at once.
    pub burst: u32,
}

impl Quota {
    pub(super) fn allows_nothing(&self) -> bool {
        self.count == 0 || self.period_ms == 0 || self.burst == 0
    }
}

/// What came of an attempt to take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it was taken. When not, nothing was.
    pub allowed: bool,
    /// What could be taken right after.
    pub remaining: u32,
    /// Until the same could be taken; the largest number when it never can.
    pub retry_after_ms: u32,
    /// Until the full burst is there again.
    pub reset_after_ms: u32,
}

/// An attempt to take something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Under this key,
    pub key: Vec<u8>,
    /// of which there is so much,
    pub quota: Quota,
    /// so much.
    pub cost: u32,
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The first of those wanted that there is not enough of.
    pub index: usize,
    /// What is to be said about it.
    pub decision: Decision,
}

/// A time that is counted in microseconds divided by `count`, as it is kept: in microseconds, with the rest of it
/// and what that is a part of.
fn arrival(units: u128, count: u32) -> Numbers {
    let of = count.max(1);
    let us = u64::try_from(units / u128::from(of)).unwrap_or(u64::MAX);
    let part = u64::try_from(units % u128::from(of)).unwrap_or(0);
    [us, part << 32 | u64::from(of)]
}

/// The counters of one plugin.
#[derive(Default)]
pub struct Counters(Slots);

/// Keeps the counts of windows apart from each other and from quotas, which have none.
fn space(window_ms: u32) -> u64 {
    1 << 32 | u64::from(window_ms)
}

const QUOTAS: u64 = 0;

impl Counters {
    /// Memory for all of them from now on.
    pub fn limit(&self, bytes_max: usize) {
        self.0.limit(bytes_max);
    }

    /// Entries and bytes.
    pub fn usage(&self) -> (usize, usize) {
        self.0.usage()
    }

    /// Adds to the count under `key` in the current window, and returns the new count.
    pub fn add(&self, key: &[u8], delta: i64, window_ms: u32, now: Now) -> i64 {
        self.0.with((space(window_ms), key), Kind::Any, now.monotonic_us, |known| {
            let number = window(now, window_ms);
            let (number, count) = match known {
                Some([known, count]) if is_current(known, number) => {
                    (known, count.cast_signed().saturating_add(delta))
                }
                _ => (number, delta),
            };
            (count, Some([number, count.cast_unsigned()]))
        })
    }

    /// The count in the current window.
    pub fn get(&self, key: &[u8], window_ms: u32, now: Now) -> i64 {
        self.0.with((space(window_ms), key), Kind::Any, now.monotonic_us, |known| {
            let number = window(now, window_ms);
            let current = known.filter(|[known, _]| is_current(*known, number));
            (current.map_or(0, |[_, count]| count.cast_signed()), None)
        })
    }

    /// Takes `cost` from the quota under `key`, or nothing.
    pub fn take(&self, key: &[u8], quota: Quota, cost: u32, now: Now) -> Decision {
        self.0.with((QUOTAS, key), Kind::Time, now.monotonic_us, |known| {
            let before = known.map_or(0, |known| scaled(known, quota.count));
            let (decision, after) = decide(quota, cost, before, now.monotonic_us);
            let taken = decision.allowed && cost > 0;
            (decision, taken.then(|| arrival(after, quota.count)))
        })
    }

    /// Takes from all of these, or from none. Between taking and giving back others may be refused, never
    /// too many let in.
    pub fn take_all(&self, wanted: &[Wanted], now: Now) -> Result<Vec<Decision>, Shortage> {
        let mut decisions = Vec::with_capacity(wanted.len());
        for (index, one) in wanted.iter().enumerate() {
            let decision = self.take(&one.key, one.quota, one.cost, now);
            if !decision.allowed {
                for before in &wanted[..index] {
                    self.give_back(&before.key, before.quota, before.cost, now);
                }
                return Err(Shortage { index, decision });
            }
            decisions.push(decision);
        }
        Ok(decisions)
    }

    /// Puts back what was taken from the quota under `key`. A time that has passed is as good as none, so
    /// that there is never more than the full burst.
    pub fn give_back(&self, key: &[u8], quota: Quota, cost: u32, now: Now) {
        if quota.allows_nothing() {
            return;
        }
        self.0.with((QUOTAS, key), Kind::Time, now.monotonic_us, |known| {
            let given = u128::from(cost) * u128::from(quota.period_ms) * 1000;
            let after = known.map(|known| scaled(known, quota.count).saturating_sub(given));
            ((), after.map(|after| arrival(after, quota.count)))
        });
    }
}

/// The number of the current window. Windows begin at multiples of their length since 1970.
fn window(now: Now, window_ms: u32) -> u64 {
    now.unix_ms.checked_div(window_ms.into()).unwrap_or(0)
}

/// Whether a count of the window `known` counts in the window `number`. A clock that was set back a
/// little must not begin the window that has ended once more.
fn is_current(known: u64, number: u64) -> bool {
    known == number || known == number.saturating_add(1)
}

/// A time that is kept, counted in microseconds divided by `count`, never earlier than it was.
fn scaled([us, rest]: Numbers, count: u32) -> u128 {
    let (part, of) = (rest >> 32, rest & u64::from(u32::MAX));
    let whole = u128::from(us) * u128::from(count);
    if of == u64::from(count) {
        return whole + u128::from(part);
    }
    // The quota has changed since.
    whole + (u128::from(part) * u128::from(count)).div_ceil(u128::from(of.max(1)))
}

/// Decides about an attempt, given the theoretical arrival time, and says what that becomes. Times are
/// counted in microseconds divided by `quota.count`.
pub(super) fn decide(quota: Quota, cost: u32, arrival: u128, now_us: u64) -> (Decision, u128) {
    if quota.allows_nothing() {
        let never = u32::MAX;
        let (retry_after_ms, reset_after_ms) = (never, never);
        return (
            Decision { allowed: false, remaining: 0, retry_after_ms, reset_after_ms },
            arrival,
        );
    }
    let (count, burst) = (u128::from(quota.count), u128::from(quota.burst));
    // What one of `count` takes to come back, in these units.
    let each = u128::from(quota.period_ms) * 1000;
    let milliseconds =
        |units: u128| u32::try_from(units.div_ceil(count * 1000)).unwrap_or(u32::MAX);
    let now = u128::from(now_us) * count;
    let full = now + burst * each;
    let before = arrival.max(now);
    let wanted = before + u128::from(cost) * each;
    let allowed = wanted <= full;
    let after = if allowed { wanted } else { before };
    let left = full.saturating_sub(after) / each;
    let retry_after_ms = match allowed {
        true => 0,
        false if cost > quota.burst => u32::MAX,
        false => milliseconds(wanted - full),
    };
    let decision = Decision {
        allowed,
        remaining: u32::try_from(left).unwrap_or(u32::MAX),
        retry_after_ms,
        reset_after_ms: milliseconds(after - now),
    };
    (decision, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `plugins/rate-limit/README.md` says of memory.
    #[test]
    #[ignore = "takes minutes: make counters"]
    fn ten_million_clients() {
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        // As the plugin writes them: a digest of the limit, and a /64.
        let minute = Quota { count: 60, period_ms: 60_000, burst: 60 };
        let flood = |counters: &Counters, count: u64| {
            for client in 0..count {
                let mut key = *b"12345678612345678";
                key[9..].copy_from_slice(&client.to_le_bytes());
                assert!(counters.take(&key, minute, 1, Now::default()).allowed);
            }
        };
        for bytes_max in [16 << 20, 4 << 30] {
            let (before, counters) = (resident(), Counters::default());
            counters.limit(bytes_max);
            for count in [1_000_000, 10_000_000] {
                flood(&counters, count);
                let (entries, bytes) = counters.usage();
                let grown = resident().saturating_sub(before);
                println!("{count} clients: {entries} kept, charged {bytes}, resident {grown}");
                assert!(bytes <= bytes_max);
            }
        }
    }
}
