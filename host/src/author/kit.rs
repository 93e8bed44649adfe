//! What authors are handed: SDKs, WIT and templates, as they are in this version.
//!
//! They are part of the binary, so that a project builds wherever the command is, without this
//! repository.
//!
//! Not here: what is in them (`sdk/`, `wit/`), and what becomes of templates (`new`).

use std::fs;
use std::path::Path;

use super::Error;

/// Path in the repository and content of every file.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/kit.rs"));

/// The files of a folder, by their paths below it.
pub(super) fn files(folder: &str) -> impl Iterator<Item = (&'static str, &'static [u8])> {
    FILES.iter().filter_map(move |(path, content)| {
        Some((path.strip_prefix(folder)?.strip_prefix('/')?, *content))
    })
}

/// Writes the files of a folder below `to`.
pub(super) fn lay(folder: &str, to: &Path) -> Result<(), Error> {
    for (path, content) in files(folder) {
        write(&to.join(path), content)?;
    }
    Ok(())
}

/// Writes the Rust SDK with its WIT, as a crate that needs no workspace.
pub(super) fn lay_rust_sdk(to: &Path) -> Result<(), Error> {
    lay("sdk/src", &to.join("src"))?;
    lay("wit", &to.join("wit"))?;
    for (path, content) in files("sdk").filter(|(path, _)| !path.contains('/')) {
        write(&to.join(path), content)?;
    }
    Ok(())
}

/// Writes a file and the folders that lead to it.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let failed = |error| Error::failure(format!("{}: {error}", path.display()));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    fs::write(path, content).map_err(failed)
}
