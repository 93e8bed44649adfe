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

#[cfg(test)]
mod tests {
    use super::*;
    use zproxy_sdk::testing::{self, Request, Response};

    #[test]
    fn stamps_every_response() {
        let plugin = testing::load::<HeaderStamp>(r#"{ "name": "edge-1" }"#).unwrap();

        let answer = plugin.exchange(Request::get("/"), Response::status(503));

        assert_eq!(answer.header("x-served-by"), Some("edge-1"));
    }

    #[test]
    fn a_misspelt_key_is_refused_by_name() {
        let error = testing::load::<HeaderStamp>(r#"{ "nme": "edge-1" }"#).unwrap_err();

        assert!(error.contains("`nme`"), "{error}");
    }
}
