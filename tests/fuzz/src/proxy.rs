//! What of the proxy needs no plugin host.

pub mod websocket;
