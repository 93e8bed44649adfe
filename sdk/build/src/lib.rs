//! From a Rust crate to components: runs cargo for `wasm32-wasip2` and collects what comes out.
//!
//! [`build`] is the whole story: find a [`Toolchain`], run cargo with an environment of its own,
//! copy each component to where it is wanted. The same code serves `cargo plugins` and tests, and has
//! no dependencies: it must compile in a second.
//!
//! Not here: what is inside a plugin (`zproxy-sdk`), and which plugins ZProxy has (`main.rs`).

#![forbid(unsafe_code)]

mod toolchain;
mod cargo;

use std::fmt;
use std::path::PathBuf;

pub use cargo::{Artifact, Job, build};
pub use toolchain::{Choice, Toolchain, find};

/// The target that makes components without any further tool.
pub const TARGET: &str = "wasm32-wasip2";

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
    /// The compiler refused; what it said went to standard error.
    Cargo {
        /// How cargo ended.
        status: std::process::ExitStatus,
    },
    /// Cargo ended well but the component is not where it belongs.
    Copy {
        /// What should have been copied.
        from: PathBuf,
        /// Where to.
        to: PathBuf,
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
            Self::Cargo { status } => write!(f, "the plugin was not built: cargo, {status}"),
            Self::Copy { from, to, .. } => {
                write!(f, "cannot copy {} to {}", from.display(), to.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::Copy { source, .. } => Some(source),
            Self::NoToolchain(_) | Self::Cargo { .. } => None,
        }
    }
}
