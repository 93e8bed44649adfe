//! A plugin in another language than Rust, and what all of these need: tools that are installed once,
//! programs that are run and end, files that are replaced whole.
//!
//! Not here: what is in a project and how it is recognised (`zproxy plugin`, in the gateway).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, io_error};

/// What to build.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its folder. Programs run here.
    pub folder: PathBuf,
    /// The folder with the WIT of its world, and what that needs in `deps`.
    pub wit: PathBuf,
    /// The world.
    pub world: String,
    /// What to compile: the main file.
    pub source: PathBuf,
    /// The folder of the helpers that the language's SDK has.
    pub kit: PathBuf,
    /// For what is made on the way.
    pub work: PathBuf,
    /// For what is installed, once for all projects.
    pub tools: PathBuf,
    /// Where the component goes.
    pub destination: PathBuf,
}

/// Runs a program to its end. What it says goes to standard error.
pub(crate) fn run(mut command: Command, program: &str) -> Result<(), Error> {
    let start = |source| Error::Start { program: program.to_owned(), source };
    command.stdout(std::io::stderr()).stdin(std::process::Stdio::null());
    let status = command.status().map_err(start)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Refused { program: program.to_owned(), status }),
    }
}

/// Puts a component at `to`, unless it is there already: a file that the gateway watches should change
/// only when it has.
pub(crate) fn replace(to: &Path, bytes: &[u8]) -> Result<(), Error> {
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(io_error(to))?;
    }
    // Written beside it and renamed, so that nobody ever loads half a component. Hidden: nobody loads
    // it under another name either.
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let beside = to.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, to)).map_err(io_error(to))
}
