//! Adds fields without end: more than any message may hold.

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct EditFlood {
    #[serde(default = "default_count")]
    count: u32,
}

/// 1 KiB each, so 64 times what the host takes.
fn default_count() -> u32 {
    4096
}

impl Middleware for EditFlood {
    fn on_request(&self, request: &mut Request) -> Flow {
        for _ in 0..self.count {
            request.append_header("x-flood", [b'x'; 1024]);
        }
        Flow::Next
    }
}

export!(EditFlood: on_request);
