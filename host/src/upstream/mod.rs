//! Picks a server, and lends a connection to it.
//!
//! Everything here belongs to one worker: connections are pooled per worker and server, the one
//! used last first, so that the warm ones stay warm and the rest time out.
//!
//! Not here: what is sent on a connection (`proxy`).

pub mod balance;
pub mod connect;
pub mod echo;
pub mod names;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::config;
use crate::error::RequestError;
use crate::http::Connection;
use crate::io::Timer;
use balance::Balancer;
use connect::Dialer;

/// One upstream, as a worker sees it.
#[derive(Debug)]
pub struct Upstream {
    /// What the operator wrote.
    pub settings: config::Upstream,
    /// For log and metrics.
    pub index: usize,
    servers: Vec<Rc<Server>>,
    balancer: Balancer,
}

/// One server, as a worker sees it.
#[derive(Debug)]
pub struct Server {
    /// As written, for log and metrics.
    pub name: Arc<str>,
    target: Target,
    idle: RefCell<Vec<Idle>>,
    idle_max: usize,
    active: Cell<usize>,
}

#[derive(Debug)]
enum Target {
    Dial(Dialer),
    Echo,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection lent for one request.
#[derive(Debug)]
pub struct Lease {
    /// The connection.
    pub connection: Connection,
    /// It has carried a request before, so the server may have closed it in the meantime.
    pub reused: bool,
    /// Index of the server in its upstream.
    pub server: usize,
    home: Active,
}

/// Counts a server's connections in use.
#[derive(Debug)]
struct Active(Rc<Server>);

impl Active {
    fn new(server: &Rc<Server>) -> Self {
        server.active.set(server.active.get() + 1);
        Self(Rc::clone(server))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// Names of an upstream's servers, as log and metrics show them.
#[must_use]
pub fn server_names(settings: &config::Upstream) -> Vec<String> {
    match &settings.kind {
        config::UpstreamKind::Echo => vec!["echo".to_owned()],
        config::UpstreamKind::Servers(list) => {
            list.iter().map(|server| server.address.to_string()).collect()
        }
    }
}

impl Upstream {
    /// What a worker needs for one upstream.
    pub fn new(index: usize, settings: &config::Upstream, worker: usize) -> Self {
        let server = |name: Arc<str>, target| {
            Rc::new(Server {
                name,
                target,
                idle: RefCell::default(),
                idle_max: settings.keepalive_connections_max,
                active: Cell::new(0),
            })
        };
        let (servers, weights) = match &settings.kind {
            config::UpstreamKind::Echo => (vec![server("echo".into(), Target::Echo)], vec![1]),
            config::UpstreamKind::Servers(list) => list
                .iter()
                .map(|one| {
                    let dialer = Dialer::new(one.address.clone());
                    (server(one.address.to_string().into(), Target::Dial(dialer)), one.weight)
                })
                .unzip(),
        };
        let balancer = Balancer::new(settings.balance, &weights, worker);
        Self { settings: settings.clone(), index, servers, balancer }
    }

    /// Lends a connection: an idle one if there is one that looks alive, else a new one.
    ///
    /// `sure` asks for certainty that an idle connection is alive, for a request that cannot be
    /// repeated: one system call. `fresh` never takes an idle one. A server that cannot be
    /// connected to is passed over for the next.
    pub async fn lend(
        &self,
        sure: bool,
        fresh: bool,
        timer: &Timer,
        now: Instant,
    ) -> Result<Lease, RequestError> {
        let first = self.balancer.pick();
        let mut last = RequestError::Connect;
        for turn in 0..self.servers.len() {
            let index = (first + turn) % self.servers.len();
            let server = &self.servers[index];
            if !fresh && let Some(connection) = server.take_idle(sure) {
                return Ok(Lease::new(connection, true, index, server));
            }
            match self.dial(server, timer, now).await {
                Ok(connection) => return Ok(Lease::new(connection, false, index, server)),
                Err(error) => {
                    let (upstream, name) = (&self.settings.name, &server.name);
                    log::warn!(target: "upstream", "{upstream}: server {name}: {error}");
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn dial(&self, server: &Server, timer: &Timer) -> Result<Connection, RequestError> {
        let dialer = match &server.target {
            Target::Echo => {
                return echo::connect().map(Connection::new).map_err(|_| RequestError::Connect);
            }
            Target::Dial(dialer) => dialer,
        };
        timer.arm(self.settings.connect_timeout);
        let mut connecting = pin!(dialer.connect());
        let stream = poll_fn(|cx| {
            if timer.is_due() {
                return Poll::Ready(Err(RequestError::ConnectTimeout));
            }
            connecting.as_mut().poll(cx)
        })
        .await?;
        Ok(Connection::new(stream))
    }

    /// Closes connections that have been idle for too long, or that the server has closed.
    pub fn sweep(&self, now: Instant) {
        let limit: Duration = self.settings.keepalive_idle;
        for server in &self.servers {
            server.idle.borrow_mut().retain(|idle| {
                !idle.connection.stream.is_readable()
                    && now.saturating_duration_since(idle.since) < limit
            });
        }
    }

    /// Closes every idle connection.
    pub fn close_idle(&self) {
        for server in &self.servers {
            server.idle.borrow_mut().clear();
        }
    }

    /// Name of a server.
    pub fn server_name(&self, server: usize) -> Option<&str> {
        self.servers.get(server).map(|server| server.name.as_ref())
    }

    /// Name, active and idle connections of each server.
    pub fn connections(&self) -> impl Iterator<Item = (&Arc<str>, usize, usize)> {
        self.servers
            .iter()
            .map(|server| (&server.name, server.active.get(), server.idle.borrow().len()))
    }
}

impl Server {
    fn take_idle(&self, sure: bool) -> Option<Connection> {
        loop {
            let Idle { connection, .. } = self.idle.borrow_mut().pop()?;
            // Whatever has arrived on an idle connection is not the answer to the next request.
            let unusable = connection.stream.is_readable() || (sure && connection.stream.is_dead());
            if !unusable {
                return Some(connection);
            }
        }
    }
}

impl Lease {
    fn new(connection: Connection, reused: bool, server: usize, home: &Rc<Server>) -> Self {
        Self { connection, reused, server, home: Active::new(home) }
    }

    /// Name of the server, for log and metrics.
    pub fn server_name(&self) -> &Arc<str> {
        &self.home.0.name
    }

    /// Gives the connection back for the next request. To be called only when the response has been
    /// read to its end and the server keeps the connection open.
    pub fn give_back(self, now: Instant) {
        let Self { connection, home, .. } = self;
        // More than was asked for: it cannot be told whose answer that would be.
        if connection.inbox.is_some() {
            return;
        }
        let mut idle = home.0.idle.borrow_mut();
        if idle.len() < home.0.idle_max {
            idle.push(Idle { connection, since: now });
        }
    }
}
