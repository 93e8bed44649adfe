//! Appends its name to `x-order`, on the request and on the response: the order of a chain.

use zproxy_sdk::{Flow, Middleware, Request, Response, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    name: String,
}

impl Middleware for Order {
    fn on_request(&self, request: &mut Request) -> Flow {
        request.append_header("x-order", &self.name);
        Flow::Next
    }

    fn on_response(&self, response: &mut Response) {
        response.append_header("x-order", &self.name);
    }
}

export!(Order);
