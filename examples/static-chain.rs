//! Middleware chained by types, at compile time: a tuple of middleware is middleware.
//!
//! The compiler sees through the whole chain; the gateway sees one link.
//! `cargo run --example static-chain -- [LISTEN]`

use zproxy::{Config, Exchange, Flow, Gateway, Middleware};

/// Logs each request to stderr.
struct Logging {
    prefix: &'static str,
}

impl Middleware for Logging {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let head = &exchange.request;
        eprintln!("[{}] {} {}", self.prefix, head.method_name(), head.target());
        Flow::Next
    }
}

/// Marks each response.
struct Stamp {
    name: &'static str,
}

impl Middleware for Stamp {
    fn on_response(&self, exchange: &mut Exchange) -> Flow {
        // The name is a token and the value has no control characters, so it is taken.
        let _ = exchange.response.fields.set("x-served-by", self.name.as_bytes());
        Flow::Next
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let config: Config = serde_json::from_value(serde_json::json!({
        "listeners": [{ "address": listen }],
        "admin": null,
        "routes": [
            { "path": "/api", "upstream": "echo", "middleware": ["chain"] },
            { "path": "/users", "upstream": "echo", "middleware": ["chain"] },
        ],
    }))?;

    let gateway = Gateway::builder(config)
        .middleware("chain", |_config| {
            Ok(Box::new((Logging { prefix: "ZPROXY" }, Stamp { name: "edge-1" })))
        })
        .start()?;

    println!("listening on {}", gateway.addresses()[0]);
    loop {
        std::thread::park();
    }
}
