//! What is wrong with the WebSockets of routes, and how it is cured.

use super::meaning::refused_routes;

#[test]
fn websockets_of_routes_are_cured() {
    refused_routes(&[
        (
            r#""respond": {}, "websocket": {"inspect": true}"#,
            &[
                "3:29: routes[0].websocket: is about an upstream, and this route has none; remove it, or \
               give the route an `upstream`",
            ],
        ),
        (
            r#""upstream": "echo", "websocket": {"message_bytes_max": 5, "inspect": false}"#,
            &[
                "3:56: routes[0].websocket.message_bytes_max: is about messages, which nobody looks at \
               here; write `\"inspect\": true` beside it, or remove it",
            ],
        ),
        (
            r#""upstream": "echo", "websocket": {"messages_per_second": 5}"#,
            &[
                "3:58: routes[0].websocket.messages_per_second: is about messages, which nobody looks at \
               here; write `\"inspect\": true` beside it, or remove it",
            ],
        ),
        (
            r#""upstream": "echo", "websocket": {"inspect": true, "frame_bytes_max": 1048577}"#,
            &[
                "3:71: routes[0].websocket.frame_bytes_max: is more than a message may have, which is \
               1048576; remove it, or raise `message_bytes_max`",
            ],
        ),
        (
            r#""upstream": "echo", "websocket": {"inspect": true, "ping_interval_ms": 0, "pong_timeout_ms": 9}"#,
            &[
                "3:94: routes[0].websocket.pong_timeout_ms: no pings are sent that could be answered; \
               remove it, or raise `ping_interval_ms` above 0",
            ],
        ),
    ]);
}
