//! A request that goes on in the background after it has been answered from a cache.
//!
//! It runs down the chain behind the link that has answered, and its response back up to that link,
//! which decides what is kept. It has no client: in the place of one there is a socket that nobody writes
//! to.
//!
//! Cancel safety: dropping it closes the upstream's connection and keeps nothing.
//!
//! Not here: who asks for it (`plugin`), and when (RFC 5861: the plugin).

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::back::response;
use super::context::Context;
use super::{Client, Progress, fail, pass, share};
use crate::http::parse::{Framing, RequestFacts};
use crate::http::{Connection, Name};
use crate::io::Stream;
use crate::plugin::Exchange;

/// Lets the request of an exchange that is over go on, if a plugin has asked for that.
pub(super) fn spawn(
    context: &Rc<Context>,
    client: &Client,
    exchange: &mut Exchange,
    progress: &mut Progress,
) {
    let Some(refetch) = exchange.refetch.take() else { return };
    let Some(route) = progress.route else { return };
    let mut job = context.take_exchange();
    exchange.move_into(&mut job);
    // RFC 9110 §8.6: it goes without its body, if it ever had one.
    job.request.fields.remove_known(Name::ContentLength);
    job.floor = refetch.link;
    job.fetches.push(refetch.fetch);
    let (facts, listener) = (client.facts, client.listener);
    let (params, routed) = (progress.params, progress.routed.take());
    let context = Rc::clone(context);
    tokio::task::spawn_local(async move {
        let (stream, peer) = match Stream::silent() {
            Ok(pair) => pair,
            Err(error) => return log::warn!(target: "proxy", "no refetch: {error}"),
        };
        let connection = Connection::new(stream);
        let timer = context.deadlines.timer();
        let mut nobody = Client { connection, timer, facts, listener, counted: 0 };
        let progress = Progress { route: Some(route), params, routed, ..Progress::default() };
        let from = (route, refetch.link + 1);
        run(&context, &mut nobody, job, progress, from).await;
        // As long as this is open, nobody has left.
        drop(peer);
    });
}

async fn run(
    context: &Context,
    nobody: &mut Client,
    job: Box<Exchange>,
    mut progress: Progress,
    from: (usize, usize),
) {
    poll_fn(|cx| {
        nobody.timer.bind(cx);
        Poll::Ready(())
    })
    .await;
    let mut facts = RequestFacts {
        framing: Framing::None,
        keep_alive: false,
        expects_continue: false,
        wants_upgrade: false,
        names_fields: false,
    };
    let started = context.clock.now();
    let sent = pass(context, nobody, job, &mut facts, None, started, &mut progress, from).await;
    let (mut exchange, passed) = sent;
    if let Err(error) = passed {
        fail(context, &mut exchange, error, &mut progress);
    }
    if let Some((upstream, server)) = progress.upstream.zip(progress.journey.server) {
        let status = progress.upstream_status.unwrap_or(0);
        context.tallies.server_answered(upstream, server, status);
    }
    // The link that asked for this has its turn, too.
    progress.entered = progress.entered.max(from.1);
    exchange = response(context, nobody, exchange, &mut facts, &mut progress).await;
    match progress.remote {
        Some((answered, times)) if answered.upload.is_none() => {
            share::upstream_to_nobody(context, &mut exchange, answered, times).await;
        }
        Some(_) => {}
        None => {
            let body = exchange.body.take().unwrap_or_default();
            exchange.captures.drain(..).for_each(|capture| capture.end_with(&body));
        }
    }
    context.give_back(exchange);
}
