//! Whole loads: what is accepted becomes these settings, what is not gets these lines.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::*;

mod accepted;
mod allow;
mod embedded;
mod meaning;
mod random;
mod shape;
mod state;
mod websocket;
mod tls;

/// An environment that is only what a test says.
#[derive(Default)]
struct Fake {
    variables: BTreeMap<&'static str, OsString>,
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl Fake {
    fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    fn file(mut self, path: &'static str, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path, content.into());
        self
    }

    fn load(&self, text: &str) -> Result<(Config, Settings), Problems> {
        super::load(text.as_bytes(), "z.json", &Overrides::default(), self, &["native-one"])
    }

    /// The lines of the report, without the name of the file.
    fn lines(&self, text: &str) -> Vec<String> {
        let problems = self.load(text).expect_err(text);
        let lines: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
        assert_eq!(problems.to_string(), lines.join("\n"));
        lines.iter().map(|line| line.strip_prefix("z.json:").unwrap_or(line).to_owned()).collect()
    }
}

impl Environment for Fake {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn read(&self, path: &Path, _bytes_max: usize) -> io::Result<Vec<u8>> {
        let content = path.to_str().and_then(|path| self.files.get(path));
        content.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let inside = |path: &&&str| Path::new(path).parent() == Some(folder);
        let paths: Vec<_> = self.files.keys().filter(inside).map(PathBuf::from).collect();
        if paths.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(paths) }
    }

    fn is_file(&self, path: &Path) -> bool {
        path.to_str().is_some_and(|path| self.files.contains_key(path))
    }

    fn can_append(&self, path: &Path) -> io::Result<()> {
        match path.parent().and_then(Path::to_str) {
            Some("/none") => Err(io::ErrorKind::NotFound.into()),
            Some("/locked") => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(()),
        }
    }
}

fn settings(text: &str) -> Settings {
    Fake::default().load(text).unwrap_or_else(|problems| panic!("{text}\n{problems}")).1
}

/// Checks that each text gets exactly these lines.
fn refused(cases: &[(&str, &[&str])]) {
    let fake = Fake::default()
        .variable("LINES", "a\nb")
        .file("/p/jwt.wasm", "")
        .file("/p/rate-limit.wasm", "")
        .file("/binary", [0xff, 0xfe])
        .file("/two/a-b.wasm", "")
        .file("/two/a_b.wasm", "")
        .file("/odd/my plugin.wasm", "");
    for (text, lines) in cases {
        assert_eq!(fake.lines(text), *lines, "{text}");
    }
}
