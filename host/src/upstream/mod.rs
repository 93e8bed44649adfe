//! Picks a server, and lends a connection to it.
//!
//! Everything here belongs to one worker: connections are pooled per worker and server, the one
//! used last first, so that the warm ones stay warm and the rest time out.
//!
//! A connection of HTTP/1 is lent to one request at a time; one of HTTP/2 (`http2`) to many, each of
//! which gets a stream.
//!
//! Not here: what is sent on a connection (`proxy`).

pub mod balance;
pub mod connect;
pub mod echo;
mod http2;
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
use crate::io::{Stream, Timer};
use crate::tls::{self, UpstreamTls};
use balance::Balancer;
use connect::{DialError, Dialer, Secure};
use http2::{Sessions, Slot, Taken};

/// One upstream, as a worker sees it.
#[derive(Debug)]
pub struct Upstream {
    /// What the operator wrote.
    pub settings: config::Upstream,
    /// For log and metrics.
    pub index: usize,
    servers: Vec<Rc<Server>>,
    balancer: Balancer,
    tls: Option<Arc<UpstreamTls>>,
}

/// One server, as a worker sees it.
#[derive(Debug)]
pub struct Server {
    /// As written, for log and metrics.
    pub name: Arc<str>,
    target: Target,
    idle: RefCell<Vec<Idle>>,
    idle_max: usize,
    /// Connections of HTTP/2.
    sessions: Sessions,
    /// It was offered HTTP/2, and chose HTTP/1.1.
    chose_h1: Cell<bool>,
    active: Cell<usize>,
    complaints: Complaints,
}

/// What the log says of a server that cannot be reached: not more than a line a second.
#[derive(Debug, Default)]
struct Complaints {
    last: Cell<Option<Instant>>,
    unsaid: Cell<u64>,
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
    /// Its last response had no body by rule; a server that sends one all the same may do so late.
    doubtful: bool,
}

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Certainty that an idle connection is alive, for a request that cannot be repeated: one system call.
    pub sure: bool,
    /// No idle connection of HTTP/1.
    pub fresh: bool,
    /// HTTP/1.1 where the server has a choice: nothing else is turned into a tunnel.
    pub upgradable: bool,
}

/// A connection lent for one request.
#[derive(Debug)]
pub struct Lease {
    /// The connection.
    pub connection: Connection,
    /// It has carried a request before, so the server may have closed it in the meantime.
    pub reused: bool,
    home: Held,
}

/// What a lease keeps as long as it lasts.
#[derive(Debug)]
enum Held {
    /// A connection that nobody else uses.
    Alone(Active),
    /// A place on one that is shared.
    Place(Slot),
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

impl Upstream {
    /// What a worker needs for one upstream. Of one with the same settings in `former` it takes the
    /// servers over, with their connections.
    pub fn new(
        index: usize,
        settings: &config::Upstream,
        tls: Option<Arc<UpstreamTls>>,
        worker: usize,
        former: Option<&Self>,
    ) -> Self {
        let server = |name: Arc<str>, target| {
            Rc::new(Server {
                name,
                target,
                idle: RefCell::default(),
                idle_max: settings.keepalive_connections_max,
                sessions: Sessions::default(),
                chose_h1: Cell::new(false),
                active: Cell::new(0),
                complaints: Complaints::default(),
            })
        };
        let (mut servers, weights) = match &settings.kind {
            config::UpstreamKind::Echo => (vec![server("echo".into(), Target::Echo)], vec![1]),
            config::UpstreamKind::Servers(list) => list
                .iter()
                .map(|one| {
                    let dialer = Dialer::new(one.address.clone(), secure(settings, &tls, one));
                    (server(one.address.to_string().into(), Target::Dial(dialer)), one.weight)
                })
                .unzip(),
        };
        // Connections were made by the roots and the certificate of then.
        let same = |former: &&Self| {
            let pointer = |tls: &Option<Arc<UpstreamTls>>| tls.as_ref().map(Arc::as_ptr);
            former.settings == *settings && pointer(&former.tls) == pointer(&tls)
        };
        if let Some(former) = former.filter(same) {
            servers.clone_from(&former.servers);
        }
        let balancer = Balancer::new(settings.balance, &weights, worker);
        Self { settings: settings.clone(), index, servers, balancer, tls }
    }

