//! Does with bodies what it is told: `at` says of which message, `ask` what its head hook asks for, `chunk`
//! what its body hook says of each chunk, `end` of the last.

use std::cell::Cell;

use zproxy_sdk::{Chunk, Flow, Middleware, Reply, Request, Response, context, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Body {
    at: Message,
    ask: Ask,
    chunk: What,
    end: Option<What>,
    /// For `hold`.
    bytes_max: u32,
    /// For `replace`, in a head hook or a body hook.
    with: String,
    /// How often `with` is repeated.
    times: usize,
    /// A field that a body hook sets, to the bytes that it was shown.
    field: Option<String>,
    /// An answer to go with an abort.
    status: Option<u16>,
    #[serde(skip)]
    calls: Cell<u32>,
}

#[derive(Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Request,
    Response,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ask {
    Nothing,
    Skip,
    Observe,
    Hold,
    Replace,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Pass,
    Upper,
    Replace,
    Append,
    Drop,
    Detach,
    Abort,
    Panic,
    Loop,
    /// Sets `Wish`es that only head hooks may.
    Hold,
}

impl Default for Body {
    fn default() -> Self {
        Self {
            at: Message::Request,
            ask: Ask::Nothing,
            chunk: What::Pass,
            end: None,
            bytes_max: 1 << 20,
            with: String::new(),
            times: 1,
            field: None,
            status: None,
            calls: Cell::new(0),
        }
    }
}

/// What both messages can be asked for.
macro_rules! ask {
    ($plugin:ident, $message:ident) => {
        match $plugin.ask {
            Ask::Nothing => {}
            Ask::Skip => $message.skip_body(),
            Ask::Observe => $message.observe_body(),
            Ask::Hold => $message.hold_body($plugin.bytes_max),
            Ask::Replace => $message.replace_body($plugin.with.repeat($plugin.times)),
        }
    };
}

impl Body {
    fn chunk(&self, chunk: &[u8], end: bool) -> Chunk {
        self.calls.set(self.calls.get() + 1);
        let seen = context::get("seen").and_then(|seen| String::from_utf8(seen).ok());
        let seen: usize = seen.and_then(|seen| seen.parse().ok()).unwrap_or(0);
        context::set("seen", (seen + chunk.len()).to_string());
        match self.end.filter(|_| end).unwrap_or(self.chunk) {
            What::Pass => Chunk::Pass,
            What::Upper => Chunk::Replace(chunk.to_ascii_uppercase()),
            What::Replace => Chunk::Replace(self.with.repeat(self.times).into()),
            What::Append => {
                let with = if end { self.with.repeat(self.times) } else { String::new() };
                Chunk::Replace([chunk, with.as_bytes()].concat())
            }
            What::Drop => Chunk::Drop,
            What::Detach => Chunk::Detach,
            What::Abort => Chunk::Abort,
            What::Panic => panic!("asked to panic in a body"),
            What::Loop => loop {
                std::hint::spin_loop();
            },
            What::Hold => Chunk::Pass,
        }
    }
}

impl Middleware for Body {
    fn on_request(&self, request: &mut Request) -> Flow {
        if self.at == Message::Request {
            ask!(self, request);
        }
        Flow::Next
    }

    fn on_response(&self, response: &mut Response) {
        if self.at == Message::Response {
            ask!(self, response);
        }
    }

    fn on_request_body(&self, request: &mut Request, chunk: &[u8], end: bool) -> Chunk {
        if self.at != Message::Request {
            return Chunk::Detach;
        }
        if let Some(field) = &self.field {
            request.set_header(field, chunk.len().to_string());
        }
        if let Some(status) = self.status {
            request.answer(Reply::status(status).body("by the plugin"));
        }
        if matches!(self.chunk, What::Hold) {
            request.hold_body(1);
        }
        self.chunk(chunk, end)
    }

    fn on_response_body(&self, response: &mut Response, chunk: &[u8], end: bool) -> Chunk {
        if self.at != Message::Response {
            return Chunk::Detach;
        }
        if let Some(field) = &self.field {
            response.set_header(field, chunk.len().to_string());
        }
        if let Some(status) = self.status {
            response.answer(Reply::status(status).body("by the plugin"));
        }
        self.chunk(chunk, end)
    }
}

export!(Body: on_request, on_response, on_request_body, on_response_body);
