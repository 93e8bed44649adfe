//! `zproxy:gateway/websocket`.
//!
//! What is asked for is kept apart until its hook has ended well, as a reply is.

use super::State;
use super::bindings::zproxy::gateway::types::MessageKind;
use super::bindings::zproxy::gateway::websocket::Host;
use super::body::Phase;
use crate::plugin::message::{SocketMessage, check_close};

/// What was asked for during a call.
#[derive(Default)]
pub(in crate::plugin) struct MessageCalls {
    /// What takes the place of the message.
    pub(in crate::plugin) replacement: Option<SocketMessage>,
    /// Code and reason of a close.
    pub(in crate::plugin) close: Option<(u16, String)>,
}

impl MessageCalls {
    /// Forgets the call before.
    pub(in crate::plugin) fn begin(&mut self) {
        self.replacement = None;
        self.close = None;
    }
}

impl State {
    fn is_shown_message(&mut self, what: &str) -> bool {
        let shown = self.body.is_in(Phase::Message);
        if !shown {
            self.violate(format_args!("websocket.{what}"), "it is for `on-message`");
        }
        shown
    }
}

impl Host for State {
    fn replace(&mut self, kind: MessageKind, data: Vec<u8>) {
        if !self.is_shown_message("replace") || self.too_large("websocket.replace", data.len()) {
            return;
        }
        let message = SocketMessage { is_text: kind == MessageKind::Text, data: data.into() };
        match message.check() {
            Ok(()) => self.websocket.replacement = Some(message),
            Err(why) => self.violate(format_args!("websocket.replace"), why),
        }
    }

    fn close(&mut self, code: u16, reason: String) {
        if !self.is_shown_message("close") {
            return;
        }
        match check_close(code, &reason) {
            Ok(()) => self.websocket.close = Some((code, reason)),
            Err(why) => self.violate(format_args!("websocket.close"), why),
        }
    }
}
