//! The server behind every proxy: one thread that answers from memory.
//!
//! `/` and all unknown targets give 100 bytes; `/<n>k` and `/<n>m` give that many KiB or MiB, in
//! a response made once and sent from the same memory ever after. A request body of known length
//! is drained, then answered. `/events` begins a stream of events that never ends: one comes at once, and another on
//! every stream whenever somebody asks for `/turn`. `Upgrade: websocket` turns a connection into one that echoes frames.
//! One receive and one send a request: far cheaper than any proxy, so that it never sets the pace.
//!
//! Not here: chunked requests (501), HEAD, and whatever else no scenario sends.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use anyhow::{Context, Result};
use rustix::event::epoll::EventFlags;

use zproxy::load::head::{self, Head};
use zproxy::load::sockets::{self, Interest, Moved, Poll};

use crate::args::Flags;
use crate::websocket;

/// Body of the small response.
const SMALL_BODY_BYTES: usize = 100;
/// Largest body that a target may ask for: a typing error must not take the machine's memory.
const BODY_BYTES_MAX: usize = 64 << 20;
/// One receive; larger than any request head and than the 64 KiB bodies that scenarios post.
const SCRATCH_BYTES: usize = 128 << 10;
/// A head that has not ended by then will not.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The listener's key; connections are numbered from 0.
const LISTENER: u64 = u64::MAX;

/// `zproxy-benches origin`: serves until it is killed.
pub(crate) fn command(arguments: Vec<String>) -> Result<()> {
    let mut flags = Flags::parse(arguments, &[])?;
    let port = flags.within("port", 0..=u16::MAX)?.unwrap_or(0);
    flags.finish()?;
    zproxy::sys::raise_descriptor_limit();
    let mut origin = Origin::bind(port)?;
    println!("{}", origin.address());
    origin.serve()
}

/// The listener and its connections.
pub(crate) struct Origin {
    listener: OwnedFd,
    address: SocketAddr,
    poll: Poll,
    connections: Vec<Option<Connection>>,
    /// Places in `connections` that are empty.
    free: Vec<usize>,
    responses: Responses,
    scratch: Vec<u8>,
}

/// One connection of a proxy.
struct Connection {
    socket: OwnedFd,
    /// A head of which only the beginning has come.
    partial: Vec<u8>,
    /// Bytes of a request body still to come, and the answer that waits for them.
    draining: Option<(u64, Rc<[u8]>)>,
    /// Responses that the kernel has not taken whole, and how much of the first it has.
    unsent: VecDeque<Rc<[u8]>>,
    sent: usize,
    /// Ends when everything is sent.
    close: bool,
    /// Carries WebSocket frames from now on.
    in_tunnel: bool,
    /// Carries events from now on.
    in_stream: bool,
}

/// Says that a connection is over.
struct Gone;

