//! Gateways that programs make: each of `examples/`, started and asked.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::harness::{JWT_SAMPLE, Message, Upstream, Wire, plugins_dir};

/// A running example. Killed when dropped.
struct Example {
    child: Child,
    address: String,
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let binary = binary(name);
        let mut child = Command::new(&binary)
            .arg("127.0.0.1:0")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address =
            lines.find_map(|line| line.ok()?.strip_prefix("listening on ").map(str::to_owned));
        // Goes on reading, so that the example never waits for its reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { address: address.expect("a line that says where it listens"), child }
    }

    fn ask(&self, path: &str, fields: &str) -> Message {
        let mut wire = Wire::tcp(std::net::TcpStream::connect(&self.address).unwrap());
        wire.exchange(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Fails only when it has ended by itself; the requests would have shown that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The examples are built once a run; `cargo test --test e2e` alone would leave old ones.
fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_zproxy")).parent().unwrap();
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let mut cargo = Command::new(env!("CARGO"));
        // Of the workspace, as the tests are: another selection has other features, and builds wasmtime anew.
        cargo.args(["build", "--quiet", "--workspace", "--examples", "--profile", profile]);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(cargo.status().unwrap().success(), "the examples do not build");
        folder.join("examples")
    });
    folder.join(name)
}

#[test]
fn basic_leads_to_an_upstream() {
    let upstream = Upstream::answering("hello");
    let example = Example::start("basic", &[&upstream.url()]);

    assert_eq!(example.ask("/any", "").text(), "hello");
    assert_eq!(upstream.last_request().field("via"), Some("1.1 zproxy"));
}

/// Wasm plugins and native middleware in one chain, from a file that code has changed.
#[test]
fn advanced_chains_wasm_and_native_middleware() {
    let plugins = plugins_dir(&["jwt", "header-stamp"]);
    let example = Example::start("advanced", &[plugins.path().to_str().unwrap()]);

    for count in ["1", "2"] {
        let answer = example.ask("/api/public", "");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.field("x-request-count"), Some(count));
        assert_eq!(answer.field("x-served-by"), Some("zproxy"));
    }
    assert_eq!(example.ask("/api/users", "").status(), 401);
    let answer = example.ask("/api/users", &format!("Authorization: Bearer {JWT_SAMPLE}\r\n"));
    assert_eq!((answer.status(), answer.field("x-served-by")), (200, Some("edge-1")));
    assert_eq!(answer.json()["headers"]["x-user-id"], "1234567890");
    assert_eq!(example.ask("/old/users", "").field("location"), Some("/api/users"));
    assert_eq!(example.ask("/status", "").text(), "ok\n");
}

#[test]
fn custom_middleware_lets_in_who_knows_a_key() {
    let example = Example::start("custom-middleware", &[]);

    let answer = example.ask("/", "");
    assert_eq!((answer.status(), answer.text()), (401, "who are you?\n"));
    assert_eq!(example.ask("/", "X-Api-Key: wrong\r\n").status(), 401);
    let answer = example.ask("/", "X-Api-Key: secret\r\n");
    assert_eq!((answer.status(), &answer.json()["method"]), (200, &"GET".into()));
}

#[test]
fn static_chain_runs_as_one_link() {
    let example = Example::start("static-chain", &[]);

    for path in ["/api", "/users/7"] {
        let answer = example.ask(path, "");
        assert_eq!((answer.status(), answer.field("x-served-by")), (200, Some("edge-1")));
    }
    assert_eq!(example.ask("/other", "").status(), 404);
}
