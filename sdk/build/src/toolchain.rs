//! What can compile for wasm here: three ways, tried in order.
//!
//! 1. The toolchain in use has the target's standard library.
//! 2. `rustup target add`, bounded in time: it needs the network. Not tried where the third way is
//!    complete already, else a machine that is cut off would wait for it on every build.
//! 3. Debian's `rustc-web`, `rust-web-src` and `wasi-libc`: the standard library is compiled from
//!    source with rustup's cargo and linked with rustup's linkers. The first build of each profile
//!    takes longer by some 40 s of processor time, and guests made this way have no `std::net`.
//!
//! `ZPROXY_GUEST_TOOLCHAIN` = `auto` (default), `rustup` (1 and 2) or `debian` (3) chooses.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::{Error, TARGET};

/// How long `rustup target add` may take: the download is some 10 MB.
const RUSTUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Debian's compiler, and what `rustc-web` depends on or recommends.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LIBC: &str = "/usr/lib/wasm32-wasi";
const DEBIAN_PACKAGES: &str = "rustc-web rust-web-src wasi-libc";

/// Which ways may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first that works.
    Auto,
    /// Only the toolchain in use, to which the target may be added.
    Rustup,
    /// Only Debian's compiler.
    Debian,
}

impl Choice {
    /// Reads `ZPROXY_GUEST_TOOLCHAIN`.
    ///
    /// # Errors
    ///
    /// When it is set to none of the three words.
    pub fn from_environment() -> Result<Self, Error> {
        match env::var("ZPROXY_GUEST_TOOLCHAIN").as_deref() {
            Err(_) | Ok("" | "auto") => Ok(Self::Auto),
            Ok("rustup") => Ok(Self::Rustup),
            Ok("debian") => Ok(Self::Debian),
            Ok(other) => Err(Error::NoToolchain(format!(
                "ZPROXY_GUEST_TOOLCHAIN is `{other}`; write auto, rustup or debian"
            ))),
        }
    }
}

/// Something that compiles for [`TARGET`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The one in use.
    Installed,
    /// Debian's compiler and libraries with the tools of the toolchain in use.
    Debian {
        /// The folder of the tools: `wasm-component-ld`, and `gcc-ld` below it.
        tools: PathBuf,
    },
}

/// Finds a way to compile.
///
/// # Errors
///
/// When there is none: says what was tried and what would help.
pub fn find(choice: Choice) -> Result<Toolchain, Error> {
    if choice != Choice::Debian && has_target() {
        return Ok(Toolchain::Installed);
    }
    let mut reasons = Vec::new();
    if choice != Choice::Rustup {
        match find_debian() {
            Ok(toolchain) => return Ok(toolchain),
            Err(reason) => reasons.push(format!("- {reason}")),
        }
    }
    if choice != Choice::Debian {
        match add_target() {
            Ok(()) if has_target() => return Ok(Toolchain::Installed),
            Ok(()) => reasons.push(format!("- rustc does not find {TARGET} after rustup added it")),
            Err(reason) => reasons.push(format!("- {reason}")),
        }
    }
    Err(Error::NoToolchain(reasons.join("\n")))
}

/// Whether the toolchain in use can compile for the target as it is.
fn has_target() -> bool {
    let folder = rustc(&["--print", "target-libdir", "--target", TARGET]);
    folder.is_ok_and(|folder| holds_std(Path::new(&folder)))
}

fn holds_std(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// Adds the target to the toolchain in use.
fn add_target() -> Result<(), String> {
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    // Another toolchain than the one that compiles is of no use.
    if let Ok(toolchain) = rustc(&["--print", "sysroot"])
        && let Some(name) = Path::new(&toolchain).file_name()
    {
        rustup.arg("--toolchain").arg(name);
    }
    let mut child =
        rustup.spawn().map_err(|error| format!("rustup target add {TARGET}: {error}"))?;
    // The wall clock is enough: a step of it ends the wait early or late, no more.
    let started = SystemTime::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("rustup target add {TARGET}: {status}")),
            Ok(None) if started.elapsed().unwrap_or_default() < RUSTUP_TIMEOUT => {
                thread::sleep(Duration::from_millis(50));
            }
            Ok(None) => {
                // It may have ended by itself just now; either way it is waited for.
                let _ = child.kill();
                let _ = child.wait();
                let limit = RUSTUP_TIMEOUT.as_secs();
                return Err(format!("rustup target add {TARGET}: not done after {limit} s"));
            }
            Err(error) => return Err(format!("rustup target add {TARGET}: {error}")),
        }
    }
}

