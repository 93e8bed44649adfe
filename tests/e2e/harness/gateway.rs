//! The built binary, run as an operator runs it.
//!
//! A gateway says where it listens: one line `listening on ADDRESS` for each listener and one
//! `admin on ADDRESS`, on standard error. So every test takes free ports, and none waits blindly.
//!
//! Not here: what the admin listener answers (`admin`).

use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::upstream::Upstream;
use super::{DEADLINE, Message, Wire, eventually, patience};

/// A running gateway. Killed when dropped; fails the test when it had died or panicked.
pub struct Gateway {
    child: Child,
    /// Its working directory: config, sockets, logs.
    pub dir: TempDir,
    listeners: Vec<String>,
    admin: Option<String>,
    stderr: Arc<Output>,
    stdout: Arc<Output>,
    ended: bool,
}

/// How a gateway is started.
#[derive(Default)]
pub struct Launch {
    config: Option<Value>,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    dir: Option<TempDir>,
    files_max: Option<u32>,
    forbidden: bool,
}

/// A finished command.
#[derive(Debug)]
pub struct Run {
    /// What it said about itself.
    pub code: Option<i32>,
    /// Data.
    pub stdout: String,
    /// Diagnostics.
    pub stderr: String,
}

#[derive(Default)]
struct Output {
    text: Mutex<String>,
    grown: Condvar,
    ended: AtomicBool,
}

/// The binary under test; another one (a release build, an installed one) by `ZPROXY_E2E_BINARY`.
pub fn binary() -> PathBuf {
    let other = std::env::var_os("ZPROXY_E2E_BINARY");
    other.map_or_else(|| env!("CARGO_BIN_EXE_zproxy").into(), PathBuf::from)
}

fn command(dir: &Path, files_max: Option<u32>) -> Command {
    let mut command = match files_max {
        None => Command::new(binary()),
        Some(max) => {
            // The shell sets its own limit, hard and soft, and becomes the gateway.
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -n {max}; exec \"$0\" \"$@\"")]).arg(binary());
            shell
        }
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ZPROXY_") {
            command.env_remove(name);
        }
    }
    // Nothing is left outside of the test's own folder, nor found there.
    command.env("XDG_CACHE_HOME", dir.join(".cache"));
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a command where io_uring is forbidden, as Docker's filter of system calls does it.
fn spawn_without_io_uring(command: &mut Command) -> Child {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

    let arch = std::env::consts::ARCH.try_into().unwrap();
    let refuse = SeccompAction::Errno(Errno::PERM.raw_os_error().unsigned_abs());
    let rules = [(IO_URING_SETUP, Vec::new())].into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    // A filter is of a thread and the children that it starts, for good.
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            apply_filter(&program).unwrap();
            command.spawn().unwrap()
        });
        starter.join().unwrap()
    })
}

/// The number of the system call, the same on every architecture that came after 2019.
const IO_URING_SETUP: i64 = 425;

/// Runs the binary to its end, in this directory.
pub fn run(dir: &Path, arguments: &[&str]) -> Run {
    spawn(dir, arguments).end()
}

/// The same where io_uring is forbidden.
pub fn run_without_io_uring(dir: &Path, arguments: &[&str]) -> Run {
    Running::of(spawn_without_io_uring(command(dir, None).args(arguments))).end()
}

/// Starts the binary, for a command that ends by itself, in this directory.
pub fn spawn(dir: &Path, arguments: &[&str]) -> Running {
    Running::of(command(dir, None).args(arguments).spawn().unwrap())
}

/// A command that runs.
pub struct Running {
    child: Child,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
}