impl Origin {
    /// Listens on 127.0.0.1; port 0 takes a free one.
    pub(crate) fn bind(port: u16) -> Result<Self> {
        let (listener, address) =
            sockets::listen(port).with_context(|| format!("cannot listen on port {port}"))?;
        let poll = Poll::new()?;
        poll.add(&listener, LISTENER, Interest::Read)?;
        Ok(Self {
            listener,
            address,
            poll,
            connections: Vec::new(),
            free: Vec::new(),
            responses: Responses::new(),
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for ever; returns only when the system refuses to go on.
    pub(crate) fn serve(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(512);
        loop {
            self.poll.wait(&mut events, None)?;
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    key => self.turn(usize::try_from(key)?, event.flags),
                }
            }
            if std::mem::take(&mut self.responses.turn) {
                for connection in self.connections.iter_mut().flatten().filter(|one| one.in_stream)
                {
                    // One that has gone says so by itself.
                    let _ = connection.answer(self.responses.event.clone());
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        while let Some(socket) = sockets::accept(&self.listener).context("accept")? {
            let place = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poll.add(&socket, place as u64, Interest::ReadWrite)?;
            self.connections[place] = Some(Connection {
                socket,
                partial: Vec::new(),
                draining: None,
                unsent: VecDeque::new(),
                sent: 0,
                close: false,
                in_tunnel: false,
                in_stream: false,
            });
        }
        Ok(())
    }

    /// Does for one connection what its events allow.
    fn turn(&mut self, place: usize, flags: EventFlags) {
        let Some(connection) = self.connections[place].as_mut() else { return };
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let mut done = connection.flush();
        if done.is_ok() && flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            done = connection.read(&mut self.scratch, &mut self.responses, ended);
        }
        let finished = done.is_err()
            || flags.intersects(EventFlags::HUP | EventFlags::ERR)
            || (connection.close && connection.unsent.is_empty());
        if finished {
            self.connections[place] = None;
            self.free.push(place);
        }
    }
}

impl Connection {
    /// Reads until the socket is empty, to the end when the peer has `ended` its side.
    fn read(
        &mut self,
        scratch: &mut [u8],
        responses: &mut Responses,
        ended: bool,
    ) -> Result<(), Gone> {
        loop {
            let count = match sockets::receive(&self.socket, scratch) {
                Moved::Bytes(count) => count,
                Moved::Later => return Ok(()),
                Moved::End | Moved::Broken => return Err(Gone),
            };
            if self.partial.is_empty() {
                self.take(&scratch[..count], responses)?;
            } else {
                let mut bytes = std::mem::take(&mut self.partial);
                bytes.extend_from_slice(&scratch[..count]);
                self.take(&bytes, responses)?;
            }
            // A short read emptied the socket: the next bytes bring their own event.
            if count < scratch.len() && !ended {
                return Ok(());
            }
        }
    }

    /// Answers every request in `bytes`; keeps the beginning of one that is not whole.
    fn take(&mut self, mut bytes: &[u8], responses: &mut Responses) -> Result<(), Gone> {
        loop {
            if let Some((left, response)) = self.draining.take() {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[here..];
                let left = left - here as u64;
                if left > 0 {
                    self.draining = Some((left, response));
                    return Ok(());
                }
                self.answer(response)?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            if self.in_tunnel {
                let Some((frame, rest)) = bytes.split_first_chunk() else {
                    self.partial = bytes.to_vec();
                    return Ok(());
                };
                self.answer(websocket::echo(frame).into())?;
                bytes = rest;
                continue;
            }
            let Some(head) = head::find_head(bytes) else {
                self.partial = bytes.to_vec();
                return if bytes.len() > HEAD_BYTES_MAX { Err(Gone) } else { Ok(()) };
            };
            self.close |= head.close;
            let response = responses.find(&head);
            self.in_tunnel = is_upgrade(&bytes[..head.bytes]);
            self.in_stream |= Rc::ptr_eq(&response, &responses.events);
            let response = if self.in_tunnel { websocket::accepted().into() } else { response };
            bytes = &bytes[head.bytes..];
            self.draining = Some((head.content_length.unwrap_or(0), response));
        }
    }

    fn answer(&mut self, response: Rc<[u8]>) -> Result<(), Gone> {
        self.unsent.push_back(response);
        if self.unsent.len() == 1 { self.flush() } else { Ok(()) }
    }

    /// Sends what waits, as far as the kernel takes it.
    fn flush(&mut self) -> Result<(), Gone> {
        while let Some(response) = self.unsent.front() {
            match sockets::send(&self.socket, &response[self.sent..]) {
                Moved::Bytes(count) if self.sent + count < response.len() => self.sent += count,
                Moved::Bytes(_) => {
                    self.sent = 0;
                    self.unsent.pop_front();
                }
                Moved::Later => return Ok(()),
                Moved::End | Moved::Broken => return Err(Gone),
            }
        }
        Ok(())
    }
}

/// Every response that was asked for once.
struct Responses {
    small: Rc<[u8]>,
    unsupported: Rc<[u8]>,
    sized: HashMap<Vec<u8>, Rc<[u8]>>,
    /// The head of an event stream and its first event.
    events: Rc<[u8]>,
    /// Another one.
    event: Rc<[u8]>,
    /// Somebody has asked for that.
    turn: bool,
}

/// An event, as a chunk.
pub(crate) const EVENT: &str = "9\r\ndata: 0\n\n\r\n";

impl Responses {
    fn new() -> Self {
        Self {
            small: response("200 OK", "no-store", SMALL_BODY_BYTES),
            unsupported: response("501 Not Implemented", "no-store", 0),
            sized: HashMap::new(),
            events: format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{EVENT}"
            )
            .into_bytes()
            .into(),
            event: EVENT.as_bytes().into(),
            turn: false,
        }
    }

    fn find(&mut self, head: &Head<'_>) -> Rc<[u8]> {
        let Some((method, target)) = head.method_and_target() else {
            return self.unsupported.clone();
        };
        if head.transfer_encoding || !matches!(method, b"GET" | b"POST" | b"PUT") {
            return self.unsupported.clone();
        }
        if target.len() < 3 {
            return self.small.clone();
        }
        if target == b"/events" {
            return self.events.clone();
        }
        self.turn |= target == b"/turn";
        if let Some(found) = self.sized.get(target) {
            return found.clone();
        }
        // What caches may keep; its date is long past, so that may be long.
        let (size, caching) = match target.strip_prefix(b"/cached") {
            Some(size) => (size, "max-age=2000000000"),
            None => (target, "no-store"),
        };
        let Some(body_bytes) = size_of_target(size) else { return self.small.clone() };
        let made = response("200 OK", caching, body_bytes);
        self.sized.insert(target.to_vec(), made.clone());
        made
    }
}

/// Whether a request asks for a tunnel, as load generator and proxies write it.
fn is_upgrade(head: &[u8]) -> bool {
    memchr::memmem::find(head, b"\nUpgrade: ").is_some()
        || memchr::memmem::find(head, b"\nupgrade: ").is_some()
}

/// The size that a target like `/100k` or `/10m` asks for.
fn size_of_target(target: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(target.strip_prefix(b"/")?).ok()?;
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1 << 10),
        None => (text.strip_suffix('m')?, 1 << 20),
    };
    let bytes = digits.parse::<usize>().ok()?.checked_mul(unit)?;
    (bytes <= BODY_BYTES_MAX).then_some(bytes)
}

/// A whole response: a head like those of small application servers, and letters.
fn response(status: &str, caching: &str, body_bytes: usize) -> Rc<[u8]> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nServer: origin\r\nDate: Tue, 01 Jul 2025 00:00:00 GMT\r\n\
         Content-Type: text/plain; charset=utf-8\r\nCache-Control: {caching}\r\n\
         Content-Length: {body_bytes}\r\n\r\n"
    )
    .into_bytes();
    bytes.extend(letters(body_bytes));
    bytes.into()
}

