//! The command `zproxy`: flags and variables to a configuration, signals to a running gateway, and
//! exit codes.
//!
//! Exit codes: 0 ok, 1 runtime failure, 2 usage, 3 invalid configuration, 4 cannot bind, 5 invalid
//! plugin, 6 drain timed out. stdout carries data, stderr everything else.

#![expect(clippy::disallowed_methods, reason = "a drain takes real time")]

#[path = "main/ask.rs"]
mod ask;
#[path = "main/bench.rs"]
mod bench;
#[path = "main/load.rs"]
mod load;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use log::LevelFilter;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zproxy::author;
use zproxy::config;
use zproxy::control::{self, Gateway, GatewayBuilder, StartError};
use zproxy::doctor;
use zproxy::telemetry::log as gateway_log;
use zproxy::worker::placement::report;
use zproxy::worker::topology::Machine;

use ask::Whom;
use load::{LoadError, Loaded, Reread, Source, load, text, variable};

/// An HTTP gateway that people program with WebAssembly components.
#[derive(Parser)]
#[command(name = "zproxy", version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

/// How the gateway is run.
#[derive(clap::Args)]
struct Run {
    #[command(flatten)]
    source: Source,
    /// Builds the plugins' projects in and around the plugins folder (else ./plugins), and again whenever
    /// one is saved.
    #[arg(long)]
    watch: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the gateway (also without any command).
    Run(Run),
    /// Loads configuration and plugins as `run` would, and prints every problem.
    Check {
        #[command(flatten)]
        source: Source,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Loads a server with requests, and shows its rate and latencies.
    Bench(Box<bench::Options>),
    /// Prints the JSON Schema of the configuration.
    Schema {
        #[arg(long, value_enum, default_value = "json")]
        format: SchemaFormat,
    },
    /// Shows the machine's layout and where workers would sit.
    Topology {
        #[command(flatten)]
        source: Source,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Has a running gateway read its configuration anew.
    Reload(Whom),
    /// Has a running gateway take no more requests, and end when the last one has.
    Drain(Whom),
    /// Shows what limits the gateway on this host, and how to lift it.
    Doctor {
        #[command(flatten)]
        source: Source,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// What authors of plugins work with: new, build, check, inspect, test, bench.
    Plugin(author::Line),
    /// Prints how this binary was built.
    Version {
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemaFormat {
    Json,
    Markdown,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Ok = 0,
    Failure = 1,
    Usage = 2,
    Config = 3,
    Bind = 4,
    Plugin = 5,
    DrainTimedOut = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // A closed stderr is no reason to fail differently.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let exit = match line.command.unwrap_or(Command::Run(line.run)) {
        Command::Run(line) => run(&line),
        Command::Check { source, format } => check(&source, format),
        Command::Bench(options) => bench::bench(*options),
        Command::Schema { format } => schema(format),
        Command::Topology { source, format } => topology(&source, format),
        Command::Reload(whom) => ask(&whom, "/reload"),
        Command::Drain(whom) => ask(&whom, "/drain"),
        Command::Doctor { source, format } => doctor(&source, format),
        Command::Plugin(line) => plugin(line),
        Command::Version { format } => version(format),
    };
    exit.into()
}

/// How much the gateway's own log says.
fn log_level() -> Result<LevelFilter, LoadError> {
    const NAME: &str = "ZPROXY_LOG";
    let Some(value) = variable(NAME) else { return Ok(LevelFilter::Info) };
    let value = text(NAME, value)?;
    value.parse().map_err(|_| {
        let cure = "write off, error, warn, info, debug or trace";
        LoadError::Usage(format!("{NAME}: `{value}` is not a level; {cure}"))
    })
}

/// Writes diagnostics to stderr. A reader that has gone away is no reason to fail differently.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn complain(error: LoadError) -> Exit {
    match error {
        LoadError::Usage(message) => {
            say(&format!("error: {message}"));
            Exit::Usage
        }
        LoadError::Config(problems) => {
            say(&problems.to_string());
            Exit::Config
        }
    }
}

fn run(line: &Run) -> Exit {
    match log_level() {
        Ok(level) => gateway_log::start(level),
        Err(error) => return complain(error),
    }
    // First: a configuration may name what is not built yet.
    let source = &line.source;
    let watched = if line.watch { watch(source) } else { Ok(()) };
    let exit = match watched.and_then(|()| load(source)) {
        Ok(loaded) => serve(source, loaded),
        Err(error) => complain(error),
    };
    gateway_log::flush();
    exit
}

fn watch(source: &Source) -> Result<(), LoadError> {
    let folder = source.plugins_folder()?.unwrap_or_else(|| "plugins".into());
    if !author::has_projects(&folder) {
        let shown = folder.display();
        return Err(LoadError::Usage(format!(
            "--watch: there is no plugin's project in {shown} or around it; `zproxy plugin new` makes one"
        )));
    }
    author::watch(folder).map_err(|error| LoadError::Usage(format!("--watch: {error}")))
}

fn serve(source: &Source, loaded: Loaded) -> Exit {
    let (soft, hard) = zproxy::sys::raise_descriptor_limit();
    log::debug!(target: "control", "descriptors: {soft} of {hard}");
    let connections = loaded.settings.limits.connections_max;
    if soft < connections as u64 {
        log::warn!(
            target: "control",
            "limits.connections_max is {connections}, but this process may have {soft} open files: \
             raise its hard limit (ulimit -Hn, LimitNOFILE=), or lower the number",
        );
    }
    log::info!(target: "control", "zproxy {}: {}", env!("CARGO_PKG_VERSION"), loaded.written.name);
    let origin = Reread::new(source, &loaded);
    let Loaded { settings, written, embedded } = loaded;
    let builder = Gateway::from_settings(settings).tolerate_bad_plugins(embedded).origin(origin);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| {
        runtime.block_on(async {
            // Before anybody can know that the gateway is there.
            let mut signals = Signals::new()?;
            let Some(started) = start(builder, &mut signals).await? else { return Ok(Exit::Ok) };
            let gateway = match started {
                Ok(gateway) => gateway,
                Err(error) => {
                    gateway_log::flush();
                    let exit = exit_of(&error);
                    say(&written.explain(error).0);
                    return Ok(exit);
                }
            };
            for address in gateway.addresses() {
                log::info!(target: "control", "listening on {address}");
            }
            if let Some(address) = gateway.admin_address() {
                log::info!(target: "control", "admin on {address}");
            }
            Ok(until_stopped(signals, gateway).await)
        })
    });
    served.unwrap_or_else(|error: std::io::Error| {
        log::error!(target: "control", "cannot serve: {error}");
        Exit::Failure
    })
}

/// Starts the gateway; `None` when a signal came first. It starts on a thread of its own, since
/// compiling plugins can take long, and the process ends without waiting for it.
async fn start(
    builder: GatewayBuilder,
    signals: &mut Signals,
) -> std::io::Result<Option<Result<Gateway, StartError>>> {
    let (sender, started) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("start".to_owned()).spawn(move || {
        // Nobody listens any more when a signal came first.
        let _ = sender.send(builder.start());
    })?;
    let name = tokio::select! {
        biased;
        started = started => {
            return started.map(Some).map_err(|_| std::io::Error::other("the start panicked"));
        }
        name = signals.stop() => name,
    };
    log::info!(target: "control", "{name}: stopping before the start was over");
    Ok(None)
}

/// The signals that a gateway answers to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hang_up: Signal,
    reopen: Signal,
    upgrade: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a signal that asks to stop; its name.
    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }

