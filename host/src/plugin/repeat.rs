//! Answers from a cache that are given again without asking the plugin anew.
//!
//! ```text
//! declared fields ─► seen before? ─► all that was looked up still there? ─► in time? ─► the same head, with its age
//!                        └────────────────────┴─────── no: the hook is called ──┘
//! ```
//!
//! A hook that serves what is stored may say that all who ask with the same declared fields get the same
//! (`cache.repeat`): these are all that it has decided by, so calling it again could only say the same. What has been
//! removed, refreshed or replaced since, by whomever, is noticed with each answer, because each looks it up.
//!
//! One place per digest of the fields, in a table of fixed size. Who comes to a place for the second time in a
//! row takes it: what is asked for once costs no memory, and what is asked for often stays.
//!
//! Not here: who may say so (`host/cache`), what is stored (`state::cache`).

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};

use super::declared::Values;
use super::exchange::{Exchange, Flow, LookedUp};
use crate::http::ResponseHead;
use crate::state::Now;
use crate::state::cache::{Cache, Outcome, Stored};

/// Places of an instance.
const PLACES: usize = 512;

/// Of fields, keys and head together: what has more is not given again. So an instance takes 2 MiB at most, and
/// usually a fifth of that.
const BYTES_MAX: usize = 4096;

/// Look-ups of one hook.
const LOOK_UPS_MAX: usize = 4;

/// What a hook asks for.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    /// Until when, in microseconds of the plugin's clock.
    pub(super) until_us: u64,
    /// How old the response was when it was stored, in seconds.
    pub(super) age: u64,
    /// What each answer counts as.
    pub(super) outcome: Outcome,
}

/// What a hook has done, as far as its answer depends on it.
#[derive(Default)]
pub(crate) struct Course {
    /// What it has looked up before what the exchange knows as the last.
    before: Vec<LookedUp>,
    /// It has looked for something that was not there, or for too much.
    is_lost: bool,
    /// What it serves, if that is all of it.
    served: Option<Arc<Stored>>,
    wish: Option<Wish>,
}

impl std::fmt::Debug for Course {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Course").field("before", &self.before).finish_non_exhaustive()
    }
}

impl Course {
    /// The hook is over.
    pub(super) fn clear(&mut self) {
        self.before.clear();
        self.is_lost = false;
        self.served = None;
        self.wish = None;
    }

    /// What there is to be remembered of its answer.
    pub(super) fn wanted(&mut self) -> Option<Box<Self>> {
        let wanted = self.wish.is_some() && self.served.is_some() && !self.is_lost;
        wanted.then(|| Box::new(std::mem::take(self)))
    }

    /// It has found something; `last` is what it had found before.
    pub(super) fn found(&mut self, last: Option<LookedUp>) {
        self.is_lost |= self.before.len() >= LOOK_UPS_MAX;
        if !self.is_lost {
            self.before.extend(last);
        }
    }

    /// It has found nothing.
    pub(super) fn found_nothing(&mut self) {
        self.is_lost = true;
    }

    /// It serves this; none: a part, or something else.
    pub(super) fn serves(&mut self, stored: Option<Arc<Stored>>) {
        self.served = stored;
    }

    /// It wants that to be given again.
    pub(super) fn wish(&mut self, wish: Wish) {
        self.wish = Some(wish);
    }
}

/// The answers of one instance.
#[derive(Default)]
pub(super) struct Repeats {
    /// None before the first is asked for.
    places: Vec<Place>,
    /// Fields come from clients: nobody may know which ones meet.
    hasher: RandomState,
}

#[derive(Default)]
struct Place {
    /// Who was here last without an answer.
    claimant: u64,
    answer: Option<Box<Answer>>,
}

struct Answer {
    asked: Values,
    /// What has to be there still. It goes when the store forgets it.
    found: Vec<(Box<[u8]>, Weak<Stored>)>,
    /// Without `age`.
    head: ResponseHead,
    wish: Wish,
}

impl Answer {
    /// What is served, if all that the hook has found is still there.
    fn find(&self, cache: &Cache, now: Now) -> Option<Arc<Stored>> {
        let mut last = None;
        for (key, known) in &self.found {
            let stored = cache.lookup(key, now)?;
            if Arc::as_ptr(&stored) != known.as_ptr() {
                return None;
            }
            last = Some(stored);
        }
        last
    }
}

fn place_of(digest: u64) -> usize {
    usize::from((digest >> 48) as u16) % PLACES
}

impl Repeats {
    /// Gives an answer again, if there is one for these fields.
    pub(super) fn give(
        &self,
        values: &Values,
        cache: &Cache,
        place: &mut Option<Box<Exchange>>,
        now: Now,
    ) -> Option<Flow> {
        if self.places.is_empty() {
            return None;
        }
        let exchange = place.as_deref_mut()?;
        let digest = self.hasher.hash_one(values.bytes());
        let answer = self.places[place_of(digest)].answer.as_ref()?;
        if answer.asked != *values || now.monotonic_us >= answer.wish.until_us {
            return None;
        }
        let stored = answer.find(cache, now)?;
        let body = stored.body()?.clone();
        let age = answer.wish.age.saturating_add(stored.age_ms(now) / 1000);
        exchange.answer_again(&answer.head, body);
        exchange.response.fields.push_number("age", age);
        exchange.cached = Some(answer.wish.outcome);
        cache.count(answer.wish.outcome);
        Some(Flow::Respond)
    }

    /// Remembers the answer that is in `exchange`, if the hook that was handed `values` wants that.
    pub(super) fn keep(&mut self, values: &Values, cache: &Arc<Cache>, exchange: &mut Exchange) {
        let Some(course) = exchange.repeat.take() else { return };
        let Course { before, served: Some(served), wish: Some(wish), .. } = *course else { return };
        let Some(last) = &exchange.looked_up else { return };
        let found = || before.iter().chain([last]);
        let are_ours = found().all(|found| Arc::ptr_eq(&found.cache, cache));
        if values.is_empty() || !are_ours || !Arc::ptr_eq(&served, &last.stored) {
            return;
        }
        let digest = self.hasher.hash_one(values.bytes());
        if self.places.is_empty() {
            self.places.resize_with(PLACES, Place::default);
        }
        let place = &mut self.places[place_of(digest)];
        if place.claimant != digest {
            place.claimant = digest;
            return;
        }
        let head = &exchange.response;
        let keys: usize = found().map(|found| found.key.len()).sum();
        if values.bytes().len() + keys + head.fields.written_len() > BYTES_MAX {
            return;
        }
        let known = |found: &LookedUp| (found.key.as_slice().into(), Arc::downgrade(&found.stored));
        place.answer = Some(Box::new(Answer {
            asked: values.clone(),
            found: found().map(known).collect(),
            head: head.copy_without("age"),
            wish,
        }));
    }
}
