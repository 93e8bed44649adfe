//! A map from keys to two numbers, made for one question a request: a line of cache or two answers it.
//!
//! An entry is a place of 32 bytes in an array. It has no key, but 96 bits of two keyed digests of it, which
//! nobody can aim at who does not know the keys: that two of ten million keys meet has a chance of 1 in 10¹⁵.
//! A key's place is where its digest says, or the next that is free (linear probing); places are put in the
//! order of digests, so that a larger array is filled from the smaller one from front to back.
//!
//! The budget is divided among the shards, each behind a lock of its own. When a shard is full, a hand goes
//! round and of the places that it passes the one goes that is missed least: a time that has passed, which says
//! no more than nothing does; else what was used once; of these what was not used for longest. What has been come
//! back to counts as if it were [`OFTEN`] times as young, so that a flood of new keys spares it.
//!
//! Not [`store`](super::store), which keeps values of any size under whole keys and in order of use: there a request
//! for one of a million keys touches eight lines of memory, here two.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

use super::lock;

/// So many that workers rarely meet, and still few kilobytes for a plugin.
const SHARDS: usize = 64;

/// What has been come back to stays so many times as long.
const OFTEN: u32 = 64;

/// Places that the hand looks at: two pages of a kernel's memory hold eight times as many.
const LOOK: usize = 16;

/// Places of the smallest array.
const PLACES_MIN: usize = 8;

/// Two numbers.
pub(super) type Numbers = [u64; 2];

/// What the first of the numbers is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything.
    Any = 0,
    /// A time in microseconds; when it has passed, there might as well be no entry.
    Time = 1,
}

/// A key's digest, of which the first part says where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Digest {
    first: u64,
    second: u32,
}

#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Place {
    digest: u64,
    digest_more: u32,
    /// When it was used, in [`Place::TICK_BITS`] of a microsecond, and three flags.
    used: u32,
    numbers: Numbers,
}

impl Place {
    const FREE: Self = Self { digest: 0, digest_more: 0, used: 0, numbers: [0; 2] };

    /// Flags of `used`. Without the first the place is free.
    const TAKEN: u32 = 1;
    const OFTEN: u32 = 2;
    const TIME: u32 = 4;
    const FLAG_BITS: u32 = 3;

    /// 65 ms, so that ages are told apart for a year.
    const TICK_BITS: u32 = 16;

    fn is_free(&self) -> bool {
        self.used & Self::TAKEN == 0
    }

    fn digest(&self) -> Digest {
        Digest { first: self.digest, second: self.digest_more }
    }

    fn has_passed(&self, now_us: u64) -> bool {
        self.used & Self::TIME != 0 && self.numbers[0] < now_us
    }

    /// How little it is missed.
    fn rank(&self, now_us: u64) -> (bool, u32, bool) {
        let is_often = self.used & Self::OFTEN != 0;
        let age = ticks(now_us).wrapping_sub(self.used >> Self::FLAG_BITS);
        let age = age & (u32::MAX >> Self::FLAG_BITS);
        (self.has_passed(now_us), if is_often { age / OFTEN } else { age }, !is_often)
    }
}

/// A time as `Place::used` has it, before the flags.
fn ticks(now_us: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "it goes round once in a year")]
    let ticks = (now_us >> Place::TICK_BITS) as u32;
    ticks & (u32::MAX >> Place::FLAG_BITS)
}

#[derive(Default)]
struct Shard {
    places: Box<[Place]>,
    taken: usize,
    hand: usize,
}

/// The map.
pub(super) struct Slots {
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    hashers: [RandomState; 2],
    /// How many places each shard may have.
    places_max: AtomicUsize,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| CachePadded::default()).collect(),
            hashers: [RandomState::new(), RandomState::new()],
            places_max: AtomicUsize::new(0),
        }
    }
}

