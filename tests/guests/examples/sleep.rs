//! Sleeps in the hook, which no plugin may: `ms` of the configuration, 10 s by default.

use std::time::Duration;

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Sleep {
    #[serde(default = "default_ms")]
    ms: u64,
}

fn default_ms() -> u64 {
    10_000
}

impl Middleware for Sleep {
    fn on_request(&self, _: &mut Request) -> Flow {
        std::thread::sleep(Duration::from_millis(self.ms));
        Flow::Next
    }
}

export!(Sleep: on_request);
