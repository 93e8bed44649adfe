//! Minutes of saturation with clients and upstreams that misbehave: every byte that arrives is checked,
//! and at the end nothing may be left behind.
//!
//! ```text
//! clients (threads) ──► zproxy ──► upstream (threads)
//!    └ resets, garbage, slow readers, tunnels, pipelines      └ dies in the middle, or without a word
//!      TLS, streams of HTTP/2          ▲
//!                 a new configuration now and then, and a new process: it drains, the next one begins
//! ```
//!
//! What has begun when a drain begins has to end as ever. Who connects between two processes may be refused.
//!
//! Sites differ in what the gateway does with them: nothing, a plugin that replaces the chunks of bodies, the
//! cache.
//!
//! Not here: what a request costs (`run`).

mod client;
mod content;
mod link;
mod streams;
pub(crate) mod swap;
mod upstream;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::args::Flags;
use crate::running::answers;
use crate::{process, tls};
use client::{Client, Deed, Outcome};
use upstream::Verdict;

/// Kinds of failure that are told in full.
const TOLD_MAX: usize = 20;

/// Pooled upstream connections end after so long without a request.
const POOL_IDLE: Duration = Duration::from_secs(1);

/// What a soak leaves behind is looked at until it is nothing, or so long.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);

/// How long a gateway may take to begin, and to drain.
const CHANGED_WITHIN: Duration = Duration::from_secs(40);

/// A connection that is younger than this when a drain begins may not have reached the gateway: it is handed
/// over when its first bytes have come.
const YOUNG: Duration = Duration::from_millis(300);

/// What the gateway does with a request, by its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Plain,
    /// A plugin sees every chunk of a body and puts a copy in its place.
    Hooked,
    /// Answers may come from a cache.
    Cached,
}

impl Site {
    fn host(self) -> &'static str {
        match self {
            Self::Plain => "soak",
            Self::Hooked => "hooked.soak",
            Self::Cached => "cached.soak",
        }
    }
}

/// What clients are sent to.
struct Targets {
    plain: SocketAddr,
    secure: SocketAddr,
    sites: Vec<Site>,
    /// When the last change of processes began, and ended.
    change: Mutex<(Option<Instant>, Option<Instant>)>,
}

impl Targets {
    /// Whether a connection made then may have been refused.
    fn may_refuse(&self, connected: Instant) -> bool {
        let (began, ended) = self.change.lock().map(|change| *change).unwrap_or_default();
        let before_end = ended.is_none_or(|ended| connected <= ended);
        began.is_some_and(|began| connected + YOUNG >= began) && before_end
    }

    fn set_change(&self, change: (Option<Instant>, Option<Instant>)) {
        if let Ok(mut place) = self.change.lock() {
            *place = change;
        }
    }
}

#[derive(Default)]
struct Tally {
    done: BTreeMap<Deed, u64>,
    lost: BTreeMap<Deed, u64>,
    wrong: u64,
    /// Between two processes.
    refused: u64,
    told: Vec<String>,
}

impl Tally {
    fn count(&mut self, deed: Deed, outcome: Outcome) {
        *self.done.entry(deed).or_default() += 1;
        let (kind, message) = match outcome {
            Outcome::Fine => return,
            Outcome::Refused => {
                self.refused += 1;
                return;
            }
            Outcome::Lost(message) => {
                *self.lost.entry(deed).or_default() += 1;
                ("lost", message)
            }
            Outcome::Wrong(message) => {
                self.wrong += 1;
                ("WRONG", message)
            }
        };
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("{kind}: {deed:?}: {message}"));
        }
    }
}

/// What a process holds that it could leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    sockets: usize,
    pipes: usize,
    other: usize,
}

impl Held {
    fn by(pid: u32) -> Result<Self> {
        let mut held = Self { sockets: 0, pipes: 0, other: 0 };
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            // One that is closed meanwhile is not held.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            match target.to_string_lossy().split(':').next() {
                Some("socket") => held.sockets += 1,
                Some("pipe") => held.pipes += 1,
                _ => held.other += 1,
            }
        }
        Ok(held)
    }
}

