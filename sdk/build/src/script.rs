//! From JavaScript and Python to components: an interpreter with the program in it.
//!
//! What makes them is installed once per machine, from npm and PyPI, into the folder that the project
//! names, in a version that is known to work; a project that has it installed itself (`node_modules`,
//! `.venv`) uses its own.
//!
//! Not here: what plugins import beside the bindings (`sdk/js`, `sdk/python`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::project::{Project, once, run};
use crate::{Error, io_error};

/// Newer ones have not been tried.
const COMPONENTIZE_JS: &str = "0.23.0";
const COMPONENTIZE_PY: &str = "0.25.0";

/// Calls componentize-js. Without what needs WASI HTTP, which the gateway does not offer: it would
/// have the component refused.
const BUILD_JS: &str = "\
import { readFile, writeFile } from 'node:fs/promises';
const [tool, sourcePath, witPath, worldName, out] = process.argv.slice(2);
const { componentize } = await import(tool);
const disableFeatures = ['http', 'fetch-event'];
const { component } = await componentize({ sourcePath, witPath, worldName, disableFeatures });
await writeFile(out, component);
";

/// Builds a plugin in JavaScript.
///
/// # Errors
///
/// When there is no Node.js or what it needs cannot be installed, when the world or the source is
/// refused, and when the component cannot be written.
pub fn build_javascript(project: &Project) -> Result<(), Error> {
    let package = find_componentize_js(project)?;
    once(project, &package.to_string_lossy(), |made| componentize_js(project, &package, made))
}

fn componentize_js(project: &Project, package: &Path, made: &Path) -> Result<(), Error> {
    // Its real path: the tool grants the folder that it runs in and nothing that a link leads to.
    let work = project.work.canonicalize().map_err(io_error(&project.work))?;
    let script = work.join("build.mjs");
    fs::write(&script, BUILD_JS).map_err(io_error(&script))?;
    // One module with the helpers beside it: that is all that imports can find.
    let source = stage(project, &work, "zproxy.js")?;
    let mut node = Command::new("node");
    node.current_dir(&work)
        .arg(&script)
        .arg(package.join("src/componentize.js"))
        .arg(source)
        .arg(&project.wit)
        .arg(&project.world)
        .arg(made);
    run(node, "componentize-js")
}

/// Builds a plugin in Python.
///
/// # Errors
///
/// When there is no Python or what it needs cannot be installed, when the world or the source is
/// refused, and when the component cannot be written.
pub fn build_python(project: &Project) -> Result<(), Error> {
    let componentize = find_componentize_py(project)?;
    once(project, &componentize.to_string_lossy(), |made| {
        componentize_py(project, &componentize, made)
    })
}

fn componentize_py(project: &Project, componentize: &Path, made: &Path) -> Result<(), Error> {
    let module = project.source.file_stem().unwrap_or_default();
    let mut command = Command::new(componentize);
    command
        .current_dir(&project.folder)
        .arg("--wit-path")
        .arg(&project.wit)
        .args(["--world", &project.world, "componentize"])
        .arg(module)
        .arg("--python-path")
        .arg(project.source.parent().unwrap_or(&project.folder))
        .arg("--python-path")
        .arg(&project.kit)
        .arg("--output")
        .arg(made);
    run(command, "componentize-py")
}

/// Copies the source and the SDK's helper into `folder`; where the source is then.
fn stage(project: &Project, folder: &Path, helper: &str) -> Result<PathBuf, Error> {
    let copy = |from: &Path| {
        let to = folder.join(from.file_name().unwrap_or_default());
        fs::copy(from, &to).map(|_| to.clone()).map_err(io_error(from))
    };
    copy(&project.kit.join(helper))?;
    copy(&project.source)
}

fn find_componentize_js(project: &Project) -> Result<PathBuf, Error> {
    const PACKAGE: &str = "node_modules/@bytecodealliance/componentize-js";
    let own = project.folder.join(PACKAGE);
    if own.exists() {
        return Ok(own);
    }
    let folder = project.tools.join(format!("componentize-js-{COMPONENTIZE_JS}"));
    let installed = || folder.join(PACKAGE);
    install("JavaScript", &folder, || {
        let mut npm = Command::new("npm");
        npm.args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--loglevel=error",
            "--prefix",
        ])
        .arg(&folder)
        .arg(format!("@bytecodealliance/componentize-js@{COMPONENTIZE_JS}"));
        run(npm, "npm")
    })?;
    Ok(installed())
}

fn find_componentize_py(project: &Project) -> Result<PathBuf, Error> {
    let own = project.folder.join(".venv/bin/componentize-py");
    if own.exists() {
        return Ok(own);
    }
    let folder = project.tools.join(format!("componentize-py-{COMPONENTIZE_PY}"));
    install("Python", &folder, || {
        let mut python = Command::new("python3");
        python.args(["-m", "venv"]).arg(&folder);
        run(python, "python3 -m venv")?;
        let mut pip = Command::new(folder.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("componentize-py=={COMPONENTIZE_PY}"));
        run(pip, "pip")
    })?;
    Ok(folder.join("bin/componentize-py"))
}

/// Installs into `folder`, unless that was done before. What was left half done is done again.
fn install(
    language: &'static str,
    folder: &Path,
    work: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let done = folder.join("installed");
    if done.exists() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(io_error(parent))?;
    // One at a time, whoever they are: tests build several plugins at once.
    let lock = folder.with_extension("lock");
    let lock = fs::File::create(&lock).map_err(io_error(&lock))?;
    lock.lock().map_err(io_error(folder))?;
    if done.exists() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(io_error(folder))?;
    eprintln!("installing what builds {language} plugins into {}", folder.display());
    work().map_err(|error| Error::NoTools { language, reason: crate::describe(&error) })?;
    fs::write(&done, "").map_err(io_error(&done))
}
