//! `zproxy plugin`: what authors of plugins work with.
//!
//! | command | does | file |
//! |---|---|---|
//! | `new` | makes a project that builds, tests and runs as it is | `new`, `kit` |
//! | `build` | makes a component of a project | `project`, `sdk/build` |
//! | `check` | loads a component as the gateway does and tries a configuration | `check` |
//! | `inspect` | says what a component may do, without running it | `inspect` |
//! | `test` | plays golden requests through it and compares | `test`, `case`, `play`, `compare` |
//! | `bench` | says what its hooks cost, beside a bare call | `bench` |
//!
//! `zproxy --watch` builds what is saved (`watch`).
//!
//! Everything runs the real plugin engine and chain of the gateway, in this process and without
//! sockets. stdout carries the result, stderr what compilers and diagnostics say.
//!
//! Not here: how languages are compiled (`sdk/build`), and what a plugin can import (`wit/`).

mod bench;
mod case;
mod check;
mod compare;
mod inspect;
mod kit;
mod log;
mod new;
mod play;
mod project;
mod subject;
mod test;
mod watch;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

pub use project::Language;
pub use watch::{has_projects, watch};

use crate::config::Problems;

/// What `zproxy plugin` was asked for.
#[derive(Args)]
pub struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a project that builds, tests and runs as it is.
    New {
        /// Name of the plugin and of its folder.
        name: String,
        /// Language of the project.
        #[arg(long, value_enum)]
        lang: Language,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Builds the project in a folder into a component.
    Build {
        /// The project's folder.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Where the component goes [default: plugins/NAME.wasm in the project].
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Loads a component as the gateway would, tries a configuration, and prints every problem.
    Check {
        /// The component.
        file: PathBuf,
        #[command(flatten)]
        limits: Limits,
        /// The plugin's configuration, a JSON object.
        #[arg(long, value_name = "JSON", default_value = "{}")]
        config: String,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Says what a component may do: its hooks, its imports, what they are granted.
    Inspect {
        /// The component.
        file: PathBuf,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Plays the golden requests of a project through its plugin: builds first.
    Test {
        /// The project's folder, or a component.
        #[arg(default_value = ".", value_name = "DIR|FILE")]
        subject: PathBuf,
        /// Files with golden requests, or folders of them [default: tests/ beside the subject].
        #[arg(long, value_name = "PATH")]
        cases: Vec<PathBuf>,
        #[command(flatten)]
        limits: Limits,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Says what a component costs: each hook, memory, start.
    Bench {
        /// The component.
        file: PathBuf,
        /// The plugin's configuration, a JSON object.
        #[arg(long, value_name = "JSON")]
        config: Option<String>,
        /// Takes request, answer and configuration from the first case of this file.
        #[arg(long, value_name = "FILE")]
        case: Option<PathBuf>,
        #[command(flatten)]
        limits: Limits,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

/// Limits and grants other than the configuration's.
#[derive(Args, Clone, Default)]
struct Limits {
    /// Memory of an instance, as `limits.memory_bytes_max` of the configuration.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(65_536..=4_294_967_296))]
    memory_bytes_max: Option<u64>,
    /// Time of a hook, as `limits.time_ms_max` of the configuration.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    time_ms_max: Option<u32>,
    /// Fuel of a hook, as `limits.fuel_max` of the configuration.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..))]
    fuel_max: Option<u64>,
    /// What it may reach, as `plugins.NAME.allow` of the configuration.
    #[arg(long, value_name = "JSON")]
    allow: Option<String>,
}

/// How a result is written.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What a command has to say.
pub struct Report {
    /// For stdout.
    pub text: String,
    /// Why it did not end well.
    pub failed: Option<Failed>,
}

/// How a command ended that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It could not be done, or the plugin's tests fail.
    Failure,
    /// It was asked for in a way that makes no sense.
    Usage,
    /// The project's `zproxy.json` is wrong.
    Config,
    /// The component is no plugin, or refuses the configuration.
    Plugin,
}

/// Why there is no result.
#[derive(Debug)]
struct Error {
    failed: Failed,
    message: String,
}

impl Error {
    fn failure(message: impl Into<String>) -> Self {
        Self { failed: Failed::Failure, message: message.into() }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self { failed: Failed::Usage, message: message.into() }
    }

    fn plugin(message: impl Into<String>) -> Self {
        Self { failed: Failed::Plugin, message: message.into() }
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self { failed: Failed::Config, message: problems.to_string() }
    }
}

/// A result: for people, for programs, and whether it is a good one.
struct Answer {
    text: String,
    json: Value,
    failed: Option<Failed>,
}

/// Does what was asked for. What goes wrong without a result is said on stderr, by the caller's
/// `say`.
pub fn run(line: Line, say: impl FnOnce(&str)) -> Report {
    let (format, answer) = match line.command {
        Command::New { name, lang, format } => (format, new::new(&name, lang)),
        Command::Build { dir, output, format } => (format, project::build(&dir, output)),
        Command::Check { file, limits, config, format } => {
            (format, check::check(&file, &limits, &config))
        }
        Command::Inspect { file, format } => (format, inspect::inspect(&file)),
        Command::Test { subject, cases, limits, format } => {
            (format, test::test(&subject, &cases, &limits))
        }
        Command::Bench { file, config, case, limits, format } => {
            (format, bench::bench(&file, config.as_deref(), case.as_deref(), &limits))
        }
    };
    match (answer, format) {
        (Ok(answer), Format::Text) => Report { text: answer.text, failed: answer.failed },
        (Ok(answer), Format::Json) => {
            Report { text: format!("{:#}", answer.json), failed: answer.failed }
        }
        (Err(error), Format::Text) => {
            say(&format!("error: {}", error.message));
            Report { text: String::new(), failed: Some(error.failed) }
        }
        (Err(error), Format::Json) => {
            let json = json!({ "ok": false, "problems": [{ "message": error.message }] });
            Report { text: format!("{json:#}"), failed: Some(error.failed) }
        }
    }
}
