//! `cargo plugins`: every plugin of this repository into `./plugins/*.wasm`; with `--tests` the
//! guests of the tests into `target/guests/tests/*.wasm`.
//!
//! Not here: how a component is built (the library beside this file).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use zproxy_guest_build::{Artifact, BUILT_IN, Choice, Error, Job, build, describe, find};

const USAGE: &str = "\
usage: cargo plugins [--tests | --toolchain]

  (nothing)    builds every plugin into ./plugins/*.wasm
  --tests      builds the guests of the tests into target/guests/tests/*.wasm
  --toolchain  says what compiles them here, and fails where nothing does

ZPROXY_GUEST_TOOLCHAIN=auto|rustup|debian says what to compile with.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => build_plugins(),
        ["--tests"] => build_guests(),
        ["--toolchain"] => show_toolchain(),
        ["-h" | "--help"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn build_plugins() -> Result<(), Error> {
    let folder = repository().join("plugins");
    let file = |name: &str| folder.join(format!("{name}.wasm"));
    let built_in = BUILT_IN.iter().map(|name| Artifact::built_in(name, file(name)));
    let example = Artifact::library("header-stamp", "header_stamp", file("header-stamp"));
    let artifacts = built_in.chain([example]).collect();
    build(&job(artifacts), Choice::from_environment()?)
}

fn show_toolchain() -> Result<(), Error> {
    println!("{}", find(Choice::from_environment()?)?);
    Ok(())
}

fn build_guests() -> Result<(), Error> {
    let sources = repository().join("tests/guests/examples");
    let folder = repository().join("target/guests/tests");
    let listed =
        fs::read_dir(&sources).map_err(|source| Error::File { path: sources.clone(), source })?;
    let mut names: Vec<String> = listed
        .flatten()
        .filter_map(|entry| Some(Path::new(&entry.file_name()).file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    let artifacts = names
        .iter()
        .map(|name| Artifact::example("zproxy-guests", name, folder.join(format!("{name}.wasm"))))
        .collect();
    build(&job(artifacts), Choice::from_environment()?)
}

fn job(artifacts: Vec<Artifact>) -> Job {
    Job {
        manifest: repository().join("Cargo.toml"),
        target_folder: repository().join("target/guests"),
        profile: "plugin".to_owned(),
        artifacts,
    }
}

/// The root of this repository: two above this crate, which is built where it is run.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}
