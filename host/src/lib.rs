//! ZProxy: an HTTP gateway that people program with WebAssembly components.

pub mod config;
