//! One client connection, until done: HTTP/1, request after request, or HTTP/2 (`http2`).
//!
//! ```text
//!                   ┌──────────── keep-alive ───────────┐
//!   accept ─► open ─► idle ─ first byte ─► head ─► handle ┴─► linger ─► closed
//!                └── ALPN, or the preface of HTTP/2 ─► http2
//! ```
//!
//! `open` is what comes before the first request, where a listener asks for it: PROXY headers and TLS.
//!
//! While a connection is idle it holds no buffer and no exchange, and its future is small: what an
//! active request needs is in a box of its own, which outlives the request by a moment.
//!
//! Not here: accepting (`worker::accept`), the life of a request (`proxy`).

mod http2;
pub mod open;
mod proxy_protocol;

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::config::Protocols;

use crate::error::RequestError;
use crate::http::Connection;
use crate::http::connection::ReadError;
use crate::proxy::{self, After, Client, Home, Own};

/// While draining, a connection that asks for nothing is kept this long: its client may have sent a
/// request that is still on its way.
const DRAIN_IDLE: Duration = Duration::from_millis(500);

/// A client that asks again so soon finds the memory of its last request still there. Under load that
/// is nearly every one.
const WARM: Duration = Duration::from_millis(100);

/// What ended a silence.
enum Woken {
    /// The client, with bytes.
    Bytes,
    /// Time.
    Silence,
    /// The client, by leaving; or a drain.
    End,
}

/// Answers a connection for which there is no room, and ends it.
pub async fn turn_away(home: &Home, client: &mut Client) {
    bind(client).await;
    let exchange = home.take_exchange();
    proxy::refuse(&home.current(), client, exchange, RequestError::Overloaded).await;
    client.connection.linger(&home.pool, &client.timer).await;
}

/// Serves a connection until it is done.
pub async fn serve(home: &Rc<Home>, client: &mut Client) {
    bind(client).await;
    client.timer.arm(home.current().idle_timeout());
    if client.connection.stream.alpn() == Some(b"h2") {
        return Box::pin(http2::serve(home, client)).await;
    }
    let mut undecided = true;
    // Something may have come behind a PROXY header.
    while client.connection.inbox.is_some() || matches!(idle(home, client).await, Woken::Bytes) {
        if std::mem::take(&mut undecided) && !begins_http1(home, client) {
            match Box::pin(protocol(home, client)).await {
                Some(Protocol::Http1) => {}
                Some(Protocol::Http2) => return Box::pin(http2::serve(home, client)).await,
                None => return,
            }
        }
        match Box::pin(serve_requests(home, client)).await {
            After::KeepAlive => {
                client.timer.arm(home.current().idle_timeout().saturating_sub(WARM));
            }
            After::Abort => return,
            After::Close if !has_sent_more(home, &client.connection) => {
                if client.connection.stream.tls().is_some() {
                    Box::pin(client.connection.finish(&client.timer)).await;
                }
                return;
            }
            After::Close | After::Linger => {
                return Box::pin(client.connection.linger(&home.pool, &client.timer)).await;
            }
        }
    }
}

/// What a client speaks.
enum Protocol {
    Http1,
    Http2,
}

/// What the client's listener speaks.
fn spoken(home: &Home, client: &Client) -> Protocols {
    let context = home.current();
    let listener = context.settings().listeners.get(client.listener);
    listener.map_or(Protocols::default(), |listener| listener.protocols)
}

/// Whether the client has begun with the preface of HTTP/2; `None` as long as it may have.
fn begins_http2(client: &Client) -> Option<bool> {
    let inbox = client.connection.inbox.as_ref();
    http2::is_preface(inbox.map_or(&[][..], |inbox| inbox.filled()))
}

/// The usual case, for which nothing has to be waited.
fn begins_http1(home: &Home, client: &Client) -> bool {
    begins_http2(client) == Some(false) && spoken(home, client).h1
}