/// A body: so many letters of the alphabet, over and over.
pub(crate) fn letters(bytes: usize) -> Vec<u8> {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    let mut body = ALPHABET.repeat(bytes.div_ceil(ALPHABET.len()));
    body.truncate(bytes);
    body
}

/// An origin on a thread of its own.
pub(crate) fn in_background() -> Result<SocketAddr> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut origin = match Origin::bind(0) {
            Ok(origin) => origin,
            Err(error) => return sender.send(Err(error)),
        };
        let told = sender.send(Ok(origin.address()));
        if let Err(error) = origin.serve() {
            eprintln!("origin: {error:#}");
        }
        told
    });
    receiver.recv()?
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn exchange(request: &[u8]) -> String {
        let mut client = TcpStream::connect(in_background().unwrap()).unwrap();
        for part in request.chunks(40) {
            client.write_all(part).unwrap();
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn targets_with_a_size_are_told_from_others() {
        assert_eq!(size_of_target(b"/100k"), Some(102_400));
        assert_eq!(size_of_target(b"/10m"), Some(10 << 20));
        assert_eq!(size_of_target(b"/9999m"), None);
        assert_eq!(size_of_target(b"/talk"), None);
    }

    /// Proxies pipeline nothing, but pieces of requests come as they like.
    #[test]
    fn requests_in_a_row_are_answered_in_order_until_close() {
        let answer = exchange(
            b"GET /1k HTTP/1.1\r\nHost: a\r\n\r\n\
              POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n\
              01234567890123456789012345678901234567890123456789\
              GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );

        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3);
        assert!(answer.find("Content-Length: 1024") < answer.find("Content-Length: 100\r"));
    }

    #[test]
    fn event_streams_go_on_when_somebody_asks() {
        let address = in_background().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut until = |events: usize| {
            let mut seen = String::new();
            let mut part = [0; 1000];
            while seen.matches(EVENT).count() < events {
                let count = stream.read(&mut part).unwrap();
                seen.push_str(std::str::from_utf8(&part[..count]).unwrap());
            }
        };
        until(1);

        let mut other = TcpStream::connect(address).unwrap();
        other.write_all(b"GET /turn HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();

        until(1);
    }

    #[test]
    fn what_no_scenario_sends_is_refused() {
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";

        assert!(exchange(chunked).starts_with("HTTP/1.1 501"));
        assert!(exchange(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n").contains(" 501 "));
    }
}
