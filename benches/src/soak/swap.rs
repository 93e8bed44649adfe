//! A component is replaced again and again under load: no request may fail, none that begins after a swap
//! was acknowledged may be answered by an older one, and memory has to stay where it is.
//!
//! Every swap brings another component, made of the guest `versioned` by changing the digits in it, so that
//! each is compiled, and says in its answers which one it is.
//!
//! Not here: what fails besides (`tests/e2e/swap.rs`).

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::wire::Head;
use super::{Gateway, free_port};
use crate::args::Flags;
use crate::process;

/// What stands before the digits.
const MARK: &[u8] = b"zproxy-version:";

/// Swaps whose memory is averaged at the beginning and at the end.
const SPAN: usize = 100;

/// How much the last may hold more than the first, in percent.
const GROWTH_MAX: f64 = 5.0;

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
    longest_us: AtomicU64,
    /// The newest version that was acknowledged.
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

/// `zproxy-benches swap`.
pub(crate) fn command(arguments: Vec<String>) -> Result<()> {
    let mut flags = Flags::parse(arguments, &[])?;
    let zproxy = PathBuf::from(flags.text("zproxy").context("say where it is: --zproxy PATH")?);
    let guest = flags.text("guest").unwrap_or("target/guests/tests/versioned.wasm".to_owned());
    let swaps = flags.within("swaps", 1..=1_000_000_u64)?.unwrap_or(1000);
    let clients = flags.within("clients", 1..=1_000_u64)?.unwrap_or(32);
    let workers = flags.within("workers", 1..=64_usize)?.unwrap_or(2);
    let io = flags.text("io").unwrap_or("auto".to_owned());
    flags.finish()?;
    let component = fs::read(&guest).with_context(|| format!("{guest}: run `make guests`"))?;

    let folder = std::env::temp_dir().join(format!("zproxy-swap-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let file = folder.join("versioned.wasm");
    fs::write(&file, version(&component, 0)?)?;
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let gateway = start(&zproxy, &folder, &file, admin, json!({ "count": workers, "io": io }));
    let done = gateway.and_then(|gateway| soak(gateway, admin, &component, swaps, clients));
    let _ = fs::remove_dir_all(&folder);
    done
}

fn start(
    zproxy: &Path,
    folder: &Path,
    file: &Path,
    admin: SocketAddr,
    workers: Value,
) -> Result<Gateway> {
    let settings = json!({
        "workers": workers,
        "plugins": { "versioned": { "path": file } },
        "routes": [{ "path": "/", "upstream": "echo", "middleware": ["versioned"] }],
        "admin": { "address": admin.to_string() },
        "access_log": { "path": "off" },
        "plugin_cache": "off",
    });
    Gateway::start(zproxy, folder, settings)
}

fn soak(
    mut gateway: Gateway,
    admin: SocketAddr,
    component: &[u8],
    swaps: u64,
    clients: u64,
) -> Result<()> {
    let (pid, counts) = (gateway.child.id(), Arc::new(Counts::default()));
    let threads = (0..clients).map(|_| {
        let (counts, address) = (Arc::clone(&counts), gateway.address);
        std::thread::spawn(move || {
            while !counts.stop.load(Ordering::SeqCst) {
                if let Err(error) = ask(address, &counts)
                    && counts.failed.fetch_add(1, Ordering::SeqCst) < 10
                {
                    println!("failed: {error:#}");
                }
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    let (mut resident, mut took, began) = (Vec::new(), Vec::new(), Instant::now());
    for number in 1..=swaps {
        let posted = Instant::now();
        let (status, body) =
            send(admin, "POST", "/plugins/versioned", &version(component, number)?)?;
        ensure!(status == 200, "swap {number}: {status} {body}; {}", gateway.log());
        counts.acknowledged.store(number, Ordering::SeqCst);
        took.push(posted.elapsed());
        resident.push(process::resident_kib(&[pid]));
        if number.is_multiple_of(100) {
            let answered = counts.answered.load(Ordering::SeqCst);
            println!("{number} swaps, {answered} answers, {} KiB", resident[resident.len() - 1]);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    counts.stop.store(true, Ordering::SeqCst);
    for thread in threads {
        ensure!(thread.join().is_ok(), "a client panicked");
    }
    let (_, body) = send(admin, "GET", "/plugins", b"")?;
    let plugins: Value = serde_json::from_str(&body)?;
    let generations = plugins["plugins"][0]["generations"].as_array().map_or(0, Vec::len);
    let log = gateway.stop()?;

    let get = |count: &AtomicU64| count.load(Ordering::SeqCst);
    took.sort();
    let (middle, longest) = (took[took.len() / 2], took[took.len() - 1]);
    let span = SPAN.min(resident.len() / 2).max(1);
    let (first, last) = (mean(&resident[..span]), mean(&resident[resident.len() - span..]));
    let growth = (last / first - 1.0) * 100.0;
    println!("{swaps} swaps in {seconds:.0} s: median {middle:.1?}, longest {longest:.1?}");
    println!(
        "{} answers, {} failed, {} of a generation before the acknowledged one; the longest took {:?}",
        get(&counts.answered),
        get(&counts.failed),
        get(&counts.late),
        Duration::from_micros(get(&counts.longest_us)),
    );
    println!(
        "memory: {first:.0} KiB in the first {span}, {last:.0} KiB in the last: {growth:+.2} %"
    );
    println!("generations with instances: {generations}");
    ensure!(get(&counts.failed) == 0, "requests failed");
    ensure!(get(&counts.late) == 0, "requests were answered by a generation that was replaced");
    ensure!(get(&counts.answered) > swaps, "there was no load");
    ensure!(generations == 1, "old generations are still there");
    ensure!(growth <= GROWTH_MAX, "memory grows");
    ensure!(!log.contains("panicked"), "a thread panicked: {log}");
    Ok(())
}

/// A hundred requests on one connection.
fn ask(address: SocketAddr, counts: &Counts) -> Result<()> {
    let stream = TcpStream::connect(address).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    for _ in 0..100 {
        let least = counts.acknowledged.load(Ordering::SeqCst);
        let began = Instant::now();
        writer.write_all(b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n").context("send")?;
        let head =
            Head::read(&mut reader).context("receive")?.context("closed without an answer")?;
        ensure!(head.status() == 200, "{}", head.start);
        let mut body = vec![0; usize::try_from(head.length().context("no length")?)?];
        reader.read_exact(&mut body).context("body")?;
        let took = u64::try_from(began.elapsed().as_micros())?;
        counts.longest_us.fetch_max(took, Ordering::Relaxed);
        let version: u64 = head.field("x-version").context("no version")?.parse()?;
        if version < least {
            counts.late.fetch_add(1, Ordering::SeqCst);
        }
        counts.answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

fn send(admin: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(admin)?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {admin}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader)?.context("closed without an answer")?;
    let mut body = String::new();
    // To HTTP/1.0 what has no length ends with the connection.
    reader.take(head.length().unwrap_or(u64::MAX)).read_to_string(&mut body)?;
    Ok((head.status(), body))
}

fn version(component: &[u8], number: u64) -> Result<Vec<u8>> {
    let at = component.windows(MARK.len()).position(|bytes| bytes == MARK);
    let at = at.context("the guest has no version")? + MARK.len();
    let mut component = component.to_vec();
    let digits = component.get_mut(at..at + 8).context("the guest ends in its version")?;
    digits.copy_from_slice(format!("{number:08}").as_bytes());
    Ok(component)
}

#[expect(clippy::cast_precision_loss, reason = "memory in KiB is far below 2^52")]
fn mean(kib: &[u64]) -> f64 {
    kib.iter().sum::<u64>() as f64 / kib.len() as f64
}
