//! Refuses every configuration.

use zproxy_sdk::{Middleware, export};

#[derive(serde::Deserialize)]
struct Config {}

#[derive(serde::Deserialize)]
#[serde(try_from = "Config")]
struct InitError {}

impl TryFrom<Config> for InitError {
    type Error = &'static str;

    fn try_from(_: Config) -> Result<Self, Self::Error> {
        Err("this plugin refuses every configuration")
    }
}

impl Middleware for InitError {}

export!(InitError: on_request);
