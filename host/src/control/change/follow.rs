//! Follows the files of plugins and certificates.
//!
//! Not here: what has become of them ([`Watch`](crate::control::watch::Watch)).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::{Control, Refusal, RefusalKind, compile, content, hold};
use crate::config::{self, PluginSource, System};
use crate::control::shelf::{From, Held};
use crate::control::snapshot::{self, Sources};
use crate::control::watch::Sight;
use crate::plugin::digest_of;
use crate::tls::TlsSet;

impl Control {
    /// Looks at the files of all plugins, and follows them.
    pub(super) fn look(&mut self, now: Instant) {
        if self.running.is_draining() {
            return;
        }
        let mut paths: BTreeSet<PathBuf> =
            self.shelf.iter().filter_map(|held| held.path.clone()).collect();
        let mut folders: BTreeSet<PathBuf> = paths.iter().map(|path| folder_of(path)).collect();
        let mut strangers = Vec::new();
        if let Some(folder) = self.settings.plugins_dir.clone() {
            match config::plugins_in(&folder, &System) {
                Ok(files) => {
                    self.unreadable = false;
                    // A file takes the place of what is built in, as a stranger takes its own.
                    let known = |name: &str| {
                        let index = self.shelf.iter().position(|held| *held.name == *name);
                        index.is_some_and(|at| {
                            self.settings.plugins[at].source != PluginSource::BuiltIn
                        })
                    };
                    strangers.extend(files.into_iter().filter(|(name, _)| !known(name)));
                    paths.extend(strangers.iter().map(|(_, path)| path.clone()));
                }
                Err(error) if !self.unreadable => {
                    self.unreadable = true;
                    let folder = folder.display();
                    log::warn!(target: "plugin", "the plugins folder {folder}: {error}");
                }
                Err(_) => {}
            }
            folders.insert(folder);
        }
        let certificates = self.certificate_files();
        folders.extend(certificates.iter().map(|path| folder_of(path)));
        paths.extend(certificates.iter().cloned());
        self.watch.listen_to(folders);
        for sight in self.watch.look(&paths, now) {
            let (path, last) = match &sight {
                Sight::Changed { path, last } => (path, Some(*last)),
                Sight::Gone(path) => (path, None),
            };
            let index = self.shelf.iter().position(|held| held.path.as_ref() == Some(path));
            match (index, last) {
                (Some(index), Some(last)) => self.follow(index, path, last),
                (Some(index), None) => self.file_gone(index, path),
                _ if certificates.contains(path) => self.follow_certificates(path, last),
                (None, Some(last)) => {
                    if let Some((name, path)) = strangers.iter().find(|(_, one)| one == path) {
                        self.welcome(name, path, last);
                    }
                }
                (None, None) => {}
            }
        }
    }

    /// Files that certificates, keys and roots were read from, and whose names the settings have.
    fn certificate_files(&self) -> BTreeSet<PathBuf> {
        self.running.snapshot().tls.files().cloned().collect()
    }

    /// A certificate, a key or roots have changed, or so it seems; `last` as in [`Sight`].
    fn follow_certificates(&mut self, path: &Path, last: Option<bool>) {
        let Some(last) = last else {
            let path = path.display();
            log::warn!(target: "tls", "{path} has gone; what was read from it goes on until a reload");
            return;
        };
        let serving = self.running.snapshot();
        let taken = match snapshot::certificates(&self.settings, Some(&serving.tls)) {
            Ok(tls) if tls.is_of_the_same_files(&serving.tls) => return,
            Ok(tls) => self.take_certificates(tls).map_err(|refusal| refusal.detail),
            // A certificate and its key change one after the other.
            Err(_) if !last => return self.watch.in_vain(path),
            Err(error) => Err(error.to_string()),
        };
        match taken {
            Ok(()) => log::info!(target: "tls", "{} has changed: read anew", path.display()),
            Err(problem) => log::error!(
                target: "tls",
                "{} has changed and cannot be used; what was read before goes on: {problem}",
                path.display()
            ),
        }
    }

    /// Lets everything else be as it is.
    fn take_certificates(&mut self, tls: Arc<TlsSet>) -> Result<(), Refusal> {
        let sources: Sources = self.shelf.iter().map(|held| held.source.clone()).collect();
        let (settings, probed) = (self.settings.clone(), &mut self.probed);
        let former = self.running.snapshot();
        let built =
            snapshot::build(settings, sources, Vec::new(), tls, probed, self.bad, Some(&former));
        let built = built.map_err(|error| Refusal::new(RefusalKind::Bad, error.to_string()))?;
        let access_log = self.running.access_log();
        self.hand_out(&Arc::new(built), access_log)
    }

    /// A file has another content than before, or so it seems.
    fn follow(&mut self, index: usize, path: &Path, last: bool) {
        if std::mem::take(&mut self.shelf[index].file_gone) {
            self.running.publish(self.shelf.clone());
        }
        let plugin = &self.settings.plugins[index];
        let bytes = content(plugin);
        let digest = bytes.as_ref().ok().map(|bytes| digest_of(bytes));
        if digest.is_some() && digest == self.shelf[index].file_digest {
            return;
        }
        match bytes.and_then(|bytes| compile(&self.engine, plugin, &bytes)) {
            Ok(plugin) => {
                self.shelf[index].file_digest = digest;
                // Its outcome is in the log and on the shelf.
                let _ = self.install(index, plugin, From::File);
            }
            Err(_) if !last => self.watch.in_vain(path),
            Err(problem) => {
                self.shelf[index].file_digest = digest;
                self.refuse(index, problem);
            }
        }
    }

    /// The file has gone. Nobody takes a plugin out of its routes by removing a file: until a reload
    /// says what the routes are to do without it, it goes on.
    fn file_gone(&mut self, index: usize, path: &Path) {
        let held = &mut self.shelf[index];
        held.file_gone = true;
        held.file_digest = None;
        let (name, path) = (&held.name, path.display());
        self.running.events().tell("file-gone", &serde_json::json!({ "plugin": **name }));
        log::warn!(
            target: "plugin",
            "plugin `{name}`: {path} has gone; what was loaded goes on until a reload"
        );
        self.running.publish(self.shelf.clone());
    }

    /// A file has come into the plugins folder.
    fn welcome(&mut self, name: &str, path: &Path, last: bool) {
        if let Some(index) = self.shelf.iter().position(|held| *held.name == *name) {
            // It takes the place of what is built in.
            self.settings.plugins[index].source = PluginSource::File(path.to_path_buf());
            self.shelf[index].path = Some(path.to_path_buf());
            return self.follow(index, path, last);
        }
        let stranger = config::plugin_from_folder(name, path.to_path_buf(), &self.settings);
        let held = hold(&stranger, &self.engine, &self.natives);
        if held.source.is_err() && !last {
            self.watch.in_vain(path);
            return;
        }
        if self.origin.as_ref().is_some_and(|origin| origin.follows_folder()) {
            // `held` keeps the compiled code for it. What is wrong is in the log.
            let _ = self.reload();
            return;
        }
        self.settings.plugins.push(stranger);
        let index = self.shelf.len();
        let loaded = held.serving().map(Arc::clone);
        match (loaded, &held.source) {
            (Some(plugin), _) => {
                self.shelf.push(Held { source: Err("not loaded yet".to_owned()), ..held });
                let _ = self.install(index, plugin, From::File);
            }
            (None, source) => {
                let problem = source.as_ref().err().cloned().unwrap_or_default();
                self.shelf.push(held);
                self.refuse(index, problem);
            }
        }
    }
}

fn folder_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_path_buf()
}
