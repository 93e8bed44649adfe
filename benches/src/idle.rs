//! What connections cost that do nothing: memory of the proxy's processes, before, during, after.
//!
//! ```text
//! start ─► warm up ─► measure ─► N connections, each asks once ─► measure ─► close all ─► measure
//!                        ▲                                                          │
//!                        └──────────────────── again: a burst must leave nothing ───┘
//! ```
//!
//! With `--events` each asks for a stream of events, gets one, and none comes for a while: an exchange and a
//! connection upstream are held then, too. With `--silent` they ask for nothing at all; the kernel keeps such connections back for some
//! seconds (`TCP_DEFER_ACCEPT`), and no more of them than a backlog. The connections come from many
//! addresses of 127.0.0.0/8, since one has no more than some 28,000 ports. What counts is
//! memory that the process has written (`RssAnon`); the kernel's side of a socket is not in it and is
//! the same for every proxy.
//!
//! `--bytes-each-max` and `--left-percent-max` make it a test: what a connection may hold, and what may be left of
//! all that was held.
//!
//! Not here: what requests cost (`run`).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::args::Flags;
use crate::contender::{EPOLL, HAPROXY, Kind, Lab, NGINX, URING};
use crate::launch::Place;
use crate::record::Record;
use crate::running::Running;
use crate::{machine, origin, process};

/// Far above what a machine of this size has memory for in its kernel.
const CONNECTIONS_MAX: usize = 400_000;
/// Connections that are opened and asked on before the first answer is looked at.
const AT_ONCE: usize = 64;
/// From one source address.
const PER_ADDRESS: usize = 5_000;
/// Of so many connections one is kept when the others end: memory that is shared with them must not
/// keep all of it from going back.
const STAYS: usize = 1_000;
/// Silent connections: below the backlog of every contender.
const SILENT_MAX: usize = 4_000;
/// A proxy that has not taken its connections by then will not. The kernel itself keeps silent ones
/// back for some seconds.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// Between an event and its measurement: timers that were due have run.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Descriptors besides those of connections.
const SPARE: u64 = 500;
/// Requests before anything is measured.
const WARMUP_REQUESTS: usize = 2_000;

/// `zproxy-benches idle`.
pub(crate) fn command(arguments: Vec<String>) -> Result<()> {
    let command_line = arguments.join(" ");
    let mut flags = Flags::parse(arguments, &["silent", "events"])?;
    let counts = flags.words("connections").iter().map(|n| n.parse()).collect::<Result<_, _>>();
    let mut counts: Vec<usize> = counts.context("--connections takes numbers")?;
    if counts.is_empty() {
        counts = vec![10_000];
    }
    let only = flags.words("only");
    let manner = match (flags.switch("silent"), flags.switch("events")) {
        (false, false) => Manner::Asks,
        (true, false) => Manner::Silent,
        (false, true) => Manner::Streams,
        (true, true) => bail!("--silent or --events"),
    };
    let goals = Goals {
        bytes_each_max: flags.within("bytes-each-max", 1..=1_000_000)?,
        left_percent_max: flags.within("left-percent-max", 0..=100)?,
    };
    let nowhere = Place { cpu: None, fifo: false };
    let lab = Lab::new(&mut flags, origin::in_background()?, nowhere);
    let today = machine::said("date", &["-u", "+%Y-%m-%d"]);
    let folder = format!("benches/runs/{today}-{}-idle", machine::kind());
    let folder = flags.text("out").unwrap_or(folder);
    flags.finish()?;
    let most = counts.iter().copied().max().unwrap_or(0);
    if most > CONNECTIONS_MAX {
        bail!("--connections {most}: at most {CONNECTIONS_MAX}");
    }
    if manner == Manner::Silent && most > SILENT_MAX {
        bail!("--connections {most}: at most {SILENT_MAX} with --silent");
    }
    let descriptors = allow_descriptors(most, manner)?;

    let mut record = Record::create(Path::new(&folder))?;
    record.run(&json!({
        "command": format!("zproxy-benches idle {command_line}").trim_end(),
        "began": machine::said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "uname": machine::said("uname", &["-srvm"]),
        "commit": machine::said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        "descriptors": descriptors,
        "zproxy": machine::said(&lab.zproxy.display().to_string(), &["version"]),
    }))?;
    let kinds = [HAPROXY, NGINX, EPOLL, URING];
    let mut table = vec![format!(
        "{:<12} {:>8} {:>7}  {:>9} {:>9} {:>9} {:>12}",
        "", "number", "manner", "before KiB", "held KiB", "left KiB", "bytes each"
    )];
    let mut failed = false;
    for kind in kinds.into_iter().filter(|kind| kind.is_among(&only)) {
        if let Some(why) = lab.missing(kind) {
            eprintln!("note: without {}: {why}", kind.name);
            continue;
        }
        for count in &counts {
            match measure(&lab, kind, *count, manner) {
                Ok(rounds) => {
                    for round in rounds {
                        record.measurement(&round)?;
                        table.push(line(&round));
                        println!("{}", line(&round));
                        for missed in goals.missed_by(&round) {
                            failed = true;
                            eprintln!("{}: {missed}", kind.name);
                        }
                    }
                }
                Err(error) => {
                    failed = true;
                    let error = format!("{} with {count} connections: {error:#}", kind.name);
                    record.measurement(&json!({ "failed": &error }))?;
                    eprintln!("{error}");
                }
            }
        }
    }
    let _ = std::fs::remove_dir_all(&lab.scratch);
    record.table(&format!("```text\n{}\n```\n", table.join("\n")))?;
    eprintln!("raw output: {}", record.folder().display());
    if failed { bail!("not everybody held every connection as it should") } else { Ok(()) }
}

