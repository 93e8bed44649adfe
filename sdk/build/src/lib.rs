//! From a plugin's source to a component.
//!
//! For Rust [`build`] is the whole story: find a [`Toolchain`], run cargo for `wasm32-wasip2` with an
//! environment of its own, copy each component to where it is wanted. The same code serves `cargo
//! plugins`, tests and `zproxy plugin build`, and has no dependencies: it must compile in a second. A
//! [`Project`] in C, JavaScript or Python goes through tools of those languages.
//!
//! Not here: what is inside a plugin (`zproxy-sdk`).

#![forbid(unsafe_code)]

mod toolchain;
mod cargo;
mod project;
mod c;
mod script;

use std::fmt;
use std::path::{Path, PathBuf};

pub use c::build as build_c;
pub use cargo::{Artifact, Job, build};
pub use project::Project;
pub use script::{build_javascript, build_python};
pub use toolchain::{Choice, Toolchain, find};

/// The target that makes components without any further tool.
pub const TARGET: &str = "wasm32-wasip2";

/// The plugins that the gateway's binary brings along: folders of `plugins`, whose packages are named
/// `zproxy-plugin-NAME`.
pub const BUILT_IN: [&str; 3] = ["cache", "jwt", "rate-limit"];

/// Why no component came out, for a person to read.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No way to compile for [`TARGET`] was found. Says what was tried and what would help.
    NoToolchain(String),
    /// A program could not be started.
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// What another language needs is not there and cannot be installed.
    NoTools {
        /// Which language.
        language: &'static str,
        /// What was tried and what would help.
        reason: String,
    },
    /// A compiler refused; what it said went to standard error.
    Refused {
        /// Which program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// A file that cannot be read or written.
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToolchain(reasons) => {
                write!(f, "nothing here compiles Rust for {TARGET}:\n{reasons}")
            }
            Self::Start { program, .. } => write!(f, "cannot start {program}"),
            Self::NoTools { language, reason } => {
                write!(f, "nothing here builds plugins in {language}: {reason}")
            }
            Self::Refused { program, status } => {
                write!(f, "the plugin was not built: {program}, {status}")
            }
            Self::File { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::File { source, .. } => Some(source),
            Self::NoToolchain(_) | Self::NoTools { .. } | Self::Refused { .. } => None,
        }
    }
}

/// An error and its reasons, in one line.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", describe(source)),
    }
}

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::File { path: path.to_owned(), source }
}