impl Slots {
    /// How much memory there may be from now on.
    pub(super) fn limit(&self, bytes_max: usize) {
        let places_max = bytes_max / size_of::<Place>() / SHARDS;
        self.places_max.store(places_max, Ordering::Relaxed);
        for shard in &self.shards {
            let mut shard = lock(shard);
            if shard.places.len() > places_max {
                shard.resize(places_max, 0);
            }
        }
    }

    /// Entries and bytes.
    pub(super) fn usage(&self) -> (usize, usize) {
        let all = self.shards.iter().map(|shard| {
            let shard = lock(shard);
            (shard.taken, shard.places.len() * size_of::<Place>())
        });
        all.fold((0, 0), |(entries, bytes), (more, size)| (entries + more, bytes + size))
    }

    /// Shows `work` what is under a key, and puts there what it wants to be there, if anything. Nobody comes in
    /// between. `space` tells equal keys apart.
    pub(super) fn with<R>(
        &self,
        (space, key): (u64, &[u8]),
        kind: Kind,
        now_us: u64,
        work: impl FnOnce(Option<Numbers>) -> (R, Option<Numbers>),
    ) -> R {
        let digest = self.digest(space, key);
        let mut shard = lock(&self.shards[digest.second as usize % SHARDS]);
        let found = shard.find(digest);
        if let Some(Ok(at)) = found {
            let place = &mut shard.places[at];
            let (result, numbers) = work(Some(place.numbers));
            place.numbers = numbers.unwrap_or(place.numbers);
            place.used = (ticks(now_us) << Place::FLAG_BITS)
                | (place.used & Place::TIME)
                | Place::OFTEN
                | Place::TAKEN;
            return result;
        }
        let (result, numbers) = work(None);
        if let Some(numbers) = numbers {
            let time = if kind == Kind::Time { Place::TIME } else { 0 };
            let used = (ticks(now_us) << Place::FLAG_BITS) | time | Place::TAKEN;
            let new = Place { digest: digest.first, digest_more: digest.second, used, numbers };
            let free = found.and_then(Result::err);
            shard.add(new, free, self.places_max.load(Ordering::Relaxed), now_us);
        }
        result
    }

    fn digest(&self, space: u64, key: &[u8]) -> Digest {
        let [first, second] = self.hashers.each_ref().map(|hasher| {
            let mut hasher = hasher.build_hasher();
            hasher.write_u64(space);
            hasher.write(key);
            hasher.finish()
        });
        Digest { first, second: (second >> 32) as u32 }
    }
}

impl Shard {
    /// How many entries so many places may hold: there is always a free one, and not far.
    fn taken_max(places: usize) -> usize {
        (places - places / 4).min(places.saturating_sub(1))
    }

    /// Where the search for a digest begins: places are in the order of digests.
    fn home(&self, digest: u64) -> usize {
        let product = u128::from(digest) * self.places.len() as u128;
        #[allow(clippy::cast_possible_truncation, reason = "less than the number of places")]
        let home = (product >> 64) as usize;
        home
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.places.len() { 0 } else { at + 1 }
    }

    /// Where a digest is, or the free place that it could have. None when there are no places at all.
    fn find(&self, digest: Digest) -> Option<Result<usize, usize>> {
        if self.places.is_empty() {
            return None;
        }
        let mut at = self.home(digest.first);
        loop {
            let place = &self.places[at];
            if place.is_free() {
                return Some(Err(at));
            }
            if place.digest() == digest {
                return Some(Ok(at));
            }
            at = self.next(at);
        }
    }

    /// Adds an entry that is not there; `free` is where it could be now.
    fn add(&mut self, new: Place, mut free: Option<usize>, places_max: usize, now_us: u64) {
        if self.taken >= Self::taken_max(self.places.len()) {
            self.make_room(places_max, now_us);
            free = self.find(new.digest()).and_then(Result::err);
        }
        // Without a budget nothing is kept.
        let Some(at) = free.filter(|_| self.taken < Self::taken_max(self.places.len())) else {
            return;
        };
        self.places[at] = new;
        self.taken += 1;
    }

