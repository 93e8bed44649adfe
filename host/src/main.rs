//! The command `zproxy`: flags and variables to a configuration, signals to a running gateway, and
//! exit codes.
//!
//! Exit codes: 0 ok, 1 runtime failure, 2 usage, 3 invalid configuration, 4 cannot bind, 5 invalid
//! plugin, 6 drain timed out. stdout carries data, stderr everything else.

#![expect(clippy::disallowed_methods, reason = "a drain takes real time")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use zproxy::config::{self, Overrides, Problems, Settings, System};
use zproxy::control::{self, Gateway, StartError};
use zproxy::telemetry::log as sink;
use zproxy::worker::placement::report;
use zproxy::worker::topology::Machine;

/// The configuration that is taken when none is named.
const DEFAULT_FILE: &str = "zproxy.json";

/// An HTTP gateway that people program with WebAssembly components.
#[derive(Parser)]
#[command(name = "zproxy", version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Source,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the gateway (also without any command).
    Run(Source),
    /// Loads configuration and plugins as `run` would, and prints every problem.
    Check {
        #[command(flatten)]
        source: Source,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
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
    /// Prints how this binary was built.
    Version {
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

/// Where the configuration comes from, and what overrides it. A flag wins over its variable.
#[derive(Args)]
struct Source {
    /// Configuration file [default: ./zproxy.json if there is one, else the embedded default].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder whose *.wasm files are plugins.
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Listens here instead of where the file says: ip:port or unix:/path.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Number of workers, or `auto`.
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Admin address, or `off`.
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Sets a key of the configuration, such as limits.headers_max=50.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
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
        Command::Run(source) => run(&source),
        Command::Check { source, format } => check(&source, format),
        Command::Schema { format } => schema(format),
        Command::Topology { source, format } => topology(&source, format),
        Command::Version { format } => version(format),
    };
    exit.into()
}

/// A loaded configuration, or why there is none.
enum LoadError {
    Usage(String),
    Config(Problems),
}

struct Loaded {
    settings: Settings,
    /// For people: the file's name, or that there was none.
    name: String,
    embedded: bool,
}

fn load(source: &Source) -> Result<Loaded, LoadError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut overrides = Overrides::default();
    let plugins = source.plugins.as_ref().map(|path| path.display().to_string());
    pick("--plugins", plugins, "ZPROXY_PLUGINS", variable("ZPROXY_PLUGINS"), |name, value| {
        overrides.plugins_dir(name, value);
    });
    let listen = source.listen.clone();
    pick("--listen", listen, "ZPROXY_LISTEN", variable("ZPROXY_LISTEN"), |name, value| {
        overrides.listen(name, value);
    });
    let workers = source.workers.clone();
    pick("--workers", workers, "ZPROXY_WORKERS", variable("ZPROXY_WORKERS"), |name, value| {
        overrides.workers(name, value);
    });
    let admin = source.admin.clone();
    pick("--admin", admin, "ZPROXY_ADMIN", variable("ZPROXY_ADMIN"), |name, value| {
        overrides.admin(name, value);
    });
    for argument in &source.set {
        overrides.set(argument).map_err(LoadError::Usage)?;
    }
    let file = source
        .config
        .clone()
        .or_else(|| variable("ZPROXY_CONFIG").map(PathBuf::from))
        .or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()));
    let Some(file) = file else {
        let loaded = config::load_embedded(&overrides, &System, &[]);
        let (_, settings) = loaded.map_err(LoadError::Config)?;
        return Ok(Loaded { settings, name: "embedded default".to_owned(), embedded: true });
    };
    let name = file.display().to_string();
    let text = std::fs::read(&file).map_err(|error| {
        LoadError::Config(Problems(vec![config::Problem {
            file: name.clone(),
            line: None,
            column: None,
            path: String::new(),
            message: format!("cannot be read: {error}"),
            cure: "name a readable file with `--config FILE`".to_owned(),
        }]))
    })?;
    let loaded = config::load(&text, &name, &overrides, &System, &[]);
    let (_, settings) = loaded.map_err(LoadError::Config)?;
    Ok(Loaded { settings, name, embedded: false })
}

/// Applies a flag, else its variable.
fn pick(
    flag: &str,
    given: Option<String>,
    variable: &str,
    set: Option<String>,
    mut apply: impl FnMut(&str, &str),
) {
    match (given, set) {
        (Some(value), _) => apply(flag, &value),
        (None, Some(value)) => apply(variable, &value),
        (None, None) => {}
    }
}

