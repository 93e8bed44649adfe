//! A real Redis, started for one test: Debian's `redis-server`, which its package `redis-tools` brings under another
//! name and without a service.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually;

/// A server on a port of its own.
pub struct Redis {
    program: PathBuf,
    arguments: Vec<String>,
    child: Child,
    port: u16,
    password: Option<String>,
    pub dir: TempDir,
}

/// The program, and whether it has to be told what it is.
fn program() -> Option<PathBuf> {
    let found = ["redis-server", "redis-check-rdb"].into_iter().find_map(|name| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
    });
    if found.is_none() {
        let apt = Command::new("apt-get").arg("--version").stdout(Stdio::null()).status();
        assert!(apt.is_err(), "there is no Redis: `make setup` installs it (redis-tools)");
        eprintln!("left out: there is no Redis here, and no apt-get that it could come from");
    }
    found
}

impl Redis {
    /// `None`, and said so: there is none on this machine.
    pub fn start() -> Option<Self> {
        Self::start_with(&[], None)
    }

    /// With further arguments, and the password that is among them.
    pub fn start_with(arguments: &[&str], password: Option<&str>) -> Option<Self> {
        let program = program()?;
        let dir = TempDir::new().unwrap();
        // Free in this moment; nobody else asks for it by number.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut all: Vec<String> = [
            ("port", port.to_string()),
            ("bind", "127.0.0.1".to_owned()),
            ("save", String::new()),
            ("appendonly", "no".to_owned()),
            ("dir", dir.path().display().to_string()),
            ("unixsocket", dir.path().join("redis.sock").display().to_string()),
        ]
        .into_iter()
        .flat_map(|(key, value)| [format!("--{key}"), value])
        .collect();
        all.extend(arguments.iter().map(|one| (*one).to_owned()));
        let child = launch(&program, &all);
        let password = password.map(str::to_owned);
        let redis = Self { program, arguments: all, child, port, password, dir };
        redis.is_up();
        Some(redis)
    }

    fn is_up(&self) {
        eventually("Redis", || self.try_ask(&["PING"]).filter(|said| said == "PONG"));
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A URL of its first database.
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@{}", self.address()),
            None => format!("redis://{}", self.address()),
        }
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after that, at the same place, with nothing in it.
    pub fn start_again(&mut self) {
        self.child = launch(&self.program, &self.arguments);
        self.is_up();
    }

    /// Makes it hang, or go on.
    pub fn hang(&self, hangs: bool) {
        let signal = if hangs { Signal::STOP } else { Signal::CONT };
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// What it answers to a command: a line, or a string of several.
    pub fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap()
    }

    fn try_ask(&self, command: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(super::DEADLINE)).ok()?;
        let mut out = String::new();
        if let Some(password) = &self.password {
            out.push_str(&words(&["AUTH", password]));
        }
        out.push_str(&words(command));
        stream.write_all(out.as_bytes()).ok()?;
        let mut reader = BufReader::new(stream);
        if self.password.is_some() {
            reader.read_line(&mut String::new()).ok()?;
        }
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1)?;
        if kind != "$" {
            return Some(if kind == "-" { line.to_owned() } else { rest.to_owned() });
        }
        let length: usize = rest.parse().ok()?;
        let mut text = vec![0; length];
        reader.read_exact(&mut text).ok()?;
        String::from_utf8(text).ok()
    }

    /// How often scripts were run.
    pub fn scripts_run(&self) -> u64 {
        let stats = self.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(program: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new(program);
    command.arg0("redis-server").args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn words(command: &[&str]) -> String {
    let mut out = format!("*{}\r\n", command.len());
    for word in command {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    out
}
