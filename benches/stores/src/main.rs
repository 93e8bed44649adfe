//! What keeps stored responses best: our table, quick_cache or moka.
//!
//! One trace for all of them: requests by popularity (Zipf), sizes as on the web (log-normal, most of a few
//! kilobytes, some of megabytes), the defaults of the plugin `cache` as the budget. A miss is an insertion.
//! Bodies are charged and not made: what is measured is which are kept, and what asking costs.
//!
//! - `hits`, `bytes`: of requests, and of their bytes, that were found.
//! - `large`: of insertions of 2 MiB and more, those that are found right afterwards.
//! - `ns`: an operation on one thread, and on two that work on the same store at the same time (the time
//!   of a thread, so that 1.0 of the first is a store that scales).
//! - `over`: the most that was ever held, in budgets.
//!
//! `cd benches/stores && cargo run --release [-- ratios]`; `ratios` leaves times out.

#[path = "../../../host/src/state/store.rs"]
#[expect(dead_code, reason = "nothing is removed here")]
mod store;
#[path = "../../../host/src/state/table.rs"]
#[expect(dead_code, reason = "nothing is removed here")]
mod table;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `allow` grants the cache when it says nothing more.
const BUDGET: u64 = 64 << 20;
const OBJECT_MAX: u64 = 4 << 20;
const LARGE: u64 = 2 << 20;

const KEYS: usize = 200_000;
const REQUESTS: usize = 2_000_000;

/// A stored response: what it would take.
type Value = Arc<u64>;

trait Contender: Sync {
    fn get(&self, key: &[u8]) -> bool;
    fn insert(&self, key: &[u8], bytes: u64);
    /// Bytes of bodies.
    fn held(&self) -> u64;
}

struct Ours(store::Store<Value>);

impl Contender for Ours {
    fn get(&self, key: &[u8]) -> bool {
        self.0.with(key, |slot| slot.get().map(|value| Arc::clone(value))).is_some()
    }

    fn insert(&self, key: &[u8], bytes: u64) {
        drop(self.0.with(key, |slot| slot.set(Arc::new(bytes), bytes as usize)));
    }

    fn held(&self) -> u64 {
        self.0.usage().1 as u64
    }
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<Box<[u8]>, Value> for Weight {
    fn weight(&self, _: &Box<[u8]>, value: &Value) -> u64 {
        **value
    }
}

struct Quick(quick_cache::sync::Cache<Box<[u8]>, Value, Weight>);

impl Contender for Quick {
    fn get(&self, key: &[u8]) -> bool {
        self.0.get(key).is_some()
    }

    fn insert(&self, key: &[u8], bytes: u64) {
        self.0.insert(key.into(), Arc::new(bytes));
    }

    fn held(&self) -> u64 {
        self.0.weight()
    }
}

struct Moka(moka::sync::Cache<Box<[u8]>, Value>);

impl Contender for Moka {
    fn get(&self, key: &[u8]) -> bool {
        self.0.get(key).is_some()
    }

    fn insert(&self, key: &[u8], bytes: u64) {
        self.0.insert(key.into(), Arc::new(bytes));
    }

