//! Never returns from a request.

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
struct LoopForever {}

impl Middleware for LoopForever {
    fn on_request(&self, _: &mut Request) -> Flow {
        loop {
            std::hint::black_box(0);
        }
    }
}

export!(LoopForever: on_request);
