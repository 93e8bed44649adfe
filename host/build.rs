//! Tells the binary what it was built with, packs what `zproxy plugin` hands to authors, and builds the
//! plugins that the binary brings along.
//!
//! Those are built by a cargo of their own, for wasm, in the folder that `cargo plugins` and the tests use
//! too: nothing is built twice, and nothing of the gateway a second time. Where nothing compiles for wasm
//! the binary is made without them and says so when one is asked for: whoever works on the gateway needs no
//! wasm, and whoever ships it sets `ZPROXY_BUILT_INS=require`. A plugin that does not compile fails the build.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use zproxy_guest_build::{Artifact, BUILT_IN, Choice, Error, Job, build, describe};

fn main() {
    // Asked now, not when this was compiled: several checkouts may share a target folder.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let lock = root.join("Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = fs::read_to_string(lock).unwrap_or_default();
    let version = text
        .split("[[package]]")
        .find(|entry| entry.contains("name = \"wasmtime\"\n"))
        .and_then(|entry| entry.lines().find_map(|line| line.strip_prefix("version = ")))
        .map_or("unknown", |version| version.trim_matches('"'));
    println!("cargo::rustc-env=ZPROXY_WASMTIME={version}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    pack(&root, &out);
    embed(&root, &out);
}

/// Writes `built_in.rs`: name and component of every plugin that the binary brings along.
fn embed(root: &Path, out: &Path) {
    println!("cargo::rerun-if-env-changed=ZPROXY_BUILT_INS");
    println!("cargo::rerun-if-env-changed=ZPROXY_GUEST_TOOLCHAIN");
    for changed in ["Cargo.toml", "sdk/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(changed).display());
    }
    for name in BUILT_IN {
        for changed in ["src", "Cargo.toml"] {
            let path = root.join("plugins").join(name).join(changed);
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let file = |name: &str| out.join(format!("{name}.wasm"));
    let job = Job {
        manifest: root.join("Cargo.toml"),
        target_folder: root.join("target/guests"),
        profile: "plugin".to_owned(),
        artifacts: BUILT_IN.iter().map(|name| Artifact::built_in(name, file(name))).collect(),
    };
    let wanted = std::env::var("ZPROXY_BUILT_INS").unwrap_or_default();
    let built = match wanted.as_str() {
        "" | "auto" | "require" => {
            Choice::from_environment().and_then(|choice| build(&job, choice)).map(|()| true)
        }
        "none" => Ok(false),
        other => panic!("ZPROXY_BUILT_INS is `{other}`; write auto, require or none"),
    };
    let built = built.unwrap_or_else(|error| match error {
        Error::NoToolchain(_) if wanted != "require" => {
            let reason = describe(&error);
            for line in reason.lines() {
                println!("cargo::warning={line}");
            }
            println!("cargo::warning=so the binary is made without its built-in plugins");
            // What is not there has always changed: the next build tries again.
            println!("cargo::rerun-if-changed={}", out.join("none").display());
            false
        }
        error => panic!("the built-in plugins: {}", describe(&error)),
    });
    let mut text = "&[\n".to_owned();
    for name in BUILT_IN.iter().filter(|_| built) {
        let path = file(name).display().to_string();
        let _ = writeln!(text, "    ({name:?}, include_bytes!({path:?})),");
    }
    text.push(']');
    fs::write(out.join("built_in.rs"), text).expect("cargo made the folder");
}

/// What goes into the kit: folders of the repository.
const PACKED: [&str; 6] = ["sdk/src", "sdk/c", "sdk/js", "sdk/python", "sdk/templates", "wit"];

/// Writes `kit.rs`: the path and the bytes of every file.
fn pack(root: &Path, out: &Path) {
    let mut files = Vec::new();
    for folder in PACKED {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
        list(&root.join(folder), &mut files);
    }
    files.sort();
    files.push(root.join("sdk/README.md"));
    let mut text = "&[\n".to_owned();
    for file in &files {
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let path = file.display().to_string();
        let _ = writeln!(text, "    ({name:?}, include_bytes!({path:?})),");
    }
    let read = |name: &str| {
        println!("cargo::rerun-if-changed={}", root.join(name).display());
        fs::read_to_string(root.join(name)).expect("it is in the repository")
    };
    let manifest = standalone(&read("sdk/Cargo.toml"), &read("Cargo.toml"));
    let _ = writeln!(text, "    (\"sdk/Cargo.toml\", {manifest:?}.as_bytes()),\n]");
    fs::write(out.join("kit.rs"), text).expect("cargo made the folder");
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        // What tools leave behind is no part of the kit.
        if ["target", "node_modules", "__pycache__"].iter().any(|left| name == *left) {
            continue;
        }
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}

/// The manifest of a workspace's member, for where there is no workspace: what it inherits is written
/// out, and its lints, which are the workspace's, are left out.
fn standalone(member: &str, root: &str) -> String {
    let member = member.replace("\n[lints]\nworkspace = true\n", "\n");
    let inherited = |name: &str| {
        let line = root.lines().find(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='))
        });
        line.expect("the workspace has what its member inherits").to_owned()
    };
    member
        .lines()
        .map(|line| {
            line.strip_suffix(".workspace = true").map_or(line.to_owned(), inherited) + "\n"
        })
        .collect()
}
