//! What plugins keep: exactly as much as promised, for as long, and each its own.

use std::collections::HashMap;
use std::sync::Barrier;

use proptest::prelude::*;

use super::counters::{Decision, Quota};
use super::kv::{Refusal, VALUE_BYTES_MAX};
use super::metrics::{INSTANCE_METRICS_MAX, Kind, Registered};
use super::*;

const MEBIBYTE: usize = 1024 * 1024;

fn counters(bytes_max: usize) -> Counters {
    let counters = Counters::default();
    counters.limit(bytes_max);
    counters
}

fn kv() -> Kv {
    let kv = Kv::default();
    kv.limit(MEBIBYTE);
    kv
}

/// Both clocks at this millisecond.
fn at(ms: u64) -> Now {
    Now { unix_ms: ms, monotonic_us: ms * 1000 }
}

fn quota(count: u32, period_ms: u32, burst: u32) -> Quota {
    Quota { count, period_ms, burst }
}

#[test]
fn counts_begin_anew_with_their_window() {
    let counters = counters(MEBIBYTE);

    assert_eq!(counters.add(b"k", 2, 1000, at(1_999)), 2);
    assert_eq!(counters.add(b"k", -3, 1000, at(1_500)), -1);
    assert_eq!(counters.get(b"k", 1000, at(1_999)), -1);
    assert_eq!(counters.get(b"k", 1000, at(2_000)), 0);
    assert_eq!(counters.add(b"k", 5, 1000, at(2_000)), 5);
    assert_eq!(counters.get(b"k", 1000, at(1_999)), 5, "the clock was set back a little");
    assert_eq!(counters.get(b"k", 1000, at(1)), 0, "the clock was set back by much");
    assert_eq!(counters.get(b"k", 2000, at(2_000)), 0, "another window");
    assert_eq!(counters.add(b"k", i64::MAX, 0, at(0)), i64::MAX);
    assert_eq!(counters.add(b"k", 1, 0, at(u64::MAX / 1000)), i64::MAX, "for ever, and bounded");
    assert_eq!(counters.add(b"", 1, u32::MAX, at(0)), 1);
}

#[test]
fn a_quota_gives_its_burst_at_once_and_then_one_at_a_time() {
    let counters = counters(MEBIBYTE);
    let minute = quota(60, 60_000, 60);
    let take = |ms| counters.take(b"k", minute, 1, at(ms));

    for left in (0..60).rev() {
        let decision = take(5_000);
        assert!(decision.allowed);
        assert_eq!((decision.remaining, decision.retry_after_ms), (left, 0));
        assert_eq!(decision.reset_after_ms, (60 - left) * 1000);
    }
    let refused =
        Decision { allowed: false, remaining: 0, retry_after_ms: 1000, reset_after_ms: 60_000 };
    assert_eq!(take(5_000), refused);
    assert_eq!(take(5_999).retry_after_ms, 1);
    assert!(take(6_000).allowed, "as it was told");
    assert!(!take(6_000).allowed);
    assert_eq!(counters.take(b"other", minute, 60, at(6_000)).remaining, 0);
    assert_eq!(counters.take(b"third", minute, 61, at(6_000)).retry_after_ms, u32::MAX);
    assert_eq!(counters.take(b"third", minute, 0, at(6_000)).remaining, 60, "only a look");
    for zero in [quota(0, 1, 1), quota(1, 0, 1), quota(1, 1, 0)] {
        assert!(!counters.take(b"zero", zero, 0, at(6_000)).allowed);
    }
}

/// A request that one limit refuses does not count against another.
#[test]
fn what_is_given_back_can_be_taken_again_and_no_more() {
    let counters = counters(MEBIBYTE);
    let minute = quota(60, 60_000, 60);
    let left = |ms| counters.take(b"k", minute, 0, at(ms)).remaining;
    assert!(counters.take(b"k", minute, 60, at(0)).allowed);

    counters.give_back(b"k", minute, 5, at(0));
    assert_eq!(left(0), 5);
    counters.give_back(b"k", minute, u32::MAX, at(0));
    assert_eq!(left(0), 60, "never more than the burst");
    assert!(counters.take(b"k", minute, 60, at(0)).allowed);
    assert!(!counters.take(b"k", minute, 1, at(0)).allowed);
    counters.give_back(b"k", quota(0, 0, 0), 1, at(0));
    counters.give_back(b"unknown", minute, 1, at(0));
    assert_eq!((left(0), counters.usage().0), (0, 1));
}

