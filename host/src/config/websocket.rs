//! WebSockets of a route, as the gateway runs on it.
//!
//! Not here: what operators write (`file`), and the sockets themselves (`proxy`).

use std::time::Duration;

/// What becomes of a route's WebSockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebSocket {
    /// Whether their messages are seen; `None`: if a plugin of the route's chain wants to see them.
    pub inspect: Option<bool>,
    /// How messages are seen, if they are.
    pub inspection: Inspection,
    /// Longest silence; `None`: that of other tunnels.
    pub idle_timeout: Option<Duration>,
    /// Longest life; `None`: no end.
    pub lifetime: Option<Duration>,
    /// How many may be open at a time; `None`: any number.
    pub connections_max: Option<usize>,
    /// JSON path of the route, for messages.
    pub at: Box<str>,
}

/// How messages are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Largest message.
    pub message_bytes_max: usize,
    /// Largest frame.
    pub frame_bytes_max: usize,
    /// Messages and pings that a client may send in a second; `None`: as many as it likes.
    pub messages_per_second: Option<u32>,
    /// How long a side is silent before it is asked whether it is there; `None`: it is never asked.
    pub ping_interval: Option<Duration>,
    /// How long it may take to answer that.
    pub pong_timeout: Duration,
}

impl Default for Inspection {
    fn default() -> Self {
        Self {
            message_bytes_max: 1024 * 1024,
            frame_bytes_max: 1024 * 1024,
            messages_per_second: None,
            ping_interval: Some(Duration::from_secs(30)),
            pong_timeout: Duration::from_secs(10),
        }
    }
}