/// `zproxy-benches soak`.
pub(crate) fn command(arguments: Vec<String>) -> Result<()> {
    let mut flags = Flags::parse(arguments, &[])?;
    let zproxy = PathBuf::from(flags.text("zproxy").context("say where it is: --zproxy PATH")?);
    let seconds = flags.within("seconds", 1..=86_400_u64)?.unwrap_or(600);
    let clients = flags.within("clients", 1..=1_000_u64)?.unwrap_or(64);
    let workers = flags.within("workers", 1..=64_usize)?.unwrap_or(2);
    let seed = flags.within("seed", 0..=u64::MAX)?.unwrap_or(1);
    let io = flags.text("io");
    let mut reloads = Every::new(flags.within("reload-every", 0..=86_400)?.unwrap_or(3));
    let mut restarts = Every::new(flags.within("restart-every", 0..=86_400)?.unwrap_or(20));
    let guest =
        PathBuf::from(flags.text("guest").unwrap_or("target/guests/tests/chunks.wasm".to_owned()));
    flags.finish()?;
    ensure!(guest.exists(), "{} is not there: run `make guests`", guest.display());

    let verdict = Arc::new(Verdict::default());
    let port = upstream::start(Arc::clone(&verdict))?;
    let folder = std::env::temp_dir().join(format!("zproxy-soak-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    tls::write_certificate(&folder)?;
    let settings = settings(port, workers, io.as_deref(), &guest)?;
    let mut gateway = Gateway::start(&zproxy, &folder, settings)?;
    let targets = Arc::new(Targets {
        plain: gateway.address,
        secure: SocketAddr::from(([127, 0, 0, 1], free_port()?)),
        sites: vec![Site::Plain, Site::Plain, Site::Hooked, Site::Cached],
        change: Mutex::default(),
    });
    gateway.settings["listeners"] = json!([
        { "address": targets.plain.to_string() },
        { "address": targets.secure.to_string(), "tls": { "certificates": [
            { "cert_path": folder.join("cert.pem"), "key_path": folder.join("key.pem") },
        ] } },
    ]);
    gateway.replace()?;
    let before = steady(gateway.child.id())?;
    println!("before: {before:?}, {} KiB", process::resident_kib(&[gateway.child.id()]));

    let stop = Arc::new(AtomicBool::new(false));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let sessions = tls::config(tls::Sessions::Resumed)?;
    let threads = (0..clients).map(|index| {
        let (stop, tally) = (Arc::clone(&stop), Arc::clone(&tally));
        let (targets, sessions) = (Arc::clone(&targets), Arc::clone(&sessions));
        let mut client = Client::new(targets, sessions, seed.wrapping_mul(1000) + index);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let (deed, outcome) = client.act();
                if let Ok(mut tally) = tally.lock() {
                    tally.count(deed, outcome);
                }
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    let began = Instant::now();
    let mut minutes = Every::new(60);
    while began.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_secs(1));
        ensure!(gateway.child.try_wait()?.is_none(), "the gateway has ended: {}", gateway.log());
        if restarts.is_due() {
            let began = Instant::now();
            targets.set_change((Some(began), None));
            gateway.replace()?;
            targets.set_change((Some(began), Some(Instant::now())));
        }
        if reloads.is_due() {
            gateway.reload(reloads.count)?;
        }
        if minutes.is_due() {
            let held = Held::by(gateway.child.id())?;
            let resident = process::resident_kib(&[gateway.child.id()]);
            println!("minute {}: {held:?}, {resident} KiB", minutes.count);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        ensure!(thread.join().is_ok(), "a client panicked");
    }

    let after = settled(gateway.child.id(), before)?;
    println!("after: {after:?}, {} KiB", process::resident_kib(&[gateway.child.id()]));
    let tally = tally.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?;
    for (deed, count) in &tally.done {
        let lost = tally.lost.get(deed).copied().unwrap_or(0);
        println!("{:<14} {count:>9}  lost {lost}", format!("{deed:?}"));
    }
    let (reloads, processes) = (reloads.count, restarts.count + 1);
    println!("{reloads} reloads, {processes} processes, {} refused between them", tally.refused);
    for line in &tally.told {
        println!("{line}");
    }
    let wrong = tally.wrong + verdict.wrong.load(Ordering::Relaxed);
    let lost: u64 = tally.lost.values().sum();
    let log = gateway.stop()?;
    let _ = fs::remove_dir_all(&folder);
    ensure!(wrong == 0, "{wrong} answers or uploads were wrong");
    ensure!(lost == 0, "{lost} exchanges were lost that should not have been");
    ensure!(after.sockets <= before.sockets, "sockets leak: {before:?} became {after:?}");
    ensure!(after.other <= before.other, "descriptors leak: {before:?} became {after:?}");
    ensure!(!log.contains("panicked"), "a worker panicked: {log}");
    println!("nothing wrong, nothing lost, nothing left behind");
    Ok(())
}

/// Tells when so many seconds have passed; never, for 0.
struct Every {
    seconds: u64,
    next: Instant,
    count: u64,
}

impl Every {
    fn new(seconds: u64) -> Self {
        Self { seconds, next: Instant::now() + Duration::from_secs(seconds), count: 0 }
    }

    fn is_due(&mut self) -> bool {
        let due = self.seconds > 0 && Instant::now() >= self.next;
        if due {
            self.count += 1;
            self.next = Instant::now() + Duration::from_secs(self.seconds);
        }
        due
    }
}

/// What is held once all of the gateway has started: it answers before its last thread has opened what it needs.
fn steady(pid: u32) -> Result<Held> {
    const SAME: usize = 10;
    let (mut held, mut same) = (Held::by(pid)?, 0);
    while same < SAME {
        std::thread::sleep(Duration::from_millis(100));
        let now = Held::by(pid)?;
        same = if now == held { same + 1 } else { 0 };
        held = now;
    }
    Ok(held)
}

/// What is held once the pools have emptied.
fn settled(pid: u32, before: Held) -> Result<Held> {
    let began = Instant::now();
    loop {
        std::thread::sleep(POOL_IDLE);
        let held = Held::by(pid)?;
        if held.sockets <= before.sockets || began.elapsed() > SETTLED_WITHIN {
            return Ok(held);
        }
    }
}

struct Gateway {
    child: Child,
    address: SocketAddr,
    zproxy: PathBuf,
    folder: PathBuf,
    settings: Value,
    log: PathBuf,
}

fn settings(upstream: u16, workers: usize, io: Option<&str>, guest: &Path) -> Result<Value> {
    let route = |site: Site, chain: Value| {
        json!({
            "name": site.host(), "hosts": [site.host()], "path": "/", "upstream": "soak",
            "middleware": chain,
        })
    };
    let mut settings = json!({
        "workers": { "count": workers },
        "upstreams": { "soak": {
            "servers": [{ "address": format!("127.0.0.1:{upstream}") }],
            "keepalive": { "idle_ms": u64::try_from(POOL_IDLE.as_millis())? },
        } },
        "plugins": { "chunks": { "path": fs::canonicalize(guest)? } },
        "routes": [
            route(Site::Plain, json!([])),
            route(Site::Hooked, json!([{ "plugin": "chunks", "config": { "copy": true } }])),
            route(Site::Cached, json!(["cache"])),
        ],
        "limits": { "idle_timeout_ms": 5_000 },
        "admin": { "address": null },
        "access_log": { "path": "off" },
    });
    if let Some(io) = io {
        settings["workers"]["io"] = io.into();
    }
    Ok(settings)
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Gateway {
    /// With these settings and a listener of its own.
    fn start(zproxy: &Path, folder: &Path, mut settings: Value) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        settings["listeners"] = json!([{ "address": address.to_string() }]);
        let log = folder.join("zproxy.log");
        let child = spawn(zproxy, folder, &settings, &log)?;
        let (zproxy, folder) = (zproxy.to_owned(), folder.to_owned());
        let mut gateway = Self { child, address, zproxy, folder, settings, log };
        gateway.await_begin()?;
        Ok(gateway)
    }

    /// Waits until it listens everywhere and serves.
    fn await_begin(&mut self) -> Result<()> {
        let began = Instant::now();
        let listeners = self.settings["listeners"].as_array().map_or(0, Vec::len);
        // Garbage in, an answer out: it serves.
        while self.log().matches("listening on ").count() < listeners
            || !answers(self.address) && std::net::TcpStream::connect(self.address).is_err()
        {
            if self.child.try_wait()?.is_some() || began.elapsed() > CHANGED_WITHIN {
                bail!("the gateway does not serve: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Lets it drain, and starts another one with the settings of now on the same ports.
    fn replace(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if began.elapsed() > CHANGED_WITHIN {
                let _ = self.child.kill();
                break self.child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        ensure!(status.success(), "a drain ended with {status}: {}", self.log());
        ensure!(!self.log().contains("panicked"), "a worker panicked: {}", self.log());
        self.child = spawn(&self.zproxy, &self.folder, &self.settings, &self.log)?;
        self.await_begin()
    }

    /// Has it read another configuration: a plugin's and an upstream's change, there and back.
    fn reload(&mut self, turn: u64) -> Result<()> {
        self.settings["routes"][1]["middleware"][0]["config"]["copy"] =
            turn.is_multiple_of(2).into();
        self.settings["upstreams"]["soak"]["keepalive"]["idle_ms"] = (1_000 + turn % 2).into();
        fs::write(self.folder.join("zproxy.json"), self.settings.to_string())?;
        self.signal(Signal::HUP);
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        // The child has not been waited for, so its number still means this process.
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), signal);
    }

    /// Drains; what it said.
    fn stop(&mut self) -> Result<String> {
        self.signal(Signal::TERM);
        let status = self.child.wait()?;
        ensure!(status.success(), "the drain ended with {status}: {}", self.log());
        Ok(self.log())
    }
}

fn spawn(zproxy: &Path, folder: &Path, settings: &Value, log: &Path) -> Result<Child> {
    let config = folder.join("zproxy.json");
    fs::write(&config, settings.to_string())?;
    let out = fs::File::create(log)?;
    Command::new(zproxy)
        .args(["run", "--config"])
        .arg(&config)
        .env("ZPROXY_LOG", "info")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("cannot start {}", zproxy.display()))
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
