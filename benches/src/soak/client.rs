//! The clients of a soak: some behave, most do not.

use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::content::{Broken, Content};
use super::link::Link;
use super::streams;
use super::wire::{self, Head};
use super::{Site, Targets};

/// What a client does, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// A few requests on one connection.
    Ask,
    /// A few requests at once on one connection.
    Pipeline,
    /// A body with a length.
    Upload,
    /// A body in chunks.
    UploadChunks,
    /// A body that waits to be asked for.
    Expect,
    /// Reads a large body a little at a time.
    ReadSlowly,
    /// Finishes sending before the answer comes.
    HalfClose,
    /// Gone in the middle of the answer.
    ResetDownload,
    /// Gone in the middle of a body of its own.
    ResetUpload,
    /// Gone in the middle of a head.
    ResetHead,
    /// Sends bytes that are no request.
    Garbage,
    /// Asks an upstream that dies in the middle.
    Dying,
    /// Asks an upstream that closes without an answer.
    Dead,
    /// Sends much through a tunnel and back.
    Tunnel,
    /// Gone in the middle of a tunnel.
    ResetTunnel,
    /// Connects, and that is all.
    Nothing,
    /// Many streams of one connection of HTTP/2, of which some are given up or die.
    Streams,
}

impl Deed {
    const ALL: [Self; 17] = [
        Self::Ask,
        Self::Pipeline,
        Self::Upload,
        Self::UploadChunks,
        Self::Expect,
        Self::ReadSlowly,
        Self::HalfClose,
        Self::ResetDownload,
        Self::ResetUpload,
        Self::ResetHead,
        Self::Garbage,
        Self::Dying,
        Self::Dead,
        Self::Tunnel,
        Self::ResetTunnel,
        Self::Nothing,
        Self::Streams,
    ];
}

/// What became of a deed.
#[derive(Debug)]
pub(super) enum Outcome {
    /// What should happen.
    Fine,
    /// No connection, or none that reached anybody, between two processes.
    Refused,
    /// No connection, or it was lost where it should not have been.
    Lost(String),
    /// Another byte, another answer, an end that looks whole and is not.
    Wrong(String),
}

/// A client that does one thing after another.
pub(super) struct Client {
    targets: Arc<Targets>,
    secure: Arc<ClientConfig>,
    random: fastrand::Rng,
    /// When it began to connect, the last time.
    connected: Instant,
}

pub(super) type Done = Result<(), Outcome>;

fn lost(what: &'static str) -> impl Fn(io::Error) -> Outcome {
    move |error| Outcome::Lost(format!("{what}: {error}"))
}

impl Client {
    pub(super) fn new(targets: Arc<Targets>, secure: Arc<ClientConfig>, seed: u64) -> Self {
        Self { targets, secure, random: fastrand::Rng::with_seed(seed), connected: Instant::now() }
    }

    /// One deed, and what became of it.
    pub(super) fn act(&mut self) -> (Deed, Outcome) {
        // Every second time an honest one: the load that all others are to disturb.
        let deed = if self.random.bool() { Deed::Ask } else { Deed::ALL[self.random.usize(..17)] };
        let done = match deed {
            Deed::Ask => self.ask(),
            Deed::Pipeline => self.pipeline(),
            Deed::Upload => self.upload(false, false),
            Deed::UploadChunks => self.upload(true, false),
            Deed::Expect => self.upload(false, true),
            Deed::ReadSlowly => self.read_slowly(),
            Deed::HalfClose => self.half_close(),
            Deed::ResetDownload => self.reset_download(),
            Deed::ResetUpload => self.reset_upload(),
            Deed::ResetHead => self.reset_head(),
            Deed::Garbage => self.garbage(),
            Deed::Dying => self.dying(),
            Deed::Dead => self.dead(),
            Deed::Tunnel => self.tunnel(true),
            Deed::ResetTunnel => self.tunnel(false),
            Deed::Nothing => self.connect().map(drop),
            Deed::Streams => {
                self.connected = Instant::now();
                streams::run(self.targets.plain, &mut self.random)
            }
        };
        let outcome = match done {
            Ok(()) => Outcome::Fine,
            Err(Outcome::Lost(_)) if self.targets.may_refuse(self.connected) => {
                std::thread::sleep(Duration::from_millis(20));
                Outcome::Refused
            }
            Err(outcome) => outcome,
        };
        (deed, outcome)
    }

