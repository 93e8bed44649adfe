//! A plugin in another language than Rust, and what all of these need: tools that are installed once,
//! programs that are run and end, files that are replaced whole.
//!
//! Not here: what is in a project and how it is recognised (`zproxy plugin`, in the gateway).

use std::fs;
use std::hash::{DefaultHasher, Hasher};
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

/// What is no part of a plugin's source.
const LEFT_OUT: [&str; 5] = ["__pycache__", "node_modules", "plugins", "target", "tests"];

/// Makes a project's component by `make`, which leaves it at the path that it is given, and puts it where it
/// is wanted; unless that has been done, by the same `tool`, of all the same files. Compilers of interpreted
/// languages take seconds to do the same thing again.
pub(crate) fn once(
    project: &Project,
    tool: &str,
    make: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    fs::create_dir_all(&project.work).map_err(io_error(&project.work))?;
    let mut hasher = DefaultHasher::new();
    for text in [tool, &project.world] {
        hasher.write(text.as_bytes());
        hasher.write_u8(0);
    }
    for folder in [&project.folder, &project.wit, &project.kit] {
        digest(folder, &mut hasher)?;
    }
    let inputs = format!("{:016x}", hasher.finish());
    let (made, record) = (project.work.join("component.wasm"), project.work.join("made-of"));
    if !made.exists() || fs::read_to_string(&record).map_or(true, |known| known != inputs) {
        // Half of a new one must not count as the old.
        let _ = fs::remove_file(&record);
        make(&made)?;
        fs::write(&record, inputs).map_err(io_error(&record))?;
    }
    replace(&project.destination, &fs::read(&made).map_err(io_error(&made))?)
}

/// Goes through the files of a folder: names and contents, in order.
fn digest(folder: &Path, hasher: &mut DefaultHasher) -> Result<(), Error> {
    let listed = fs::read_dir(folder).map_err(io_error(folder))?;
    let mut paths: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || LEFT_OUT.contains(&&*name) {
            continue;
        }
        hasher.write(name.as_bytes());
        hasher.write_u8(0);
        if path.is_dir() {
            digest(&path, hasher)?;
        } else {
            let content = fs::read(&path).map_err(io_error(&path))?;
            hasher.write_usize(content.len());
            hasher.write(&content);
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_project_is_built_again_only_when_something_in_it_has_changed() {
        let folder = std::env::temp_dir().join(format!("zproxy-once-{}", std::process::id()));
        let project = Project {
            folder: folder.clone(),
            wit: folder.join("target/wit"),
            world: "plugin".to_owned(),
            source: folder.join("plugin.js"),
            kit: folder.join("target/kit"),
            work: folder.join("target"),
            tools: folder.clone(),
            destination: folder.join("plugins/a.wasm"),
        };
        for path in [&project.wit, &project.kit, &folder.join("tests")] {
            fs::create_dir_all(path).unwrap();
        }
        let calls = Cell::new(0);
        let build = |source: &str, test: &str| {
            fs::write(&project.source, source).unwrap();
            fs::write(folder.join("tests/a.http"), test).unwrap();
            once(&project, "tool 1", |made| {
                calls.set(calls.get() + 1);
                fs::write(made, source).map_err(io_error(made))
            })
            .unwrap();
            (fs::read_to_string(&project.destination).unwrap(), calls.get())
        };

        assert_eq!(build("one", ""), ("one".to_owned(), 1));
        assert_eq!(build("one", "other tests"), ("one".to_owned(), 1));
        assert_eq!(build("two", ""), ("two".to_owned(), 2));
        fs::remove_file(&project.destination).unwrap();
        assert_eq!(build("two", ""), ("two".to_owned(), 2), "it is put back");
        assert!(once(&project, "tool 2", |_| Err(Error::NoToolchain(String::new()))).is_err());
        assert_eq!(build("two", ""), ("two".to_owned(), 3), "what failed counts as nothing");
        fs::remove_dir_all(&folder).unwrap();
    }
}