    fn make_room(&mut self, places_max: usize, now_us: u64) {
        let count = self.places.len();
        if count >= places_max {
            self.evict(now_us);
            return;
        }
        // An array of the same size does, where that many have passed that it will last a while.
        let passed = self.places.iter().filter(|place| place.has_passed(now_us)).count();
        let wanted = if passed > self.taken / 2 { count } else { count * 2 };
        self.resize(wanted.max(PLACES_MIN).min(places_max), now_us);
    }

    /// Moves everything that says something into an array of so many places; what has no room there is forgotten.
    fn resize(&mut self, count: usize, now_us: u64) {
        let old = std::mem::replace(&mut self.places, vec![Place::FREE; count].into());
        (self.taken, self.hand) = (0, 0);
        for place in old.iter().filter(|place| !place.is_free() && !place.has_passed(now_us)) {
            if self.taken >= Self::taken_max(count) {
                self.evict(now_us);
            }
            if let Some(Err(at)) = self.find(place.digest())
                && self.taken < Self::taken_max(count)
            {
                self.places[at] = *place;
                self.taken += 1;
            }
        }
    }

    /// Removes what is missed least of what the hand passes.
    fn evict(&mut self, now_us: u64) {
        if self.taken == 0 {
            return;
        }
        let (mut victim, mut looked) = (None, 0);
        // There is an entry, so that the hand finds one on its way round.
        while looked < LOOK || victim.is_none() {
            let at = self.hand;
            self.hand = self.next(at);
            looked += 1;
            let place = &self.places[at];
            if !place.is_free() {
                victim = victim.max(Some((place.rank(now_us), at)));
            }
        }
        if let Some((_, at)) = victim {
            self.remove(at);
        }
    }

