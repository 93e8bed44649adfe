//! One run of cargo, and its output copied to where it is wanted.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::project::replace;
use crate::{Choice, Error, TARGET, find, io_error};

/// What a parent cargo or a developer's shell may leave in the environment, and what would build
/// another thing than what was asked for.
const CLEARED: [&str; 16] = [
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_LINKER",
    "TARGET",
    "HOST",
    "OUT_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_ENCODED_RUSTDOCFLAGS",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_DIR",
    "MAKEFLAGS",
];

/// The same for variables that go by their beginning.
const CLEARED_PREFIXES: [&str; 6] = [
    "CARGO_CFG_",
    "CARGO_PROFILE_",
    "CARGO_BUILD_",
    "CARGO_TARGET_",
    "CARGO_FEATURE_",
    "CARGO_PKG_",
];

/// What to build.
#[derive(Clone, Debug)]
pub struct Job {
    /// The `Cargo.toml` of the crate, or of its workspace.
    pub manifest: PathBuf,
    /// Where cargo may keep what it makes. Not the folder of another build that is going on: that
    /// one holds its lock.
    pub target_folder: PathBuf,
    /// The profile to build with: `plugin` in this workspace, `release` elsewhere.
    pub profile: String,
    /// The components to make.
    pub artifacts: Vec<Artifact>,
}

/// One component.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The package that it comes from.
    pub package: String,
    /// The example in that package, or none for its `cdylib`.
    pub example: Option<String>,
    /// The name of cargo's file, without `.wasm`.
    pub stem: String,
    /// Where to copy it.
    pub destination: PathBuf,
}

impl Artifact {
    /// The `cdylib` of a package, whose library has the given name.
    #[must_use]
    pub fn library(package: &str, library: &str, destination: PathBuf) -> Self {
        let stem = library.replace('-', "_");
        Self { package: package.to_owned(), example: None, stem, destination }
    }

    /// A plugin of this repository's `plugins` folder.
    #[must_use]
    pub fn built_in(name: &str, destination: PathBuf) -> Self {
        Self::library(&format!("zproxy-plugin-{name}"), name, destination)
    }

    /// An example of type `cdylib`.
    #[must_use]
    pub fn example(package: &str, example: &str, destination: PathBuf) -> Self {
        let example = example.to_owned();
        Self {
            package: package.to_owned(),
            stem: example.clone(),
            example: Some(example),
            destination,
        }
    }
}

/// Builds every artifact of a job. What is up to date costs a look.
///
/// # Errors
///
/// When nothing here compiles for wasm, when the compiler refuses, and when a component cannot be
/// copied. A destination is replaced whole or not at all.
pub fn build(job: &Job, choice: Choice) -> Result<(), Error> {
    let toolchain = find(choice)?;
    let target_folder = job.target_folder.join(toolchain.folder());
    let (examples, libraries): (Vec<_>, Vec<_>) =
        job.artifacts.iter().partition(|artifact| artifact.example.is_some());

    // Two runs, because `--example` would leave the libraries of the same run out.
    for group in [libraries, examples] {
        if group.is_empty() {
            continue;
        }
        let mut cargo = command(job, &target_folder);
        toolchain.prepare(&mut cargo);
        for artifact in &group {
            cargo.arg("--package").arg(&artifact.package);
            if let Some(example) = &artifact.example {
                cargo.arg("--example").arg(example);
            }
        }
        if group.iter().all(|artifact| artifact.example.is_none()) {
            cargo.arg("--lib");
        }
        let status = cargo
            .status()
            .map_err(|source| Error::Start { program: "cargo".to_owned(), source })?;
        if !status.success() {
            return Err(Error::Refused { program: "cargo".to_owned(), status });
        }
        for artifact in group {
            collect(artifact, &target_folder.join(TARGET).join(&job.profile))?;
        }
    }
    Ok(())
}

/// `cargo build` in an environment of its own.
fn command(job: &Job, target_folder: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let cleared = CLEARED.contains(&&*name)
            || CLEARED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if cleared {
            cargo.env_remove(&*name);
        }
    }
    cargo
        .args(["build", "--target", TARGET, "--profile", &job.profile, "--manifest-path"])
        .arg(&job.manifest)
        .arg("--target-dir")
        .arg(target_folder);
    cargo
}

/// Copies a component to its destination.
fn collect(artifact: &Artifact, folder: &Path) -> Result<(), Error> {
    let folder = if artifact.example.is_some() { folder.join("examples") } else { folder.into() };
    let from = folder.join(format!("{}.wasm", artifact.stem));
    replace(&artifact.destination, &fs::read(&from).map_err(io_error(&from))?)
}
