//! What a plugin keeps outside of its instance, in a unit test: counters, values, metrics, what the
//! operator grants. Time is the test's.

use std::collections::HashMap;

use super::host::Host;

/// The limits of `wit/`.
const KEY_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 64 * 1024;
const METRICS_MAX: usize = 64;

/// What the functions read and write.
#[derive(Debug, Default)]
pub(crate) struct State {
    windows: HashMap<(Vec<u8>, u32), (u64, i64)>,
    /// When all that was taken will have come back, in microseconds divided by the quota's count.
    quotas: HashMap<Vec<u8>, (u128, u32)>,
    values: HashMap<Vec<u8>, Value>,
    version: u64,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) variables: HashMap<String, Option<String>>,
    pub(crate) secrets: HashMap<String, Vec<u8>>,
    random: u64,
}

#[derive(Debug)]
struct Value {
    bytes: Vec<u8>,
    version: u64,
    ends_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: String,
    kind: &'static str,
    bounds: Vec<f64>,
    pub(crate) values: Vec<f64>,
}

impl Metric {
    /// A counter's count, a gauge's value, the sum of what a histogram has seen.
    pub(crate) fn number(&self) -> f64 {
        self.values.iter().sum()
    }
}

fn takes_key(host: &mut Host, key: &[u8]) -> bool {
    if key.len() > KEY_BYTES_MAX {
        host.fail("a key has at most 256 bytes");
    }
    key.len() <= KEY_BYTES_MAX
}

/// `random`: the same numbers in every run.
pub(crate) mod random {
    use super::Host;

    pub(crate) fn bytes(count: u32) -> Vec<u8> {
        if count > 65_536 {
            Host::with(|host| host.fail("more than 65,536 random bytes"));
            return Vec::new();
        }
        let numbers = std::iter::repeat_with(|| number().to_le_bytes());
        numbers.flatten().take(usize::try_from(count).unwrap_or(0)).collect()
    }

