//! Messages: one head for every protocol version, and HTTP/1 as functions over bytes.

pub mod fields;
pub mod head;

pub use fields::{EditError, Fields, Mark, Name};
pub use head::{Method, RequestHead, RequestMark, ResponseHead, ResponseMark, Version};
