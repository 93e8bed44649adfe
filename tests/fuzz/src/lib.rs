//! The gateway's parsers, compiled without the plugin host, so that a fuzzer builds in a minute.

#![allow(dead_code, reason = "a part of the gateway, without its callers")]

#[path = "../../../host/src/config/mod.rs"]
pub mod config;
#[path = "../../../host/src/error.rs"]
pub mod error;
#[path = "../../../host/src/http/mod.rs"]
pub mod http;
#[path = "../../../host/src/io/mod.rs"]
pub mod io;
pub mod plugin;
pub mod proxy;
#[path = "../../../host/src/route/mod.rs"]
pub mod route;
#[path = "../../../host/src/sys/mod.rs"]
pub mod sys;
#[path = "../../../host/src/tls/mod.rs"]
pub mod tls;
