//! Does what a hook has asked for, when its call has ended well; or says which rule it broke.
//!
//! Not here: what is asked for during a call (`host`), and failures (`live`).

use super::body::ChunkFlow;
use super::body::Showing;
use super::exchange::Exchange;
use super::exchange::Flow;
use super::exchange::Later;
use super::exchange::Refetch;
use super::host::State;
use super::host::bindings::zproxy::gateway::types::Action;
use super::host::bindings::zproxy::gateway::types::ChunkAction;
use super::host::bindings::zproxy::gateway::types::MessageAction;
use super::message::MessageFlow;

/// Does what a head hook has asked for.
pub(super) fn settle_head(
    action: Action,
    state: &mut State,
    exchange: Option<&mut Exchange>,
) -> Result<Flow, &'static str> {
    match action {
        Action::Next => {
            if let Some(exchange) = exchange {
                exchange.wish = state.body.wish.take().or(exchange.wish.take());
                exchange.captures.append(&mut state.captures);
                exchange.fetches.append(&mut state.fetches);
                exchange.waiting = state.waiting.take();
                let later = state.later.drain(..);
                exchange.later.extend(later.map(|packed| Later { link: None, packed }));
            }
            Ok(Flow::Next)
        }
        Action::Respond => {
            let Some(exchange) = exchange.filter(|_| state.reply.is_made()) else {
                return Err("it answered `respond` without a call of `reply.send`");
            };
            state.reply.put_into(exchange);
            exchange.repeat = state.course.wanted();
            exchange.refetch = state.refetch.take().map(|fetch| Refetch { fetch, link: 0 });
            Ok(Flow::Respond)
        }
    }
}

/// Does what a body hook has asked for.
pub(super) fn settle_chunk(
    action: ChunkAction,
    state: &mut State,
    exchange: Option<&mut Exchange>,
    showing: Showing,
) -> Result<ChunkFlow, &'static str> {
    let replacement = state.body.replacement.take();
    if let Some(exchange) = exchange {
        // Only what is shown as a whole still has its head, and the turn to edit it.
        if let (Some(mark), false) = (&state.mark, showing == Showing::Whole) {
            exchange.roll_back(mark);
        }
        if action == ChunkAction::Abort && !exchange.sent {
            state.reply.put_into(exchange);
        }
    }
    match (action, replacement) {
        (ChunkAction::Pass, _) => Ok(ChunkFlow::Pass),
        (ChunkAction::Detach, _) => Ok(ChunkFlow::Detach),
        (ChunkAction::Abort, _) => Ok(ChunkFlow::Abort),
        _ if showing == Showing::Glance => Err("it changed a body that it had asked to observe"),
        (ChunkAction::Drop, _) => Ok(ChunkFlow::Drop),
        (ChunkAction::Replaced, Some(bytes)) => Ok(ChunkFlow::Replace(bytes)),
        (ChunkAction::Replaced, None) => {
            Err("it answered `replaced` without a call of `body.replace`")
        }
    }
}

/// Does what a message hook has asked for.
pub(super) fn settle_message(
    action: MessageAction,
    state: &mut State,
    exchange: Option<&mut Exchange>,
) -> Result<MessageFlow, &'static str> {
    if let (Some(mark), Some(exchange)) = (&state.mark, exchange) {
        exchange.roll_back(mark);
    }
    match action {
        MessageAction::Pass => Ok(MessageFlow::Pass),
        MessageAction::Drop => Ok(MessageFlow::Drop),
        MessageAction::Replaced => {
            let replacement = state.websocket.replacement.take().map(MessageFlow::Replace);
            replacement.ok_or("it answered `replaced` without a call of `websocket.replace`")
        }
        MessageAction::Close => {
            let close = state.websocket.close.take();
            let close = close.map(|(code, reason)| MessageFlow::Close(code, reason));
            close.ok_or("it answered `close` without a call of `websocket.close`")
        }
    }
}
