//! Messages: one head for every protocol version, and HTTP/1.
//!
//! `parse`, `body` and `write` are functions over bytes and do no I/O; `connection` feeds them.

pub mod body;
pub mod connection;
pub mod fields;
pub mod head;
pub mod parse;
pub mod write;

pub use connection::Connection;
pub use fields::{EditError, Fields, Mark, Name};
pub use head::{Method, PathAt, RequestHead, RequestMark, ResponseHead, ResponseMark, Version};
pub use parse::{Framing, HeadLimits};
