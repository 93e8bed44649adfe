//! `zproxy bench`: flags to a load, its progress to stderr, its outcome to stdout.
//!
//! Not here: the load itself (`load`).

use std::io::{IsTerminal as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use zproxy::load::{self, Agreed, Expected, Live, Outcome, Plan, Request, Target, Tls};

use super::{Exit, Format, print, say};

/// What is taken when neither a flag nor a profile says otherwise.
const CONCURRENCY: usize = 50;
const DURATION: Duration = Duration::from_secs(10);

/// Descriptors that a process has open besides its connections, with plenty to spare.
const DESCRIPTORS: u64 = 64;

/// A name with several addresses: one that takes longer than this to accept is not asked.
const PROBE: Duration = Duration::from_secs(1);

/// Progress on a terminal, and in a log.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LINE_EVERY: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Options {
    /// What is asked: http://host:port/path, or https://….
    url: String,
    /// Requests at once, each on a connection of its own but with --http2 [default: 50].
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// How long: seconds, or with a unit as in 500ms and 2m [default: 10, none with --requests].
    #[arg(long, short = 'd', value_name = "S", value_parser = duration)]
    duration: Option<Duration>,
    /// Ends when so many requests have ended.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Requests per second; latencies then count from when each was due. Else as many as it can.
    #[arg(long, short = 'r', value_name = "R", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// Takes a new connection for each request.
    #[arg(long)]
    no_keepalive: bool,
    /// Threads that send.
    #[arg(long, short = 't', value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: u16,
    /// A field of the request, as often as needed.
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The method [default: GET, with --data POST].
    #[arg(long, short = 'm', value_name = "METHOD")]
    method: Option<String>,
    /// The body of the request: text, or @FILE.
    #[arg(long, value_name = "TEXT|@FILE")]
    data: Option<String>,
    /// Gives up a request after so long: seconds, or with a unit.
    #[arg(long, value_name = "S", default_value = "10", value_parser = duration)]
    timeout: Duration,
    /// Asks over HTTP/2: agreed on by TLS, else with prior knowledge.
    #[arg(long)]
    http2: bool,
    /// Believes servers that the certificates in this file vouch for (PEM) [default: those that this system trusts].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Believes every server.
    #[arg(long, short = 'k', conflicts_with = "ca")]
    insecure: bool,
    /// Requests at a time on each connection of HTTP/2.
    #[arg(long, value_name = "N", default_value = "100", requires = "http2", value_parser = clap::value_parser!(u16).range(1..))]
    streams: u16,
    /// A set of flags by name; those that are given win.
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    /// --concurrency 500 --no-keepalive --duration 5.
    Connections,
}

