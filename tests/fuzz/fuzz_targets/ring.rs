//! Operations of a ring, begun, cancelled and forgotten in any order, on sockets whose peers send, read and leave at any
//! time: what arrives is what was sent, in order, what is held does not change, and every operation has a last word.

#![no_main]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use zproxy_fuzz::sys::uring::{Arrived, Ended, Key, Received, Ring};

const ENTRIES: u32 = 8;
const STEPS_MAX: usize = 300;

/// Turns after which everything that was cancelled must have ended.
const LAST_TURNS: usize = 100;

#[derive(Arbitrary, Debug)]
enum Step {
    Receive(u8),
    WatchRead(u8),
    Send(u8, u16),
    WatchWrite(u8),
    /// Of all operations so far, those that have ended as well.
    Cancel(u16),
    PeerSends(u8, u16),
    PeerReads(u8),
    PeerLeaves(u8),
    /// Drops what was received and is held.
    Release(u8),
    Turn,
    /// The ring ends with what is in it.
    End,
}

/// The near end of a socket, as the ring has it.
type Near = Rc<UnixStream>;

struct Socket {
    near: Near,
    far: Option<UnixStream>,
    reads: bool,
    writes: bool,
    /// What each side has sent and received, modulo 256: the next byte.
    far_sent: u8,
    near_received: u8,
    near_sent: u8,
    far_received: u8,
    /// A send was cut off, so what follows it is anywhere.
    torn: bool,
}

impl Socket {
    fn new() -> Self {
        let (near, far) = UnixStream::pair().expect("sockets");
        far.set_nonblocking(true).expect("a socket");
        Self {
            near: Rc::new(near),
            far: Some(far),
            reads: false,
            writes: false,
            far_sent: 0,
            near_received: 0,
            near_sent: 0,
            far_received: 0,
            torn: false,
        }
    }

    /// The peer takes what is there.
    fn drain(&mut self) {
        let Some(far) = &mut self.far else { return };
        let mut bytes = [0; 4096];
        loop {
            match far.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) if !self.torn => follow(&mut self.far_received, &bytes[..count]),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// These bytes are the next ones.
fn follow(next: &mut u8, bytes: &[u8]) {
    for byte in bytes {
        assert_eq!(byte, next, "another byte than was sent");
        *next = next.wrapping_add(1);
    }
}

fn pattern(next: &mut u8, count: usize) -> Vec<u8> {
    let first = *next;
    *next = next.wrapping_add(count as u8);
    (0..count).map(|at| first.wrapping_add(at as u8)).collect()
}

struct Run {
    ring: Ring<Near>,
    sockets: Vec<Socket>,
    keys: Vec<Key>,
    /// What was received, and a copy of it.
    held: VecDeque<(Received, Vec<u8>)>,
}

impl Run {
    fn new() -> Option<Self> {
        let sockets = (0..4).map(|_| Socket::new()).collect();
        Some(Self {
            ring: Ring::new(ENTRIES).ok()?,
            sockets,
            keys: Vec::new(),
            held: VecDeque::new(),
        })
    }

    fn turn(&mut self) {
        let mut ended = Vec::new();
        self.ring.turn(&mut ended);
        for (near, end) in ended {
            // Of a socket that was replaced since: nothing is known.
            let socket = self.sockets.iter_mut().find(|socket| Rc::ptr_eq(&socket.near, &near));
            match end {
                Ended::Read(end) => {
                    let Some(socket) = socket else { continue };
                    socket.reads = false;
                    if let Ok(Arrived::Bytes(bytes, _)) = end {
                        follow(&mut socket.near_received, &bytes);
                        let copy = bytes.to_vec();
                        self.held.push_back((bytes, copy));
                    }
                }
                Ended::Write(end) => {
                    let Some(socket) = socket else { continue };
                    socket.writes = false;
                    socket.torn |= end.is_err();
                }
            }
        }
    }

    fn step(&mut self, step: Step) {
        let Self { ring, sockets, keys, held } = self;
        let count = sockets.len();
        let of = |socket: u8| usize::from(socket) % count;
        match step {
            Step::Receive(socket) => {
                let socket = &mut sockets[of(socket)];
                if !socket.reads {
                    socket.reads = true;
                    keys.push(ring.receive(Rc::clone(&socket.near)));
                }
            }
            Step::WatchRead(socket) => {
                let socket = &mut sockets[of(socket)];
                if !socket.reads {
                    socket.reads = true;
                    keys.push(ring.watch_read(Rc::clone(&socket.near)));
                }
            }
            Step::Send(socket, size) => {
                let socket = &mut sockets[of(socket)];
                if !socket.writes && size > 0 {
                    socket.writes = true;
                    let bytes = pattern(&mut socket.near_sent, usize::from(size));
                    // The ring has a copy: this one goes at once.
                    keys.push(ring.send(Rc::clone(&socket.near), &bytes));
                }
            }
            Step::WatchWrite(socket) => {
                let socket = &mut sockets[of(socket)];
                if !socket.writes {
                    socket.writes = true;
                    keys.push(ring.watch_write(Rc::clone(&socket.near)));
                }
            }
            Step::Cancel(key) => {
                if let Some(key) = keys.get(usize::from(key) % keys.len().max(1)) {
                    ring.cancel(*key);
                }
            }
            Step::PeerSends(socket, size) => {
                let socket = &mut sockets[of(socket)];
                let Some(far) = &mut socket.far else { return };
                let mut next = socket.far_sent;
                match far.write(&pattern(&mut next, usize::from(size))) {
                    Ok(count) => socket.far_sent = socket.far_sent.wrapping_add(count as u8),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            Step::PeerReads(socket) => sockets[of(socket)].drain(),
            Step::PeerLeaves(socket) => {
                let socket = &mut sockets[of(socket)];
                match socket.far.take() {
                    Some(_) => socket.torn = true,
                    // The gateway drops its end, too: operations go on without anybody.
                    None => *socket = Socket::new(),
                }
            }
            Step::Release(count) => {
                for (received, copy) in held.drain(..held.len().min(usize::from(count))) {
                    assert_eq!(*received, *copy, "it was overwritten while it was held");
                }
            }
            Step::Turn => self.turn(),
            Step::End => {
                if let Some(next) = Self::new() {
                    let last = std::mem::replace(self, next);
                    let held = last.held;
                    drop(last.ring);
                    for (received, copy) in held {
                        assert_eq!(*received, *copy, "it went with the ring");
                    }
                }
            }
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let Some(mut run) = Run::new() else { return };
    for step in steps.into_iter().take(STEPS_MAX) {
        run.step(step);
    }
    for key in std::mem::take(&mut run.keys) {
        run.ring.cancel(key);
    }
    for _ in 0..LAST_TURNS {
        if run.ring.in_flight() == 0 {
            break;
        }
        run.turn();
    }
    assert_eq!(run.ring.in_flight(), 0, "an operation without a last word");
    assert_eq!(run.ring.buffers_held(), run.held.len());
    for (received, copy) in run.held.drain(..) {
        assert_eq!(*received, *copy, "it was overwritten while it was held");
    }
    for socket in &mut run.sockets {
        socket.drain();
    }
});