    /// Over TLS every third time.
    fn connect(&mut self) -> Result<BufReader<Link>, Outcome> {
        self.connected = Instant::now();
        let link = if self.random.u8(..3) == 0 {
            Link::secure(self.targets.secure, &self.secure)
        } else {
            Link::plain(self.targets.plain)
        };
        Ok(BufReader::with_capacity(16 * 1024, link.map_err(lost("connect"))?))
    }

    /// A site, and what is asked for there: what a cache is to have kept is asked for again and again.
    fn wish(&mut self) -> (Site, u64, u64, &'static str) {
        let site = self.targets.sites[self.random.usize(..self.targets.sites.len())];
        if site != Site::Cached {
            return (site, self.random.u64(..), self.length(), self.manner());
        }
        let seed = self.random.u64(..500);
        (
            site,
            seed,
            seed * seed * 7 % 300_000,
            if seed.is_multiple_of(2) { "length" } else { "chunked" },
        )
    }

    /// Small ones mostly, some large enough for every way through the gateway.
    fn length(&mut self) -> u64 {
        match self.random.u8(..20) {
            0 => self.random.u64(1_000_000..4_000_000),
            1..=3 => self.random.u64(60_000..300_000),
            4 => 0,
            _ => self.random.u64(1..4000),
        }
    }