    /// Indexes of the servers: the one whose turn it is, and then the others, to be asked when it
    /// cannot be reached.
    pub fn in_turn(&self) -> impl Iterator<Item = usize> {
        let (first, count) = (self.balancer.pick(), self.servers.len());
        (first..first + count).map(move |turn| turn % count)
    }

    /// Lends a connection to a server: an idle one if there is one that looks alive, else a new one.
    pub async fn lend(
        &self,
        index: usize,
        need: Need,
        timer: &Timer,
        now: Instant,
    ) -> Result<Lease, RequestError> {
        let server = self.servers.get(index).ok_or(RequestError::Connect)?;
        let Need { sure, fresh, upgradable } = need;
        let shared = match self.settings.protocol {
            config::UpstreamProtocol::H1 => false,
            config::UpstreamProtocol::H2 => true,
            // Until one of its servers has chosen otherwise.
            config::UpstreamProtocol::Auto => {
                self.tls.is_some() && !server.chose_h1.get() && !upgradable
            }
        };
        if shared && let Some(lease) = self.lend_place(server, timer, now, None).await? {
            return Ok(lease);
        }
        if !fresh && let Some(connection) = server.take_idle(sure) {
            return Ok(Lease::new(connection, true, server));
        }
        let h1 = if upgradable { self.secure(index) } else { None };
        match self.dial(server, h1, timer).await {
            // It has chosen otherwise before.
            Ok(Connection { stream, .. }) if stream.alpn() == Some(b"h2") => {
                server.chose_h1.set(false);
                let lease = self.lend_place(server, timer, now, Some(stream)).await?;
                lease.ok_or(RequestError::Unprocessed)
            }
            Ok(connection) => Ok(Lease::new(connection, false, server)),
            Err(failure) => Err(self.complain(server, failure, now)),
        }
    }

    /// Lends a place on a connection of HTTP/2, or a connection to a server that chose HTTP/1.1. None, if
    /// that was found out by another request. `made` is taken in place of a connection to be made.
    async fn lend_place(
        &self,
        server: &Rc<Server>,
        timer: &Timer,
        now: Instant,
        made: Option<Stream>,
    ) -> Result<Option<Lease>, RequestError> {
        let may_choose = self.settings.protocol == config::UpstreamProtocol::Auto;
        let dial = async || {
            let stream = match made {
                Some(stream) => stream,
                None => self.dial(server, None, timer).await?.stream,
            };
            let chosen = !may_choose || stream.alpn() == Some(b"h2");
            server.chose_h1.set(!chosen);
            Ok((stream, chosen))
        };
        let is_alone = || server.chose_h1.get();
        let wait = self.settings.connect_timeout;
        let pings = self.settings.pings;
        let taken = server.sessions.take(wait, pings, timer, is_alone, dial).await;
        Ok(match taken.map_err(|failure| self.complain(server, failure, now))? {
            Taken::Neither => None,
            Taken::Alone(stream) => Some(Lease::new(Connection::new(stream), false, server)),
            Taken::Place(slot, reused) => {
                let stream = slot.stream().ok_or(RequestError::Unprocessed)?;
                let connection = Connection::new(stream);
                Some(Lease { connection, reused, home: Held::Place(slot) })
            }
        })
    }

    fn complain(&self, server: &Server, failure: DialError, now: Instant) -> RequestError {
        let DialError { error, detail } = failure;
        if let Some(unsaid) = server.complaints.next(now) {
            let (upstream, name) = (&self.settings.name, &server.name);
            let more = if unsaid == 0 { String::new() } else { format!(", {unsaid} times before") };
            let why = detail.as_ref().map_or(String::new(), |why| format!(": {why}"));
            log::warn!(target: "upstream", "{upstream}: server {name}: {error}{why}{more}");
        }
        error
    }

    /// Makes a connection; with TLS as `secure` says, if it says how.
    async fn dial(
        &self,
        server: &Server,
        secure: Option<Secure>,
        timer: &Timer,
    ) -> Result<Connection, DialError> {
        let dialer = match &server.target {
            Target::Echo => {
                let connected = echo::connect().map(Connection::new);
                return connected.map_err(|_| RequestError::Connect.into());
            }
            Target::Dial(dialer) => dialer,
        };
        timer.arm(self.settings.connect_timeout);
        let mut connecting = pin!(dialer.connect_with(secure.as_ref().or(dialer.secure())));
        let stream = poll_fn(|cx| {
            if timer.is_due() {
                return Poll::Ready(Err(RequestError::ConnectTimeout.into()));
            }
            connecting.as_mut().poll(cx)
        })
        .await?;
        Ok(Connection::new(stream))
    }

