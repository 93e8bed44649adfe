//! Sets one field of the request, the least that a plugin can do to it: `x-one: 1` by default.

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SetOne {
    name: String,
    value: String,
}

impl Default for SetOne {
    fn default() -> Self {
        Self { name: "x-one".to_owned(), value: "1".to_owned() }
    }
}

impl Middleware for SetOne {
    fn on_request(&self, request: &mut Request) -> Flow {
        request.set_header(&self.name, &self.value);
        Flow::Next
    }
}

export!(SetOne: on_request);
