//! The way of a response back up the chain, whoever made it.
//!
//! Cancel safety: none. What has been held of a body is nowhere else.
//!
//! Not here: the way down (`proxy`), sending it (`deliver`, `share`).

use super::context::Context;
use super::{Client, Progress, fail, held, sanitize_reply, share};
use crate::error::RequestError;
use crate::http::parse::{Framing, RequestFacts};
use crate::http::{Method, Name};
use crate::plugin::{BodyFilter, Exchange, Hook, Wish};

/// The way back up: plugins that saw the request see its response, whoever made it.
pub(super) async fn response(
    context: &Context,
    client: &mut Client,
    mut exchange: Box<Exchange>,
    facts: &mut RequestFacts,
    progress: &mut Progress,
) -> Box<Exchange> {
    let Some(index) = progress.route.filter(|_| progress.entered > 0) else { return exchange };
    if exchange.response.status == 101 {
        // The connection is no longer HTTP; there is nothing that a plugin could change.
        return exchange;
    }
    let mut entered = progress.entered;
    let plan = &context.snapshot.plans[index];
    let chain = &context.chains[index];
    if chain.reads_bodies(entered)
        && let Some(follow) = exchange.coming.take()
    {
        match share::collect(follow).await {
            Ok(whole) => exchange.body = Some(whole.into()),
            Err(error) => fail(context, &mut exchange, error, progress),
        }
    }
    let mut now = context.clock.now();
    loop {
        let (back, result) = chain.on_response(exchange, entered, now);
        exchange = back;
        let error = match (result, exchange.take_halt()) {
            (Err(broken), _) => {
                entered = broken.entered;
                RequestError::Plugin
            }
            (Ok(_), None) => break,
            (Ok(_), Some(halt)) => {
                entered = halt.link;
                let until = now + plan.request_timeout;
                let wish = match halt.wish {
                    Some(wish) => wish,
                    None => {
                        let mut place = Some(exchange);
                        let called = held::call(
                            context,
                            chain,
                            client,
                            &mut place,
                            halt.link,
                            Hook::Response,
                            until,
                        );
                        let called = called.await;
                        exchange = place.unwrap_or_default();
                        now = context.clock.now();
                        match (called, exchange.take_halt().and_then(|halt| halt.wish)) {
                            (Ok(_), None) => continue,
                            (Ok(_), Some(wish)) => wish,
                            (Err(error), _) => {
                                fail(context, &mut exchange, error, progress);
                                continue;
                            }
                        }
                    }
                };
                // RFC 9110 §9.3.2, §6.4.1: there is nothing that could be held.
                let empty =
                    exchange.request.method == Method::Head || exchange.response.is_bodiless();
                if empty && matches!(wish, Wish::Hold(_)) {
                    continue;
                }
                let (answered, idle) = match progress.remote.take() {
                    Some((answered, times)) => (Some(answered), times.idle),
                    None => (None, context.idle_timeout()),
                };
                let mut place = Some(exchange);
                let held = held::Response { context, chain, idle, until };
                let link = (entered, wish);
                let done = held.hold(client, &mut place, facts, answered, link).await;
                exchange = place.unwrap_or_default();
                now = context.clock.now();
                match done {
                    Ok(()) => continue,
                    Err(error) => error,
                }
            }
        };
        // What takes the response's place goes on to those above the one that failed.
        fail(context, &mut exchange, error, progress);
    }
    let bodiless = exchange.response.is_bodiless();
    match &progress.remote {
        // A plugin has put its own answer in the place of the upstream's; or made it one that has no
        // body. The upstream's connection ends with its unread body.
        Some((answered, _))
            if exchange.body.is_some() || (bodiless && answered.facts.framing != Framing::None) =>
        {
            progress.remote = None;
            if exchange.body.is_none() {
                // The body that was to be kept does not come.
                exchange.captures.clear();
            }
            sanitize_reply(context, &mut exchange);
        }
        Some((answered, _)) => {
            if progress.upstream_status != Some(exchange.response.status) {
                fit_length(&mut exchange, answered.facts.framing);
            }
        }
        None => sanitize_reply(context, &mut exchange),
    }
    exchange
}

/// Who is shown the body of the answer; nobody when it has none.
pub(super) fn response_filter(
    context: &Context,
    exchange: &mut Exchange,
    progress: &Progress,
) -> Option<Box<BodyFilter>> {
    let filter = context.chains[progress.route?].response_filter(exchange)?;
    let body = match &progress.remote {
        None => exchange.body.as_ref().is_some_and(|body| !body.is_empty()),
        Some((answered, _)) => answered.facts.framing != Framing::None,
    };
    let bodiless = exchange.response.is_bodiless() || exchange.request.method == Method::Head;
    (body && !bodiless).then_some(filter)
}

/// A plugin has changed the status of an upstream's response, and with it what `Content-Length` may
/// say of a body that is not there (RFC 9110 §8.6).
fn fit_length(exchange: &mut Exchange, framing: Framing) {
    if framing != Framing::None {
        return;
    }
    let response = &mut exchange.response;
    if response.status == 204 {
        response.fields.remove_known(Name::ContentLength);
    } else if !response.is_bodiless() && exchange.request.method != Method::Head {
        response.fields.remove_known(Name::ContentLength);
        response.fields.push("Content-Length", b"0");
    }
}
