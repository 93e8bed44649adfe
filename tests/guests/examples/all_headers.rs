//! Looks at every field of the request, and changes none.

use zproxy_sdk::{Flow, Middleware, Reply, Request, export};

#[derive(serde::Deserialize)]
struct AllHeaders {}

impl Middleware for AllHeaders {
    fn on_request(&self, request: &mut Request) -> Flow {
        if request.headers().iter().any(|(name, value)| name.is_empty() || value == b"forbidden") {
            return Flow::Reply(Reply::status(400));
        }
        Flow::Next
    }
}

export!(AllHeaders: on_request);
