//! Minutes of saturation with clients and upstreams that misbehave: every byte that arrives is checked,
//! and at the end nothing may be left behind.
//!
//! ```text
//! clients (threads) ──► zproxy ──► upstream (threads)
//!    └ resets, garbage, slow readers, tunnels, pipelines      └ dies in the middle, or without a word
//! ```
//!
//! Not here: what a request costs (`run`).

mod client;
mod content;
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
use crate::contender::answers;
use crate::process;
use client::{Client, Deed, Outcome};
use upstream::Verdict;

/// Kinds of failure that are told in full.
const TOLD_MAX: usize = 20;

/// Pooled upstream connections end after so long without a request.
const POOL_IDLE: Duration = Duration::from_secs(1);

/// What a soak leaves behind is looked at until it is nothing, or so long.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);

#[derive(Default)]
struct Tally {
    done: BTreeMap<Deed, u64>,
    lost: BTreeMap<Deed, u64>,
    wrong: u64,
    told: Vec<String>,
}

impl Tally {
    fn count(&mut self, deed: Deed, outcome: Outcome) {
        *self.done.entry(deed).or_default() += 1;
        let (kind, message) = match outcome {
            Outcome::Fine => return,
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
    let mut flags = Flags::parse(arguments, &["reload"])?;
    let zproxy = PathBuf::from(flags.text("zproxy").context("say where it is: --zproxy PATH")?);
    let seconds = flags.within("seconds", 1..=86_400_u64)?.unwrap_or(600);
    let clients = flags.within("clients", 1..=1_000_u64)?.unwrap_or(64);
    let workers = flags.within("workers", 1..=64_usize)?.unwrap_or(2);
    let seed = flags.within("seed", 0..=u64::MAX)?.unwrap_or(1);
    let io = flags.text("io");
    let reload = flags.switch("reload");
    flags.finish()?;

    let verdict = Arc::new(Verdict::default());
    let port = upstream::start(Arc::clone(&verdict))?;
    let folder = std::env::temp_dir().join(format!("zproxy-soak-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let settings = settings(port, workers, io.as_deref())?;
    let mut gateway = Gateway::start(&zproxy, &folder, settings)?;
    let pid = gateway.child.id();
    let before = Held::by(pid)?;
    println!("before: {before:?}, {} KiB", process::resident_kib(&[pid]));

    let stop = Arc::new(AtomicBool::new(false));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let threads = (0..clients).map(|index| {
        let (stop, tally) = (Arc::clone(&stop), Arc::clone(&tally));
        let mut client = Client::new(gateway.address, seed.wrapping_mul(1000) + index);
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
    let mut told = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_secs(1));
        ensure!(gateway.child.try_wait()?.is_none(), "the gateway has ended: {}", gateway.log());
        if reload {
            gateway.signal(Signal::HUP);
        }
        let minute = began.elapsed().as_secs() / 60;
        if minute > told {
            told = minute;
            let held = Held::by(pid)?;
            println!("minute {minute}: {held:?}, {} KiB", process::resident_kib(&[pid]));
        }
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        ensure!(thread.join().is_ok(), "a client panicked");
    }

    let after = settled(pid, before)?;
    println!("after: {after:?}, {} KiB", process::resident_kib(&[pid]));
    let tally = tally.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?;
    for (deed, count) in &tally.done {
        let lost = tally.lost.get(deed).copied().unwrap_or(0);
        println!("{:<14} {count:>9}  lost {lost}", format!("{deed:?}"));
    }
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
    log: PathBuf,
}

fn settings(upstream: u16, workers: usize, io: Option<&str>) -> Result<Value> {
    let mut settings = json!({
        "workers": { "count": workers },
        "upstreams": { "soak": {
            "servers": [{ "address": format!("127.0.0.1:{upstream}") }],
            "keepalive": { "idle_ms": u64::try_from(POOL_IDLE.as_millis())? },
        } },
        "routes": [{ "path": "/", "upstream": "soak" }],
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
        let port = free_port()?;
        settings["listeners"] = json!([{ "address": format!("127.0.0.1:{port}") }]);
        let config = folder.join("zproxy.json");
        fs::write(&config, settings.to_string())?;
        let log = folder.join("zproxy.log");
        let out = fs::File::create(&log)?;
        let child = Command::new(zproxy)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", zproxy.display()))?;
        let mut gateway = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), log };
        let began = Instant::now();
        // Garbage in, an answer out: it serves.
        while !answers(gateway.address) && std::net::TcpStream::connect(gateway.address).is_err() {
            if gateway.child.try_wait()?.is_some() || began.elapsed() > Duration::from_secs(20) {
                bail!("the gateway does not serve: {}", gateway.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(gateway)
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

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
