//! ZProxy: an HTTP gateway that people program with WebAssembly components.
//!
//! The modules stand in the order in which a request passes them; each may use those below it.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "unit tests may wait in real time"))]

pub mod author;
pub mod load;
pub mod doctor;
pub mod control;
pub mod worker;
pub mod connection;
pub mod proxy;
pub mod plugin;
pub mod upstream;
pub mod telemetry;
pub mod state;
pub mod http;
pub mod io;
pub mod tls;
pub mod route;
pub mod config;
pub mod error;
pub mod sys;

pub use config::Config;
pub use control::{Gateway, GatewayBuilder, StartError};
pub use plugin::{Exchange, Flow, Middleware};