/// Seven in ten seconds: none of the times is a whole number of anything.
#[test]
fn a_quota_that_does_not_divide_is_exact() {
    let counters = counters(MEBIBYTE);
    let quota = quota(7, 10_000, 1);

    let mut taken = 0;
    for us in (0..70_000_000).step_by(100) {
        let now = Now { unix_ms: 0, monotonic_us: us };
        taken += u32::from(counters.take(b"k", quota, 1, now).allowed);
    }

    // Asked every 100 µs, it may be late by as much each time.
    assert_eq!(taken, 49);
}

#[test]
fn extremes_neither_overflow_nor_allow() {
    let counters = counters(MEBIBYTE);
    let huge = quota(u32::MAX, u32::MAX, u32::MAX);
    let late = Now { unix_ms: u64::MAX, monotonic_us: u64::MAX };

    assert!(counters.take(b"k", huge, u32::MAX, late).allowed);
    assert!(!counters.take(b"k", huge, 1, Now::default()).allowed);
    assert!(!counters.take(b"k", quota(1, u32::MAX, 1), u32::MAX, late).allowed);
    let slow = counters.take(b"slow", quota(1, u32::MAX, u32::MAX), u32::MAX, at(0));
    assert_eq!((slow.allowed, slow.reset_after_ms), (true, u32::MAX));
}

/// A bucket that fills up continuously: the usual picture of the same promise, in numbers that are exact
/// because they are whole: tokens times period, in microseconds.
struct Bucket {
    level: u128,
    at_us: u64,
}

