//! Every response that the gateway itself makes.
//!
//! Errors are problem+json (RFC 9457) when the client accepts JSON, else a line of text; to a client of gRPC
//! they are a status of its own.
//! `Proxy-Status` (RFC 9209) names the cause; nothing of the inside leaks.
//!
//! Not here: what is an error, and its status (`error`).

use super::grpc;
use crate::error::RequestError;
use crate::http::{Fields, head};
use crate::plugin::Exchange;

/// Turns an error into the exchange's response. `allow` lists the methods for a 405.
pub fn error(exchange: &mut Exchange, error: RequestError, allow: Option<&str>) {
    let cause = format!("zproxy; error={}", error.proxy_status());
    if grpc::is_grpc(&exchange.request) {
        grpc::error(&mut exchange.response, error, &detail(error));
        exchange.response.fields.push("Proxy-Status", cause.as_bytes());
        exchange.body = Some(bytes::Bytes::new());
        return;
    }
    let status = error.status();
    let (content_type, body) = if accepts_json(&exchange.request.fields) {
        ("application/problem+json", problem(status, &detail(error)))
    } else {
        let reason = head::reason(status);
        // The one mistake that people at a keyboard make.
        let why =
            if error == RequestError::PlainHttp { format!(": {error}") } else { String::new() };
        ("text/plain; charset=utf-8", format!("{status} {reason}{why}\n"))
    };
    let fields = &mut exchange.response;
    fields.assign(status);
    fields.fields.push("Content-Type", content_type.as_bytes());
    fields.fields.push("Proxy-Status", cause.as_bytes());
    if let Some(allow) = allow {
        fields.fields.push("Allow", allow.as_bytes());
    }
    if matches!(error, RequestError::Overloaded | RequestError::WebSocketsTaken) {
        fields.fields.push("Retry-After", b"1");
    }
    exchange.body = Some(body.into());
}

/// What a client may know: for its own mistakes what they are, for others only that there was one.
fn detail(error: RequestError) -> String {
    match error.status() {
        400..500 => error.to_string(),
        status => head::reason(status).to_lowercase(),
    }
}

fn problem(status: u16, detail: &str) -> String {
    let title = head::reason(status);
    serde_json::json!({ "type": "about:blank", "title": title, "status": status, "detail": detail })
        .to_string()
}

/// Whether the client would rather have JSON than text: it names a JSON type and no `q=0` with it.
fn accepts_json(fields: &Fields) -> bool {
    fields.all("accept").flat_map(|value| value.split(|byte| *byte == b',')).any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|parameter| matches!(parameter, b"q=0" | b"q=0.0"));
        let json = matches!(media.as_slice(), b"application/json" | b"application/*")
            || media.ends_with(b"+json");
        json && !refused
    })
}
