//! What a usual plugin does: reads three fields that it declared, and sets two.

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
struct ReadAndSet {}

impl Middleware for ReadAndSet {
    fn request_fields(&self) -> Vec<&str> {
        vec!["accept", "user-agent", "cookie"]
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        let read = self.request_fields().into_iter().filter_map(|name| request.header_bytes(name));
        let bytes: usize = read.map(|value| value.len()).sum();
        request.set_header("x-seen", if bytes > 0 { "some" } else { "none" });
        request.set_header("x-by", "read-and-set");
        Flow::Next
    }
}

export!(ReadAndSet: on_request);
