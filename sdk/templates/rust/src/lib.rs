//! Lets requests pass that carry a key, and marks every answer.

use zproxy_sdk::{Flow, Middleware, Reply, Request, Response, export};

/// The plugin's configuration: `zproxy.json` has one.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    /// Requests must carry it in `x-api-key`.
    key: String,
}

impl Middleware for Plugin {
    /// Fields that every call reads come with the call.
    fn request_fields(&self) -> Vec<&str> {
        vec!["x-api-key"]
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        let sent = request.header_bytes("x-api-key").unwrap_or_default();
        if !zproxy_sdk::crypto::equal(&sent, self.key.as_bytes()) {
            return Flow::Reply(Reply::status(403).header("content-type", "text/plain").body("no\n"));
        }
        request.remove_header("x-api-key");
        Flow::Next
    }

    fn on_response(&self, response: &mut Response) {
        response.set_header("x-served-by", "my-plugin");
    }
}

export!(Plugin: on_request, on_response);

#[cfg(test)]
mod tests {
    use super::*;
    use zproxy_sdk::testing::{self, Request, Response};

    #[test]
    fn who_has_no_key_gets_a_403() {
        let plugin = testing::load::<Plugin>(r#"{ "key": "secret" }"#).unwrap();

        let refused = plugin.exchange(Request::get("/"), Response::status(200));
        let good = Request::get("/").with_header("x-api-key", "secret");
        let passed = plugin.exchange(good, Response::status(200));

        assert_eq!((refused.status(), passed.status()), (403, 200));
    }
}
