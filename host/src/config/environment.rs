//! What a configuration reads besides its own text: variables, files, the plugins folder.
//!
//! All of it comes through [`Environment`], so that a test replays a load exactly and a program
//! can keep a configuration away from the machine.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags};

/// What a configuration reads besides its own text.
pub trait Environment {
    /// The value of an environment variable; `None` when it is not set.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// The content of a regular file of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// When the file cannot be read, is larger, or is no regular file.
    fn read(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>>;

    /// The entries of a folder, in any order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// Whether `path` leads to a regular file.
    fn is_file(&self, path: &Path) -> bool;

    /// Whether the file at `path` could be written, or made if there is none. Makes nothing.
    ///
    /// # Errors
    /// Why not; [`io::ErrorKind::NotFound`] when its folder is not there.
    fn can_append(&self, path: &Path) -> io::Result<()>;
}

/// The process's own environment and files.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Environment for System {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn read(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        // Opening a pipe or a device could wait for ever, so the kind is looked at before.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut content = Vec::new();
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        fs::File::open(path)?.take(limit).read_to_end(&mut content)?;
        if content.len() > bytes_max {
            return Err(io::Error::other(format!("larger than {bytes_max} bytes")));
        }
        Ok(content)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn is_file(&self, path: &Path) -> bool {
        path.is_file()
    }

    fn can_append(&self, path: &Path) -> io::Result<()> {
        let may = |path: &Path, access| {
            // With the rights of the process, not those of whoever started it.
            Ok(rustix::fs::accessat(rustix::fs::CWD, path, access, AtFlags::EACCESS)?)
        };
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => may(path, Access::WRITE_OK),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                may(folder.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)
            }
            Err(error) => Err(error),
        }
    }
}

/// The reason in an I/O error, without the number that the system gives it.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::NotADirectory => "it is not a folder".into(),
        io::ErrorKind::IsADirectory => "it is a folder".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "12345").unwrap();

        assert_eq!(System.read(&file, 5).unwrap(), b"12345");
        assert_eq!(System.read(&file, 4).unwrap_err().to_string(), "larger than 4 bytes");
        let device = System.read(Path::new("/dev/zero"), 4).unwrap_err();
        assert_eq!(device.to_string(), "not a regular file");
        assert_eq!(System.list(folder.path()).unwrap(), [file]);
    }

    #[test]
    fn whether_a_file_can_be_made_is_found_out_without_making_it() {
        let folder = tempfile::tempdir().unwrap();
        let can = |path: &Path| System.can_append(path).map_err(|error| error.kind());
        let file = folder.path().join("log");

        assert_eq!(can(&file), Ok(()));
        assert!(!file.exists());
        fs::write(&file, "").unwrap();
        assert_eq!(can(&file), Ok(()));
        assert_eq!(can(Path::new("log-beside-the-process")), Ok(()));
        assert_eq!(can(folder.path()), Err(io::ErrorKind::IsADirectory));
        assert_eq!(can(&folder.path().join("none/log")), Err(io::ErrorKind::NotFound));
        assert_eq!(can(&file.join("log")), Err(io::ErrorKind::NotADirectory));
    }
}
