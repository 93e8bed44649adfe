//! The floor: a relay that moves bytes between a client and the origin and looks at none of them.
//!
//! One thread, epoll; for each client one connection to the origin. With `--splice` the bytes go
//! through a pipe and never enter this process. Nothing is parsed, pooled, limited or counted: no
//! proxy that understands HTTP can be expected below it, but where connections upstream are reused.
//!
//! Not here: anything that would make it a proxy.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use rustix::event::epoll::EventFlags;
use rustix::net::Shutdown;
use zproxy::load::sockets::{self, Interest, Moved, Poll};

use crate::args::Flags;

/// One receive.
const SCRATCH_BYTES: usize = 256 << 10;
/// A pipe, and one splice.
const PIPE_BYTES: usize = 1 << 20;
/// As the proxies have it: a connection is accepted with its first bytes.
const DEFER_SECONDS: u16 = 10;
/// The listener's key; a side of a pair has twice the pair's number, or that and one.
const LISTENER: u64 = u64::MAX;

/// `zproxy-benches relay`: relays until it is killed.
pub(crate) fn command(arguments: Vec<String>) -> Result<()> {
    let mut flags = Flags::parse(arguments, &["splice"])?;
    let port = flags.within("port", 0..=u16::MAX)?.unwrap_or(0);
    let origin = flags.text("origin").context("--origin ADDR:PORT is missing")?;
    let origin = origin.parse().with_context(|| format!("--origin {origin}: not ADDR:PORT"))?;
    let splice = flags.switch("splice");
    flags.finish()?;
    zproxy::sys::raise_descriptor_limit();
    let (listener, address) = sockets::listen(port)?;
    zproxy::sys::set_tcp_defer_accept(&listener, DEFER_SECONDS)?;
    println!("{address}");
    let scratch = vec![0; SCRATCH_BYTES];
    Relay { listener, origin, splice, poll: Poll::new()?, pairs: vec![], free: vec![], scratch }
        .serve()
}

struct Relay {
    listener: OwnedFd,
    origin: SocketAddr,
    splice: bool,
    poll: Poll,
    pairs: Vec<Option<[Side; 2]>>,
    /// Places in `pairs` that are empty.
    free: Vec<usize>,
    scratch: Vec<u8>,
}

/// Client or origin.
struct Side {
    socket: OwnedFd,
    /// Has ended its side.
    ended: bool,
    /// On its way to this side.
    held: Held,
}

enum Held {
    Bytes(Vec<u8>),
    /// Both ends, and how much is in it.
    Pipe(OwnedFd, OwnedFd, usize),
}

/// Says that a pair is over.
struct Gone;

impl Relay {
    fn serve(&mut self) -> Result<()> {
        self.poll.add(&self.listener, LISTENER, Interest::Read)?;
        let mut events = Vec::with_capacity(512);
        loop {
            self.poll.wait(&mut events, None)?;
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    key => self.turn(usize::try_from(key)?, event.flags),
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        while let Some(client) = sockets::accept(&self.listener).context("accept")? {
            let Ok(origin) = sockets::connect(self.origin) else { continue };
            let place = self.free.pop().unwrap_or_else(|| {
                self.pairs.push(None);
                self.pairs.len() - 1
            });
            self.poll.add(&client, place as u64 * 2, Interest::ReadWrite)?;
            self.poll.add(&origin, place as u64 * 2 + 1, Interest::ReadWrite)?;
            self.pairs[place] = Some([self.side(client)?, self.side(origin)?]);
        }
        Ok(())
    }

    fn side(&self, socket: OwnedFd) -> Result<Side> {
        let held = if self.splice {
            let (read, write) = zproxy::sys::pipe(PIPE_BYTES, PIPE_BYTES)?;
            Held::Pipe(read, write, 0)
        } else {
            Held::Bytes(Vec::new())
        };
        Ok(Side { socket, ended: false, held })
    }

    /// Moves what one side's events allow: from it, and to it.
    fn turn(&mut self, key: usize, flags: EventFlags) {
        let Some(pair) = self.pairs[key / 2].as_mut() else { return };
        let [client, origin] = pair;
        let (own, other) = if key.is_multiple_of(2) { (client, origin) } else { (origin, client) };
        let mut done = Ok(());
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
        {
            let ended = !flags.difference(EventFlags::IN | EventFlags::OUT).is_empty();
            done = own.pump_to(other, &mut self.scratch, ended);
        }
        if done.is_ok() && flags.contains(EventFlags::OUT) && own.has_held() {
            done = other.pump_to(own, &mut self.scratch, true);
        }
        if done.is_err() || (own.ended && other.ended && !own.has_held() && !other.has_held()) {
            self.pairs[key / 2] = None;
            self.free.push(key / 2);
        }
    }
}

impl Side {
    fn has_held(&self) -> bool {
        match &self.held {
            Held::Bytes(bytes) => !bytes.is_empty(),
            Held::Pipe(_, _, count) => *count > 0,
        }
    }

