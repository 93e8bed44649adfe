//! Calls native middleware: a panic is its failure, and never the worker's.
//!
//! Not here: when it is called (`chain`), and what it is (`middleware`).

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use super::body::ChunkFlow;
use super::body::Showing;
use super::chain::NativeFactory;
use super::exchange::Exchange;
use super::exchange::Flow;
use super::exchange::Summary;
use super::failure::Failure;
use super::failure::FailureKind;
use super::instance::Hook;
use super::message::MessageFlow;
use super::message::Peer;
use super::message::SocketMessage;
use super::message::check_close;
use super::middleware::Middleware;

/// Makes native middleware. A panic is a refusal.
pub fn make_native(
    factory: &NativeFactory,
    config: &serde_json::Value,
) -> Result<Box<dyn Middleware>, String> {
    catch_unwind(AssertUnwindSafe(|| factory(config)))
        .unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// Calls native middleware. A panic is its failure, not the worker's.
pub(super) fn on_head(
    middleware: &dyn Middleware,
    hook: Hook,
    place: &mut Option<Box<Exchange>>,
) -> Result<Flow, Box<Failure>> {
    let Some(exchange) = place.as_deref_mut() else { return Ok(Flow::Next) };
    let mark = exchange.mark();
    let called = catch_unwind(AssertUnwindSafe(|| match hook {
        Hook::Request => middleware.on_request(exchange),
        _ => middleware.on_response(exchange),
    }));
    let mut failure = match called {
        // An answer that `Exchange::reply` refused, or that was never made.
        Ok(Flow::Respond) if exchange.response.status < 200 || exchange.body.is_none() => {
            let message = "it answered `Respond` without an answer made by `Exchange::reply`";
            Failure::new(FailureKind::Violation, message)
        }
        Ok(flow) => return Ok(flow),
        Err(panic) => Failure::new(FailureKind::Trap, panicked(&*panic)),
    };
    failure.undone = exchange.roll_back(&mark);
    Err(failure)
}

/// Shows native middleware a chunk.
pub(super) fn on_chunk(
    middleware: &dyn Middleware,
    hook: Hook,
    place: &mut Option<Box<Exchange>>,
    (chunk, end): (&[u8], bool),
    showing: Showing,
) -> Result<ChunkFlow, Box<Failure>> {
    let Some(exchange) = place.as_deref_mut() else { return Ok(ChunkFlow::Pass) };
    let mark = exchange.mark();
    let called = catch_unwind(AssertUnwindSafe(|| match hook {
        Hook::RequestBody => middleware.on_request_body(exchange, chunk, end),
        _ => middleware.on_response_body(exchange, chunk, end),
    }));
    let mut failure = match called {
        Ok(ChunkFlow::Drop | ChunkFlow::Replace(_)) if showing == Showing::Glance => {
            let message = "it changed a body that it had asked to observe";
            Failure::new(FailureKind::Violation, message)
        }
        Ok(flow) => {
            if showing != Showing::Whole && flow != ChunkFlow::Abort {
                exchange.roll_back(&mark);
            }
            return Ok(flow);
        }
        Err(panic) => Failure::new(FailureKind::Trap, panicked(&*panic)),
    };
    failure.undone = exchange.roll_back(&mark);
    Err(failure)
}

/// Shows native middleware a WebSocket message.
pub(super) fn on_message(
    middleware: &dyn Middleware,
    place: &mut Option<Box<Exchange>>,
    from: Peer,
    message: &SocketMessage,
) -> Result<MessageFlow, Box<Failure>> {
    let Some(exchange) = place.as_deref() else { return Ok(MessageFlow::Pass) };
    let flow = catch_unwind(AssertUnwindSafe(|| middleware.on_message(exchange, from, message)))
        .map_err(|panic| Failure::new(FailureKind::Trap, panicked(&*panic)))?;
    let sound = match &flow {
        MessageFlow::Replace(message) => message.check(),
        MessageFlow::Close(code, reason) => check_close(*code, reason),
        MessageFlow::Pass | MessageFlow::Drop => Ok(()),
    };
    sound.map_err(|why| Failure::new(FailureKind::Violation, why))?;
    Ok(flow)
}

/// Tells native middleware of the end of an exchange.
pub(super) fn on_log(
    middleware: &dyn Middleware,
    place: &mut Option<Box<Exchange>>,
    summary: &Summary,
) -> Result<(), Box<Failure>> {
    let Some(exchange) = place.as_deref() else { return Ok(()) };
    catch_unwind(AssertUnwindSafe(|| middleware.on_log(exchange, summary)))
        .map_err(|panic| Failure::new(FailureKind::Trap, panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a message"))
}