    /// Waits for a signal; the name of one that asks to stop. Answers the others, drain or not.
    async fn next(&mut self, gateway: &Gateway) -> Option<&'static str> {
        tokio::select! {
            _ = self.terminate.recv() => return Some("SIGTERM"),
            _ = self.interrupt.recv() => return Some("SIGINT"),
            _ = self.quit.recv() => return Some("SIGQUIT"),
            _ = self.hang_up.recv() => gateway.begin_reload(),
            _ = self.reopen.recv() => gateway.reopen_logs(),
            _ = self.upgrade.recv() => {
                log::warn!(target: "control", "SIGUSR2: upgrading is not supported by this version");
            }
        }
        None
    }
}

fn exit_of(error: &StartError) -> Exit {
    match error {
        StartError::Config(_) => Exit::Config,
        StartError::Plugin(_) => Exit::Plugin,
        StartError::Bind(_) => Exit::Bind,
        StartError::Other(_) => Exit::Failure,
    }
}

/// Serves until a signal asks to stop, then drains.
async fn until_stopped(mut signals: Signals, gateway: Gateway) -> Exit {
    let name = loop {
        tokio::select! {
            name = signals.next(&gateway) => if let Some(name) = name {
                break name;
            },
            () = gateway.drain_began() => break "the admin listener",
        }
    };
    let limit = gateway.drain_timeout();
    log::info!(target: "control", "{name}: draining for at most {limit:?}");
    gateway.begin_drain();
    let deadline = Instant::now() + limit;
    let mut look = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            name = signals.next(&gateway) => {
                // A drain is all that SIGQUIT asks for.
                if matches!(name, Some("SIGTERM" | "SIGINT")) {
                    log::info!(target: "control", "second signal: stopping at once");
                    return Exit::Ok;
                }
            }
            _ = look.tick() => {
                if gateway.has_drained() {
                    log::info!(target: "control", "drained");
                    return Exit::Ok;
                }
                if Instant::now() >= deadline {
                    log::warn!(target: "control", "drain timed out; requests were cut off");
                    return Exit::DrainTimedOut;
                }
            }
        }
    }
}

