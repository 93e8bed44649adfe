//! The life of one request.

pub mod client;
pub mod headers;
pub mod trace;
