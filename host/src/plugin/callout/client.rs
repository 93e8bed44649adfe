//! Sends what plugins ask: looks names up, connects, keeps connections for the next callout.
//!
//! Everything belongs to one worker. hyper speaks HTTP/1.1; nothing here is on the way of requests that
//! no plugin holds up.
//!
//! Cancel safety: dropping a callout closes its connection.
//!
//! Not here: who may ask whom (`check`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::address::is_public;
use super::{
    ANSWER_BYTES_MAX, CalloutError, CalloutRequest, CalloutResponse, TIMEOUT, TIMEOUT_MAX, Target,
    check,
};
use crate::config::{Allow, ServerAddress, UpstreamKind};
use crate::io::Stream;
use crate::upstream::Upstream;
use crate::upstream::connect::Secure;

/// Idle connections that are kept to one place, and so long.
const IDLE_MAX: usize = 8;
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Places to which connections are kept.
const PLACES_MAX: usize = 256;

/// Fields that belong to the connection, or say where the request goes: those are the gateway's.
const REFUSED_FIELDS: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where a connection leads, and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    to: To,
    secure: Option<Peer>,
}

/// Whom TLS is spoken with, and by which roots.
#[derive(Clone, Debug)]
struct Peer(Secure);

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name && Arc::ptr_eq(&self.0.config, &other.0.config)
    }
}

impl Eq for Peer {}

impl Hash for Peer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

/// A host whose private address was granted to one plugin is another place than the same host without.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum To {
    Host { host: String, port: u16, private: bool },
    Address(SocketAddr),
    Unix(PathBuf),
}

type Sender = SendRequest<Full<Bytes>>;

/// A worker's connections for callouts.
#[derive(Default)]
pub struct Callouts {
    idle: RefCell<HashMap<Place, Vec<(Sender, Instant)>>>,
    /// Whose turn it is among the servers of an upstream.
    turn: RefCell<HashMap<usize, usize>>,
}

/// Where callouts go.
pub enum Outside<'a> {
    /// To other servers.
    World {
        /// The worker's connections.
        callouts: &'a Callouts,
        /// The upstreams that there are.
        upstreams: &'a [Upstream],
        /// Whom to believe behind `https` URLs.
        tls: Option<&'a Arc<ClientConfig>>,
    },
    /// Nowhere: a test of a plugin answers in their place.
    Stage {
        /// Names of the upstreams that there are.
        upstreams: &'a [Arc<str>],
        /// Says what comes of a request, given why it would not have been sent.
        answer: &'a mut dyn FnMut(CalloutRequest, Option<CalloutError>) -> Answer,
    },
}

/// What comes of a callout.
pub type Answer = Result<CalloutResponse, CalloutError>;

/// What the callouts of one request of a client have to go by.
pub struct Scope<'a> {
    /// Where they go.
    pub outside: Outside<'a>,
    /// When the request's time is up.
    pub until: Instant,
    /// Whether the client has left.
    pub gone: &'a mut dyn FnMut(&mut TaskContext<'_>) -> Poll<()>,
}

impl Scope<'_> {
    /// Sends a request for a plugin that may reach what `allow` says, and waits for the whole answer.
    /// [`None`]: the client has left, or the request's time is up, and there is no need to ask for more.
    pub(in crate::plugin) async fn send(
        &mut self,
        request: CalloutRequest,
        allow: &Allow,
    ) -> Option<Answer> {
        let (callouts, upstreams, tls) = match &mut self.outside {
            Outside::World { callouts, upstreams, tls } => (*callouts, *upstreams, *tls),
            Outside::Stage { upstreams, answer } => {
                let names: Vec<&str> = upstreams.iter().map(|name| &**name).collect();
                let checked = check(&request.url, allow, &names);
                let sound = checked.and_then(|_| message(&request, "localhost", "/"));
                return Some(answer(request, sound.err()));
            }
        };
        let names: Vec<&str> = upstreams.iter().map(|one| &*one.settings.name).collect();
        let target = match check(&request.url, allow, &names) {
            Ok(target) => target,
            Err(error) => return Some(Err(error)),
        };
        let asked = if request.timeout.is_zero() { TIMEOUT } else { request.timeout };
        let left = self.until.saturating_duration_since(now());
        let limit = asked.min(TIMEOUT_MAX).min(left);
        let sending = callouts.send(request, target, upstreams, tls);
        let mut sending = pin!(tokio::time::timeout(limit, sending));
        let gone = &mut *self.gone;
        let answer = poll_fn(|cx| {
            if gone(cx).is_ready() {
                return Poll::Ready(None);
            }
            sending.as_mut().poll(cx).map(Some)
        })
        .await;
        match answer? {
            Ok(answer) => Some(answer),
            Err(_) if limit == left => None,
            Err(_) => Some(Err(CalloutError::Timeout)),
        }
    }
}

