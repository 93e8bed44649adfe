//! Writes everywhere it can: standard output and error, and the log at each level.

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
struct Print {}

impl Middleware for Print {
    fn on_request(&self, request: &mut Request) -> Flow {
        println!("stdout of {}", request.path());
        eprintln!("stderr of {}", request.path());
        zproxy_sdk::debug!("debug of {}", request.path());
        zproxy_sdk::info!("info of {}", request.path());
        zproxy_sdk::warn!("warn of {}", request.path());
        zproxy_sdk::error!("error of {}", request.path());
        Flow::Next
    }
}

export!(Print: on_request);