impl Bucket {
    fn take(&mut self, quota: Quota, cost: u32, now_us: u64) -> bool {
        let each = u128::from(quota.period_ms) * 1000;
        let come = u128::from(now_us - self.at_us) * u128::from(quota.count);
        self.level = (self.level + come).min(u128::from(quota.burst) * each);
        self.at_us = now_us;
        let wanted = u128::from(cost) * each;
        let has = self.level >= wanted;
        self.level -= if has { wanted } else { 0 };
        has
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is taken when, the answers are those of a bucket of tokens, and what a refusal says about
    /// when to come back is true, and not too late.
    #[test]
    fn quotas_are_those_of_a_bucket_of_tokens(
        count in 1..2_000_u32,
        period_ms in 1..100_000_u32,
        burst in 1..50_u32,
        attempts in prop::collection::vec((0..5_000_000_u64, 0..60_u32), 1..200),
    ) {
        let counters = counters(MEBIBYTE);
        let quota = quota(count, period_ms, burst);
        let full = u128::from(burst) * u128::from(period_ms) * 1000;
        let mut bucket = Bucket { level: full, at_us: 0 };
        let mut now_us = 0;
        for (pause_us, cost) in attempts {
            now_us += pause_us;
            let now = Now { unix_ms: 0, monotonic_us: now_us };
            let decision = counters.take(b"k", quota, cost, now);
            prop_assert_eq!(decision.allowed, bucket.take(quota, cost, now_us));
            let each = u128::from(period_ms) * 1000;
            prop_assert_eq!(u128::from(decision.remaining), bucket.level / each);
            if decision.allowed {
                prop_assert_eq!(decision.retry_after_ms, 0);
            } else if cost <= burst {
                let lacking = u128::from(cost) * each - bucket.level;
                let wait = u128::from(decision.retry_after_ms) * 1000 * u128::from(count);
                prop_assert!(wait >= lacking && wait < lacking + 1000 * u128::from(count));
            }
        }
    }

    /// What plugins see is what a plain map would show them.
    #[test]
    fn values_are_those_of_a_map(
        steps in prop::collection::vec((0..4_u8, 0..3_u8, 0..3_u32, 0..1500_u64), 1..100),
    ) {
        let kv = kv();
        let mut model: HashMap<u8, (u64, Vec<u8>, u64)> = HashMap::new();
        let mut now_ms = 0;
        for (step, key, ttl, pause) in steps {
            now_ms += pause;
            model.retain(|_, (_, _, ends)| now_ms < *ends);
            let (name, now, ttl_ms) = ([key], at(now_ms), ttl * 1000);
            let ends = if ttl == 0 { u64::MAX } else { now_ms + u64::from(ttl_ms) };
            let value = now_ms.to_le_bytes();
            let known = model.get(&key).map(|(version, ..)| *version);
            match step {
                0 => {
                    let version = kv.set(&name, &value, ttl_ms, now).unwrap();
                    prop_assert!(Some(version) > known);
                    model.insert(key, (version, value.to_vec(), ends));
                }
                1 => {
                    // Every other time with a version that is wrong.
                    let wrong = pause % 2 == 0;
                    let expected = if wrong { Some(u64::MAX) } else { known };
                    match kv.compare_and_swap(&name, expected, &value, ttl_ms, now) {
                        Ok(version) => {
                            prop_assert!(!wrong);
                            model.insert(key, (version, value.to_vec(), ends));
                        }
                        Err(refusal) => {
                            prop_assert!(wrong);
                            prop_assert_eq!(refusal, Refusal::Conflict);
                        }
                    }
                }
                2 => prop_assert_eq!(kv.delete(&name, now), model.remove(&key).is_some()),
                _ => {
                    let found = kv.get(&name, now).map(|entry| (entry.version, entry.value.to_vec()));
                    let wanted = model.get(&key).map(|(version, value, _)| (*version, value.clone()));
                    prop_assert_eq!(found, wanted);
                }
            }
        }
    }
}

/// Between workers that take the last of a quota, one gets it.
#[test]
fn threads_never_take_more_than_a_quota_allows() {
    let counters = counters(MEBIBYTE);
    let barrier = Barrier::new(8);

    let taken: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let take = |_| counters.take(b"k", quota(60, 60_000, 60), 1, at(5_000)).allowed;
                    u32::try_from((0..1000).filter(|attempt| take(*attempt)).count()).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });

    assert_eq!(taken, 60);
}

#[test]
fn threads_lose_no_count_and_no_swap() {
    let (counters, kv) = (counters(MEBIBYTE), kv());

    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    counters.add(b"k", 1, 0, at(0));
                    loop {
                        let entry = kv.get(b"k", at(0));
                        let number = entry.as_ref().map_or(0, |entry| {
                            u64::from_le_bytes((*entry.value).try_into().unwrap())
                        });
                        let expected = entry.map(|entry| entry.version);
                        let next = (number + 1).to_le_bytes();
                        if kv.compare_and_swap(b"k", expected, &next, 0, at(0)).is_ok() {
                            break;
                        }
                    }
                }
            });
        }
    });

    assert_eq!(counters.get(b"k", 0, at(0)), 4000);
    assert_eq!(&*kv.get(b"k", at(0)).unwrap().value, 4000_u64.to_le_bytes());
}

/// Ten million clients, each seen once, must not grow the process, nor make it forget one that is there
/// all the time.
#[test]
fn a_flood_of_keys_stays_within_the_budget() {
    let counters = counters(4 * MEBIBYTE);
    let kept = quota(1, u32::MAX, 2);
    assert!(counters.take(b"regular", kept, 1, at(0)).allowed);
    assert!(counters.take(b"regular", kept, 1, at(0)).allowed);

    let flood: u64 = if cfg!(debug_assertions) { 300_000 } else { 10_000_000 };
    for key in 0..flood {
        assert!(counters.take(&key.to_le_bytes(), kept, 1, at(0)).allowed);
    }

    let (entries, bytes) = counters.usage();
    assert!(bytes <= 4 * MEBIBYTE, "{bytes}");
    assert!(bytes / entries <= 43, "{} bytes a key", bytes / entries);
    assert!(!counters.take(b"regular", kept, 1, at(0)).allowed);
}

