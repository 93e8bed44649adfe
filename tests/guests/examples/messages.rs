//! Does with WebSocket messages what their text says: `drop`, `shut 4000 why`, `upper`, `panic`, `loop`, `large`,
//! `count` (of this WebSocket, kept in a note), `path`. Others get `mark` behind them, if there is one.

use zproxy_sdk::{Message, MessageFlow, Middleware, Peer, Request, context, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Messages {
    /// Put behind what passes.
    mark: String,
    /// Whose messages are looked at; others pass.
    from: From,
}

#[derive(Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum From {
    Client,
    Server,
    Both,
}

impl Default for Messages {
    fn default() -> Self {
        Self { mark: String::new(), from: From::Both }
    }
}

impl Middleware for Messages {
    fn on_message(&self, request: &Request, from: Peer, message: &Message) -> MessageFlow {
        match (self.from, from) {
            (From::Client, Peer::Server) | (From::Server, Peer::Client) => {
                return MessageFlow::Pass;
            }
            _ => {}
        }
        let Message::Text(text) = message else {
            let backwards = message.bytes().iter().rev().copied().collect();
            return MessageFlow::Replace(Message::Binary(backwards));
        };
        let replace = |text: String| MessageFlow::Replace(Message::Text(text));
        let mut words = text.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("drop"), ..) => MessageFlow::Drop,
            (Some("shut"), Some(code), Some(reason)) => {
                MessageFlow::close(code.parse().unwrap_or(0), reason)
            }
            (Some("upper"), ..) => replace(text.to_uppercase()),
            (Some("panic"), ..) => panic!("as told"),
            #[expect(clippy::empty_loop, reason = "what it is for")]
            (Some("loop"), ..) => loop {},
            (Some("large"), ..) => replace("x".repeat(5 * 1024 * 1024)),
            (Some("count"), ..) => {
                let seen = context::get("seen").map_or(0, |seen| seen.len()) + 1;
                context::set("seen", vec![b'x'; seen]);
                replace(seen.to_string())
            }
            (Some("path"), ..) => replace(request.path_and_query().into_owned()),
            _ if self.mark.is_empty() => MessageFlow::Pass,
            _ => replace(format!("{text}{}", self.mark)),
        }
    }
}

export!(Messages: on_message);
