//! `plugin test`: every golden request of a plugin, and what differs.
//!
//! Not here: reading, playing and comparing one (`case`, `play`, `compare`).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::case::{self, Case};
use super::subject::Subject;
use super::{Answer, Error, Failed, Limits, compare, log, play, project};

/// Builds the project, if it is one, and plays all cases.
pub(super) fn test(subject: &Path, cases: &[PathBuf], limits: &Limits) -> Result<Answer, Error> {
    let is_project = subject.is_dir();
    let component = match is_project {
        true => project::make(subject, None)?,
        false => subject.to_owned(),
    };
    let folder = if is_project { Some(subject) } else { subject.parent() };
    let default = [folder.unwrap_or(Path::new(".")).join("tests")];
    let files = files(if cases.is_empty() { &default } else { cases })?;
    let mut all: Vec<(PathBuf, Vec<Case>)> = Vec::new();
    for file in files {
        let shown = file.display();
        let text = fs::read_to_string(&file);
        let text = text.map_err(|error| Error::failure(format!("{shown}: {error}")))?;
        let cases = case::parse(&text).map_err(|mistake| {
            Error::failure(format!("{shown}:{}: {}", mistake.line, mistake.message))
        })?;
        all.push((file, cases));
    }
    log::keep();
    let subject = Subject::load(&component, limits, false)?;
    Ok(play_all(&subject, &all))
}

fn play_all(subject: &Subject, all: &[(PathBuf, Vec<Case>)]) -> Answer {
    let mut text = String::new();
    let mut told: Vec<Value> = Vec::new();
    let mut failed = 0_usize;
    for (file, cases) in all {
        for case in cases {
            let outcome = play::play(subject, case);
            let differences = compare::compare(case, &outcome);
            let place = format!("{}:{}", file.display(), case.line);
            let verdict = if differences.is_empty() { "ok    " } else { "FAILED" };
            text.push_str(&format!("{verdict}  {}  ({place})\n", case.name));
            for line in &differences {
                text.push_str(&format!("          {line}\n"));
            }
            if !differences.is_empty() {
                failed += 1;
                // What the plugin said is often the reason.
                let lines = outcome.log.iter().filter(|_| case.expected.log.is_empty());
                lines.for_each(|line| text.push_str(&format!("          log: {line}\n")));
            }
            told.push(json!({ "file": file, "line": case.line, "name": case.name,
                "ok": differences.is_empty(), "differences": differences, "log": outcome.log }));
        }
    }
    let passed = told.len() - failed;
    text.push_str(&format!("{passed} passed, {failed} failed"));
    let json = json!({ "ok": failed == 0, "plugin": **subject.plugin.name(), "passed": passed,
        "failed": failed, "cases": told });
    Answer { text, json, failed: (failed > 0).then_some(Failed::Failure) }
}

/// The `.http` files among and below these paths, each folder's in order.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path)
            .map_err(|error| Error::failure(format!("{}: {error}", path.display())))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "http"));
        files.sort();
        found.append(&mut files);
    }
    match found.is_empty() {
        false => Ok(found),
        true => {
            let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            let paths = paths.join(", ");
            Err(Error::failure(format!("no golden requests: there is no `*.http` in {paths}")))
        }
    }
}
