//! The admin server: health, metrics and what is running, for operators and their machines.
//!
//! On a listener and a thread of its own, so that it answers while the workers are busy. Not a hot
//! path: hyper serves it. A peer can neither hang nor grow it: connections are capped, each is for one
//! request and has a time limit as a whole, and only a component is read as a body, one at a time. Streams
//! of events (`events`) take longer; there are few.
//!
//! Not here: what the answers say (`running`, `metrics`), changes (`control::change`).

mod change;
pub(super) mod events;
mod purge;

use std::cell::Cell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use crossbeam::channel::Sender;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::change::Order;
use super::running::Running;
use crate::config::{self, Address};
use crate::worker::listen::{self, Listening};
use events::Content;

/// Open admin connections. Monitoring needs a handful.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may take from its first byte to the last: a peer that sends or reads slowly
/// holds its place no longer. Prometheus waits for as long by default.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);

/// How long it may take for a change, from its head on: a component is uploaded and compiled (a minute
/// at most), perhaps after somebody else's.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(300);

const PATHS: [&str; 9] = [
    "/livez", "/readyz", "/metrics", "/info", "/routes", "/plugins", "/workers", "/certs",
    "/events",
];

const CHANGES: &str = "/reload /drain /plugins/NAME /plugins/NAME/rollback /cache/purge";

/// The admin listener, bound and not yet served.
pub struct AdminSocket {
    address: Address,
    listening: Listening,
}

/// A running admin server. Dropping it stops it.
pub struct AdminServer {
    address: Address,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Binds the listener.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub fn bind(admin: &config::Admin) -> anyhow::Result<AdminSocket> {
        let listener = config::Listener {
            address: admin.address.clone(),
            protocols: config::Protocols::default(),
            backlog: 128,
            only_v6: admin.only_v6,
            tls: None,
            proxy_protocol: false,
        };
        let (address, sockets) = listen::bind(&listener, 1).context("admin")?;
        let listening = sockets.into_iter().next().context("admin: no socket")?;
        Ok(AdminSocket { address, listening })
    }

    /// Serves until dropped.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(
        socket: AdminSocket,
        running: Arc<Running>,
        orders: Sender<Order>,
    ) -> anyhow::Result<Self> {
        let AdminSocket { address, listening } = socket;
        let is_tcp = matches!(address, Address::Tcp(_));
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                let streams = Arc::new(Semaphore::new(events::STREAMS_MAX));
                let uploads = Semaphore::new(1);
                let admin = Admin { running, orders, uploads, streams, is_tcp };
                if let Err(error) = serve(admin, listening, &stopped) {
                    log::error!(target: "admin", "{error:#}");
                }
            })
            .context("cannot start the admin thread")?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!(target: "admin", "the admin thread panicked");
        }
    }
}

struct Admin {
    running: Arc<Running>,
    orders: Sender<Order>,
    uploads: Semaphore,
    streams: Arc<Semaphore>,
    is_tcp: bool,
}

/// When a connection must have ended.
struct Deadline(Cell<Instant>);

impl Deadline {
    /// For a change or a stream, there is more time.
    fn extend(&self, time_max: Duration) {
        self.0.set(Instant::now() + time_max);
    }

    async fn over(&self) {
        while self.0.get() > Instant::now() {
            tokio::time::sleep_until(self.0.get()).await;
        }
    }
}

type Answer = Response<Content>;

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

