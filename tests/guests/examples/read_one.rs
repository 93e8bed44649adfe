//! Reads one field that it has declared.

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
struct ReadOne {}

impl Middleware for ReadOne {
    fn request_fields(&self) -> Vec<&str> {
        vec!["accept"]
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        std::hint::black_box(request.header_bytes("accept"));
        Flow::Next
    }
}

export!(ReadOne: on_request);
