//! Says which version it is: the eight digits after `zproxy-version:` in its file, which a test may
//! change there to make another component of the same code.
//!
//! Answers carry `x-version` (the version when the request came, and when the answer went), `x-calls` (how
//! many requests this instance has seen) and `x-name` (its configuration's). Version 66666666 refuses every
//! configuration; `slow_ms` keeps `init` busy.

use std::cell::Cell;
use std::time::{Duration, Instant};

use zproxy_sdk::{Flow, Middleware, Request, Response, export};

static VERSION: [u8; 23] = *b"zproxy-version:00000000";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    name: String,
    #[serde(default)]
    slow_ms: u64,
}

#[derive(serde::Deserialize)]
#[serde(try_from = "Config")]
struct Versioned {
    name: String,
    calls: Cell<u64>,
}

/// Read from memory each time: the compiler must not put the digits elsewhere.
fn version() -> String {
    let all = std::hint::black_box(&VERSION);
    String::from_utf8_lossy(&all[15..]).into_owned()
}

impl TryFrom<Config> for Versioned {
    type Error = &'static str;

    #[expect(clippy::disallowed_methods, reason = "a slow start takes real time")]
    fn try_from(config: Config) -> Result<Self, Self::Error> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(config.slow_ms) {}
        match version().as_str() {
            "66666666" => Err("this version refuses every configuration"),
            _ => Ok(Self { name: config.name, calls: Cell::new(0) }),
        }
    }
}

impl Middleware for Versioned {
    fn on_request(&self, request: &mut Request) -> Flow {
        self.calls.set(self.calls.get() + 1);
        request.set_header("x-version", version());
        Flow::Next
    }

    fn on_response(&self, response: &mut Response) {
        response.append_header("x-version", version());
        response.set_header("x-calls", self.calls.get().to_string());
        response.set_header("x-name", &self.name);
    }
}

export!(Versioned);
