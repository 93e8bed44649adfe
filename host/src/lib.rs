//! ZProxy: an HTTP gateway that people program with WebAssembly components.

pub mod plugin;
pub mod http;
pub mod io;
pub mod config;
pub mod error;