    fn manner(&mut self) -> &'static str {
        if self.random.bool() { "length" } else { "chunked" }
    }

    fn ask(&mut self) -> Done {
        let mut stream = self.connect()?;
        for _ in 0..self.random.usize(1..8) {
            let (site, seed, length, manner) = self.wish();
            self.send(&mut stream, site, "GET", seed, length, manner, "")?;
            if !expect_content(&mut stream, seed, length)? {
                stream = self.connect()?;
            }
        }
        let (seed, length) = (self.random.u64(..), self.length());
        self.send(&mut stream, Site::Plain, "GET", seed, length, "close", "")?;
        expect_content(&mut stream, seed, length).map(drop)
    }

    fn pipeline(&mut self) -> Done {
        let mut stream = self.connect()?;
        let mut asked = Vec::new();
        for _ in 0..self.random.usize(2..8) {
            let (site, seed, length, manner) = self.wish();
            self.send(&mut stream, site, "GET", seed, length, manner, "")?;
            asked.push((seed, length));
        }
        for (seed, length) in asked {
            if !expect_content(&mut stream, seed, length)? {
                // A gateway that drains answers what it has begun with, and no more.
                break;
            }
        }
        Ok(())
    }

    fn upload(&mut self, chunks: bool, expects: bool) -> Done {
        let mut stream = self.connect()?;
        for _ in 0..self.random.usize(1..4) {
            let (seed, length) = (self.random.u64(..), self.length());
            let mut content = Content::new(seed, length);
            let mut fields = if chunks {
                "Transfer-Encoding: chunked\r\n".to_owned()
            } else {
                format!("Content-Length: {length}\r\n")
            };
            if expects {
                fields.push_str("Expect: 100-continue\r\n");
            }
            let site = self.targets.sites[self.random.usize(..self.targets.sites.len())];
            self.send(&mut stream, site, "POST", seed, length, "upload", &fields)?;
            if expects && length > 0 {
                let head = read_head(&mut stream)?;
                if head.status() != 100 {
                    return Err(Outcome::Wrong(format!("no go-ahead: {head:?}")));
                }
            }
            let sent = if chunks {
                content.send_chunks(stream.get_mut(), 3000)
            } else {
                content.send(stream.get_mut())
            };
            sent.map_err(lost("upload"))?;
            let mut head = read_head(&mut stream)?;
            while head.status() == 100 {
                head = read_head(&mut stream)?;
            }
            check_head(&head, seed)?;
            if head.says_close() {
                stream = self.connect()?;
            }
        }
        Ok(())
    }

    fn read_slowly(&mut self) -> Done {
        let mut stream = self.connect()?;
        let (seed, length) = (self.random.u64(..), self.random.u64(500_000..3_000_000));
        self.send(&mut stream, Site::Plain, "GET", seed, length, "length", "")?;
        let head = read_head(&mut stream)?;
        check_head(&head, seed)?;
        let mut content = Content::new(seed, length);
        let mut block = [0; 4096];
        for _ in 0..20 {
            let count = stream.read(&mut block).map_err(lost("slow read"))?;
            content.check(&block[..count]).map_err(broken)?;
            std::thread::sleep(Duration::from_millis(self.random.u64(..20)));
        }
        // Half of them stay to the end.
        if self.random.bool() { content.receive(&mut stream).map_err(broken) } else { Ok(()) }
    }

    fn half_close(&mut self) -> Done {
        let mut stream = self.connect()?;
        let (seed, length, manner) = (self.random.u64(..), self.length(), self.manner());
        self.send(&mut stream, Site::Plain, "GET", seed, length, manner, "")?;
        stream.get_mut().finish().map_err(lost("shutdown"))?;
        expect_content(&mut stream, seed, length).map(drop)
    }

    fn reset_download(&mut self) -> Done {
        let mut stream = self.connect()?;
        let (seed, length, manner) =
            (self.random.u64(..), self.random.u64(200_000..4_000_000), self.manner());
        self.send(&mut stream, Site::Plain, "GET", seed, length, manner, "")?;
        let mut block = vec![0; self.random.usize(1..100_000)];
        let _ = stream.read(&mut block).map_err(lost("read"))?;
        reset(&stream)
    }

    fn reset_upload(&mut self) -> Done {
        let mut stream = self.connect()?;
        let (seed, length) = (self.random.u64(..), self.random.u64(200_000..4_000_000));
        let fields = format!("Content-Length: {length}\r\n");
        self.send(&mut stream, Site::Plain, "POST", seed, length, "upload", &fields)?;
        let mut part = Content::new(seed, self.random.u64(..length));
        // The gateway may have had enough of it.
        let _ = part.send(stream.get_mut());
        reset(&stream)
    }

    fn reset_head(&mut self) -> Done {
        let mut stream = self.connect()?;
        stream.get_mut().write_all(b"GET /1/1/length HTTP/1.1\r\nHo").map_err(lost("write"))?;
        reset(&stream)
    }

    fn garbage(&mut self) -> Done {
        let mut stream = self.connect()?;
        let mut bytes = vec![0; self.random.usize(1..3000)];
        self.random.fill(&mut bytes);
        bytes.extend_from_slice(b"\r\n\r\n");
        // It may close before it has read all of this.
        let _ = stream.get_mut().write_all(&bytes);
        match Head::read(&mut stream) {
            Ok(Some(head)) if !(400..=505).contains(&head.status()) => {
                Err(Outcome::Wrong(format!("garbage was answered with {}", head.start)))
            }
            _ => Ok(()),
        }
    }

    fn dying(&mut self) -> Done {
        let mut stream = self.connect()?;
        let manner = if self.random.bool() { "dies" } else { "dies-chunked" };
        let (seed, length) = (self.random.u64(..), self.random.u64(100..3_000_000));
        self.send(&mut stream, Site::Plain, "GET", seed, length, manner, "")?;
        let head = read_head(&mut stream)?;
        if head.status() == 502 {
            return Ok(());
        }
        check_head(&head, seed)?;
        match wire::receive(&head, &mut stream, &mut Content::new(seed, length)) {
            Err(Broken::Short(_)) => Ok(()),
            Err(wrong) => Err(broken(wrong)),
            Ok(()) => Err(Outcome::Wrong("a body was whole that its upstream had not sent".into())),
        }
    }

    fn dead(&mut self) -> Done {
        let mut stream = self.connect()?;
        let seed = self.random.u64(..);
        self.send(&mut stream, Site::Plain, "GET", seed, 10, "dead", "")?;
        match read_head(&mut stream)?.status() {
            502 => Ok(()),
            status => {
                Err(Outcome::Wrong(format!("no upstream answered, and there was a {status}")))
            }
        }
    }

    fn tunnel(&mut self, whole: bool) -> Done {
        // Both ways at once, which two threads do on a socket and not on a session.
        self.connected = Instant::now();
        let link = Link::plain(self.targets.plain).map_err(lost("connect"))?;
        let mut stream = BufReader::with_capacity(16 * 1024, link);
        let (seed, length) = (self.random.u64(..), self.random.u64(1..2_000_000));
        let fields = "Connection: upgrade\r\nUpgrade: soak\r\n";
        self.send(&mut stream, Site::Plain, "GET", seed, length, "tunnel", fields)?;
        let head = read_head(&mut stream)?;
        if head.status() != 101 || head.field("x-soak") != Some(&seed.to_string()) {
            return Err(Outcome::Wrong(format!("no tunnel: {head:?}")));
        }
        let mut to = stream.get_ref().socket().try_clone().map_err(lost("socket"))?;
        let mut there = Content::new(seed, length);
        let mut back = Content::new(seed, if whole { length } else { length / 2 });
        let sender = std::thread::spawn(move || {
            let sent = there.send(&mut to);
            if whole {
                let _ = to.shutdown(Shutdown::Write);
            }
            sent
        });
        let received = back.receive(&mut stream).map_err(broken);
        let ended = if whole {
            // What was sent has come back, and then nothing: an end that was passed on both ways.
            match (received, stream.read(&mut [0])) {
                (Ok(()), Ok(0)) => Ok(()),
                (Ok(()), Ok(_)) => {
                    Err(Outcome::Wrong("more came out of a tunnel than went in".into()))
                }
                (Ok(()), Err(error)) => Err(lost("end of a tunnel")(error)),
                (received, _) => received,
            }
        } else {
            received.and_then(|()| reset(&stream))
        };
        drop(stream);
        let _ = sender.join();
        ended
    }

    #[expect(clippy::too_many_arguments, reason = "what a request consists of")]
    fn send(
        &self,
        stream: &mut BufReader<Link>,
        site: Site,
        method: &str,
        seed: u64,
        length: u64,
        manner: &str,
        fields: &str,
    ) -> Done {
        let head = format!(
            "{method} /{seed}/{length}/{manner} HTTP/1.1\r\nHost: {}\r\nX-Soak: {seed}\r\n{fields}\r\n",
            site.host()
        );
        stream.get_mut().write_all(head.as_bytes()).map_err(lost("request"))
    }
}

