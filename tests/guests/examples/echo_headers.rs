//! Answers with what it sees of the request: pseudo fields first, then every field, one a line.

use std::fmt::Write;

use zproxy_sdk::{Flow, Middleware, Reply, Request, export};

#[derive(serde::Deserialize)]
struct EchoHeaders {}

const PSEUDO_FIELDS: [&str; 10] = [
    ":method",
    ":path",
    ":tls-version",
    ":tls-client-certificate",
    ":authority",
    ":scheme",
    ":client-ip",
    ":route",
    ":tls-cipher",
    ":tls-server-name",
];

impl Middleware for EchoHeaders {
    fn request_fields(&self) -> Vec<&str> {
        // Half of them pushed, half of them asked for: both ways show the same.
        PSEUDO_FIELDS[..5].to_vec()
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        let mut body = String::new();
        for name in PSEUDO_FIELDS {
            if let Some(value) = request.header(name) {
                // Writing to a string cannot fail.
                let _ = writeln!(body, "{name} {value}");
            }
        }
        for (name, value) in request.headers().iter() {
            let _ = writeln!(body, "{name}: {}", String::from_utf8_lossy(value));
        }
        Flow::Reply(Reply::status(200).header("content-type", "text/plain").body(body))
    }
}

export!(EchoHeaders: on_request);