fn complain(error: LoadError) -> Exit {
    match error {
        LoadError::Usage(message) => {
            eprintln!("error: {message}");
            Exit::Usage
        }
        LoadError::Config(problems) => {
            eprintln!("{problems}");
            Exit::Config
        }
    }
}

fn run(source: &Source) -> Exit {
    sink::start(std::env::var("ZPROXY_LOG").ok().as_deref());
    let exit = match load(source) {
        Ok(loaded) => serve(loaded),
        Err(error) => complain(error),
    };
    sink::flush();
    exit
}

fn serve(loaded: Loaded) -> Exit {
    let (soft, hard) = zproxy::sys::raise_descriptor_limit();
    log::debug!(target: "control", "descriptors: {soft} of {hard}");
    log::info!(target: "control", "zproxy {}: {}", env!("CARGO_PKG_VERSION"), loaded.name);
    // Before anybody can know that the gateway is there: until then a signal does what it always does.
    let listening =
        tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let signals = runtime.block_on(async { Signals::new() })?;
            Ok((runtime, signals))
        });
    let (runtime, signals) = match listening {
        Ok(listening) => listening,
        Err(error) => {
            log::error!(target: "control", "signals: {error}");
            return Exit::Failure;
        }
    };
    let builder = Gateway::from_settings(loaded.settings).tolerate_bad_plugins(loaded.embedded);
    let gateway = match builder.start() {
        Ok(gateway) => gateway,
        Err(error) => {
            sink::flush();
            eprintln!("{error}");
            return exit_of(&error);
        }
    };
    for address in gateway.addresses() {
        log::info!(target: "control", "listening on {address}");
    }
    if let Some(address) = gateway.admin_address() {
        log::info!(target: "control", "admin on {address}");
    }
    runtime.block_on(until_signalled(signals, gateway))
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
async fn until_signalled(signals: Signals, mut gateway: Gateway) -> Exit {
    let Signals { mut terminate, mut interrupt, mut quit, mut hang_up, mut reopen, mut upgrade } =
        signals;
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = quit.recv() => "SIGQUIT",
            _ = hang_up.recv() => {
                log::warn!(target: "control", "SIGHUP: reloading is not supported by this version");
                continue;
            }
            _ = reopen.recv() => {
                gateway.reopen_logs();
                continue;
            }
            _ = upgrade.recv() => {
                log::warn!(target: "control", "SIGUSR2: upgrading is not supported by this version");
                continue;
            }
        };
        let limit = gateway.drain_timeout();
        log::info!(target: "control", "{name}: draining for at most {limit:?}");
        break;
    }
    gateway.begin_drain();
    let deadline = deadline(gateway.drain_timeout());
    let mut look = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep_until(deadline.into()) => {
                log::warn!(target: "control", "drain timed out; requests were cut off");
                return Exit::DrainTimedOut;
            }
            _ = look.tick() => {
                if gateway.has_drained() {
                    log::info!(target: "control", "drained");
                    return Exit::Ok;
                }
            }
        }
    }
    log::info!(target: "control", "second signal: stopping at once");
    Exit::Ok
}

fn deadline(wait: Duration) -> Instant {
    Instant::now() + wait
}

fn check(source: &Source, format: Format) -> Exit {
    let (exit, lines, problems) = match load(source) {
        Err(LoadError::Usage(message)) => return complain(LoadError::Usage(message)),
        Err(LoadError::Config(problems)) => {
            (Exit::Config, problems.to_string(), serde_json::json!(problems))
        }
        Ok(loaded) => match control::check(loaded.settings) {
            Ok(()) => (Exit::Ok, format!("{}: ok", loaded.name), serde_json::json!([])),
            Err(StartError::Plugin(problems)) => {
                let list: Vec<_> =
                    problems.0.iter().map(|text| serde_json::json!({ "message": text })).collect();
                (Exit::Plugin, problems.to_string(), list.into())
            }
            Err(error) => {
                let list = serde_json::json!([{ "message": error.to_string() }]);
                (exit_of(&error), error.to_string(), list)
            }
        },
    };
    match format {
        Format::Text if exit == Exit::Ok => print(&lines),
        Format::Text => {
            eprintln!("{lines}");
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
