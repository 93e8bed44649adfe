//! Configuration files: never a panic or a hang; what is refused has a reason.

#![no_main]

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use zproxy_fuzz::config::{Environment, Overrides, load};

struct Nothing;

impl Environment for Nothing {
    fn variable(&self, name: &str) -> Option<OsString> {
        (name == "A").then(|| "b".into())
    }
    fn read(&self, _: &Path, _: usize) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec!["plugins/a.wasm".into()])
    }
    fn is_file(&self, _: &Path) -> bool {
        false
    }
    fn can_append(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fuzz_target!(|bytes: &[u8]| {
    match load(bytes, "zproxy.json", &Overrides::default(), &Nothing, &["native"]) {
        Ok((config, _)) => {
            let text = config.to_text();
            let (again, _) =
                load(text.as_bytes(), "again.json", &Overrides::default(), &Nothing, &["native"])
                    .expect("what was accepted is accepted again");
            assert_eq!(text, again.to_text());
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
