//! Other people's programs: found on this machine, or fetched once into `target/tools` by their own
//! package managers. What cannot be had is left out, and said so.
//!
//! Not here: what is done with them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

/// Tests run side by side, and each thing is fetched once.
static FETCHING: Mutex<()> = Mutex::new(());

/// Where a tool is kept from run to run.
fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name)
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

fn left_out<T>(what: &str) -> Option<T> {
    println!("skipped: {what}");
    None
}

/// A Python that has these packages, which `import` names as a program does.
pub fn python(name: &str, import: &str, packages: &[&str]) -> Option<PathBuf> {
    let _alone = FETCHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = kept(name);
    let python = dir.join("bin/python3");
    if !succeeds(Command::new(&python).args(["-c", &format!("import {import}")])) {
        let made = succeeds(Command::new("python3").args(["-m", "venv"]).arg(&dir));
        let install = ["-m", "pip", "install", "--quiet"];
        if !made || !succeeds(Command::new(&python).args(install).args(packages)) {
            return left_out(&format!("{packages:?} for Python cannot be installed"));
        }
    }
    Some(python)
}

/// A folder with these packages for Node in its `node_modules`.
pub fn node(name: &str, packages: &[&str]) -> Option<PathBuf> {
    let _alone = FETCHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !succeeds(Command::new("node").arg("--version")) {
        return left_out("there is no node");
    }
    let dir = kept(name);
    let names = packages.iter().map(|package| package.split_once('@').map_or(*package, |it| it.0));
    if !names.map(|name| dir.join("node_modules").join(name)).all(|dir| dir.is_dir()) {
        std::fs::create_dir_all(&dir).unwrap();
        let install = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
        if !succeeds(Command::new("npm").args(install).arg(&dir).args(packages)) {
            return left_out(&format!("{packages:?} for Node cannot be installed"));
        }
    }
    Some(dir)
}

/// A program of this Debian package, and what it needs to run: from this machine, or unpacked from the
/// package and those below it, for which nobody has to be root.
pub fn debian(program: &str, package: &str) -> Option<Command> {
    let _alone = FETCHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let name = Path::new(program).file_name().unwrap();
    if succeeds(Command::new("sh").args(["-c", "command -v \"$0\""]).arg(name)) {
        return Some(Command::new(name));
    }
    let dir = kept(package);
    let unpacked = dir.join("root").join(program.trim_start_matches('/'));
    if !unpacked.exists() {
        let script = "set -e; rm -rf \"$0\"; mkdir -p \"$0/root\"; cd \"$0\"; \
             missing=$(apt-get install --simulate --no-install-recommends \"$1\" | sed -n 's/^Inst \\([^ ]*\\).*/\\1/p'); \
             apt-get download $missing; \
             for file in *.deb; do dpkg-deb --extract \"$file\" root; rm \"$file\"; done";
        if !succeeds(Command::new("sh").args(["-c", script]).arg(&dir).arg(package)) {
            return left_out(&format!("there is no {program}, and {package} cannot be fetched"));
        }
    }
    let mut command = Command::new(unpacked);
    let libraries = format!("root/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    command.env("LD_LIBRARY_PATH", dir.join(libraries));
    Some(command)
}

/// Runs a program to its end with this input: whether it succeeded, and all that it said.
pub fn finish(command: &mut Command, input: &str) -> (bool, String) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}
