//! Files that nobody but this user can have written, and the code in them.
//!
//! Not here: what is kept (`plugin::cache`).

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use wasmtime::Engine;
use wasmtime::component::Component;

/// A folder that belongs to the user that runs this process, and in which nobody else may write.
///
/// It is held open, so that nothing put in its place later is taken for it.
#[derive(Debug)]
pub struct PrivateFolder(OwnedFd);

/// A file of a [`PrivateFolder`].
#[derive(Debug)]
pub struct PrivateFile {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub modified: SystemTime,
}

impl PrivateFile {
    /// How long ago it was written.
    pub fn age(&self) -> Duration {
        self.modified.elapsed().unwrap_or_default()
    }
}

impl PrivateFolder {
    /// Opens the folder; makes it, and what leads to it, where it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be opened, is a link, belongs to somebody else, or somebody else may write in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        check_private(&folder, FileType::Directory)?;
        Ok(Self(folder))
    }

    /// The content of a file of at most `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// It cannot be read, is larger, or was not written by this user alone.
    pub fn read(&self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::RDONLY;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        check_private(&file, FileType::RegularFile)?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    /// Writes a file under the name `beside` and renames it to `name`.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, beside: &str, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::WRONLY;
        let file = rustix::fs::openat(&self.0, beside, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = std::fs::File::from(file);
        let written = parts.iter().try_for_each(|part| file.write_all(part));
        let renamed =
            written.and_then(|()| Ok(rustix::fs::renameat(&self.0, beside, &self.0, name)?));
        if renamed.is_err() {
            // It may have gone already.
            let _ = self.remove(beside);
        }
        renamed
    }

    /// Every file that is there.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn files(&self) -> io::Result<Vec<PrivateFile>> {
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Ok(facts) = rustix::fs::statat(&self.0, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if FileType::from_raw_mode(facts.st_mode) == FileType::RegularFile {
                let seconds = u64::try_from(facts.st_mtime).unwrap_or(0);
                let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
                let bytes = u64::try_from(facts.st_size).unwrap_or(0);
                files.push(PrivateFile { name, bytes, modified });
            }
        }
        Ok(files)
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Makes a component of compiled code that was read here and is whole.
    ///
    /// # Errors
    ///
    /// It was compiled by another wasmtime, or for other settings or another CPU.
    pub fn component(&self, engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
        // SAFETY: code that wasmtime did not write would run as it is. This was written by this user:
        // the folder's owner and mode, and the file's, were checked on the descriptors that it was
        // read through. Who can write as this user can change the running process itself. wasmtime
        // checks what it was compiled by and for. `deserialize_file` would map the file, which could
        // change afterwards.
        unsafe { Component::deserialize(engine, code) }
    }
}

fn check_private(file: &OwnedFd, kind: FileType) -> io::Result<()> {
    let facts = rustix::fs::fstat(file)?;
    let is_ours = facts.st_uid == rustix::process::geteuid().as_raw();
    let others = Mode::from_raw_mode(facts.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    if FileType::from_raw_mode(facts.st_mode) != kind || !is_ours || others {
        let message = "it must belong to the user of this process, and nobody else may write it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(())
}