/// Looks for Debian's packages, and for the linkers that they lack.
fn find_debian() -> Result<Toolchain, String> {
    let install = format!(
        "install with: apt-get -o DPkg::Lock::Timeout=120 install --no-install-recommends \
         {DEBIAN_PACKAGES}"
    );
    for path in [DEBIAN_RUSTC, DEBIAN_LIBC] {
        if !Path::new(path).exists() {
            return Err(format!("{path} is missing; {install}"));
        }
    }
    let source = Command::new(DEBIAN_RUSTC)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("{DEBIAN_RUSTC}: {error}"))?;
    let source = Path::new(String::from_utf8_lossy(&source.stdout).trim())
        .join("lib/rustlib/src/rust/library/std/Cargo.toml");
    if !source.exists() {
        return Err(format!("{} is missing; {install}", source.display()));
    }
    let tools = tools()?;
    for tool in ["wasm-component-ld", "gcc-ld"] {
        if !tools.join(tool).exists() {
            return Err(format!(
                "{} is missing; it comes with a toolchain that rustup installed",
                tools.join(tool).display()
            ));
        }
    }
    Ok(Toolchain::Debian { tools })
}

/// The folder of the linkers in the toolchain in use.
pub(crate) fn tools() -> Result<PathBuf, String> {
    let sysroot = rustc(&["--print", "sysroot"])?;
    let version = rustc(&["--version", "--verbose"])?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .ok_or_else(|| "rustc does not say which machine it runs on".to_owned())?;
    Ok(Path::new(&sysroot).join("lib/rustlib").join(host.trim()).join("bin"))
}

/// Asks the toolchain in use.
fn rustc(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("rustc")
        .args(arguments)
        .env_remove("RUSTC_BOOTSTRAP")
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("rustc: {error}"))?;
    if !output.status.success() {
        return Err(format!("rustc {}: {}", arguments.join(" "), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installed => write!(f, "the toolchain in use has {TARGET}"),
            Self::Debian { .. } => {
                write!(f, "{DEBIAN_RUSTC} compiles the standard library of {TARGET}, too")
            }
        }
    }
}

impl Toolchain {
    /// What cargo needs in its environment, and which arguments, to compile this way.
    pub(crate) fn prepare(&self, cargo: &mut Command) {
        match self {
            Self::Installed => {}
            Self::Debian { tools } => {
                // rustc looks for `wasm-ld` in PATH; `gcc-ld` has one that leads to rust-lld.
                let mut path = OsString::from(tools.join("gcc-ld"));
                if let Some(rest) = env::var_os("PATH") {
                    path.push(":");
                    path.push(rest);
                }
                cargo.env("PATH", path);
                cargo.env("RUSTC", DEBIAN_RUSTC);
                // `-Z build-std` on a stable compiler; nothing else of this build may be unstable.
                cargo.env("RUSTC_BOOTSTRAP", "1");
                cargo.env("CARGO_TARGET_WASM32_WASIP2_LINKER", tools.join("wasm-component-ld"));
                cargo.env(
                    "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS",
                    format!("-Clink-self-contained=no -Lnative={DEBIAN_LIBC}"),
                );
                cargo.args(["-Z", "build-std=std,panic_abort"]);
            }
        }
    }

    /// The name of the folder that keeps this toolchain's output apart from others'.
    pub(crate) fn folder(&self) -> &'static str {
        match self {
            Self::Installed => "rustup",
            Self::Debian { .. } => "debian",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_standard_library_is_no_toolchain() {
        assert!(!holds_std(Path::new("/nonexistent")));
        assert!(!holds_std(Path::new(env!("CARGO_MANIFEST_DIR"))));
    }
}
