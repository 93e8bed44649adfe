//! After a switch of protocols: bytes both ways, which nobody looks at.
//!
//! But where frames of WebSocket end is followed, so that both sides can be told when time is up (idle, life,
//! drain): each gets a 1001 behind the frame that is passing, if that ends soon enough, and is then not sent
//! anything more. Frames of other protocols are not known, and such tunnels are cut off.
//!
//! Cancel safety: none. Dropping the future closes both connections.
//!
//! Not here: WebSockets whose messages are seen (`websocket`).

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::context::Context;
use super::deliver::Delivered;
use super::forward::{Answered, Times};
use super::relay::{Pump, PumpError};
use super::websocket::CLOSE_TIME;
use super::{After, Client};
use crate::http::body::{BodyReader, Form};
use crate::http::parse::Framing;
use crate::http::websocket::{Frames, close, code, is_websocket};
use crate::io::TICK;
use crate::plugin::Exchange;

/// Turns both connections into a tunnel (RFC 9110 §7.8), until both sides have finished, one fails or its
/// life is over.
pub(super) async fn tunnel(
    context: &Context,
    client: &mut Client,
    exchange: &mut Exchange,
    answered: &mut Answered,
    protocol: &[u8],
    times: Times,
    lifetime: Option<Duration>,
) -> Delivered {
    let lease = &mut answered.lease;
    let pump = || {
        let bytes =
            BodyReader::new(Framing::UntilClose, Form::Same, u64::MAX, &context.head_limits);
        Pump::new(bytes, false, false)
    };
    let (mut up, mut down) = (pump(), pump());
    let followed = is_websocket(protocol);
    if followed {
        up.follow(Frames::of_client());
        down.follow(Frames::of_server());
    }
    let Client { connection, timer, .. } = client;
    timer.limit(lifetime);
    timer.arm(times.idle);
    let lanes = context.lanes(timer, times.idle);
    let head = {
        let mut out = context.out.borrow_mut();
        out.clear();
        let opening = connection.prepare_tunnel(&mut out, &mut exchange.response, protocol);
        // Framing by the end of the connection cannot fail.
        let _ = down.begin(&out, &mut lease.connection.inbox, &lanes, &mut None);
        let head = opening.bytes;
        if connection.open_response(opening, false).is_err() {
            return Delivered::nothing(context);
        }
        head
    };
    let (mut from_client, mut to_client) = connection.stream.split();
    let (mut from_server, mut to_server) = lease.connection.stream.split();
    let (client_inbox, server_inbox) = (&mut connection.inbox, &mut lease.connection.inbox);
    let (mut up_open, mut down_open) = (true, true);
    // With TLS an end may have to wait until it can be written.
    let (mut up_ends, mut down_ends) = (false, false);
    let mut parting = false;
    let result = poll_fn(|cx| {
        loop {
            if up_open {
                match up.poll(cx, &mut from_client, client_inbox, &mut to_server, &lanes, &mut None)
                {
                    Poll::Ready(Ok(())) => {
                        up_open = false;
                        up_ends = true;
                    }
                    // The server takes no more; its last words may be on their way.
                    Poll::Ready(Err(PumpError::Sink(_))) => up_open = false,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            if down_open {
                match down.poll(
                    cx,
                    &mut from_server,
                    server_inbox,
                    &mut to_client,
                    &lanes,
                    &mut None,
                ) {
                    Poll::Ready(Ok(())) => {
                        down_open = false;
                        down_ends = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            up_ends = up_ends && to_server.poll_shutdown(cx).is_pending();
            down_ends = down_ends && to_client.poll_shutdown(cx).is_pending();
            if !up_open && !down_open {
                return Poll::Ready(Ok(()));
            }
            if let Some(closes_at) = context.closes_at.get().filter(|_| followed && !parting) {
                let left = closes_at.saturating_sub(timer.deadlines().now());
                timer.tighten(TICK.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX)));
            }
            if !timer.is_due() {
                return Poll::Pending;
            }
            let mask = context.random.borrow_mut().u32(..).to_be_bytes();
            let told = !parting
                && up.part(close(code::AWAY, Some(mask)))
                && down.part(close(code::AWAY, None));
            if !told {
                return Poll::Ready(Ok(()));
            }
            parting = true;
            timer.disarm();
            timer.limit(Some(CLOSE_TIME));
        }
    })
    .await;
    if parting {
        lease.connection.linger(&context.pool, timer).await;
        if connection.stream.is_multiplexed() {
            connection.linger(&context.pool, timer).await;
        }
    }
    let broken = result.err().map(|_| "tunnel broken");
    let after = match broken {
        Some(_) => After::Abort,
        None if parting => After::Linger,
        None => After::Close,
    };
    Delivered { broken, ..Delivered::new(context, after, down.written(), head) }
}