    /// Moves bytes to the other side until there are none, or it takes no more; `to_the_end` when
    /// there may be an end behind the last byte.
    fn pump_to(
        &mut self,
        other: &mut Self,
        scratch: &mut [u8],
        to_the_end: bool,
    ) -> Result<(), Gone> {
        while other.flush()? && !self.ended {
            let moved = match &mut other.held {
                Held::Bytes(held) => match sockets::receive(&self.socket, scratch) {
                    Moved::Bytes(count) => {
                        let sent = send(&other.socket, &scratch[..count])?;
                        held.extend_from_slice(&scratch[sent..count]);
                        if count < scratch.len() && !to_the_end {
                            // A short read emptied the socket.
                            return Ok(());
                        }
                        Moved::Bytes(count)
                    }
                    other => other,
                },
                Held::Pipe(_, write, count) => {
                    let moved = spliced(zproxy::sys::splice(&self.socket, &*write, PIPE_BYTES));
                    if let Moved::Bytes(more) = moved {
                        *count += more;
                    }
                    moved
                }
            };
            match moved {
                Moved::Bytes(_) => {}
                Moved::Later => return Ok(()),
                Moved::End => {
                    self.ended = true;
                    // Fails when that side has gone, which its own events tell.
                    let _ = rustix::net::shutdown(&other.socket, Shutdown::Write);
                }
                Moved::Broken => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Sends what is held; says whether nothing is left.
    fn flush(&mut self) -> Result<bool, Gone> {
        match &mut self.held {
            Held::Bytes(held) if held.is_empty() => {}
            Held::Bytes(held) => {
                let sent = send(&self.socket, held)?;
                held.drain(..sent);
            }
            Held::Pipe(read, _, count) => {
                while *count > 0 {
                    match spliced(zproxy::sys::splice(&*read, &self.socket, *count)) {
                        Moved::Bytes(moved) => *count -= moved,
                        Moved::Later => break,
                        Moved::End | Moved::Broken => return Err(Gone),
                    }
                }
            }
        }
        Ok(!self.has_held())
    }
}

/// Sends as far as the kernel takes it.
fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Gone> {
    let mut sent = 0;
    while sent < bytes.len() {
        match sockets::send(socket, &bytes[sent..]) {
            Moved::Bytes(count) => sent += count,
            Moved::Later => break,
            Moved::End | Moved::Broken => return Err(Gone),
        }
    }
    Ok(sent)
}

fn spliced(result: std::io::Result<usize>) -> Moved {
    match result {
        Ok(0) => Moved::End,
        Ok(count) => Moved::Bytes(count),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Moved::Later,
        Err(_) => Moved::Broken,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::origin;

    fn relay(splice: bool) -> SocketAddr {
        let (listener, address) = sockets::listen(0).unwrap();
        let origin = origin::in_background().unwrap();
        std::thread::spawn(move || {
            let (poll, scratch) = (Poll::new().unwrap(), vec![0; 1_000]);
            let (pairs, free) = (vec![], vec![]);
            Relay { listener, origin, splice, poll, pairs, free, scratch }.serve()
        });
        address
    }

    /// Large both ways, with both sides' buffers full in between, and the end passed on.
    #[test]
    fn everything_arrives_and_then_the_end() {
        for splice in [false, true] {
            let mut client = TcpStream::connect(relay(splice)).unwrap();
            let body = origin::letters(3 << 20);
            let head = format!("POST /9m HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());

            client.write_all(head.as_bytes()).unwrap();
            client.write_all(&body).unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();

            assert!(answer.len() > (9 << 20) + 100, "{}", answer.len());
            assert!(memchr::memmem::find(&answer, b"Content-Length: 100\r").is_some());
        }
    }
}