/// Makes the end of the connection a reset.
fn reset(stream: &BufReader<Link>) -> Done {
    let linger =
        rustix::net::sockopt::set_socket_linger(stream.get_ref().socket(), Some(Duration::ZERO));
    linger.map_err(|error| lost("linger")(error.into()))
}

fn read_head(stream: &mut BufReader<Link>) -> Result<Head, Outcome> {
    match Head::read(stream) {
        Ok(Some(head)) => Ok(head),
        Ok(None) => Err(Outcome::Lost("closed without an answer".into())),
        Err(error) => Err(lost("answer")(error)),
    }
}

/// The answer to this request and no other.
fn check_head(head: &Head, seed: u64) -> Done {
    match head.field("x-soak") {
        Some(mark) if head.status() == 200 && mark == seed.to_string() => Ok(()),
        // The upstream may have gone with its pool's connection.
        _ if head.status() == 502 => Err(Outcome::Lost(format!("502: {head:?}"))),
        _ => Err(Outcome::Wrong(format!("not the answer to {seed}: {head:?}"))),
    }
}

/// The whole answer to this request; whether another one may follow on this connection.
fn expect_content(stream: &mut BufReader<Link>, seed: u64, length: u64) -> Result<bool, Outcome> {
    let head = read_head(stream)?;
    check_head(&head, seed)?;
    wire::receive(&head, stream, &mut Content::new(seed, length)).map_err(broken)?;
    Ok(!head.says_close())
}

pub(super) fn broken(how: Broken) -> Outcome {
    match how {
        Broken::Wrong { left } => Outcome::Wrong(format!("wrong bytes, {left} before the end")),
        Broken::Short(error) => lost("body")(error),
    }
}