    /// SplitMix64.
    pub(crate) fn number() -> u64 {
        Host::with(|host| {
            host.state.random = host.state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = host.state.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }
}

/// `metrics`.
pub(crate) mod metrics {
    use super::{Host, METRICS_MAX, Metric};

    fn register(name: &str, kind: &'static str, bounds: &[f64]) -> Result<u32, String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.len() > 64
            || !name.starts_with(|first: char| first.is_ascii_lowercase())
            || !name.bytes().all(plain)
            || (kind == "counter" && name.ends_with("_total"))
        {
            return Err(format!("`{name}` cannot name a metric"));
        }
        Host::with(|host| {
            let metrics = &mut host.state.metrics;
            let index = match metrics.iter().position(|metric| metric.name == name) {
                Some(index) if metrics[index].kind == kind && metrics[index].bounds == bounds => {
                    index
                }
                Some(index) => return Err(format!("`{name}` is a {}", metrics[index].kind)),
                None if metrics.len() == METRICS_MAX => {
                    return Err(format!("an instance has at most {METRICS_MAX} metrics"));
                }
                None => {
                    let (name, bounds) = (name.to_owned(), bounds.to_vec());
                    metrics.push(Metric { name, kind, bounds, values: Vec::new() });
                    metrics.len() - 1
                }
            };
            u32::try_from(index).map_err(|error| error.to_string())
        })
    }

    fn write(id: u32, kind: &str, write: impl FnOnce(&mut Vec<f64>)) {
        Host::with(|host| {
            let index = usize::try_from(id).unwrap_or(usize::MAX);
            match host.state.metrics.get_mut(index).filter(|metric| metric.kind == kind) {
                Some(metric) => write(&mut metric.values),
                None => host.fail("there is no such metric of its kind"),
            }
        });
    }

    pub(crate) fn counter(name: &str, _help: &str) -> Result<u32, String> {
        register(name, "counter", &[])
    }

    pub(crate) fn gauge(name: &str, _help: &str) -> Result<u32, String> {
        register(name, "gauge", &[])
    }

    pub(crate) fn histogram(name: &str, _help: &str, bounds: &[f64]) -> Result<u32, String> {
        let rising = bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if bounds.is_empty()
            || bounds.len() > 32
            || !rising
            || !bounds.iter().all(|b| b.is_finite())
        {
            return Err(format!("the bounds of `{name}` must be 1 to 32 rising numbers"));
        }
        register(name, "histogram", bounds)
    }

    #[allow(clippy::cast_precision_loss, reason = "a test does not count to 2^53")]
    pub(crate) fn add(id: u32, count: u64) {
        write(id, "counter", |values| values.push(count as f64));
    }

    pub(crate) fn set(id: u32, value: f64) {
        write(id, "gauge", |values| {
            if !value.is_nan() {
                *values = vec![value];
            }
        });
    }

    pub(crate) fn observe(id: u32, value: f64) {
        write(id, "histogram", |values| {
            if !value.is_nan() {
                values.push(value);
            }
        });
    }
}

/// `counters`.
pub(crate) mod counters {
    use super::{Host, takes_key};
    use crate::bindings::imports::zproxy::gateway::counters::{Decision, Quota, Shortage, Wanted};

    /// As many as the host takes.
    const TAKES_MAX: usize = 64;

    pub(crate) fn add(key: &[u8], delta: i64, window_ms: u32) -> i64 {
        Host::with(|host| {
            if !takes_key(host, key) {
                return 0;
            }
            let number = host.unix_ms.checked_div(window_ms.into()).unwrap_or(0);
            let counts = &mut host.state.windows;
            let count = counts.entry((key.to_vec(), window_ms)).or_insert((number, 0));
            if count.0 != number {
                *count = (number, 0);
            }
            count.1 = count.1.saturating_add(delta);
            count.1
        })
    }

    pub(crate) fn get(key: &[u8], window_ms: u32) -> i64 {
        add(key, 0, window_ms)
    }

    pub(crate) fn take(key: &[u8], quota: Quota, cost: u32) -> Decision {
        let Quota { count, period_ms, burst } = quota;
        let refused =
            |ms| Decision { allowed: false, remaining: 0, retry_after_ms: ms, reset_after_ms: ms };
        Host::with(|host| {
            if !takes_key(host, key) {
                return refused(0);
            }
            if count == 0 || period_ms == 0 || burst == 0 {
                return refused(u32::MAX);
            }
            let (units, each) = (u128::from(count), u128::from(period_ms) * 1000);
            let now = u128::from(host.unix_ms) * 1000 * units;
            let known = host.state.quotas.get(key).copied().unwrap_or((0, count));
            let arrival = (known.0 * units).div_ceil(known.1.into()).max(now);
            let full = now + u128::from(burst) * each;
            let wanted = arrival + u128::from(cost) * each;
            let allowed = wanted <= full;
            let after = if allowed { wanted } else { arrival };
            if allowed && cost > 0 {
                host.state.quotas.insert(key.to_vec(), (after, count));
            }
            let ms = |time: u128| u32::try_from(time.div_ceil(units * 1000)).unwrap_or(u32::MAX);
            let left = full.saturating_sub(after) / each;
            Decision {
                allowed,
                remaining: u32::try_from(left).unwrap_or(u32::MAX),
                retry_after_ms: match allowed {
                    true => 0,
                    false if cost > burst => u32::MAX,
                    false => ms(wanted - full),
                },
                reset_after_ms: ms(after - now),
            }
        })
    }

    pub(crate) fn take_all(wanted: &[Wanted]) -> Result<Vec<Decision>, Shortage> {
        if wanted.len() > TAKES_MAX {
            Host::with(|host| host.fail("counters.take-all: at most 64 quotas at once".to_owned()));
        }
        let mut decisions = Vec::new();
        for (index, one) in wanted.iter().enumerate() {
            let decision = take(&one.key, one.quota, one.cost);
            if !decision.allowed {
                for before in &wanted[..index] {
                    give_back(&before.key, before.quota, before.cost);
                }
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                return Err(Shortage { index, decision });
            }
            decisions.push(decision);
        }
        Ok(decisions)
    }

    pub(crate) fn give_back(key: &[u8], quota: Quota, cost: u32) {
        Host::with(|host| {
            if takes_key(host, key)
                && quota.count > 0
                && let Some((arrival, count)) = host.state.quotas.get_mut(key)
            {
                let given = u128::from(cost) * u128::from(quota.period_ms) * 1000;
                let units = u128::from(quota.count);
                *arrival = (*arrival * units).div_ceil(u128::from(*count)).saturating_sub(given);
                *count = quota.count;
            }
        });
    }
}

/// `kv`.
pub(crate) mod kv {
    use super::{Host, VALUE_BYTES_MAX, Value, takes_key};
    use crate::bindings::imports::zproxy::gateway::kv::{Entry, Error};

    pub(crate) fn get(key: &[u8]) -> Option<Entry> {
        Host::with(|host| {
            if !takes_key(host, key) {
                return None;
            }
            let now = host.unix_ms;
            let value = host.state.values.get(key).filter(|value| now < value.ends_ms)?;
            Some(Entry { value: value.bytes.clone(), version: value.version })
        })
    }

    pub(crate) fn set(key: &[u8], value: &[u8], ttl_ms: u32) -> Result<u64, Error> {
        Host::with(|host| {
            if !takes_key(host, key) || value.len() > VALUE_BYTES_MAX {
                return Err(Error::TooLarge);
            }
            let ends_ms = match ttl_ms {
                0 => u64::MAX,
                ttl_ms => host.unix_ms.saturating_add(ttl_ms.into()),
            };
            host.state.version += 1;
            let version = host.state.version;
            let value = Value { bytes: value.to_vec(), version, ends_ms };
            host.state.values.insert(key.to_vec(), value);
            Ok(version)
        })
    }

    pub(crate) fn compare_and_swap(
        key: &[u8],
        expected: Option<u64>,
        value: &[u8],
        ttl_ms: u32,
    ) -> Result<u64, Error> {
        if get(key).map(|entry| entry.version) != expected {
            return Err(Error::Conflict);
        }
        set(key, value, ttl_ms)
    }

    pub(crate) fn delete(key: &[u8]) -> bool {
        let there = get(key).is_some();
        Host::with(|host| host.state.values.remove(key));
        there
    }
}

/// `environment`.
pub(crate) mod environment {
    use super::Host;

    pub(crate) fn variable(name: &str) -> Option<String> {
        Host::with(|host| {
            let value = host.state.variables.get(name).cloned();
            if value.is_none() {
                host.fail(format!("the variable `{name}` was not granted"));
            }
            value.flatten()
        })
    }

    pub(crate) fn secret(name: &str) -> Vec<u8> {
        Host::with(|host| {
            let secret = host.state.secrets.get(name).cloned();
            if secret.is_none() {
                host.fail(format!("the secret `{name}` was not granted"));
            }
            secret.unwrap_or_default()
        })
    }
}
