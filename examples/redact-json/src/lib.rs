//! Hides the values of JSON members by their names, before an answer leaves the gateway.
//!
//! Bodies pass chunk by chunk and are never held, so their length does not matter. What is known of a body
//! between two of its chunks (`redactor`) is a note on the exchange: bodies of many answers take turns.

mod redactor;

use redactor::{Redactor, Rules};
use zproxy_sdk::{Chunk, Flow, Middleware, Reply, Request, Response, context, export};

/// The note.
const NOTE: &str = "redact-json";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Names of members whose values are hidden, wherever they are.
    fields: Vec<String>,
    /// What takes the place of a value: any JSON.
    #[serde(default = "asterisks")]
    with: serde_json::Value,
}

fn asterisks() -> serde_json::Value {
    "***".into()
}

#[derive(serde::Deserialize)]
#[serde(try_from = "Config")]
struct RedactJson(Rules);

impl TryFrom<Config> for RedactJson {
    type Error = &'static str;

    fn try_from(config: Config) -> Result<Self, Self::Error> {
        if config.fields.is_empty() {
            return Err("`fields` is empty: name at least one member");
        }
        Ok(Self(Rules::new(config.fields, config.with.to_string())))
    }
}

impl Middleware for RedactJson {
    fn on_request(&self, request: &mut Request) -> Flow {
        // What is compressed cannot be looked through, and a part of a document not be understood.
        request.set_header("accept-encoding", "identity");
        request.remove_header("range");
        Flow::Next
    }

    fn response_fields(&self) -> Vec<&str> {
        vec!["content-type", "content-encoding"]
    }

    fn on_response(&self, response: &mut Response) {
        let kind = response.header("content-type");
        if !kind.is_some_and(|kind| is_json(&kind)) {
            response.skip_body();
            return;
        }
        let encoding = response.header("content-encoding");
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            // The upstream compresses unasked. Better no answer than one that says what it must not.
            response.replace_with(Reply::status(502).body("the answer cannot be looked through\n"));
        }
    }

    fn on_response_body(&self, _: &mut Response, chunk: &[u8], end: bool) -> Chunk {
        let note = context::get(NOTE);
        let mut redactor = note.map_or_else(Redactor::default, |note| Redactor::from_bytes(&note));
        let redacted = redactor.feed(chunk, &self.0);
        if !end {
            context::set(NOTE, redactor.to_bytes());
        }
        redacted.map_or(Chunk::Pass, Chunk::Replace)
    }
}

/// `application/json`, `application/problem+json`, `application/x-ndjson`, …
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json") || essence.ends_with("ndjson")
}

export!(RedactJson: on_request, on_response, on_response_body);

#[cfg(test)]
mod tests {
    use super::*;
    use zproxy_sdk::testing::{self, Request, Response};

    const CONFIG: &str = r#"{ "fields": ["password"] }"#;
    const SECRET: &str = r#"{"user": "kim", "password": "hunter2"}"#;

    fn answer(kind: &str, encoding: &str) -> testing::Answer {
        let plugin = testing::load::<RedactJson>(CONFIG).unwrap();
        let upstream = Response::status(200)
            .with_header("content-type", kind)
            .with_header("content-encoding", encoding)
            .with_body(SECRET);
        plugin.exchange(Request::get("/").with_header("range", "bytes=9-"), upstream)
    }

    #[test]
    fn json_is_redacted_and_nothing_else() {
        let redacted = answer("application/problem+json; charset=utf-8", "identity");
        let other = answer("text/plain", "gzip");

        assert_eq!(redacted.body(), br#"{"user": "kim", "password": "***"}"#);
        assert_eq!(other.body(), SECRET.as_bytes());
        assert_eq!(redacted.upstream_request().unwrap().value("range"), None);
    }

    #[test]
    fn what_cannot_be_looked_through_is_not_sent() {
        let encoded = answer("application/json", "gzip");

        assert_eq!(encoded.status(), 502);
        assert!(!encoded.body().windows(7).any(|bytes| bytes == b"hunter2"));
    }

    #[test]
    fn a_configuration_without_fields_is_refused() {
        let error = testing::load::<RedactJson>(r#"{ "fields": [] }"#).unwrap_err();

        assert!(error.contains("`fields` is empty"), "{error}");
    }
}