    fn held(&self) -> u64 {
        self.0.weighted_size()
    }
}

fn contenders() -> Vec<(&'static str, Box<dyn Contender>)> {
    let ours = |candidates| {
        let store = store::Store::new(candidates);
        store.limit(BUDGET as usize);
        Box::new(Ours(store))
    };
    let items = (BUDGET / 16_384) as usize;
    let quick = quick_cache::sync::Cache::with_weighter(items, BUDGET, Weight);
    let options = quick_cache::OptionsBuilder::new()
        .estimated_items_capacity(items)
        .weight_capacity(BUDGET)
        .shards(1)
        .build();
    let one = quick_cache::sync::Cache::with_options(
        options.expect("all that is needed"),
        Weight,
        Default::default(),
        Default::default(),
    );
    let moka = |policy| {
        let weigher = |_: &Box<[u8]>, value: &Value| u32::try_from(**value).unwrap_or(u32::MAX);
        let builder = moka::sync::Cache::builder().max_capacity(BUDGET).weigher(weigher);
        Box::new(Moka(builder.eviction_policy(policy).build()))
    };
    vec![
        ("ours", ours(32)),
        ("ours, oldest goes", ours(1)),
        ("quick_cache", Box::new(Quick(quick))),
        ("quick_cache, 1 shard", Box::new(Quick(one))),
        ("moka", moka(moka::policy::EvictionPolicy::tiny_lfu())),
        ("moka, LRU", moka(moka::policy::EvictionPolicy::lru())),
    ]
}

/// A request: number of its object, or of one that nobody asks for again.
struct Trace {
    keys: Vec<Box<[u8]>>,
    sizes: Vec<u64>,
    requests: Vec<u32>,
}

fn trace(exponent: f64, once_percent: u32) -> Trace {
    let mut random = fastrand::Rng::with_seed(7);
    let mut total = 0.0;
    let cumulated: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            total += (rank as f64).powf(-exponent);
            total
        })
        .collect();
    let mut next = KEYS;
    let requests: Vec<u32> = (0..REQUESTS)
        .map(|_| {
            if random.u32(..100) < once_percent {
                next += 1;
                return next as u32 - 1;
            }
            let wanted = random.f64() * total;
            cumulated.partition_point(|sum| *sum < wanted) as u32
        })
        .collect();
    // Sizes are no matter of popularity: median 8 KiB, mean about 35 KiB, a tail up to the cap.
    let sizes = (0..next)
        .map(|_| {
            let normal: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
            ((8192.0 * (1.7 * normal).exp()) as u64).clamp(200, OBJECT_MAX)
        })
        .collect();
    let keys =
        (0..next).map(|n| format!("https://www.example/{n:x}\n").into_bytes().into()).collect();
    Trace { keys, sizes, requests }
}

#[derive(Default)]
struct Found {
    hits: u64,
    hit_bytes: u64,
    bytes: u64,
    large: u64,
    large_kept: u64,
    most: u64,
}

/// How good it is; not timed.
fn judge(contender: &dyn Contender, trace: &Trace) -> Found {
    let mut found = Found::default();
    for (count, request) in trace.requests.iter().enumerate() {
        let (key, size) = (&trace.keys[*request as usize], trace.sizes[*request as usize]);
        found.bytes += size;
        if contender.get(key) {
            found.hits += 1;
            found.hit_bytes += size;
        } else {
            contender.insert(key, size);
            if size >= LARGE {
                found.large += 1;
                found.large_kept += u64::from(contender.get(key));
            }
        }
        if count % 1024 == 0 {
            found.most = found.most.max(contender.held());
        }
    }
    found
}

/// Nanoseconds of an operation, on so many threads at once, each with its part of the trace.
fn time(contender: &dyn Contender, trace: &Trace, threads: usize) -> f64 {
    let hits = AtomicU64::new(0);
    let parts = trace.requests.chunks(trace.requests.len() / threads);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for part in parts {
            let hits = &hits;
            scope.spawn(move || {
                let mut own = 0;
                for request in part {
                    let key = &trace.keys[*request as usize];
                    match contender.get(key) {
                        true => own += 1,
                        false => contender.insert(key, trace.sizes[*request as usize]),
                    }
                }
                hits.fetch_add(own, Ordering::Relaxed);
            });
        }
    });
    began.elapsed().as_nanos() as f64 * threads as f64 / trace.requests.len() as f64
}

fn main() {
    let timed = std::env::args().all(|argument| argument != "ratios");
    for (exponent, once) in [(0.7, 0), (0.9, 0), (1.1, 0), (0.9, 30)] {
        let trace = trace(exponent, once);
        println!("zipf {exponent}, {once} % asked for once; {KEYS} keys, {REQUESTS} requests");
        println!(
            "{:<22}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}",
            "", "hits %", "bytes %", "large %", "ns x1", "ns x2", "over"
        );
        for (at, (name, contender)) in contenders().into_iter().enumerate() {
            let found = judge(&*contender, &trace);
            let percent = |part: u64, all: u64| 100.0 * part as f64 / all.max(1) as f64;
            let best = |threads| {
                if !timed {
                    return f64::NAN;
                }
                let runs = (0..3).map(|_| time(&*contenders().remove(at).1, &trace, threads));
                runs.fold(f64::INFINITY, f64::min)
            };
            println!(
                "{name:<22}{:>8.2}{:>8.2}{:>8.1}{:>8.0}{:>8.0}{:>8.2}",
                percent(found.hits, trace.requests.len() as u64),
                percent(found.hit_bytes, found.bytes),
                percent(found.large_kept, found.large),
                best(1),
                best(2),
                found.most as f64 / BUDGET as f64,
            );
        }
        println!();
    }
}
