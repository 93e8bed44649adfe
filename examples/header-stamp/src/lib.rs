//! Marks every response with the name of the gateway that served it.

use zproxy_sdk::{Middleware, Response, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderStamp {
    /// Goes into `x-served-by`.
    #[serde(default = "default_name")]
    name: String,
}

fn default_name() -> String {
    "zproxy".to_owned()
}

impl Middleware for HeaderStamp {
    fn on_response(&self, response: &mut Response) {
        response.set_header("x-served-by", &self.name);
    }
}

export!(HeaderStamp: on_response);