impl Callouts {
    /// Closes connections that have been idle for too long. To be called once in a while.
    pub fn sweep(&self) {
        let now = now();
        let mut idle = self.idle.borrow_mut();
        for kept in idle.values_mut() {
            kept.retain(|(sender, since)| {
                !sender.is_closed() && now.saturating_duration_since(*since) < IDLE_TIME
            });
        }
        idle.retain(|_, kept| !kept.is_empty());
    }

    async fn send(
        &self,
        request: CalloutRequest,
        target: Target,
        upstreams: &[Upstream],
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<CalloutResponse, CalloutError> {
        let (place, authority, path) = match target {
            Target::Host { host, port, private, secure, authority, path } => {
                let secure = if secure { Some(peer(&host, tls)?) } else { None };
                (Place { to: To::Host { host, port, private }, secure }, authority, path)
            }
            Target::Upstream { index, path } => {
                let upstream = upstreams.get(index).ok_or(CalloutError::Busy)?;
                let (place, authority) = self.server(index, upstream)?;
                (place, authority, path)
            }
        };
        // A kept connection may have been closed in this moment; a new one tells the truth. Only what did
        // not go out is sent again.
        if let Some(sender) = self.take(&place) {
            let message = message(&request, &authority, &path)?;
            match self.exchange(sender, message, &place).await {
                Err(Lost::Before) => {}
                Err(Lost::After(error)) => return Err(error),
                Ok(answer) => return Ok(answer),
            }
        }
        let message = message(&request, &authority, &path)?;
        let sender = connect(&place).await?;
        self.exchange(sender, message, &place).await.map_err(|lost| match lost {
            Lost::Before => CalloutError::Unreachable("the connection was lost".to_owned()),
            Lost::After(error) => error,
        })
    }

    /// A server of an upstream: each in its turn.
    fn server(&self, index: usize, upstream: &Upstream) -> Result<(Place, String), CalloutError> {
        let UpstreamKind::Servers(servers) = &upstream.settings.kind else {
            return Err(CalloutError::Unreachable(
                "the echo upstream takes no callouts".to_owned(),
            ));
        };
        let mut turns = self.turn.borrow_mut();
        let turn = turns.entry(index).or_default();
        *turn = turn.wrapping_add(1);
        let turn = *turn % servers.len().max(1);
        let Some(server) = servers.get(turn) else {
            return Err(CalloutError::Unreachable("the upstream has no server".to_owned()));
        };
        let authority = server.address.to_string();
        let (to, authority) = match &server.address {
            ServerAddress::Ip(address) => (To::Address(*address), authority),
            ServerAddress::Name { host, port } => {
                (To::Host { host: host.to_string(), port: *port, private: true }, authority)
            }
            ServerAddress::Unix(path) => (To::Unix(path.clone()), "localhost".to_owned()),
        };
        Ok((Place { to, secure: upstream.secure(turn).map(Peer) }, authority))
    }

    fn take(&self, place: &Place) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(place)?;
        while let Some((sender, since)) = kept.pop() {
            if sender.is_ready() && now().saturating_duration_since(since) < IDLE_TIME {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, place: &Place, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < PLACES_MAX || idle.contains_key(place) {
            let kept = idle.entry(place.clone()).or_default();
            if kept.len() < IDLE_MAX {
                kept.push((sender, now()));
            }
        }
    }

    async fn exchange(
        &self,
        mut sender: Sender,
        message: hyper::Request<Full<Bytes>>,
        place: &Place,
    ) -> Result<CalloutResponse, Lost> {
        let unreachable =
            |error: &dyn std::fmt::Display| CalloutError::Unreachable(error.to_string());
        let response = sender.try_send_request(message).await.map_err(|mut error| {
            match error.take_message() {
                Some(_) => Lost::Before,
                None => Lost::After(unreachable(error.error())),
            }
        })?;
        let (head, body) = response.into_parts();
        if head.status.as_u16() < 200 {
            return Err(Lost::After(unreachable(&"it switches to another protocol")));
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            Lost::After(match error.is::<LengthLimitError>() {
                true => CalloutError::TooLarge,
                false => unreachable(&error),
            })
        })?;
        let headers = head.headers.iter();
        let headers = headers
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        // hyper takes a moment to see that the connection is free, or ends.
        if poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
            self.keep(place, sender);
        }
        let body = body.to_bytes().to_vec();
        Ok(CalloutResponse { status: head.status.as_u16(), headers, body })
    }
}

