//! A gateway from a file, with wasm plugins and native middleware side by side.
//!
//! `cargo run --example advanced -- [LISTEN] [PLUGINS DIR]`; build the plugins first: `make plugins`.

use std::sync::atomic::{AtomicU64, Ordering};

use zproxy::config::{self, Overrides, System};
use zproxy::{Exchange, Flow, Gateway, Middleware};

/// Counts requests, over all workers.
struct Count;

static SEEN: AtomicU64 = AtomicU64::new(0);

impl Middleware for Count {
    fn on_response(&self, exchange: &mut Exchange) -> Flow {
        let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
        // The name is a token and the value a number, so it is taken.
        let _ = exchange.response.fields.set("x-request-count", seen.to_string().as_bytes());
        Flow::Next
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut overrides = Overrides::default();
    if let Some(listen) = arguments.next() {
        overrides.listen("LISTEN", &listen);
    }
    overrides.plugins_dir("PLUGINS", &arguments.next().unwrap_or_else(|| "plugins".to_owned()));
    overrides.admin("example", "off");
    overrides.set(r#"routes[0].middleware=["count", "header-stamp"]"#)?;
    let text = include_bytes!("advanced.json");
    let (config, _) = config::load(text, "advanced.json", &overrides, &System, &["count"])?;

    let gateway =
        Gateway::builder(config).middleware("count", |_config| Ok(Box::new(Count))).start()?;

    println!("listening on {}", gateway.addresses()[0]);
    loop {
        std::thread::park();
    }
}
