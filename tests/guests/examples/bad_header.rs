//! Sets a field that must not be sent: by default a value with a line end.

use zproxy_sdk::{Flow, Middleware, Request, Response, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BadHeader {
    name: String,
    value: String,
    /// Do it to the response instead of the request.
    response: bool,
}

impl Default for BadHeader {
    fn default() -> Self {
        Self { name: "x-bad".to_owned(), value: "a\r\nx-evil: 1".to_owned(), response: false }
    }
}

impl Middleware for BadHeader {
    fn on_request(&self, request: &mut Request) -> Flow {
        if !self.response {
            request.set_header(&self.name, &self.value);
        }
        Flow::Next
    }

    fn on_response(&self, response: &mut Response) {
        if self.response {
            response.set_header(&self.name, &self.value);
        }
    }
}

export!(BadHeader);