pub(crate) fn bench(options: Options) -> Exit {
    let plan = match plan(&options) {
        Ok(plan) => plan,
        Err((exit, message)) => {
            say(&format!("error: {message}"));
            return exit;
        }
    };
    // A server that does not agree would be a load of failed connections, each without a word about why.
    let agreed = match plan.tls.as_ref().map_or(Ok(None), |tls| tls.look(plan.target, plan.timeout))
    {
        Ok(agreed) => agreed,
        Err(why) => {
            let hint = if options.insecure { "" } else { "; see --ca and --insecure" };
            say(&format!("error: {} at {}: {why}{hint}", options.url, plan.target));
            return Exit::Failure;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| runtime.block_on(watch(&plan, &options)));
    let (outcome, interrupted) = match ended {
        Ok(ended) => ended,
        Err(error) => {
            say(&format!("error: the load could not run: {error}"));
            return Exit::Failure;
        }
    };
    let printed = match options.format {
        Format::Text => {
            let threads = options.threads;
            let kind = if plan.rate.is_some() { "at a rate" } else { "closed loop" };
            let cut = if interrupted { ", interrupted" } else { "" };
            let tls = agreed.map_or(String::new(), |it| format!(", {} {}", it.version, it.cipher));
            let (url, target) = (&options.url, plan.target);
            let head = format!("{url} at {target}{tls}, {kind}, threads: {threads}{cut}");
            print(&format!("{head}\n\n{}", load::table(&plan, &outcome).trim_end()))
        }
        Format::Json => {
            print(&format!("{:#}", report(&plan, &options, agreed, &outcome, interrupted)))
        }
    };
    if printed != Exit::Ok {
        return printed;
    }
    if outcome.answers() == 0 {
        say(&format!("error: {} answered nothing", plan.target));
        return Exit::Failure;
    }
    Exit::Ok
}

/// The load that the flags ask for, or why there is none.
fn plan(options: &Options) -> Result<Plan, (Exit, String)> {
    let usage = |message: String| (Exit::Usage, message);
    let failure = |message: String| (Exit::Failure, message);
    let connections = matches!(options.profile, Some(Profile::Connections));
    let concurrency = options.concurrency.and_then(|given| usize::try_from(given).ok());
    let concurrency = concurrency.unwrap_or(if connections { 500 } else { CONCURRENCY });
    let per_request = options.no_keepalive || connections;
    let duration = match (options.duration, options.requests) {
        (Some(given), _) => given,
        (None, None) if connections => Duration::from_secs(5),
        (None, None) => DURATION,
        // The time-outs are its end.
        (None, Some(_)) => Duration::MAX,
    };
    let target = Target::parse(&options.url).map_err(usage)?;
    let body = options.data.as_deref().map(body).transpose().map_err(usage)?;
    let method = match (&options.method, &body) {
        (Some(method), _) => method,
        (None, Some(_)) => "POST",
        (None, None) => "GET",
    };
    let request = Request::new(&target, method, &options.header, body.as_deref(), per_request);
    let mut request = request.map_err(usage)?;
    if options.http2 {
        request = request.over_http2(usize::from(options.streams)).map_err(usage)?;
    }
    let tls = tls(options, &target).map_err(usage)?;
    let (limit, _) = zproxy::sys::raise_descriptor_limit();
    if concurrency as u64 + DESCRIPTORS + u64::from(options.threads) * 4 > limit {
        let message = format!(
            "{concurrency} connections need as many descriptors, and this process may have {limit}; \
             raise it with `ulimit -n`"
        );
        return Err(failure(message));
    }
    Ok(Plan {
        target: address(&target).map_err(failure)?,
        connections: concurrency,
        per_request,
        rate: options.rate,
        warmup: Duration::ZERO,
        window: duration,
        requests: options.requests,
        timeout: options.timeout,
        tls,
        request,
        expected: Expected::Success,
        tunnel: None,
    })
}

/// TLS as the flags ask for it.
fn tls(options: &Options, target: &Target) -> Result<Option<Tls>, String> {
    if target.tls {
        let made = Tls::new(&target.host, options.http2, options.ca.as_deref(), options.insecure);
        return made.map(Some);
    }
    match (options.insecure, &options.ca) {
        (false, None) => Ok(None),
        _ => Err("--ca and --insecure are about TLS; write https://…".to_owned()),
    }
}

fn body(data: &str) -> Result<Vec<u8>, String> {
    match data.strip_prefix('@') {
        None => Ok(data.as_bytes().to_vec()),
        Some(file) => {
            std::fs::read(Path::new(file)).map_err(|error| format!("--data {data}: {error}"))
        }
    }
}

/// The address of a target; of several the first that accepts a connection, if any does.
fn address(target: &Target) -> Result<SocketAddr, String> {
    let name = &target.host;
    let found = (&*target.host, target.port).to_socket_addrs();
    let found: Vec<SocketAddr> = found.map_err(|error| format!("{name}: {error}"))?.collect();
    let accepts = |address: &&SocketAddr| TcpStream::connect_timeout(address, PROBE).is_ok();
    let first = match found.len() {
        0 | 1 => found.first(),
        _ => found.iter().find(accepts).or(found.first()),
    };
    first.copied().ok_or_else(|| format!("{name} has no address"))
}

/// Seconds, or a number with a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("write seconds, or a number with ms, s, m or h".to_owned()),
    };
    let seconds = digits.parse::<f64>().map(|number| number * factor);
    match seconds.map(Duration::try_from_secs_f64) {
        Ok(Ok(duration)) if !duration.is_zero() => Ok(duration),
        _ => Err("write seconds above 0, or a number with ms, s, m or h".to_owned()),
    }
}

