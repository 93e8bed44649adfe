//! A site as programs and browsers use one: pages, uploads, event streams that go on when they are told
//! to, answers that never come.
//!
//! What must not wait in the gateway is shown without clocks: an event stream sends the next event when
//! a client that has seen the last one asks for it (`POST /turn?of=NAME`).

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};

use serde_json::json;

use crate::harness::{Body, Connection, DEADLINE, Message, Upstream, WireError};

/// Events of a stream.
pub const EVENTS: usize = 5;
/// Bytes of `/large`.
pub const LARGE_BYTES: usize = 8 << 20;

/// What is counted under a name.
#[derive(Default)]
struct Counts {
    counts: Mutex<HashMap<String, usize>>,
    changed: Condvar,
}

impl Counts {
    fn add(&self, name: &str) {
        *self.counts.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        self.changed.notify_all();
    }

    fn now(&self, name: &str) -> usize {
        self.counts.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// Waits until there are so many.
    fn reaches(&self, name: &str, count: usize) -> io::Result<()> {
        let low =
            |counts: &mut HashMap<String, usize>| counts.get(name).copied().unwrap_or(0) < count;
        let counts = self.counts.lock().unwrap();
        let waited = self.changed.wait_timeout_while(counts, DEADLINE, low).unwrap().1;
        if waited.timed_out() { Err(io::Error::other("nobody asks for more")) } else { Ok(()) }
    }
}

/// The site, with this page at `/page`.
pub fn start(page: &'static str) -> Upstream {
    let (turns, gone) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    Upstream::start(move |connection| {
        loop {
            let head = connection.request_head()?;
            answer(connection, head, page, &turns, &gone)?;
        }
    })
}

fn answer(
    connection: &mut Connection,
    head: Message,
    page: &str,
    turns: &Counts,
    gone: &Counts,
) -> io::Result<()> {
    let target = head.start.split(' ').nth(1).unwrap_or_default().to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let name = query.strip_prefix("of=").unwrap_or_default();
    if path == "/duplex" {
        return duplex(connection, &head);
    }
    let is_head = head.start.starts_with("HEAD ");
    let request = connection.rest_of(head)?;
    match path {
        "/page" => send(connection, "200 OK", "content-type: text/html; charset=utf-8\r\n", page),
        "/hello" if is_head => connection.try_send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        "/hello" => send(connection, "200 OK", "content-type: text/plain\r\n", "hello"),
        "/echo" => send(connection, "200 OK", "", &request.body),
        "/fields" => {
            send(connection, "200 OK", "content-type: application/json\r\n", json!(request.fields).to_string())
        }
        "/large" => send(connection, "200 OK", "", large()),
        "/empty" => connection.try_send("HTTP/1.1 204 No Content\r\n\r\n"),
        "/redirect" => send(connection, "302 Found", "location: /hello\r\n", ""),
        "/cookies" => send(connection, "200 OK", "set-cookie: a=1\r\nset-cookie: b=2; Path=/\r\n", ""),
        "/early" => {
            connection.try_send("HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n")?;
            send(connection, "200 OK", "", "late")
        }
        "/trailers" => connection.try_send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n",
        ),
        "/turn" => {
            turns.add(name);
            send(connection, "200 OK", "", "")
        }
        "/events" => events(connection, &request, name, turns),
        "/never" => {
            if !matches!(connection.take_rest(), Err(WireError::Late(_))) {
                gone.add(name);
            }
            Err(io::Error::other("nobody waits any more"))
        }
        "/gone" => send(connection, "200 OK", "", gone.now(name).to_string()),
        "/report" => send(connection, "200 OK", "", ""),
        _ => send(connection, "404 Not Found", "", "there is no such thing"),
    }
}

fn send(
    connection: &mut Connection,
    status: &str,
    fields: &str,
    body: impl AsRef<[u8]>,
) -> io::Result<()> {
    let body = body.as_ref();
    connection
        .try_send(format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n", body.len()))?;
    connection.try_send(body)
}

/// What no two parts of look alike.
pub fn large() -> Vec<u8> {
    (0..LARGE_BYTES).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect()
}

/// One event, then the next when its time has come; whoever comes back with the last one has all.
fn events(
    connection: &mut Connection,
    request: &Message,
    name: &str,
    turns: &Counts,
) -> io::Result<()> {
    let last = request.field("last-event-id").and_then(|id| id.parse().ok()).unwrap_or(0);
    if last == EVENTS {
        return connection.try_send("HTTP/1.1 204 No Content\r\n\r\n");
    }
    connection.try_send(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    for id in last + 1..=EVENTS {
        let event = format!("retry: 10\nid: {id}\ndata: event {id}\n\n");
        connection.try_send(format!("{:x}\r\n{event}\r\n", event.len()))?;
        turns.reaches(name, id)?;
    }
    connection.try_send("0\r\n\r\n")
}

/// Sends each part of the body back before the next one is there.
fn duplex(connection: &mut Connection, head: &Message) -> io::Result<()> {
    assert_eq!(head.framing, Body::Chunked, "{head:?}");
    if head.field("expect").is_some() {
        connection.try_send("HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    connection.try_send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let broken = |_| io::Error::other("the request broke off");
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(connection.take(1).map_err(broken)?);
        }
        let size = std::str::from_utf8(&line).unwrap().trim();
        let size = usize::from_str_radix(size, 16).unwrap();
        line.extend(connection.take(size).map_err(broken)?);
        line.extend(b"\r\n");
        connection.try_send(&line)?;
        // Some clients send this with the next part only.
        connection.take(2).map_err(broken)?;
        if size == 0 {
            return Ok(());
        }
    }
}