impl Running {
    fn of(mut child: Child) -> Self {
        let stdout = Output::of(child.stdout.take().unwrap());
        let stderr = Output::of(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> Run {
        let status = wait(&mut self.child, &self.stderr);
        let (stdout, stderr) = (self.stdout.whole(), self.stderr.whole());
        let run = Run { code: status.code(), stdout, stderr };
        assert!(!has_panicked(&run.stderr), "{run:?}");
        run
    }
}

impl Launch {
    /// With this config file. What it leaves open becomes free ports on loopback, and two workers
    /// that are not pinned: tests run side by side, and pinned ones would all share one CPU.
    pub fn config(config: Value) -> Self {
        let mut config = config;
        let fields = config.as_object_mut().unwrap();
        if !fields.contains_key("listeners") && !fields.contains_key("listen_port") {
            fields.insert("listeners".into(), json!([{ "address": "127.0.0.1:0" }]));
        }
        fields.entry("admin").or_insert(json!({ "address": "127.0.0.1:0" }));
        fields.entry("workers").or_insert(json!({ "count": 2, "pin": false }));
        Self { config: Some(config), ..Self::default() }
    }

    /// Without a config file, by flags alone.
    pub fn flags(arguments: &[&str]) -> Self {
        Self::default().arguments(arguments)
    }

    /// More arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// One more environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// With at most this many open files.
    pub fn files_max(mut self, max: u32) -> Self {
        self.files_max = Some(max);
        self
    }

    /// Where io_uring is forbidden.
    pub fn without_io_uring(mut self) -> Self {
        self.forbidden = true;
        self
    }

    /// In this directory, which goes with the gateway.
    pub fn within(mut self, dir: TempDir) -> Self {
        self.dir = Some(dir);
        self
    }

    /// The back end that all tests are to run on, by `ZPROXY_E2E_IO`; a test that chooses keeps its own.
    fn set_back_end(&mut self) {
        let Ok(io) = std::env::var("ZPROXY_E2E_IO") else { return };
        let Some(config) = &mut self.config else {
            let workers = json!({ "io": io });
            self.arguments.extend(["--set".into(), format!("workers={workers}")]);
            return;
        };
        let workers = &mut config["workers"];
        if !workers.is_object() {
            *workers = json!({ "count": workers });
        }
        workers.as_object_mut().unwrap().entry("io").or_insert(io.into());
    }

    /// Starts it and waits until it listens.
    pub fn start(mut self) -> Gateway {
        self.set_back_end();
        let dir = self.dir.unwrap_or_else(|| TempDir::new().unwrap());
        let mut command = command(dir.path(), self.files_max);
        let (mut listeners, mut admin) = (1, true);
        if let Some(config) = &self.config {
            listeners = config["listeners"].as_array().map_or(1, Vec::len);
            admin = !config["admin"].is_null() && !config["admin"]["address"].is_null();
            std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();
            command.args(["--config", "zproxy.json"]);
        }
        command.args(&self.arguments);
        command.env("ZPROXY_LOG", "info").envs(&self.environment);
        let mut child = if self.forbidden {
            spawn_without_io_uring(&mut command)
        } else {
            command.spawn().unwrap()
        };
        let stdout = Output::of(child.stdout.take().unwrap());
        let stderr = Output::of(child.stderr.take().unwrap());
        let mut gateway = Gateway {
            child,
            dir,
            listeners: Vec::new(),
            admin: None,
            stderr,
            stdout,
            ended: false,
        };
        gateway.await_listeners(listeners, admin);
        gateway
    }
}

impl Gateway {
    /// With this config; see [`Launch::config`].
    pub fn start(config: Value) -> Self {
        Launch::config(config).start()
    }

    /// One route, for everything, to this upstream.
    pub fn to(upstream: &Upstream) -> Self {
        Self::to_with(upstream, json!({}))
    }

    /// One route, for everything, to this upstream, named `test`; `more` is added to the config.
    pub fn to_with(upstream: &Upstream, more: Value) -> Self {
        let mut config = json!({
            "upstreams": { "test": { "servers": [{ "address": upstream.address() }] } },
            "routes": [{ "name": "all", "path": "/", "upstream": "test" }],
        });
        merge(&mut config, more);
        Self::start(config)
    }

    fn await_listeners(&mut self, listeners: usize, admin: bool) {
        let start = Instant::now();
        loop {
            let text = self.stderr();
            let found = addresses(&text, "listening on ");
            let found_admin = addresses(&text, "admin on ");
            if found.len() == listeners && found_admin.len() == usize::from(admin) {
                self.listeners = found;
                self.admin = found_admin.into_iter().next();
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                self.ended = true;
                panic!("the gateway did not start: {status}\n{}", self.stderr());
            }
            // It may have 12 MB of a JavaScript plugin to compile first.
            assert!(
                start.elapsed() < patience() * 4,
                "the gateway does not say where it listens:\n{text}"
            );
            self.stderr.wait_for_more(text.len());
        }
    }

    /// Address of the first listener.
    pub fn address(&self) -> &str {
        &self.listeners[0]
    }

    /// Address of this listener.
    pub fn address_of(&self, listener: usize) -> &str {
        &self.listeners[listener]
    }

    /// Address of the admin listener.
    pub fn admin_address(&self) -> &str {
        self.admin.as_deref().expect("an admin listener")
    }

    /// A connection to the first listener.
    pub fn connect(&self) -> Wire {
        connect(self.address())
    }

    /// A connection to this listener.
    pub fn connect_to(&self, listener: usize) -> Wire {
        connect(&self.listeners[listener])
    }

    /// The answer to a GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str) -> Message {
        self.ask("GET", path, "")
    }

    /// The answer to a request on a connection of its own; `fields` are whole lines.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, fields: &str) -> Message {
        let mut client = self.connect();
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: gateway.test\r\n{fields}\r\n"));
        client.response_to(method)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text.lock().unwrap().clone()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text.lock().unwrap().clone()
    }