/// What the connections do before they are idle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// One request.
    Asks,
    /// Nothing.
    Silent,
    /// One request, whose answer does not end.
    Streams,
}

impl Manner {
    fn name(self) -> &'static str {
        match self {
            Self::Asks => "asked",
            Self::Silent => "silent",
            Self::Streams => "events",
        }
    }
}

/// What a proxy may hold, if anything was said about that.
struct Goals {
    bytes_each_max: Option<u64>,
    left_percent_max: Option<u64>,
}

impl Goals {
    fn missed_by(&self, round: &Value) -> Vec<String> {
        let number = |name: &str| round[name].as_u64().unwrap_or(u64::MAX);
        let mut missed = Vec::new();
        let each = round["bytes_each"].as_f64().unwrap_or(f64::MAX);
        if let Some(max) = self.bytes_each_max
            && each > max as f64
        {
            missed.push(format!("{each} bytes each, and {max} are allowed"));
        }
        let held = number("held_kib").saturating_sub(number("before_kib"));
        let left = number("after_kib").saturating_sub(number("before_kib"));
        if let Some(max) = self.left_percent_max
            && left * 100 > held * max
        {
            missed.push(format!("{left} of {held} KiB are left, and {max} % are allowed"));
        }
        missed
    }
}

/// Lets this process and its children have descriptors for every connection; returns the limit.
fn allow_descriptors(connections: usize, manner: Manner) -> Result<u64> {
    // A proxy may need a second one, and some for itself.
    let wanted = 2 * connections as u64 + SPARE;
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    if setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        // Only root may go beyond the hard limit.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
    let granted = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // A stream has two: one to the client, one upstream, on either side of the proxy.
    let ends = if manner == Manner::Streams { 2 } else { 1 };
    if granted < ends * connections as u64 + SPARE {
        bail!("{granted} descriptors are allowed, too few: `ulimit -Hn {wanted}` first");
    }
    Ok(granted)
}

/// Two bursts on one process: the second shows whether the first has left something behind.
fn measure(lab: &Lab, kind: Kind, count: usize, manner: Manner) -> Result<Vec<Value>> {
    let mut running = lab.start(kind)?;
    let mut warm = Client::connect(running.target, 0)?;
    for _ in 0..WARMUP_REQUESTS {
        warm.ask()?;
    }
    drop(warm);
    let mut rounds = Vec::new();
    for burst in 1..=2 {
        std::thread::sleep(SETTLE);
        running.check()?;
        let sockets = process::descriptors(&running.pids);
        let before = process::written_kib(&running.pids);
        let started = Instant::now();
        // Ports of the burst before are still taken, by connections that have ended.
        let first = (burst * CONNECTIONS_MAX).next_multiple_of(PER_ADDRESS);
        let mut clients = open(&running, first..first + count, manner, sockets)?;
        let opened = started.elapsed();
        std::thread::sleep(SETTLE);
        let held = process::written_kib(&running.pids);
        let last = clients.len() - 1;
        // They are really there, and really served.
        if manner == Manner::Streams {
            Client::connect(running.target, first + count)?.turn()?;
        }
        for place in [0, last / 2, last] {
            match manner {
                Manner::Streams => clients[place].event()?,
                Manner::Asks | Manner::Silent => clients[place].ask()?,
            }
        }
        let mut place = 0;
        clients.retain(|_| {
            place += 1;
            place % STAYS == 0
        });
        if manner == Manner::Streams {
            // Who has left without a reset looks like one that has said all and listens. The answer to an event
            // tells, and the next one ends it.
            for place in 1..=2 {
                Client::connect(running.target, first + count + place)?.turn()?;
                std::thread::sleep(SETTLE);
            }
        }
        let left = sockets + 2 * clients.len() + 64;
        await_descriptors(&running, "let its connections go", |now| now <= left)?;
        std::thread::sleep(SETTLE);
        let after = process::written_kib(&running.pids);
        let bytes_each = (held.saturating_sub(before) * 1_024) as f64 / count as f64;
        rounds.push(json!({
            "contender": kind.name,
            "connections": count,
            "manner": manner.name(),
            "burst": burst,
            "opened_ms": u64::try_from(opened.as_millis())?,
            "before_kib": before,
            "held_kib": held,
            "after_kib": after,
            "resident_after_kib": process::resident_kib(&running.pids),
            "bytes_each": bytes_each.round(),
        }));
    }
    Ok(rounds)
}

