//! Does with its state what the field `x-do` of a request says, and answers with what came of it.

use std::time::Duration;

use zproxy_sdk::counters::{Quota, Wanted};
use zproxy_sdk::metrics::{Counter, Gauge, Histogram};
use zproxy_sdk::{Flow, Middleware, Reply, Request, counters, environment, export, kv, random};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {}

#[derive(serde::Deserialize)]
#[serde(try_from = "Config")]
struct Keeper {
    done: Counter,
    size: Gauge,
    length: Histogram,
}

impl TryFrom<Config> for Keeper {
    type Error = String;

    fn try_from(_: Config) -> Result<Self, String> {
        Ok(Self {
            done: Counter::new("done", "Things \"done\".")?,
            size: Gauge::new("size", "Size of the last thing.")?,
            length: Histogram::new("length", "Lengths of what was asked.", &[2.0, 16.0])?,
        })
    }
}

impl Middleware for Keeper {
    fn request_fields(&self) -> Vec<&str> {
        vec!["x-do"]
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        let order = request.header("x-do").unwrap_or_default();
        self.done.add(1);
        #[allow(clippy::cast_precision_loss, reason = "fields are short")]
        let length = order.len() as f64;
        self.size.set(length);
        self.length.observe(length);
        let words: Vec<&str> = order.split(' ').collect();
        Flow::Reply(Reply::status(200).body(done(&words)))
    }
}

/// Ten a day, so that nothing comes back while a test runs.
fn daily() -> Quota {
    Quota::new(10, Duration::from_secs(24 * 3600))
}

fn done(words: &[&str]) -> String {
    let number = |word: &str| word.parse::<u32>().unwrap_or_default();
    match *words {
        ["set", key, value] => format!("{:?}", kv::set(key, value, None).is_ok()),
        ["set-large", bytes] => {
            format!("{:?}", kv::set("large", vec![0; number(bytes) as usize], None))
        }
        ["get", key] => match kv::get(key) {
            Some(entry) => String::from_utf8_lossy(&entry.value).into_owned(),
            None => "none".to_owned(),
        },
        ["count", key] => counters::add(key, 1, Duration::ZERO).to_string(),
        ["counted", key] => counters::get(key, Duration::ZERO).to_string(),
        ["take", key, cost] => {
            let decision = counters::take(key, daily(), number(cost));
            format!("{} {}", decision.allowed, decision.remaining)
        }
        ["take-all", first, second, cost] => {
            let wanted = |key: &str| Wanted { key: key.into(), quota: daily(), cost: number(cost) };
            match counters::take_all([wanted(first), wanted(second)]) {
                Ok(taken) => format!("{} {}", taken[0].remaining, taken[1].remaining),
                Err(short) => format!("{} is short", short.index),
            }
        }
        ["give-back", key, cost] => {
            counters::give_back(key, daily(), number(cost));
            "given".to_owned()
        }
        ["flood-values", first, count] => {
            let (first, count) = (number(first), number(count));
            let keys = first..first.saturating_add(count);
            let kept = keys.filter(|key| kv::set(key.to_le_bytes(), [7; 1000], None).is_ok());
            kept.count().to_string()
        }
        ["flood-counts", first, count] => {
            let (first, count) = (number(first), number(count));
            for key in first..first.saturating_add(count) {
                counters::add(key.to_le_bytes(), 1, Duration::ZERO);
            }
            "flooded".to_owned()
        }
        ["metrics", count] => {
            let made = (0..number(count)).filter(|n| Counter::new(&format!("m{n}"), "").is_ok());
            made.count().to_string()
        }
        ["long-key", bytes] => {
            counters::add(vec![b'k'; number(bytes) as usize], 1, Duration::ZERO).to_string()
        }
        ["random", bytes] => random::bytes(number(bytes)).len().to_string(),
        ["variable", name] => format!("{:?}", environment::variable(name)),
        ["secret", name] => String::from_utf8_lossy(&environment::secret(name)).into_owned(),
        _ => "?".to_owned(),
    }
}

export!(Keeper: on_request);