    /// Waits until the log says this.
    #[track_caller]
    pub fn logs(&self, what: &str) {
        eventually(&format!("{what:?} in the log"), || self.stderr().contains(what).then_some(()));
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Memory that it holds, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Waits for its end: the exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let status = wait(&mut self.child, &self.stderr);
        self.ended = true;
        self.stderr.whole();
        self.stdout.whole();
        status.code().unwrap_or_else(|| panic!("ended by signal {:?}", status.signal()))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let died = if self.ended { None } else { self.child.try_wait().unwrap() };
        if !self.ended {
            // Fails only when it has ended by itself, which `died` tells.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let log = self.stderr();
        if std::thread::panicking() {
            let from = log.len().saturating_sub(6000);
            let from = (from..=log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
            eprintln!("--- the gateway's log ---\n{}", &log[from..]);
            return;
        }
        assert!(died.is_none(), "the gateway died: {died:?}\n{log}");
        assert!(!has_panicked(&log), "the gateway panicked:\n{log}");
    }
}

impl Output {
    /// Collects what comes out of a pipe.
    fn of(mut pipe: impl Read + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Self::default());
        let sink = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                sink.text.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..count]));
                sink.grown.notify_all();
            }
            sink.ended.store(true, Ordering::SeqCst);
        });
        output
    }

    /// All that came, once the other end has closed the pipe.
    fn whole(&self) -> String {
        eventually("the end of the output", || self.ended.load(Ordering::SeqCst).then_some(()));
        self.text.lock().unwrap().clone()
    }

    fn wait_for_more(&self, length: usize) {
        let pause = std::time::Duration::from_millis(20);
        let text = self.text.lock().unwrap();
        let _ = self.grown.wait_timeout_while(text, pause, |text| text.len() <= length).unwrap();
    }
}

/// Whether a thread of the gateway has panicked. A plugin's panic is in a line of the log.
fn has_panicked(stderr: &str) -> bool {
    stderr.lines().any(|line| line.starts_with("thread '") && line.contains("panicked at"))
}

/// Adds `more` to `config`: objects key by key, everything else as a whole.
fn merge(config: &mut Value, more: Value) {
    match (config, more) {
        (Value::Object(config), Value::Object(more)) => {
            for (key, value) in more {
                merge(config.entry(key).or_insert(Value::Null), value);
            }
        }
        (config, more) => *config = more,
    }
}

fn addresses(log: &str, phrase: &str) -> Vec<String> {
    let ends = |rest: &str| {
        let end = rest.find(|letter: char| letter.is_whitespace() || "\",;".contains(letter));
        // A line that is still being written has no end yet.
        end.map(|end| rest[..end].to_owned())
    };
    log.split(phrase).skip(1).filter_map(ends).collect()
}

/// Connects to `ip:port` or `unix:/path`.
pub fn connect(address: &str) -> Wire {
    try_connect(address).unwrap()
}

/// Connects to `ip:port` or `unix:/path`, if somebody listens there.
pub fn try_connect(address: &str) -> std::io::Result<Wire> {
    Ok(match address.strip_prefix("unix:") {
        Some(path) => Wire::unix(UnixStream::connect(path)?),
        None => Wire::tcp(TcpStream::connect(address)?),
    })
}

fn wait(child: &mut Child, stderr: &Output) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("it does not end:\n{}", stderr.text.lock().unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
