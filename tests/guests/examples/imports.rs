//! Makes one call to the host for each request: what the benches time.

use std::cell::Cell;
use std::time::Duration;

use zproxy_sdk::counters::{self, Quota};
use zproxy_sdk::crypto::Key;
use zproxy_sdk::metrics::Counter;
use zproxy_sdk::{Flow, Middleware, Request, export, kv};

#[derive(serde::Deserialize)]
#[serde(tag = "work", rename_all = "kebab-case", deny_unknown_fields)]
enum Config {
    Nothing {},
    Take { keys: u64 },
    Get {},
    Set {},
    Add {},
    Verify { algorithm: String, format: String, key: Vec<u8>, data: Vec<u8>, signature: Vec<u8> },
}

enum Work {
    Nothing,
    Take { keys: u64, next: Cell<u64> },
    Get,
    Set,
    Add(Counter),
    Verify { key: Key, data: Vec<u8>, signature: Vec<u8> },
}

#[derive(serde::Deserialize)]
#[serde(try_from = "Config")]
struct Imports(Work);

impl TryFrom<Config> for Imports {
    type Error = String;

    fn try_from(config: Config) -> Result<Self, String> {
        Ok(Self(match config {
            Config::Nothing {} => Work::Nothing,
            Config::Take { keys } => Work::Take { keys, next: Cell::new(0) },
            Config::Get {} => {
                kv::set("key", [7; 100], None).map_err(|error| error.to_string())?;
                Work::Get
            }
            Config::Set {} => Work::Set,
            Config::Add {} => Work::Add(Counter::new("added", "Calls.")?),
            Config::Verify { algorithm, format, key, data, signature } => {
                Work::Verify { key: Key::new(&algorithm, &format, &key)?, data, signature }
            }
        }))
    }
}

impl Middleware for Imports {
    fn on_request(&self, request: &mut Request) -> Flow {
        let good = match &self.0 {
            Work::Nothing => true,
            Work::Take { keys, next } => {
                // A step that no number of keys in use here divides.
                let key = next.get().wrapping_add(7_919) % keys;
                next.set(key);
                let quota = Quota::new(1_000_000, Duration::from_millis(1));
                counters::take(key.to_le_bytes(), quota, 1).allowed
            }
            Work::Get => kv::get("key").is_some(),
            Work::Set => kv::set("key", [7; 100], None).is_ok(),
            Work::Add(counter) => {
                counter.add(1);
                true
            }
            Work::Verify { key, data, signature } => key.verify(data, signature),
        };
        if !good {
            request.set_header("x-bad", "yes");
        }
        Flow::Next
    }
}

export!(Imports: on_request);
