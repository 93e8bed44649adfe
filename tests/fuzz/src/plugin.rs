//! What messages are, without plugins that see them.

#[path = "../../../host/src/plugin/message.rs"]
mod message;

pub use message::SocketMessage;
