//! Compiled code on disk, so that a restart need not compile what was compiled before.
//!
//! A file is named by the component's digest and by what the code was compiled for (wasmtime, its
//! settings, the CPU's features), and begins with a checksum. It is written beside its name and renamed.
//! What cannot be used is compiled anew, and what cannot be written is not: the cache never fails
//! anybody.
//!
//! **Compiled code is trusted**: it runs as it is. So the folder must belong to the user that runs the
//! gateway and nobody else may write in it ([`PrivateFolder`]): whoever could put code there could as well
//! change the gateway. The checksum is against damage, not against them.
//!
//! Not here: compiling (`load`), and where the folder is (`config`).

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::sys::private::PrivateFolder;

/// All files together. The largest plugins, in Python, take some 100 MB each.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// One file.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

const EXTENSION: &str = ".cwasm";

/// Compiled code on disk.
pub struct CodeCache {
    folder: PrivateFolder,
}

impl CodeCache {
    /// In this folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be made or read, or somebody else may write in it.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        Ok(Self { folder: PrivateFolder::open(folder)? })
    }

    /// The compiled code of a component, if it is here.
    pub(super) fn find(&self, engine: &Engine, component: &str) -> Option<Component> {
        let name = name(engine, component);
        let bytes = self.folder.read(&name, FILE_BYTES_MAX).ok()?;
        let parts = bytes.split_at_checked(SHA256_OUTPUT_LEN);
        let Some((_, code)) = parts.filter(|(sum, code)| digest(&SHA256, code).as_ref() == *sum)
        else {
            log::warn!(target: "plugin", "compiled code {name} is damaged: it is compiled anew");
            return None;
        };
        match self.folder.component(engine, code) {
            Ok(component) => Some(component),
            Err(error) => {
                log::warn!(target: "plugin", "compiled code {name}: {error:#}");
                None
            }
        }
    }

    /// Keeps the compiled code of a component.
    pub(super) fn keep(&self, engine: &Engine, component: &str, compiled: &Component) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let kept = compiled.serialize().map_err(std::io::Error::other).and_then(|code| {
            if code.len() as u64 >= FILE_BYTES_MAX {
                return Ok(());
            }
            self.make_room(code.len() as u64)?;
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let beside = format!(".{}.{count}", std::process::id());
            let sum = digest(&SHA256, &code);
            self.folder.write(&beside, &name(engine, component), &[sum.as_ref(), &code])
        });
        if let Err(error) = kept {
            log::debug!(target: "plugin", "compiled code is not kept: {error}");
        }
    }

    /// Removes the oldest files until there is room for so many bytes, and what a writer left that did
    /// not finish.
    fn make_room(&self, bytes: u64) -> std::io::Result<()> {
        let mut files = self.folder.files()?;
        files.sort_by_key(|file| std::cmp::Reverse(file.modified));
        let mut held = bytes;
        for file in files {
            held += file.bytes;
            let is_left = !file.name.ends_with(EXTENSION) && file.age().as_secs() > 3600;
            if held > BYTES_MAX || is_left {
                self.folder.remove(&file.name)?;
            }
        }
        Ok(())
    }
}

fn name(engine: &Engine, component: &str) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{component}-{:016x}{EXTENSION}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn compiled(engine: &Engine) -> Component {
        Component::new(engine, wat::parse_str("(component)").unwrap()).unwrap()
    }

    fn only_file(folder: &Path) -> std::path::PathBuf {
        let mut files = fs::read_dir(folder).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        file
    }

    #[test]
    fn what_was_kept_is_found_by_its_digest() {
        let (engine, folder) = (Engine::default(), tempfile::tempdir().unwrap());
        let cache = CodeCache::open(&folder.path().join("new/cache")).unwrap();

        cache.keep(&engine, "abc", &compiled(&engine));

        assert!(cache.find(&engine, "abc").is_some());
        assert!(cache.find(&engine, "abd").is_none());
        let file = only_file(&folder.path().join("new/cache"));
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_was_compiled_otherwise_is_not_found() {
        let (engine, folder) = (Engine::default(), tempfile::tempdir().unwrap());
        let cache = CodeCache::open(&folder.path().join("cache")).unwrap();
        cache.keep(&engine, "abc", &compiled(&engine));
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);

        assert!(cache.find(&Engine::new(&config).unwrap(), "abc").is_none());
    }

    #[test]
    fn damaged_code_is_not_run() {
        let (engine, folder) = (Engine::default(), tempfile::tempdir().unwrap());
        let cache = CodeCache::open(folder.path().join("cache").as_path()).unwrap();
        cache.keep(&engine, "abc", &compiled(&engine));
        let file = only_file(&folder.path().join("cache"));
        let whole = fs::read(&file).unwrap();

        for at in [0, 40, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file, damaged).unwrap();
            assert!(cache.find(&engine, "abc").is_none(), "byte {at}");
        }
        fs::write(&file, &whole[..10]).unwrap();
        assert!(cache.find(&engine, "abc").is_none());
        fs::write(&file, &whole).unwrap();
        assert!(cache.find(&engine, "abc").is_some());
    }

    #[test]
    fn a_folder_in_which_others_may_write_is_no_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        fs::create_dir(&cache).unwrap();
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(CodeCache::open(&cache).is_err());

        fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(CodeCache::open(&cache).is_ok());
        std::os::unix::fs::symlink(&cache, folder.path().join("link")).unwrap();
        assert!(CodeCache::open(&folder.path().join("link")).is_err());
    }

    /// A link could lead to what somebody else has written.
    #[test]
    fn links_and_files_that_others_may_write_are_not_read() {
        let (engine, folder) = (Engine::default(), tempfile::tempdir().unwrap());
        let cache = CodeCache::open(&folder.path().join("cache")).unwrap();
        cache.keep(&engine, "abc", &compiled(&engine));
        let file = only_file(&folder.path().join("cache"));

        fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(cache.find(&engine, "abc").is_none());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(cache.find(&engine, "abc").is_none());
    }
}