/// Why there is no answer.
enum Lost {
    /// Nothing of the request has been sent.
    Before,
    /// It may have been heard.
    After(CalloutError),
}

fn message(
    request: &CalloutRequest,
    authority: &str,
    path: &str,
) -> Result<hyper::Request<Full<Bytes>>, CalloutError> {
    let invalid = |what: &str| CalloutError::Invalid(what.to_owned());
    let mut builder = hyper::Request::builder().method(request.method.as_str()).uri(path);
    if request.method.eq_ignore_ascii_case("CONNECT") {
        return Err(invalid("the method makes a tunnel"));
    }
    let Some(headers) = builder.headers_mut() else { return Err(invalid("the method or path")) };
    let host = HeaderValue::try_from(authority).map_err(|_| invalid("the host"))?;
    headers.insert("host", host);
    for (name, value) in &request.headers {
        if REFUSED_FIELDS.iter().any(|refused| refused.eq_ignore_ascii_case(name)) {
            return Err(CalloutError::Invalid(format!("the field `{name}` is the gateway's")));
        }
        let field = HeaderName::try_from(name.as_str()).map_err(|_| invalid("a field's name"))?;
        let value = HeaderValue::try_from(value.as_slice());
        headers.append(field, value.map_err(|_| invalid("a field's value"))?);
    }
    let body = Full::new(Bytes::from(request.body.clone()));
    builder.body(body).map_err(|error| CalloutError::Invalid(error.to_string()))
}

/// Connects, to no address that was not looked at.
async fn connect(place: &Place) -> Result<Sender, CalloutError> {
    let unreachable = |error: std::io::Error| CalloutError::Unreachable(error.to_string());
    let secure = place.secure.as_ref();
    match &place.to {
        To::Unix(path) => {
            shake(Stream::connect_unix(path).await.map_err(unreachable)?, secure).await
        }
        To::Address(address) => {
            shake(Stream::connect_tcp(*address).await.map_err(unreachable)?, secure).await
        }
        To::Host { host, port, private } => {
            let found = tokio::net::lookup_host((host.as_str(), *port)).await;
            let found: Vec<SocketAddr> = found.map_err(unreachable)?.collect();
            let known = !found.is_empty();
            let mut allowed = found.into_iter().filter(|one| *private || is_public(one.ip()));
            let mut last = match known {
                true => CalloutError::Denied(format!(
                    "`{host}` leads to an address that is not public; name the host itself in \
                     `allow.http` to allow it"
                )),
                false => CalloutError::Unreachable("the name has no address".to_owned()),
            };
            loop {
                let Some(address) = allowed.next() else { return Err(last) };
                match Stream::connect_tcp(address).await {
                    Ok(stream) => return shake(stream, secure).await,
                    Err(error) => last = unreachable(error),
                }
            }
        }
    }
}

/// The host of an `https` URL, whom its certificate must be for.
fn peer(host: &str, tls: Option<&Arc<ClientConfig>>) -> Result<Peer, CalloutError> {
    let invalid = |_| CalloutError::Invalid("the URL's host has no certificate".to_owned());
    let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
    let config = tls.ok_or_else(|| CalloutError::Denied("no `https` URL is allowed".to_owned()))?;
    Ok(Peer(Secure { config: Arc::clone(config), name }))
}

/// Begins to speak HTTP on a connection, over TLS if that is spoken there.
async fn shake(mut stream: Stream, secure: Option<&Peer>) -> Result<Sender, CalloutError> {
    if let Some(Peer(secure)) = secure {
        let shaken = secure.shake(&mut stream).await;
        shaken.map_err(|error| CalloutError::Unreachable(format!("TLS: {error}")))?;
    }
    let shaken = http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream));
    let (sender, connection) =
        shaken.await.map_err(|error| CalloutError::Unreachable(error.to_string()))?;
    tokio::task::spawn_local(async move {
        // Whoever waits for an answer hears of it.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Callouts are slow; a look at the clock is not what they cost.
#[expect(clippy::disallowed_methods, reason = "the one place where callouts read the clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}
