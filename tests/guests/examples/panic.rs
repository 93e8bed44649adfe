//! Panics on a request whose path begins with `/panic`, or on every request when configured so.

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Panic {
    #[serde(default)]
    always: bool,
}

impl Middleware for Panic {
    fn on_request(&self, request: &mut Request) -> Flow {
        assert!(!self.always && !request.path().starts_with("/panic"), "asked to panic");
        Flow::Next
    }
}

export!(Panic: on_request);
