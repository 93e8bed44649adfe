//! Lets requests pass and panics on every response.

use zproxy_sdk::{Middleware, Response, export};

#[derive(serde::Deserialize)]
struct ResponsePanic {}

impl Middleware for ResponsePanic {
    fn on_response(&self, response: &mut Response) {
        panic!("asked to panic on status {}", response.status());
    }
}

export!(ResponsePanic);
