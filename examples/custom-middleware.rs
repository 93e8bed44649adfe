//! Native middleware of one's own, registered under a name and configured by the route.
//!
//! `cargo run --example custom-middleware -- [LISTEN]`, then:
//!
//! ```sh
//! curl -i http://127.0.0.1:8080/                      # 401
//! curl -i -H 'x-api-key: secret' http://127.0.0.1:8080/
//! ```

use serde::Deserialize;
use zproxy::{Config, Exchange, Flow, Gateway, Middleware};

/// Lets in who knows a key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKey {
    /// The field that carries the key.
    header: String,
    /// The keys that are let in.
    keys: Vec<String>,
}

impl Middleware for ApiKey {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let known = exchange
            .request
            .fields
            .get(&self.header)
            .is_some_and(|given| self.keys.iter().any(|key| equal(key.as_bytes(), given)));
        if known {
            return Flow::Next;
        }
        let fields = [("content-type", b"text/plain".as_slice())];
        match exchange.reply(401, fields, "who are you?\n") {
            Ok(()) | Err(_) => Flow::Respond,
        }
    }
}

/// Takes as long wherever the two differ, so that a key cannot be found byte by byte.
fn equal(key: &[u8], given: &[u8]) -> bool {
    let differences = key.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
    key.len() == given.len() && differences == 0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let config: Config = serde_json::from_value(serde_json::json!({
        "listeners": [{ "address": listen }],
        "admin": null,
        "routes": [{
            "path": "/",
            "upstream": "echo",
            "middleware": [
                { "plugin": "api-key", "config": { "header": "x-api-key", "keys": ["secret"] } }
            ],
        }],
    }))?;

    let gateway = Gateway::builder(config)
        .middleware("api-key", |config| {
            let made = ApiKey::deserialize(config).map_err(|error| error.to_string())?;
            Ok(Box::new(made))
        })
        .start()?;

    println!("listening on {}", gateway.addresses()[0]);
    loop {
        std::thread::park();
    }
}