fn serve(admin: Admin, listening: Listening, stop: &Notify) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let admin = Rc::new(admin);
    runtime.block_on(async {
        let socket = match listening {
            Listening::Tcp(socket) => Socket::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket) => Socket::Unix(UnixListener::from_std(socket)?),
        };
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let slot = Arc::clone(&slots).acquire_owned();
            let slot = tokio::select! {
                () = stop.notified() => return Ok(()),
                slot = slot => slot?,
            };
            let admin = Rc::clone(&admin);
            tokio::select! {
                () = stop.notified() => return Ok(()),
                accepted = accept(&socket, admin) => match accepted {
                    Ok(connection) => {
                        tokio::task::spawn_local(async move {
                            connection.await;
                            drop(slot);
                        });
                    }
                    // Out of descriptors, most likely: do not spin.
                    Err(error) => {
                        log::warn!(target: "admin", "accept: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    })
}

/// Takes the next connection; what is returned serves it.
async fn accept(
    socket: &Socket,
    admin: Rc<Admin>,
) -> std::io::Result<std::pin::Pin<Box<dyn Future<Output = ()>>>> {
    Ok(match socket {
        Socket::Tcp(socket) => Box::pin(connection(socket.accept().await?.0, admin)),
        Socket::Unix(socket) => Box::pin(connection(socket.accept().await?.0, admin)),
    })
}

async fn connection(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    admin: Rc<Admin>,
) {
    let deadline = Rc::new(Deadline(Cell::new(Instant::now() + CONNECTION_TIME_MAX)));
    let known = Rc::clone(&deadline);
    let service = service_fn(move |request| {
        let (admin, deadline) = (Rc::clone(&admin), Rc::clone(&known));
        async move { Ok::<_, Infallible>(answer(&admin, request, &deadline).await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = served => if let Err(error) = served {
            log::debug!(target: "admin", "{error}");
        },
        () = deadline.over() => log::debug!(target: "admin", "a connection took too long"),
    }
}

async fn answer(admin: &Admin, request: Request<Incoming>, deadline: &Deadline) -> Answer {
    let uri = request.uri().clone();
    let path = uri.path();
    let asked = change::asked(path);
    let (allowed, allow) = match (PATHS.contains(&path), &asked) {
        (true, _) => (matches!(*request.method(), Method::GET | Method::HEAD), "GET, HEAD"),
        (false, Some(_)) => (*request.method() == Method::POST, "POST"),
        (false, None) => {
            let detail = format!("there are: {}; for POST: {CHANGES}", PATHS.join(" "));
            return problem(StatusCode::NOT_FOUND, &detail);
        }
    };
    if !allowed {
        let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("use {allow}"));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        return answer;
    }
    let health = matches!(path, "/livez" | "/readyz");
    let token = admin.running.admin_token();
    // Browsers reach it, too, when it is on loopback; then it needs no token.
    if !health && token.is_none() && admin.is_tcp && !is_local_name(&request) {
        let detail = "without a token, ask for an IP address or `localhost`";
        return problem(StatusCode::MISDIRECTED_REQUEST, detail);
    }
    if asked.is_some() && token.is_none() && change::is_foreign(&request) {
        let detail = "without a token, pages of other origins may not change anything";
        return problem(StatusCode::FORBIDDEN, detail);
    }
    if !health && !is_allowed(token.as_deref(), &request) {
        let mut answer = problem(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer <token>`");
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return answer;
    }
    if let Some(asked) = asked {
        return change::change(admin, asked, request, deadline).await;
    }
    let running = &admin.running;
    match path {
        "/livez" => json(StatusCode::OK, &serde_json::json!({ "live": true })),
        "/readyz" => {
            let ready = running.is_ready();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            json(status, &serde_json::json!({ "ready": ready, "draining": running.is_draining() }))
        }
        "/metrics" => metrics(running, &request).await,
        "/info" => json(StatusCode::OK, &running.info()),
        "/routes" => json(StatusCode::OK, &running.routes()),
        "/certs" => json(StatusCode::OK, &running.certificates()),
        "/plugins" => json(StatusCode::OK, &running.plugins(&running.reports().await)),
        "/events" => stream(admin, request.method(), deadline),
        _ => json(StatusCode::OK, &running.workers_json(&running.answers().await)),
    }
}

/// Events from now on, for as long as the listener wants.
fn stream(admin: &Admin, method: &Method, deadline: &Deadline) -> Answer {
    let Ok(place) = Arc::clone(&admin.streams).try_acquire_owned() else {
        let detail = format!("{} streams of events are open already", events::STREAMS_MAX);
        return problem(StatusCode::SERVICE_UNAVAILABLE, &detail);
    };
    let mut answer = respond(StatusCode::OK, "text/event-stream", String::new());
    if *method == Method::GET {
        deadline.extend(events::STREAM_TIME_MAX);
        let running = &admin.running;
        let now = serde_json::json!({
            "config_generation": running.config_generation(),
            "ready": running.is_ready(),
            "draining": running.is_draining(),
        });
        *answer.body_mut() = events::stream(running.events(), &now, place);
    }
    answer
}

async fn metrics(running: &Running, request: &Request<Incoming>) -> Answer {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let openmetrics = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let text = running.metrics(&running.reports().await, openmetrics);
    let content_type = if openmetrics {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    respond(StatusCode::OK, content_type, text)
}

/// Whether the request is for a host that no stranger can name: a web page may be at a name that its
/// owner lets point to this machine, and read answers for that name (DNS rebinding).
fn is_local_name(request: &Request<Incoming>) -> bool {
    let field = request.headers().get(HOST).map(HeaderValue::as_bytes);
    let authority = match (request.uri().authority().cloned(), field.map(Authority::try_from)) {
        (Some(authority), _) | (None, Some(Ok(authority))) => authority,
        // HTTP/1.0; no browser asks like this.
        (None, None) => return true,
        (None, Some(Err(_))) => return false,
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn is_allowed(token: Option<&str>, request: &Request<Incoming>) -> bool {
    let Some(token) = token else { return true };
    let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    // RFC 9110 §11.1: the name of a scheme is case-insensitive.
    let given = given
        .and_then(|value| value.split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
        .map_or(b"".as_slice(), |(_, token)| token);
    // The time must not tell how much of the token was right; its length is no secret.
    let differing = given
        .iter()
        .zip(token.as_bytes())
        .fold(0, |differing, (left, right)| std::hint::black_box(differing | (left ^ right)));
    given.len() == token.len() && differing == 0
}

fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    respond(status, "application/json", format!("{value:#}\n"))
}

fn problem(status: StatusCode, detail: &str) -> Answer {
    problem_of(status, detail, serde_json::Value::Null)
}

/// RFC 9457, with the members of `more` besides.
fn problem_of(status: StatusCode, detail: &str, more: serde_json::Value) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    let mut value = serde_json::json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail,
    });
    if let (Some(members), serde_json::Value::Object(more)) = (value.as_object_mut(), more) {
        members.extend(more);
    }
    respond(status, "application/problem+json", format!("{value:#}\n"))
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Content::Full(Full::new(Bytes::from(text))));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