    /// Frees a place, and closes the gap: entries behind it that would be sought in vain move up.
    fn remove(&mut self, mut gap: usize) {
        let mut at = gap;
        loop {
            at = self.next(at);
            let place = self.places[at];
            if place.is_free() {
                break;
            }
            let home = self.home(place.digest);
            // Whether the gap lies on its way, which may lead past the end.
            let lies = match home <= at {
                true => home <= gap && gap < at,
                false => home <= gap || gap < at,
            };
            if lies {
                self.places[gap] = place;
                gap = at;
            }
        }
        self.places[gap] = Place::FREE;
        self.taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn slots(places: usize) -> Slots {
        let slots = Slots::default();
        slots.limit(places * SHARDS * size_of::<Place>());
        slots
    }

    fn set(slots: &Slots, key: u64, numbers: Numbers, kind: Kind, now_us: u64) {
        slots.with((0, &key.to_le_bytes()), kind, now_us, |_| ((), Some(numbers)));
    }

    /// A look, which is a use as well.
    fn get(slots: &Slots, key: u64, now_us: u64) -> Option<Numbers> {
        slots.with((0, &key.to_le_bytes()), Kind::Any, now_us, |known| (known, None))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Few places, so that entries stand in each other's way, past the end as well.
        #[test]
        fn what_is_kept_is_found_and_what_is_found_was_kept(
            digests in prop::collection::vec((any::<u64>(), 0..3_u32), 1..40),
            places in 2..24_usize,
        ) {
            let mut shard = Shard::default();
            let mut kept = HashMap::new();
            for (number, (first, second)) in digests.into_iter().enumerate() {
                // Many begin at one of the last places.
                let first = if number % 2 == 0 { first | 0xf000_0000_0000_0000 } else { first };
                let digest = Digest { first, second };
                let numbers = [number as u64, 0];
                if let Some(Ok(at)) = shard.find(digest) {
                    shard.places[at].numbers = numbers;
                } else {
                    let used = Place::TAKEN;
                    let new = Place { digest: first, digest_more: second, used, numbers };
                    let free = shard.find(digest).and_then(Result::err);
                    shard.add(new, free, places, 0);
                }
                kept.insert((first, second), number as u64);
                let found = |(first, second): &(u64, u32)| {
                    let digest = Digest { first: *first, second: *second };
                    shard.find(digest)?.ok().map(|at| shard.places[at].numbers[0])
                };
                let there = kept.iter().filter(|(digest, _)| found(digest).is_some()).count();
                prop_assert_eq!(there, shard.taken);
                let is_wrong = |(digest, number): (&(u64, u32), &u64)| {
                    found(digest).is_some_and(|found| found != *number)
                };
                prop_assert!(!kept.iter().any(is_wrong));
                prop_assert!(shard.places.len() <= places);
                prop_assert_eq!(found(&(first, second)), Some(number as u64));
            }
        }
    }

    #[test]
    fn a_map_grows_to_its_budget_and_no_further() {
        let slots = slots(1000);
        let bytes_max = 1000 * SHARDS * size_of::<Place>();

        for key in 0..200_000 {
            set(&slots, key, [key, 1], Kind::Any, 0);
            if key == 1000 {
                assert!((0..=key).all(|key| get(&slots, key, 0) == Some([key, 1])));
            }
        }

        let (entries, bytes) = slots.usage();
        assert!(bytes <= bytes_max && bytes > bytes_max / 10 * 9, "{bytes}");
        assert!(bytes / entries <= 43, "{bytes} bytes for {entries}");
        slots.limit(bytes_max / 2);
        assert!(slots.usage().1 <= bytes_max / 2 && slots.usage().0 > entries / 3);
        slots.limit(0);
        set(&slots, 1, [1, 1], Kind::Any, 0);
        assert_eq!((slots.usage(), get(&slots, 1, 0)), ((0, 0), None));
    }

    /// Where nothing is owed, forgetting costs nobody anything.
    #[test]
    fn times_that_have_passed_go_first_and_take_no_room() {
        let slots = slots(512);
        for key in 0..10_000 {
            // Each is over when the next hundred have come.
            set(&slots, key, [key * 1000 + 100_000, 0], Kind::Time, key * 1000);
        }
        assert!(slots.usage().1 <= 24 * SHARDS * size_of::<Place>(), "{:?}", slots.usage());

        for key in 0..15_000 {
            set(&slots, 1_000_000 + key, [u64::MAX, 0], Kind::Time, 20_000_000);
        }
        let kept = (0..15_000).filter(|key| get(&slots, 1_000_000 + key, 0).is_some()).count();
        assert_eq!(kept, 15_000);
    }

    #[test]
    fn what_is_used_again_and_again_survives_a_flood() {
        let slots = slots(256);
        let second = 1_000_000;
        for round in 0..20_000_u64 {
            let now_us = round * second / 1000;
            set(&slots, round, [0; 2], Kind::Any, now_us);
            if round % 500 == 0 {
                for key in 0..20 {
                    set(&slots, u64::MAX - key, [key, 2], Kind::Any, now_us);
                }
            }
        }

        let kept = (0..20).filter(|key| get(&slots, u64::MAX - key, 0) == Some([*key, 2])).count();
        assert_eq!(kept, 20);
    }

    #[test]
    fn of_what_was_used_once_the_oldest_goes() {
        let slots = slots(256);
        for key in 0..20_000_u64 {
            set(&slots, key, [0; 2], Kind::Any, key * 100_000);
        }

        let kept =
            |keys: std::ops::Range<u64>| keys.filter(|key| get(&slots, *key, 0).is_some()).count();
        assert!(kept(0..2_000) < 50, "{}", kept(0..2_000));
        assert!(kept(15_000..20_000) > 4_900, "{}", kept(15_000..20_000));
    }

    #[test]
    fn equal_keys_of_two_spaces_are_two() {
        let slots = slots(256);
        slots.with((1, b"k"), Kind::Any, 0, |_| ((), Some([1, 1])));

        assert!(slots.with((2, b"k"), Kind::Any, 0, |known| (known.is_none(), None)));
        assert!(slots.with((1, b"k"), Kind::Any, 0, |known| (known.is_some(), None)));
    }
}