    /// How to speak TLS with the server of this index, and HTTP/1.1 over it.
    pub fn secure(&self, index: usize) -> Option<Secure> {
        let Target::Dial(dialer) = &self.servers.get(index)?.target else { return None };
        let name = dialer.secure()?.name.clone();
        Some(Secure { config: Arc::clone(&self.tls.as_ref()?.config_h1), name })
    }

    /// Closes connections that have been idle for too long, or that the server has closed.
    pub fn sweep(&self, now: Instant) {
        let limit: Duration = self.settings.keepalive_idle;
        for server in &self.servers {
            server.sessions.sweep(now, limit);
            server.idle.borrow_mut().retain(|idle| {
                !idle.connection.stream.is_readable()
                    && now.saturating_duration_since(idle.since) < limit
            });
        }
    }

    /// Closes every idle connection.
    pub fn close_idle(&self) {
        for server in &self.servers {
            server.close_idle();
        }
    }

    /// Closes every idle connection that no other generation has taken over.
    pub fn close_idle_unless_shared(&self) {
        for server in self.servers.iter().filter(|server| Rc::strong_count(server) == 1) {
            server.close_idle();
        }
    }

    /// Name of a server.
    pub fn server_name(&self, server: usize) -> Option<&Arc<str>> {
        self.servers.get(server).map(|server| &server.name)
    }

    /// Name, active and idle connections of each server.
    pub fn connections(&self) -> impl Iterator<Item = (&Arc<str>, usize, usize)> {
        self.servers.iter().map(|server| {
            let (active, idle) = server.sessions.count();
            (&server.name, server.active.get() + active, server.idle.borrow().len() + idle)
        })
    }
}

/// What is needed to speak TLS with a server.
fn secure(
    settings: &config::Upstream,
    tls: &Option<Arc<UpstreamTls>>,
    server: &config::Server,
) -> Option<Secure> {
    let name = tls::server_name(settings.tls.as_ref()?, &server.address);
    Some(Secure { config: Arc::clone(&tls.as_ref()?.config), name: name? })
}

impl Server {
    fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        self.sessions.close();
    }

    fn take_idle(&self, sure: bool) -> Option<Connection> {
        loop {
            let Idle { connection, doubtful, .. } = self.idle.borrow_mut().pop()?;
            // Whatever has arrived on an idle connection is not the answer to the next request.
            let unusable = connection.stream.is_readable()
                || ((sure || doubtful) && connection.stream.is_dead());
            if !unusable {
                return Some(connection);
            }
        }
    }
}

impl Complaints {
    /// Says whether the log may have a line, and how many it did not have before.
    fn next(&self, now: Instant) -> Option<u64> {
        const PAUSE: Duration = Duration::from_secs(1);
        if self.last.get().is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.unsaid.take())
    }
}

impl Lease {
    fn new(connection: Connection, reused: bool, home: &Rc<Server>) -> Self {
        Self { connection, reused, home: Held::Alone(Active::new(home)) }
    }

    /// The server takes too long, or takes no more. Others that share the connection may have the same in
    /// store, so no more are put on it.
    pub fn suspect(&self) {
        if let Held::Place(slot) = &self.home {
            slot.suspect();
        }
    }

    /// Gives the connection back for the next request. To be called only when the response has been
    /// read to its end and the server keeps the connection open. `doubtful`: the response had no body by
    /// rule.
    pub fn give_back(self, doubtful: bool, now: Instant) {
        let Self { connection, home: Held::Alone(home), .. } = self else { return };
        // More than was asked for: it cannot be told whose answer that would be.
        if connection.inbox.is_some() {
            return;
        }
        let mut idle = home.0.idle.borrow_mut();
        if idle.len() < home.0.idle_max {
            idle.push(Idle { connection, since: now, doubtful });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand requests a second to a dead server are not ten thousand lines.
    #[test]
    fn a_server_that_fails_is_complained_of_once_a_second() {
        let complaints = Complaints::default();
        let start = Instant::now();
        let after = |millis| complaints.next(start + Duration::from_millis(millis));

        assert_eq!([after(0), after(1), after(999)], [Some(0), None, None]);
        assert_eq!([after(1000), after(1500), after(2500)], [Some(2), None, Some(1)]);
    }
}