/// Finds out what the client speaks, whose first bytes have come. A client that knows beforehand that
/// HTTP/2 is spoken here begins with a preface which is no request (RFC 9113 §3.3, §3.4).
///
/// `None`: it cannot be served, and has been told.
async fn protocol(home: &Home, client: &mut Client) -> Option<Protocol> {
    let context = home.current();
    let spoken = spoken(home, client);
    client.timer.arm(context.limits().header_timeout);
    loop {
        match begins_http2(client) {
            Some(true) if spoken.h2 => return Some(Protocol::Http2),
            None if spoken.h2 => {}
            _ if spoken.h1 => return Some(Protocol::Http1),
            _ => {
                let exchange = home.take_exchange();
                proxy::refuse(&context, client, exchange, RequestError::Version).await;
                client.connection.linger(&home.pool, &client.timer).await;
                return None;
            }
        }
        let read = client.connection.fill(&home.pool, &client.timer).await;
        // Whoever has sent a part of the preface and no more has no request.
        read.ok()?;
    }
}

/// Names this task as the one to wake.
fn bind(client: &Client) -> impl Future<Output = ()> {
    poll_fn(|cx| {
        client.timer.bind(cx);
        Poll::Ready(())
    })
}

/// Whether the client has sent something that nobody will read. Closing then would take back what was
/// written last.
///
/// The socket is looked at only when there is a sign of it, or in a drain, which is no time to save
/// system calls: its clients do not know of it and go on sending.
fn has_sent_more(own: &Own, connection: &Connection) -> bool {
    let Connection { stream, inbox } = connection;
    inbox.is_some() || ((own.draining.get() || stream.is_readable()) && stream.holds_bytes())
}

/// Waits for the first bytes of a request, as long as the timer has been armed for.
async fn idle(own: &Own, client: &mut Client) -> Woken {
    own.telemetry.connection_idle(client.listener);
    let Client { connection, timer, .. } = &mut *client;
    timer.limit(None);
    let Connection { stream, inbox } = connection;
    let mut hurried = false;
    let woken = poll_fn(|cx| {
        if own.draining.get() && !hurried {
            hurried = true;
            timer.arm(DRAIN_IDLE);
        }
        let mut buffer = own.pool.take();
        match stream.poll_read(cx, buffer.room()) {
            Poll::Ready(Ok(count)) if count > 0 => {
                buffer.add(count);
                *inbox = Some(buffer);
                Poll::Ready(Woken::Bytes)
            }
            Poll::Ready(_) => Poll::Ready(Woken::End),
            // Nothing was being asked, so nothing is lost.
            Poll::Pending if timer.is_due() && hurried => Poll::Ready(Woken::End),
            Poll::Pending if timer.is_due() => Poll::Ready(Woken::Silence),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    own.telemetry.connection_active(client.listener);
    woken
}

/// Answers requests as long as they come one soon after another.
///
/// Between requests nothing is held of a generation of the configuration: each request takes the one
/// that is current when its head has been read.
async fn serve_requests(home: &Home, client: &mut Client) -> After {
    loop {
        let mut exchange = home.take_exchange();
        let (limits, header_timeout) = {
            let current = home.current();
            (current.head_limits, current.limits().header_timeout)
        };
        let Client { connection, timer, .. } = &mut *client;
        let head = &mut exchange.request;
        let read = connection.read_request(head, &limits, &home.pool, timer, header_timeout).await;
        let facts = match read {
            Ok(facts) => facts,
            Err(ReadError::Bad(error)) => {
                proxy::refuse(&home.current(), client, exchange, error).await;
                return After::Linger;
            }
            Err(ReadError::Blank) => {
                home.give_back(exchange);
                return After::KeepAlive;
            }
            Err(ReadError::End | ReadError::TimedOut | ReadError::Io(_)) => {
                home.give_back(exchange);
                return After::Abort;
            }
        };
        let context = home.current();
        let (exchange, after) = proxy::handle(&context, client, exchange, &facts).await;
        home.give_back(exchange);
        if after != After::KeepAlive {
            return after;
        }
        if client.connection.inbox.is_none() {
            client.timer.arm(WARM.min(context.idle_timeout()));
            drop(context);
            match idle(home, client).await {
                Woken::Bytes => {}
                Woken::Silence => return After::KeepAlive,
                Woken::End => return After::Abort,
            }
        }
    }
}
