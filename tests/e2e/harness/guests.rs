//! The plugins under test: built from this repository, once a run, so that none is stale.
//!
//! Not here: how a component is built (`sdk/build`).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use zproxy_guest_build::{Artifact, Choice, Job, build};

/// The well-known HS256 token for subject 1234567890, "John Doe", issued at 1516239022, signed with
/// `your-256-bit-secret`.
pub const JWT_SAMPLE: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
    eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.\
    SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";

/// Guests of `tests/guests`, by the names of their files.
const GUESTS: [&str; 23] = [
    "again",
    "ask",
    "bad_header",
    "body",
    "cacher",
    "echo_headers",
    "edit_flood",
    "hooks",
    "init_error",
    "keeper",
    "loop_forever",
    "memory_bomb",
    "messages",
    "noop",
    "order",
    "panic",
    "print",
    "quota",
    "reply",
    "response_panic",
    "sleep",
    "stack_overflow",
    "versioned",
];

/// The component of this name: a guest, or `jwt`, or `header-stamp`.
pub fn guest(name: &str) -> PathBuf {
    let path = folder().join(format!("{name}.wasm"));
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// The component of the guest `versioned` that says it is this version.
pub fn version(version: u32) -> Vec<u8> {
    const MARK: &[u8] = b"zproxy-version:";
    static COMPONENT: OnceLock<Vec<u8>> = OnceLock::new();
    let mut component =
        COMPONENT.get_or_init(|| std::fs::read(guest("versioned")).unwrap()).clone();
    let at = component.windows(MARK.len()).position(|bytes| bytes == MARK).expect("the mark");
    let digits = at + MARK.len()..at + MARK.len() + 8;
    component[digits].copy_from_slice(format!("{version:08}").as_bytes());
    component
}

/// A plugins folder with these components in it.
pub fn plugins_dir(names: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in names {
        std::fs::copy(guest(name), dir.path().join(format!("{name}.wasm"))).unwrap();
    }
    dir
}

/// Where the components are; builds them first, unless `ZPROXY_E2E_GUESTS` says where they are.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(built) = std::env::var_os("ZPROXY_E2E_GUESTS") {
            return built.into();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/guests/e2e");
        let file = |name: &str| folder.join(format!("{name}.wasm"));
        let mut artifacts = vec![
            Artifact::library("zproxy-plugin-jwt", "jwt", file("jwt")),
            Artifact::library("zproxy-plugin-cache", "cache", file("cache")),
            Artifact::library("header-stamp", "header_stamp", file("header-stamp")),
        ];
        artifacts.extend(GUESTS.map(|name| Artifact::example("zproxy-guests", name, file(name))));
        let job = Job {
            manifest: root.join("Cargo.toml"),
            target_folder: root.join("target/guests"),
            profile: "plugin".to_owned(),
            artifacts,
        };
        let built = Choice::from_environment().and_then(|choice| build(&job, choice));
        built.unwrap_or_else(|error| panic!("the guests cannot be built: {error}"));
        folder
    })
}