#[test]
fn values_are_bounded_one_by_one_and_together() {
    let kv = kv();
    let value = vec![0; VALUE_BYTES_MAX + 1];

    assert_eq!(kv.set(b"k", &value, 0, at(0)), Err(Refusal::TooLarge));
    for key in 0..1000_u32 {
        kv.set(&key.to_le_bytes(), &value[1..], 0, at(0)).unwrap();
    }

    let (entries, bytes) = kv.usage();
    assert!(entries == 15 && bytes <= MEBIBYTE, "{entries} {bytes}");
}

/// A version stands for what was read, so that what was removed and made again is another entry.
#[test]
fn a_version_is_never_seen_again() {
    let kv = kv();
    let old = kv.set(b"k", b"1", 0, at(0)).unwrap();
    assert!(kv.delete(b"k", at(0)));
    kv.set(b"k", b"1", 0, at(0)).unwrap();

    let swapped = kv.compare_and_swap(b"k", Some(old), b"2", 0, at(0));

    assert_eq!(swapped, Err(Refusal::Conflict));
    assert_eq!(kv.compare_and_swap(b"k", None, b"2", 0, at(0)), Err(Refusal::Conflict));
}

#[test]
fn a_state_belongs_to_its_plugin_and_goes_with_its_last_holder() {
    let states = States::default();
    let allow = Allow { kv: Some(MEBIBYTE), counters: Some(MEBIBYTE), ..Allow::default() };
    let (one, other) = (states.of(&"one".into()), states.of(&"other".into()));
    one.apply(&allow);
    other.apply(&allow);
    one.kv().set(b"k", b"secret", 0, at(0)).unwrap();
    one.counters().add(b"k", 5, 0, at(0));

    assert_eq!(other.kv().get(b"k", at(0)), None);
    assert_eq!(other.counters().get(b"k", 0, at(0)), 0);
    assert_eq!(states.of(&"one".into()).counters().get(b"k", 0, at(0)), 5, "after a swap");
    let kinds: Vec<_> = one.usage().iter().map(|usage| (usage.kind, usage.entries)).collect();
    assert_eq!(kinds, [("counters", 1), ("kv", 1)]);
    drop(one);
    assert_eq!(states.of(&"one".into()).usage(), []);
}

fn registered(states: &States, plugin: &str) -> (Arc<PluginState>, Registered) {
    let state = states.of(&plugin.into());
    let registered = Registered::new(Arc::clone(state.metrics()));
    (state, registered)
}

#[test]
fn metrics_of_all_instances_are_summed_and_counts_outlive_them() {
    let states = States::default();
    let (state, mut first) = registered(&states, "my-plugin");
    let (_, mut second) = registered(&states, "my-plugin");
    for instance in [&mut first, &mut second] {
        assert_eq!(instance.counter("hits", "Hits."), Ok(0));
        assert_eq!(instance.gauge("size", "Size\nof it."), Ok(1));
        assert_eq!(instance.histogram("took", "", &[1.0, 2.0]), Ok(2));
        assert_eq!(instance.counter("hits", "Again."), Ok(0), "the same metric");
        instance.add(0, 5).unwrap();
        instance.set(1, 2.5).unwrap();
        for value in [0.5, 1.0, 1.5, 9.0, f64::NAN] {
            instance.observe(2, value).unwrap();
        }
        instance.set(1, f64::NAN).unwrap();
    }

    let read = |state: &PluginState| -> Vec<_> {
        let metrics = state.metrics().read();
        metrics.into_iter().map(|metric| (metric.name, metric.totals)).collect()
    };
    let both = read(&state);
    assert_eq!(both[0].0, "zproxy_plugin_my_plugin_hits");
    assert_eq!(both[0].1.count, 10);
    assert_eq!(both[1].1.number.to_bits(), 5.0_f64.to_bits());
    assert_eq!(both[2].1.buckets, [4, 2, 2]);
    assert_eq!(both[2].1.number.to_bits(), 24.0_f64.to_bits());
    assert_eq!(state.metrics().read()[1].help, "Size of it.");

    drop((first, second));
    let (_, mut third) = registered(&states, "my-plugin");
    third.counter("hits", "Hits.").unwrap();
    third.add(0, 1).unwrap();
    let after = read(&state);
    assert_eq!(after[0].1.count, 11);
    assert_eq!(after[1].1.number.to_bits(), 0.0_f64.to_bits(), "what was set is gone");
    assert_eq!(after[2].1.buckets, [4, 2, 2]);
}

