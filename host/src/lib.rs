//! ZProxy: an HTTP gateway that people program with WebAssembly components.

pub mod worker;
pub mod config;
pub mod sys;
