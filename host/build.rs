//! Tells the binary what it was built with, and packs what `zproxy plugin` hands to authors.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
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
    pack(&root, &PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")));
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
