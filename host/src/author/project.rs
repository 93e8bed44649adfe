//! A plugin's project: which language it is in, and from there to a component.
//!
//! A project is recognised by its main file: `Cargo.toml`, `plugin.c`, `plugin.js` or `plugin.py`. Its
//! name is its folder's, in Rust its package's. Other than in Rust its world is `plugin` in `wit/`. What
//! SDK and WIT it is built with come from this binary.
//!
//! Not here: how each language is compiled (`sdk/build`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde_json::{Value, json};
use zproxy_guest_build as guest_build;

use super::{Answer, Error, kit, subject};

/// A language that plugins are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// With cargo.
    Rust,
    /// With clang.
    C,
    /// With componentize-js.
    #[value(alias = "javascript")]
    Js,
    /// With componentize-py.
    Python,
    /// Not yet.
    Go,
}

impl Language {
    /// As folders are named.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::Js => "js",
            Self::Python => "python",
            Self::Go => "go",
        }
    }

    /// As people write it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::C => "C",
            Self::Js => "JavaScript",
            Self::Python => "Python",
            Self::Go => "Go",
        }
    }
}

/// The file that makes a folder a project.
const MAIN_FILES: [(&str, Language); 4] = [
    ("Cargo.toml", Language::Rust),
    ("plugin.c", Language::C),
    ("plugin.js", Language::Js),
    ("plugin.py", Language::Python),
];

/// Builds the project in `dir`.
pub(super) fn build(dir: &Path, output: Option<PathBuf>) -> Result<Answer, Error> {
    let component = make(dir, output)?;
    let bytes = fs::metadata(&component).map(|metadata| metadata.len()).unwrap_or_default();
    let text = format!("{} ({})", component.display(), size(bytes));
    let json = json!({ "ok": true, "component": component, "bytes": bytes });
    Ok(Answer { text, json, failed: None })
}

/// Whether a folder is a plugin's project. A workspace of cargo is none.
pub(super) fn is_project(dir: &Path) -> bool {
    let manifest = || fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
    match recognise(dir) {
        Ok(Language::Rust) => manifest().contains("cdylib"),
        Ok(_) => true,
        Err(_) => false,
    }
}

/// Builds the project in `dir` into a plugins folder; where its component is.
pub(super) fn make_into(dir: &Path, folder: &Path) -> Result<PathBuf, Error> {
    let name = match recognise(dir)? {
        Language::Rust => package(&dir.canonicalize().unwrap_or_else(|_| dir.to_owned()))?.name,
        _ => subject::name_of(dir),
    };
    make(dir, Some(folder.join(format!("{name}.wasm"))))
}

/// Builds the project in `dir`; where its component is.
pub(super) fn make(dir: &Path, output: Option<PathBuf>) -> Result<PathBuf, Error> {
    let language = recognise(dir)?;
    let dir = dir
        .canonicalize()
        .map_err(|error| Error::failure(format!("{}: {error}", dir.display())))?;
    let package = if language == Language::Rust { Some(package(&dir)?) } else { None };
    let name = match &package {
        Some(package) => package.name.clone(),
        None => subject::name_of(&dir),
    };
    let destination = output.unwrap_or_else(|| dir.join("plugins").join(format!("{name}.wasm")));
    let destination = std::path::absolute(&destination)
        .map_err(|error| Error::failure(format!("{}: {error}", destination.display())))?;
    let built = match package {
        Some(package) => build_rust(&dir, &package, destination.clone()),
        None => build_other(&dir, language, destination.clone())?,
    };
    built.map_err(|error| Error::failure(guest_build::describe(&error)))?;
    Ok(destination)
}

/// Puts the SDK into a project that plain tools of its language build, too. What is there stays.
pub(super) fn lay_sdk(dir: &Path) -> Result<(), Error> {
    if recognise(dir)? != Language::Rust {
        return Ok(());
    }
    let manifest = fs::read_to_string(dir.join("Cargo.toml"))
        .map_err(|error| Error::failure(format!("{}/Cargo.toml: {error}", dir.display())))?;
    let config = dir.join(".cargo/config.toml");
    let in_workspace = workspace_root(dir)
        .is_some_and(|root| dir.canonicalize().is_ok_and(|dir| dir.join("Cargo.toml") != root));
    if !wants_sdk(&manifest) || config.exists() || in_workspace {
        return Ok(());
    }
    kit::lay_rust_sdk(&dir.join("zproxy-sdk"))?;
    kit::write(&config, CARGO_CONFIG.as_bytes())
}

