//! From C to components: clang, and a linker that makes components of what it links.
//!
//! clang compiles for WASI, for which Debian has a C library. `wasm-component-ld`, which comes with
//! every Rust toolchain of rustup and with WASI SDKs, calls `wasm-ld` and turns the module into a
//! component of the project's world; what was imported of WASI p1 becomes p2 by an adapter of its own.
//! A plugin that needs nothing of the system imports nothing of it.
//!
//! Not here: what C plugins include (`sdk/c`).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::project::{Project, replace, run};
use crate::{Error, io_error, toolchain};

/// What Debian has.
const DEBIAN_PACKAGES: &str = "clang lld wasi-libc libclang-rt-dev-wasm32";

/// Reactor: initialised once, then called; no `main`. `-g` is for lines in the gateway's log.
const FLAGS: [&str; 7] =
    ["--target=wasm32-wasi", "-mexec-model=reactor", "-std=c11", "-O2", "-g", "-Wall", "-Wextra"];

/// Builds a plugin in C.
///
/// # Errors
///
/// When there is no clang for wasm or no linker, when the world or the source is refused, and when the
/// component cannot be written.
pub fn build(project: &Project) -> Result<(), Error> {
    let clang = find_clang()?;
    let linker = find_linker()?;
    fs::create_dir_all(&project.work).map_err(io_error(&project.work))?;
    let made = project.work.join("component.wasm");
    let mut command = Command::new(clang);
    command
        .current_dir(&project.folder)
        .args(FLAGS)
        .arg("-I")
        .arg(&project.kit)
        .arg(&project.source)
        .arg(format!("-fuse-ld={}", linker.display()))
        .arg(format!("-Wl,--component-type={}", project.wit.display()))
        .arg("-o")
        .arg(&made);
    run(command, "clang")?;
    replace(&project.destination, &fs::read(&made).map_err(io_error(&made))?)
}

/// The folder of a WASI SDK's programs, where one is named.
fn wasi_sdk() -> Option<PathBuf> {
    Some(PathBuf::from(env::var_os("WASI_SDK_PATH")?).join("bin"))
}

fn missing(reason: &str) -> Error {
    Error::NoTools {
        language: "C",
        reason: format!(
            "{reason}; on Debian: apt-get install --no-install-recommends {DEBIAN_PACKAGES}. \
             Elsewhere install a WASI SDK and set WASI_SDK_PATH to its folder"
        ),
    }
}

/// The linker of a WASI SDK, else that of the Rust toolchain in use, else one in the path.
fn find_linker() -> Result<PathBuf, Error> {
    const NAME: &str = "wasm-component-ld";
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = wasi_sdk().into_iter().chain(toolchain::tools()).chain(env::split_paths(&path));
    let mut linkers = folders.map(|folder| folder.join(NAME));
    linkers.find(|linker| linker.exists()).ok_or_else(|| Error::NoTools {
        language: "C",
        reason: format!(
            "there is no {NAME}; it comes with a Rust toolchain that rustup installed \
             (https://rustup.rs) and with a WASI SDK of version 22 or later (WASI_SDK_PATH)"
        ),
    })
}

/// The clang of a WASI SDK, else one in the path that finds a C library for wasm.
fn find_clang() -> Result<PathBuf, Error> {
    if let Some(folder) = wasi_sdk() {
        let clang = folder.join("clang");
        return match clang.exists() {
            true => Ok(clang),
            false => Err(missing(&format!("there is no {}", clang.display()))),
        };
    }
    let clang = Path::new("clang");
    // What is there is found out by using it: a program of nothing that needs the header, the library
    // and the linker.
    let mut probe = Command::new(clang)
        .args([FLAGS[0], FLAGS[1], "-x", "c", "-", "-o", "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| missing(&format!("clang: {error}")))?;
    if let Some(mut input) = probe.stdin.take() {
        // A clang that refuses does not read: what it says is what counts.
        let _ = std::io::Write::write_all(&mut input, b"#include <string.h>\n");
    }
    let output = probe.wait_with_output().map_err(|error| missing(&format!("clang: {error}")))?;
    if output.status.success() {
        return Ok(clang.to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or_default();
    Err(missing(&format!("clang does not compile for wasm32-wasi: {first}")))
}
