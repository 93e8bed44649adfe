//! A gateway with one route, made by code.
//!
//! `cargo run --example basic -- [LISTEN] [UPSTREAM]`, such as `127.0.0.1:8080 http://127.0.0.1:3000`.

use zproxy::Gateway;
use zproxy::config::{Config, RouteConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let upstream = arguments.next().unwrap_or_else(|| "echo".to_owned());
    let config = Config {
        listeners: vec![listen.as_str().into()],
        admin: None,
        routes: vec![RouteConfig {
            path: "/".into(),
            upstream: Some(upstream.as_str().into()),
            ..RouteConfig::default()
        }],
        ..Config::default()
    };

    let gateway = Gateway::start(config)?;

    println!("listening on {}", gateway.addresses()[0]);
    loop {
        std::thread::park();
    }
}