/// For cargo: the SDK is in the project.
const CARGO_CONFIG: &str = "\
# zproxy-sdk as `zproxy plugin` brought it along.
[patch.crates-io]
zproxy-sdk = { path = \"zproxy-sdk\" }
";

/// Whether a manifest wants the SDK without saying where it is.
fn wants_sdk(manifest: &str) -> bool {
    manifest.lines().any(|line| {
        line.strip_prefix("zproxy-sdk")
            .is_some_and(|rest| !rest.contains("path") && !rest.contains("git"))
    })
}

fn recognise(dir: &Path) -> Result<Language, Error> {
    if let Some((_, language)) = MAIN_FILES.iter().find(|(file, _)| dir.join(file).is_file()) {
        return Ok(*language);
    }
    let files: Vec<&str> = MAIN_FILES.iter().map(|(file, _)| *file).collect();
    Err(Error::usage(format!(
        "{} is no plugin's project: it has none of {}; `zproxy plugin new NAME --lang LANG` makes one",
        dir.display(),
        files.join(", ")
    )))
}

/// A crate that becomes a plugin.
struct Package {
    name: String,
    library: String,
}

/// Asks cargo, which knows what a manifest inherits.
fn package(dir: &Path) -> Result<Package, Error> {
    let manifest = dir.join("Cargo.toml");
    lay_sdk(dir)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]);
    let output = cargo.arg(&manifest).current_dir(dir).output().map_err(|error| {
        Error::failure(format!("cargo: {error}; install Rust: https://rustup.rs"))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::failure(format!("cargo metadata: {}", said.trim())));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Error::failure(format!("cargo metadata: {error}")))?;
    let packages = metadata["packages"].as_array();
    let of_manifest = |package: &&Value| {
        package["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest)
    };
    let found = packages.and_then(|packages| packages.iter().find(of_manifest));
    let package = found.ok_or_else(|| {
        Error::usage(format!("{} has no [package]: give a plugin's folder", manifest.display()))
    })?;
    let is_cdylib = |target: &&Value| {
        let kinds = target["kind"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"))
    };
    let targets = package["targets"].as_array();
    let library = targets.and_then(|targets| targets.iter().find(is_cdylib));
    match (package["name"].as_str(), library.and_then(|library| library["name"].as_str())) {
        (Some(name), Some(library)) => {
            Ok(Package { name: name.to_owned(), library: library.to_owned() })
        }
        _ => Err(Error::failure(format!(
            "{}: no library of type cdylib; write `[lib]` and `crate-type = [\"cdylib\"]`",
            manifest.display()
        ))),
    }
}

fn build_rust(
    dir: &Path,
    package: &Package,
    destination: PathBuf,
) -> Result<(), guest_build::Error> {
    let artifact = guest_build::Artifact::library(&package.name, &package.library, destination);
    let root = workspace_root(dir);
    let root = root.as_deref().and_then(Path::parent).unwrap_or(dir);
    let job = guest_build::Job {
        manifest: dir.join("Cargo.toml"),
        // Apart from `target` itself, whose lock an editor's cargo may hold.
        target_folder: root.join("target/guests"),
        profile: "release".to_owned(),
        artifacts: vec![artifact],
    };
    guest_build::build(&job, guest_build::Choice::from_environment()?)
}

/// The manifest of the workspace that a crate belongs to: its own where it stands alone.
fn workspace_root(dir: &Path) -> Option<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["locate-project", "--workspace", "--message-format", "plain", "--manifest-path"]);
    let output = cargo.arg(dir.join("Cargo.toml")).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

/// Builds a project whose SDK and WIT are laid beside what is made on the way: it holds nothing of them.
fn build_other(
    dir: &Path,
    language: Language,
    destination: PathBuf,
) -> Result<Result<(), guest_build::Error>, Error> {
    let work = dir.join("target/plugin");
    let wit = work.join("wit");
    // What an earlier build laid, and the project does not have any more, must not stay.
    let _ = fs::remove_dir_all(&wit);
    copy(&dir.join("wit"), &wit)?;
    kit::lay("wit", &wit.join("deps/zproxy-gateway"))?;
    let kit_folder = work.join("kit");
    kit::lay(&format!("sdk/{}", language.folder()), &kit_folder)?;
    let main = MAIN_FILES.iter().find(|(_, other)| *other == language).map_or("", |(file, _)| file);
    let project = guest_build::Project {
        folder: dir.to_owned(),
        wit,
        world: "plugin".to_owned(),
        source: dir.join(main),
        kit: kit_folder,
        work,
        tools: tools(dir),
        destination,
    };
    Ok(match language {
        Language::C => guest_build::build_c(&project),
        Language::Js => guest_build::build_javascript(&project),
        _ => guest_build::build_python(&project),
    })
}

/// Where tools are installed: `ZPROXY_TOOLS`, else the user's cache, else the project.
fn tools(dir: &Path) -> PathBuf {
    let variable =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("ZPROXY_TOOLS")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("zproxy")))
        .or_else(|| Some(variable("HOME")?.join(".cache/zproxy")))
        .unwrap_or_else(|| dir.join("target/tools"))
}

/// Copies a folder and what is below it.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let failed = |error| Error::failure(format!("{}: {error}", from.display()));
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            kit::write(&to, &fs::read(&path).map_err(failed)?)?;
        }
    }
    Ok(())
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_that_says_where_its_sdk_is_is_left_alone() {
        assert!(wants_sdk("[dependencies]\nzproxy-sdk = \"0.1\"\n"));
        assert!(!wants_sdk("[dependencies]\nzproxy-sdk = { path = \"../sdk\" }\n"));
        assert!(!wants_sdk("[dependencies]\nserde = \"1\"\n"));
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1025), "2 KiB");
        assert_eq!(size(12 * 1024 * 1024 + 600 * 1024), "12.5 MiB");
    }
}
