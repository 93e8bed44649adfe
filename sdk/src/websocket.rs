//! What a plugin says of the messages of a WebSocket.

use crate::bindings::imports::zproxy::gateway::types::{MessageAction, MessageKind};
use crate::host::websocket as host;

/// Who has sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// A whole message of a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// Bytes of any other kind.
    Binary(Vec<u8>),
}

impl Message {
    pub(crate) fn received(kind: MessageKind, data: Vec<u8>) -> Self {
        match kind {
            // The gateway has made sure that it is.
            MessageKind::Text => Self::Text(String::from_utf8(data).unwrap_or_default()),
            MessageKind::Binary => Self::Binary(data),
        }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a message that is not given back to the gateway is lost"]
pub enum MessageFlow {
    /// It goes on as it is. Nothing is copied back.
    Pass,
    /// This goes on in its place.
    Replace(Message),
    /// Nothing goes on in its place.
    Drop,
    /// Both ends are closed. A code that an end must not be sent (RFC 6455 §7.4), or a reason above 123 bytes,
    /// make the hook fail.
    Close {
        /// 1000 to 1003, 1007 to 1013 or 3000 to 4999.
        code: u16,
        /// For people; may be empty.
        reason: String,
    },
}

impl MessageFlow {
    /// Closes both ends.
    pub fn close(code: u16, reason: impl Into<String>) -> Self {
        Self::Close { code, reason: reason.into() }
    }

    /// Hands it to the host.
    pub(crate) fn action(self) -> MessageAction {
        match self {
            Self::Pass => MessageAction::Pass,
            Self::Replace(message) => {
                let kind = match message {
                    Message::Text(_) => MessageKind::Text,
                    Message::Binary(_) => MessageKind::Binary,
                };
                host::replace(kind, message.bytes());
                MessageAction::Replaced
            }
            Self::Drop => MessageAction::Drop,
            Self::Close { code, reason } => {
                host::close(code, &reason);
                MessageAction::Close
            }
        }
    }
}
