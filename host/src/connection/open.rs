//! What comes before the first request: a PROXY header from a trusted load balancer, and a TLS handshake.
//!
//! ```text
//!   accept ─► PROXY header ─► TLS handshake ─► serve
//!             (if trusted)         └─ HTTP without TLS: 400
//! ```
//!
//! Both have the same time limit, each for itself. Who fails here has asked for nothing, so nothing is
//! answered, but for those who speak HTTP to a port that speaks TLS: these are people, and are told.
//!
//! Not here: bytes of the header (`proxy_protocol`), what handshakes agree to (`tls`).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::{bind, proxy_protocol};
use crate::error::RequestError;
use crate::http::connection::consume;
use crate::io::HandshakeError;
use crate::proxy::client::ClientFacts;
use crate::proxy::{self, Client, Context, Home};
use crate::telemetry::Handshake;
use crate::tls::ListenerTls;

/// Whether anything comes before the first request of this listener.
pub fn is_needed(context: &Context, listener: usize) -> bool {
    let proxied = context.settings().listeners.get(listener).is_some_and(|one| one.proxy_protocol);
    proxied || tls_of(context, listener).is_some()
}

fn tls_of(context: &Context, listener: usize) -> Option<&Arc<ListenerTls>> {
    context.snapshot.tls.listeners.get(listener)?.as_ref()
}

/// Makes a connection ready for its first request. False: there will be none.
pub async fn open(home: &Home, client: &mut Client) -> bool {
    bind(client).await;
    let context = home.current();
    let listener = client.listener;
    if context.settings().listeners.get(listener).is_some_and(|one| one.proxy_protocol)
        && let Err(why) = proxy_header(&context, client).await
    {
        log::debug!(target: "worker", "PROXY header from {:?}: {why}", client.facts.peer);
        return false;
    }
    let Some(tls) = tls_of(&context, listener) else {
        client.skip_received();
        return true;
    };
    let ended = handshake(&context, tls, client).await;
    home.telemetry.handshake(listener, ended);
    client.skip_received();
    if ended == Handshake::PlainHttp {
        let exchange = home.take_exchange();
        proxy::refuse(&context, client, exchange, RequestError::PlainHttp).await;
    }
    if matches!(ended, Handshake::PlainHttp | Handshake::Failed) {
        // The client may have sent more already; what it was told must reach it all the same.
        client.connection.linger(&home.pool, &client.timer).await;
    }
    matches!(ended, Handshake::Done { .. })
}

async fn handshake(context: &Context, tls: &ListenerTls, client: &mut Client) -> Handshake {
    let Client { connection, timer, .. } = &mut *client;
    // What has come behind a PROXY header.
    let received = connection.inbox.take();
    let received = received.as_ref().map_or(&[][..], |inbox| inbox.filled());
    let stream = &mut connection.stream;
    timer.limit(None);
    timer.arm(context.limits().handshake_timeout);
    let begun = stream.begin_server(Arc::clone(&tls.config), received);
    let done = match begun {
        Err(error) => Err(Some(error)),
        Ok(()) => {
            poll_fn(|cx| match timer.is_due() {
                true => Poll::Ready(Err(None)),
                false => stream.poll_handshake(cx).map_err(Some),
            })
            .await
        }
    };
    match done {
        Ok(()) => {
            client.facts.secure = true;
            let facts = client.connection.stream.tls();
            let v13 = facts.is_some_and(|facts| facts.version == "TLSv1.3");
            Handshake::Done { v13, resumed: facts.is_some_and(|facts| facts.resumed) }
        }
        Err(None) => Handshake::TimedOut,
        Err(Some(HandshakeError::PlainHttp)) => Handshake::PlainHttp,
        Err(Some(error)) => {
            log::debug!(target: "tls", "handshake with {:?}: {error}", client.facts.peer);
            Handshake::Failed
        }
    }
}

/// Reads the header that a trusted peer must send. Others are left alone: their bytes are taken for what
/// they are to anybody else.
async fn proxy_header(context: &Context, client: &mut Client) -> Result<(), &'static str> {
    // Whoever may connect to a Unix socket is of this machine, and let in by the rights of its file.
    if client.facts.peer.is_some() && !client.facts.trusted {
        return Ok(());
    }
    client.timer.limit(None);
    client.timer.arm(context.limits().handshake_timeout);
    loop {
        let bytes = client.connection.inbox.as_ref().map_or(&[][..], |inbox| inbox.filled());
        if let Some((header, length)) = proxy_protocol::parse(bytes)? {
            consume(&mut client.connection.inbox, length);
            let trusted = &context.settings().trusted_proxies;
            match header {
                proxy_protocol::Header::Client(peer) => {
                    client.facts = ClientFacts::new(peer, "http", trusted);
                }
                proxy_protocol::Header::Itself => {}
            }
            return Ok(());
        }
        let filled = client.connection.fill(&context.pool, &client.timer).await;
        filled.map_err(|_| "it did not come")?;
    }
}