#[test]
fn ids_that_were_not_given_out_count_nothing() {
    let states = States::default();
    let (_, mut metrics) = registered(&states, "p");
    metrics.counter("hits", "").unwrap();

    assert!(metrics.add(1, 1).is_err() && metrics.add(u32::MAX, 1).is_err());
    assert!(metrics.set(0, 1.0).is_err() && metrics.observe(0, 1.0).is_err());
}

#[test]
fn bad_metrics_are_refused_by_what_is_wrong() {
    let states = States::default();
    let (_, mut metrics) = registered(&states, "p");

    for name in ["", "A", "1a", "a-b", "a b", "a{x=\"1\"}", "ä", &"a".repeat(65)] {
        assert!(metrics.gauge(name, "").unwrap_err().contains("cannot name a metric"), "{name}");
    }
    assert!(metrics.counter("a_total", "").unwrap_err().contains("leave `_total` off"));
    for bounds in [&[][..], &[1.0, 1.0], &[2.0, 1.0], &[1.0, f64::NAN], &[1.0; 33]] {
        assert!(metrics.histogram("h", "", bounds).unwrap_err().contains("1 to 32 rising"));
    }
    assert!(metrics.histogram("h", "", &[1.0, f64::INFINITY]).unwrap_err().contains("finite"));
    metrics.gauge("g", "").unwrap();
    assert!(metrics.counter("g", "").unwrap_err().contains("is a gauge"));
}

/// Two families of one name, and nothing would read `/metrics` any more.
#[test]
fn no_plugin_takes_the_name_of_anothers_metric() {
    let states = States::default();
    let (_, mut one) = registered(&states, "a");
    let (_, mut other) = registered(&states, "a-b");
    other.counter("c", "").unwrap();
    other.histogram("d", "", &[1.0]).unwrap();

    assert!(one.gauge("b_c", "").unwrap_err().ends_with("is taken by the plugin `a-b`"));
    assert!(one.gauge("b_c_total", "").is_err());
    assert!(one.gauge("b_d_bucket", "").is_err());
    let (_, mut own) = registered(&states, "duration");
    assert!(own.gauge("seconds", "").unwrap_err().contains("of the gateway's own"));
    let (_, mut own) = registered(&states, "calls");
    assert_eq!(own.counter("made", ""), Ok(0));

    // What a plugin that is gone had is free again.
    drop(other);
    one.gauge("b_c", "").unwrap();
}

#[test]
fn metrics_are_bounded_and_those_of_earlier_generations_make_room() {
    let states = States::default();
    let (state, mut first) = registered(&states, "p");

    let taken = (0..10_000).filter(|n| first.counter(&format!("m{n}"), "").is_ok()).count();
    assert_eq!(taken, INSTANCE_METRICS_MAX);
    assert_eq!(state.metrics().read().len(), INSTANCE_METRICS_MAX);
    drop(first);
    for generation in 0..20 {
        let (_, mut next) = registered(&states, "p");
        for metric in 0..INSTANCE_METRICS_MAX {
            next.counter(&format!("g{generation}_{metric}"), "").unwrap();
        }
    }
    assert_eq!(state.metrics().read().len(), 256);
    let (_, mut other_kind) = registered(&states, "p");
    other_kind.gauge("g19_1", "").unwrap();
    let kinds = state.metrics().read();
    let kind = &kinds.iter().find(|metric| metric.name.ends_with("g19_1")).unwrap().kind;
    assert_eq!(*kind, Kind::Gauge);
}
