//! Takes one from a quota for each request, and answers 429 when there is none left.

use std::time::Duration;

use zproxy_sdk::counters::{self, Quota};
use zproxy_sdk::{Flow, Middleware, Reply, Request, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Take {
    count: u32,
    period_ms: u64,
}

impl Middleware for Take {
    fn on_request(&self, _: &mut Request) -> Flow {
        let quota = Quota::new(self.count, Duration::from_millis(self.period_ms));
        let decision = counters::take("all", quota, 1);
        if decision.allowed {
            return Flow::Next;
        }
        let seconds = decision.retry_after.as_millis().div_ceil(1000).to_string();
        Flow::Reply(Reply::status(429).header("retry-after", seconds))
    }
}

export!(Take: on_request);
