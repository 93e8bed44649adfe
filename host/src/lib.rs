//! ZProxy: an HTTP gateway that people program with WebAssembly components.

pub mod proxy;
pub mod plugin;
pub mod http;
pub mod route;
pub mod config;