fn line(round: &Value) -> String {
    let text = |name: &str| {
        round[name].as_str().map_or_else(|| round[name].to_string(), ToOwned::to_owned)
    };
    format!(
        "{:<12} {:>8} {:>7}  {:>9} {:>9} {:>9} {:>12}",
        text("contender"),
        text("connections"),
        text("manner"),
        text("before_kib"),
        text("held_kib"),
        text("after_kib"),
        text("bytes_each"),
    )
}

/// Opens connections no faster than the proxy takes them.
fn open(
    running: &Running,
    places: Range<usize>,
    manner: Manner,
    sockets: usize,
) -> Result<Vec<Client>> {
    let (first, count) = (places.start, places.len());
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let begun = clients.len();
        for place in begun..count.min(begun + AT_ONCE) {
            let mut client = Client::connect(running.target, first + place)
                .with_context(|| format!("connection {place}"))?;
            match manner {
                Manner::Asks => client.send("/")?,
                Manner::Silent => {}
                Manner::Streams => client.send("/events")?,
            }
            clients.push(client);
        }
        for (place, client) in clients.iter_mut().enumerate().skip(begun) {
            let answered = match manner {
                Manner::Asks => client.answer(),
                Manner::Silent => Ok(()),
                Manner::Streams => client.event(),
            };
            answered.with_context(|| format!("request on connection {place}"))?;
        }
    }
    await_descriptors(running, "take its connections", |now| now >= sockets + count)?;
    Ok(clients)
}

fn await_descriptors(running: &Running, what: &str, done: impl Fn(usize) -> bool) -> Result<()> {
    let started = Instant::now();
    loop {
        let now = process::descriptors(&running.pids);
        if done(now) {
            return Ok(());
        }
        if started.elapsed() > TAKEN_WITHIN {
            bail!("did not {what} within {TAKEN_WITHIN:?}: {now} descriptors");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One connection.
struct Client {
    socket: std::net::TcpStream,
}

impl Client {
    /// Connects; `place` decides from which address.
    fn connect(target: SocketAddr, place: usize) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket: OwnedFd =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        let number = u32::try_from(place / PER_ADDRESS)?;
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number);
        rustix::net::bind(&socket, &SocketAddrV4::new(from, 0))?;
        rustix::net::connect(&socket, &target)?;
        let socket = std::net::TcpStream::from(socket);
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { socket })
    }

    /// Waits for an event.
    fn event(&mut self) -> Result<()> {
        let (mut answer, mut part) = (Vec::new(), [0; 1_024]);
        while memchr::memmem::find(&answer, origin::EVENT.as_bytes()).is_none() {
            let count = self.socket.read(&mut part)?;
            if count == 0 {
                bail!("closed without an event");
            }
            answer.extend_from_slice(&part[..count]);
        }
        Ok(())
    }

    /// Has the origin send another event on every stream.
    fn turn(&mut self) -> Result<()> {
        self.send("/turn")?;
        self.answer()
    }

    /// One request and its answer.
    fn ask(&mut self) -> Result<()> {
        self.send("/")?;
        self.answer()
    }

    fn send(&mut self, target: &str) -> Result<()> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: bench.example\r\n\r\n");
        Ok(self.socket.write_all(request.as_bytes())?)
    }

    /// An answer of 100 bytes, whose end is known by heart.
    fn answer(&mut self) -> Result<()> {
        let mut answer = Vec::with_capacity(1_024);
        let mut part = [0; 1_024];
        loop {
            let count = self.socket.read(&mut part)?;
            if count == 0 {
                bail!("closed without an answer");
            }
            answer.extend_from_slice(&part[..count]);
            let Some(head) = zproxy::load::head::find_head(&answer) else { continue };
            if head.status() != Some(200) {
                bail!("answered {:?}", head.status());
            }
            let length = usize::try_from(head.content_length.unwrap_or(0))?;
            if answer.len() >= head.bytes + length {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_come_from_many_addresses_and_are_answered() {
        let target = origin::in_background().unwrap();

        let mut near = Client::connect(target, 0).unwrap();
        let mut far = Client::connect(target, 3 * PER_ADDRESS).unwrap();
        near.ask().unwrap();
        far.ask().unwrap();

        let address = |client: &Client| client.socket.local_addr().unwrap().ip().to_string();
        assert_eq!((address(&near).as_str(), address(&far).as_str()), ("127.1.0.1", "127.1.0.4"));
    }
}
