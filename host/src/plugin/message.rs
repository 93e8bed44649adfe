//! WebSocket messages on their way through a chain.
//!
//! ```text
//!   client ─► link 0 ─► link 1 ─► server
//!   client ◄─ link 0 ◄─ link 1 ◄─ server
//! ```
//!
//! Not here: frames, and who is told what (`proxy::websocket`); calling a plugin (`live`).

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Of the 125 bytes of a control frame two are the code (RFC 6455 §5.5, §5.5.1).
const REASON_BYTES_MAX: usize = 123;

/// Who has sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketMessage {
    /// Text, and then it is UTF-8.
    pub is_text: bool,
    /// Its bytes.
    pub data: Bytes,
}

/// What a plugin says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageFlow {
    /// It goes on as it is.
    Pass,
    /// This goes on in its place.
    Replace(SocketMessage),
    /// Nothing goes on.
    Drop,
    /// Both ends are closed with this code and reason.
    Close(u16, String),
}

impl SocketMessage {
    /// Whether it can be sent.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.is_text && std::str::from_utf8(&self.data).is_err() {
            return Err("the text is not UTF-8".to_owned());
        }
        Ok(())
    }
}

/// Whether an end may be told this.
pub(super) fn check_close(code: u16, reason: &str) -> Result<(), String> {
    if !CloseCode::from(code).is_allowed() {
        return Err(format!("{code} is no code that an end may be told"));
    }
    if reason.len() > REASON_BYTES_MAX {
        let bytes = reason.len();
        return Err(format!("{bytes} bytes of a reason are more than {REASON_BYTES_MAX}"));
    }
    Ok(())
}

/// What a chain says of a message.
#[derive(Debug)]
pub enum MessagePassed {
    /// This goes on.
    On(SocketMessage),
    /// Nothing goes on.
    Dropped,
    /// Both ends are closed, for a plugin says so.
    Closed(u16, String),
}
