//! WebSockets of a route: `routes[].websocket`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of a route's WebSockets.
///
/// Without `inspect` a WebSocket is a tunnel of bytes: its handshake is looked at and where its frames end,
/// and extensions such as compression pass. With it both ends speak WebSocket with the gateway, which passes
/// message after message, sees to the protocol's rules and to the limits here, answers pings itself, and
/// shows messages to plugins that have `on-message`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "WebSocket")]
pub struct WebSocketConfig {
    /// Sees the messages. Left out: when a plugin of the route's `middleware` has `on-message`. The
    /// offer of extensions is then kept from the server, so messages are not compressed on the wire,
    /// and upgrades to protocols other than WebSocket are not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inspect: Option<bool>,

    /// Longest silence of a WebSocket, in milliseconds; left out: `timeouts.idle_ms` of the route, else of
    /// its upstream. Where messages are seen, answers to the gateway's own pings do not count. The close says
    /// 1001.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u32), example = 3_600_000)]
    pub idle_ms: Option<u32>,

    /// Longest life of a WebSocket, in milliseconds, used or not; left out: no end. The close says 1001.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u32), example = 86_400_000)]
    pub lifetime_ms: Option<u32>,

    /// WebSockets of this route at a time, of all workers together, those included that are being opened;
    /// left out: as many as there are connections. One more gets a 503 with `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000), example = 10_000)]
    pub connections_max: Option<usize>,

    /// Largest message, in bytes, from either side; left out: 1048576. A larger one closes with 1009.
    /// Needs `inspect`, as the keys that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824), example = 1_048_576)]
    pub message_bytes_max: Option<u32>,

    /// Largest frame, in bytes; left out: the largest message. A larger one closes with 1009.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824), example = 65_536)]
    pub frame_bytes_max: Option<u32>,

    /// Messages and pings that a client may send in a second, a second's worth at once; left out: as
    /// many as it likes. One more closes with 1008. Pongs that answer no ping of the gateway's count, too;
    /// parts of a message do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000), example = 100)]
    pub messages_per_second: Option<u32>,

    /// A side that has been silent for so long is sent a ping, in milliseconds; left out: 30000; 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 86_400_000), example = 30_000)]
    pub ping_interval_ms: Option<u32>,

    /// A side that sends nothing for so long after a ping, and takes nothing of what waits for it, is taken for
    /// gone, in milliseconds; left out: 10000. The other side gets a close: a server 1001, a client 1011.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400_000), example = 10_000)]
    pub pong_timeout_ms: Option<u32>,
}