fn check(source: &Source, format: Format) -> Exit {
    match log_level() {
        // What should not be so and refuses nothing.
        Ok(level) => gateway_log::start(level.min(LevelFilter::Warn)),
        Err(error) => return complain(error),
    }
    let (exit, lines, problems) = match load(source) {
        Err(LoadError::Usage(message)) => return complain(LoadError::Usage(message)),
        Err(LoadError::Config(problems)) => {
            (Exit::Config, problems.to_string(), serde_json::json!(problems))
        }
        Ok(Loaded { settings, written, .. }) => match control::check(settings) {
            Ok(()) => (Exit::Ok, format!("{}: ok", written.name), serde_json::json!([])),
            Err(error) => {
                let exit = exit_of(&error);
                let (lines, problems) = written.explain(error);
                (exit, lines, problems)
            }
        },
    };
    gateway_log::flush();
    match format {
        Format::Text if exit == Exit::Ok => print(&lines),
        Format::Text => {
            say(&lines);
            exit
        }
        Format::Json => {
            let report = serde_json::json!({ "ok": exit == Exit::Ok, "problems": problems });
            match print(&format!("{report:#}")) {
                Exit::Ok => exit,
                failed => failed,
            }
        }
    }
}

fn plugin(line: author::Line) -> Exit {
    let report = author::run(line, say);
    let printed = if report.text.is_empty() { Exit::Ok } else { print(&report.text) };
    match report.failed {
        None => printed,
        Some(author::Failed::Failure) => Exit::Failure,
        Some(author::Failed::Usage) => Exit::Usage,
        Some(author::Failed::Config) => Exit::Config,
        Some(author::Failed::Plugin) => Exit::Plugin,
    }
}

fn schema(format: SchemaFormat) -> Exit {
    match format {
        SchemaFormat::Json => print(&format!("{:#}", config::schema())),
        SchemaFormat::Markdown => print(config::manual().trim_end()),
    }
}

fn topology(source: &Source, format: Format) -> Exit {
    let workers = match load(source) {
        Ok(loaded) => loaded.settings.workers,
        Err(error) => return complain(error),
    };
    let machine = Machine::read();
    match format {
        Format::Text => print(report::render(&machine, &workers).trim_end()),
        Format::Json => print(&format!("{:#}", report::describe(&machine, &workers))),
    }
}

fn ask(whom: &Whom, path: &str) -> Exit {
    match ask::post(whom, path) {
        Ok(answer) => print(&answer),
        Err(error) => {
            say(&format!("error: {error:#}"));
            Exit::Failure
        }
    }
}

/// What is only a warning is no failure: the gateway works, if not as well as it could.
fn doctor(source: &Source, format: Format) -> Exit {
    let settings = match load(source) {
        Ok(loaded) => loaded.settings,
        Err(error) => return complain(error),
    };
    let findings = doctor::judge(&doctor::examine(&settings));
    let printed = match format {
        Format::Text => print(doctor::render(&findings).trim_end()),
        Format::Json => print(&format!("{:#}", doctor::describe(&findings))),
    };
    if printed == Exit::Ok && doctor::is_bad(&findings) { Exit::Failure } else { printed }
}

fn version(format: Format) -> Exit {
    let facts = control::build_info();
    match format {
        Format::Text => {
            let text = |key: &str| facts[key].as_str().unwrap_or_default().to_owned();
            print(&format!(
                "zproxy {} ({}, wasmtime {}, {})",
                text("version"),
                text("target"),
                text("wasmtime"),
                text("profile")
            ))
        }
        Format::Json => print(&format!("{facts:#}")),
    }
}

/// Writes a result to stdout. A reader that has gone away is no failure of ours to report.
fn print(text: &str) -> Exit {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failure,
    }
}
