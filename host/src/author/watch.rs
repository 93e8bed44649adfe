//! `zproxy --watch`: builds the plugins of a folder whenever their sources are saved; the gateway swaps what
//! comes out, as it does with every file in that folder.
//!
//! Projects are those in the folder (`plugins/NAME/`), and the one that the folder is in. Sources are looked
//! at, not listened to: a few `stat`s every third of a second see every editor's way of saving a file. One that
//! does not build is told on standard error, and what serves goes on.
//!
//! Not here: swapping (`control::watch`), and what production does: this is for an author's machine.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::project;

/// Between two looks. A file that changes from one to the next is still being written.
const PAUSE: Duration = Duration::from_millis(300);

/// Files of a project that are looked at.
const FILES_MAX: usize = 10_000;

/// What building writes, and what no build reads.
const LEFT_OUT: [&str; 8] = [
    "Cargo.lock",
    "README.md",
    "__pycache__",
    "node_modules",
    "plugins",
    "target",
    "tests",
    "zproxy-sdk",
];

/// Sources in a project's own folder. What else lies there, lines of the gateway's logs first of all, is written for
/// other reasons, and would be built for ever. Below it any file may be part of a plugin, but for logs.
const SOURCES: [&str; 11] = ["c", "cjs", "h", "js", "json", "mjs", "py", "rs", "toml", "ts", "wit"];

/// Builds every project of a plugins folder, and then again whenever one is saved, for as long as the
/// process lives.
///
/// # Errors
///
/// There is no thread to be had.
pub fn watch(folder: PathBuf) -> std::io::Result<()> {
    let mut projects = Projects::default();
    projects.round(&folder, build);
    thread::Builder::new().name("plugin-builder".to_owned()).spawn(move || {
        loop {
            thread::sleep(PAUSE);
            projects.round(&folder, build);
        }
    })?;
    Ok(())
}

/// Whether there is something to build.
#[must_use]
pub fn has_projects(folder: &Path) -> bool {
    !find(folder).is_empty()
}

fn build(project: &Path, folder: &Path) {
    let shown = project.display();
    log::info!(target: "plugin", "{shown}: building");
    match project::make_into(project, folder) {
        Ok(component) => log::info!(target: "plugin", "{shown}: built {}", component.display()),
        Err(error) => log::error!(target: "plugin", "{shown}: {}", error.message),
    }
}

/// Projects by folder, and how their sources looked.
#[derive(Default)]
struct Projects(BTreeMap<PathBuf, Seen>);

#[derive(Default)]
struct Seen {
    last: Option<u64>,
    built: Option<u64>,
}

impl Projects {
    /// Builds what is new, and what has changed and rests.
    fn round(&mut self, folder: &Path, mut build: impl FnMut(&Path, &Path)) {
        let found = find(folder);
        self.0.retain(|known, _| found.contains(known));
        for project in found {
            let now = look(&project);
            let seen = self.0.entry(project.clone()).or_default();
            let rests = seen.last.replace(now).is_none_or(|last| last == now);
            if rests && seen.built != Some(now) {
                // Before: what is saved during the build is built next.
                seen.built = Some(now);
                build(&project, folder);
            }
        }
    }
}

/// The projects of a plugins folder.
fn find(folder: &Path) -> Vec<PathBuf> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let listed = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = folder.parent().map(Path::to_owned).into_iter().collect();
    found.extend(listed.filter(|path| path.is_dir()));
    found.retain(|path| project::is_project(path));
    found.sort();
    found
}

/// Stands for the state of a project's sources: names, sizes and times of its files.
fn look(project: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut folders = vec![project.to_owned()];
    let mut left = FILES_MAX;
    while let Some(folder) = folders.pop() {
        let listed = fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut entries: Vec<_> = listed.take(left).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') || LEFT_OUT.contains(&&*name) {
                continue;
            }
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            left = left.saturating_sub(1);
            if metadata.is_dir() {
                // Its own time says that there is something new in it, a log perhaps.
                folders.push(entry.path());
                continue;
            }
            if !is_source(Path::new(&*name), folder == project) {
                continue;
            }
            (&*name, metadata.len(), metadata.modified().ok()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn is_source(name: &Path, at_the_top: bool) -> bool {
    let extension = name.extension().unwrap_or_default().to_string_lossy();
    if at_the_top { SOURCES.contains(&&*extension) } else { extension != "log" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_built_when_it_is_new_and_when_its_sources_have_changed_and_rest() {
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins");
        let inner = plugins.join("inner");
        fs::create_dir_all(inner.join("target")).unwrap();
        fs::create_dir_all(plugins.join("no-project")).unwrap();
        let mut projects = Projects::default();
        let mut round = || {
            let mut built = Vec::new();
            projects.round(&plugins, |project, _| {
                built.push(project.file_name().unwrap().to_string_lossy().into_owned());
            });
            built
        };
        assert!(round().is_empty() && !has_projects(&plugins));

        fs::write(inner.join("plugin.py"), "1").unwrap();
        assert_eq!(round(), ["inner"], "it is new");
        assert!(round().is_empty());
        fs::write(inner.join("plugin.py"), "22").unwrap();
        assert!(round().is_empty(), "it may still be written");
        assert_eq!(round(), ["inner"]);
        // What building leaves is no reason to build.
        fs::write(inner.join("target/plugin.py"), "1").unwrap();
        fs::write(inner.join(".plugin.py.swp"), "1").unwrap();
        fs::write(plugins.join("inner.wasm"), "1").unwrap();
        // Nor is what the gateway writes while it is watched.
        fs::write(inner.join("access.log"), "1").unwrap();
        fs::write(inner.join("out.txt"), "1").unwrap();
        fs::create_dir(inner.join("data")).unwrap();
        fs::write(inner.join("data/error.log"), "1").unwrap();
        assert!(round().is_empty() && round().is_empty());
        // A part of it, whatever it is.
        fs::write(inner.join("data/names.txt"), "1").unwrap();
        assert!(round().is_empty());
        assert_eq!(round(), ["inner"]);
        // The project that the folder is in.
        fs::write(dir.path().join("plugin.c"), "1").unwrap();
        assert_eq!(round().len(), 1);
        fs::write(dir.path().join("plugin.c"), "22").unwrap();
        assert!(round().is_empty());
        assert_eq!(round().len(), 1);
        assert!(round().is_empty());
    }
}
