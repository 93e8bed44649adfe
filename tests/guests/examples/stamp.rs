//! Marks every response: `x-stamp: <value>`, `ok` by default.

use zproxy_sdk::{Middleware, Response, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    #[serde(default = "default_value")]
    value: String,
}

fn default_value() -> String {
    "ok".to_owned()
}

impl Middleware for Stamp {
    fn on_response(&self, response: &mut Response) {
        response.set_header("x-stamp", &self.value);
    }
}

export!(Stamp: on_response);