/// Runs the load on threads of its own and shows how it goes. The first SIGINT or SIGTERM ends it
/// early with what it has; the second at once.
#[expect(clippy::disallowed_methods, reason = "a load runs on the real clock")]
async fn watch(plan: &Plan, options: &Options) -> std::io::Result<(Outcome, bool)> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let live = Arc::new(Live::default());
    let (sender, mut ended) = oneshot::channel();
    let (of_thread, plan, threads) = (live.clone(), plan.clone(), usize::from(options.threads));
    std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        // Nobody listens any more after a second signal.
        let _ = sender.send(load::run(&plan, threads, &of_thread));
    })?;
    let mut progress = Progress::new(options.format, Instant::now());
    let mut interrupted = false;
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        let again = tokio::select! {
            outcome = &mut ended => {
                progress.clear();
                let outcome = outcome.map_err(|_| std::io::Error::other("its thread panicked"))??;
                return Ok((outcome, interrupted));
            }
            _ = interrupt.recv() => std::mem::replace(&mut interrupted, true),
            _ = terminate.recv() => std::mem::replace(&mut interrupted, true),
            _ = look.tick() => {
                progress.show(&live, Instant::now());
                false
            }
        };
        if again {
            return Err(std::io::Error::other("interrupted twice"));
        }
        if interrupted {
            live.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// How a load goes: on a terminal one line that changes, in a log one now and then, beside JSON
/// nothing.
struct Progress {
    kind: Option<Kind>,
    began: Instant,
    /// When it was last shown, and how many requests had ended.
    last: (Instant, u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Terminal,
    Log,
}

impl Progress {
    fn new(format: Format, now: Instant) -> Self {
        let kind = match format {
            Format::Json => None,
            Format::Text if std::io::stderr().is_terminal() => Some(Kind::Terminal),
            Format::Text => Some(Kind::Log),
        };
        Self { kind, began: now, last: (now, 0) }
    }

    fn show(&mut self, live: &Live, now: Instant) {
        let Some(kind) = self.kind else { return };
        let since = now.duration_since(self.last.0);
        let every = if kind == Kind::Terminal { LOOK_EVERY } else { LINE_EVERY };
        // The timer may be a little early.
        if since + LOOK_EVERY / 2 < every {
            return;
        }
        let (requests, failed) = live.counts();
        let rate = (requests - self.last.1) as f64 / since.as_secs_f64();
        self.last = (now, requests);
        let seconds = now.duration_since(self.began).as_secs_f64();
        let text = format!("{seconds:.1} s: {requests} requests, {rate:.0}/s, {failed} errors");
        match kind {
            Kind::Terminal => write(&format!("\r\x1b[K{text}")),
            Kind::Log => say(&text),
        }
    }

    fn clear(&self) {
        if self.kind == Some(Kind::Terminal) {
            write("\r\x1b[K");
        }
    }
}

/// Writes to stderr without ending the line. A terminal that has gone away is no failure.
fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// The outcome for programs, with what it was measured with.
fn report(
    plan: &Plan,
    options: &Options,
    agreed: Option<Agreed>,
    outcome: &Outcome,
    interrupted: bool,
) -> serde_json::Value {
    let mut report = serde_json::json!({
        "url": options.url,
        "address": plan.target.to_string(),
        "concurrency": plan.connections,
        "protocol": if options.http2 { "h2" } else { "h1" },
        "tls": agreed.map(|it| serde_json::json!({ "version": it.version, "cipher": it.cipher })),
        "threads": options.threads,
        "keepalive": !plan.per_request,
        "rate": plan.rate,
        "corrected_for_coordinated_omission": plan.rate.is_some(),
        "interrupted": interrupted,
    });
    if let (Some(report), serde_json::Value::Object(outcome)) =
        (report.as_object_mut(), outcome.to_json())
    {
        report.extend(outcome);
    }
    report
}
