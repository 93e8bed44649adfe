//! Messages: one head for every protocol version, HTTP/1, and how HTTP/2 is translated.
//!
//! `parse`, `body` and `write` are functions over bytes and do no I/O; `connection` feeds them. `h2` does
//! for HTTP/2 what they do for HTTP/1.

pub mod body;
pub mod connection;
mod copies;
pub mod fields;
pub mod h2;
pub mod head;
mod line;
pub mod parse;
pub mod websocket;
pub mod write;

pub use connection::Connection;
pub use fields::{EditError, Fields, Mark, Name};
pub use head::{Method, PathAt, RequestHead, RequestMark, ResponseHead, ResponseMark, Version};
pub use parse::{Framing, HeadLimits};
