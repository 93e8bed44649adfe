//! The shape of the code: what reviewers would have to look for again and again.
//!
//! Each test names file and line of everything that is out of place.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The way of a request: a module may use those to its right only.
const LAYERS: [&str; 19] = [
    "main",
    "author",
    // Beside the gateway: it uses `http` and nothing of the rest.
    "load",
    // Beside the gateway: looks at the host with what `worker` knows of it, and runs nothing.
    "doctor",
    "control",
    "worker",
    "connection",
    "proxy",
    "plugin",
    "upstream",
    // Above `http`: the access log reads message heads.
    "telemetry",
    "state",
    "http",
    "io",
    // Below `io`, which carries its handshakes out.
    "tls",
    "route",
    "config",
    "error",
    "sys",
];

/// The folder that may say `unsafe`: system calls.
const UNSAFE_HOME: &str = "host/src/sys/";

/// Lines of a file that are not tests; comments count, since they are read too.
const LINES_MAX: usize = 600;

/// What lies at the top. Everything else has a place below.
const TOP: [&str; 22] = [
    ".cargo",
    ".ci",
    ".github",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "clippy.toml",
    "deny.toml",
    "examples",
    "host",
    "plugins",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "sdk",
    "tests",
    "wit",
];

/// A source file, seen as code.
struct Source {
    /// From the root of the repository.
    path: String,
    /// Without comments, and with empty strings; as many lines as the file.
    code: String,
    /// The same without what is compiled for tests only.
    production: String,
}

#[test]
fn no_module_uses_one_above_it() {
    let mut problems = Vec::new();

    for source in sources("host/src") {
        let path = module_path(&source.path);
        let Some(own) = path.first().map_or(Some("lib"), |first| Some(first.as_str())) else {
            continue;
        };
        if own == "lib" {
            continue;
        }
        let Some(layer) = layer(own) else {
            problems.push(format!("{}: `{own}` has no place in the order of layers", source.path));
            continue;
        };
        for (line, used) in uses(&source.code, path.len()) {
            match self::layer(&used) {
                Some(other) if other < layer => {
                    problems
                        .push(format!("{}:{line}: `{own}` uses `{used}` above it", source.path));
                }
                _ => {}
            }
        }
    }

    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// The module list is the way of a request.
#[test]
fn the_library_declares_its_modules_in_the_order_of_layers() {
    let lib = std::fs::read_to_string(root().join("host/src/lib.rs")).unwrap();

    let declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();

    assert_eq!(declared, &LAYERS[1..]);
}

#[test]
fn unsafe_code_has_one_home() {
    let mut problems = Vec::new();
    assert!(root().join(UNSAFE_HOME).exists(), "{UNSAFE_HOME} has moved");

    for source in all_sources() {
        for (line, text) in numbered(&source.code) {
            let says = words(text).any(|word| word == "unsafe");
            if says && !source.path.starts_with(UNSAFE_HOME) {
                problems.push(format!("{}:{line}: unsafe", source.path));
            }
        }
    }

    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn files_are_short_enough_to_be_read_in_one_go() {
    let problems: Vec<String> = all_sources()
        .into_iter()
        .filter_map(|source| {
            let lines = match is_test(&source.path) {
                true => source.code.lines().count(),
                false => source.code.lines().count() - test_lines(&source),
            };
            (lines > LINES_MAX).then(|| format!("{}: {lines} lines", source.path))
        })
        .collect();

    assert!(problems.is_empty(), "more than {LINES_MAX}:\n{}", problems.join("\n"));
}

/// Peers and plugins can never cause a panic.
#[test]
fn production_code_never_unwraps() {
    let mut problems = Vec::new();

    for source in ["host/src", "sdk/src", "plugins"].into_iter().flat_map(sources) {
        if is_test(&source.path) {
            continue;
        }
        for (line, text) in numbered(&source.production) {
            if text.contains(".unwrap()") || text.contains(".unwrap_err()") {
                problems.push(format!("{}:{line}: {}", source.path, text.trim()));
            }
        }
    }

    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn nothing_new_lies_at_the_top() {
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output();
    // A source archive has no history; what is in it came from a repository that has.
    let Ok(listed) = listed else { return };
    let listed = String::from_utf8(listed.stdout).unwrap();

    let mut strangers: Vec<&str> =
        listed.lines().map(|path| path.split('/').next().unwrap_or(path)).collect();
    strangers.sort_unstable();
    strangers.dedup();
    strangers.retain(|name| !TOP.contains(name));

    assert!(strangers.is_empty(), "{strangers:?}");
}

/// Every module says what it owns.
#[test]
fn every_file_of_the_product_begins_with_what_it_is_for() {
    let problems: Vec<String> = ["host/src", "sdk/src", "plugins", "examples"]
        .into_iter()
        .flat_map(files)
        .filter(|path| !is_test(path.strip_prefix(root()).unwrap().to_str().unwrap()))
        .filter(|path| !std::fs::read_to_string(path).unwrap().starts_with("//! "))
        .map(|path| path.display().to_string())
        .collect();

    assert!(problems.is_empty(), "without a header:\n{}", problems.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn all_sources() -> Vec<Source> {
    let folders = ["host", "sdk", "plugins", "examples", "benches", "tests"];
    folders.into_iter().flat_map(sources).collect()
}

fn sources(folder: &str) -> Vec<Source> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        let code = code_of(&text);
        let production = without_tests(&code);
        Source { path, code, production }
    };
    files(folder).into_iter().map(read).collect()
}

/// Rust files below a folder, but for what tools leave there.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/")
        || path.split('/').any(|part| part == "tests" || part == "tests.rs" || part == "testing")
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == name)
}

/// `host/src/plugin/host/wasi.rs` → plugin, host, wasi; empty for the library itself.
fn module_path(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("host/src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// Modules of the crate that the code names, with the line: `crate::x`, `zproxy::x` in the binary,
/// and `super::…::x` that climbs to the crate from a module of this depth.
fn uses(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let climb = "super::".repeat(depth);
    for prefix in ["crate::", "zproxy::", climb.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || "_:$".contains(letter)) {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            for name in names_after(&code[at + prefix.len()..]) {
                found.push((line, name));
            }
        }
    }
    found
}

/// The first names of a path: one, or those of a group in braces.
fn names_after(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return words(rest).next().map(str::to_owned).into_iter().collect();
    };
    let mut depth = 1;
    let mut names = Vec::new();
    let mut start = true;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => start = true,
            _ if depth == 1 && start && !letter.is_whitespace() => {
                names.extend(words(&group[at..]).next().map(str::to_owned));
                start = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Takes comments out and empties strings; keeps every line end.
fn code_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut last = ' ';
    while let Some(letter) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if letter == '"' {
            string_length(rest)
        } else if letter == 'r' && !is_word(last) {
            raw_string_length(rest)
        } else if letter == '\'' {
            char_length(rest)
        } else {
            0
        };
        if skipped == 0 {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
        } else {
            out.extend(rest[..skipped].chars().filter(|letter| *letter == '\n'));
            rest = &rest[skipped..];
        }
        last = letter;
    }
    out
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Length of a string literal with its quotes.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of `r"…"` or `r#"…"#`; none when it is something else that begins with `r`.
fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let start = 2 + hashes;
    text[start..].find(&end).map_or(text.len(), |at| start + at + end.len())
}

/// Length of a character literal; none for a lifetime.
fn char_length(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match letters.next() {
        // The letter after the backslash may be a quote itself.
        Some((_, '\\')) => text.get(3..).and_then(|rest| rest.find('\'')).map_or(0, |at| at + 4),
        Some((at, letter)) if text[at + letter.len_utf8()..].starts_with('\'') => {
            at + letter.len_utf8() + 1
        }
        _ => 0,
    }
}

/// Blanks what `#[cfg(test)]` and `#[cfg(all(test, …))]` stand before.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some((start, end)) = test_module(&out) {
        let lines = "\n".repeat(out[start..end].matches('\n').count());
        out.replace_range(start..end, &lines);
    }
    out
}

fn test_module(code: &str) -> Option<(usize, usize)> {
    let mark = |start: &str| ["test)]", "all(test,"].iter().any(|mark| start.starts_with(mark));
    let mut marks = code.match_indices("#[cfg(");
    let start = marks.find(|(at, text)| mark(&code[at + text.len()..]))?.0;
    let open = code[start..].find(['{', ';']).map_or(code.len(), |at| start + at);
    let mut depth = 0_usize;
    for (at, letter) in code[open..].char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((start, open + at + 1));
        }
    }
    Some((start, code.len()))
}

fn test_lines(source: &Source) -> usize {
    let code = &source.code;
    let mut lines = 0;
    let mut out = code.clone();
    while let Some((start, end)) = test_module(&out) {
        lines += out[start..end].matches('\n').count() + 1;
        out.replace_range(start..end, "");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let code =
            code_of("a /* b\n */ c // d\n\"e \\\" f\" 'g' '\\'' '\\u{1}' r#\"h \" i\"# <'j> k");

        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "c", "<'j>", "k"]);
        assert_eq!(code.matches('\n').count(), 2);
    }

    #[test]
    fn every_way_to_name_a_module_is_seen() {
        let code = "use crate::http::{a, b};\nuse crate::{io, route::{x, y}, sys as z};\nsuper::proxy::go();";

        let used: Vec<String> = uses(code, 1).into_iter().map(|(_, name)| name).collect();

        assert_eq!(used, ["http", "io", "route", "sys", "proxy"]);
    }

    #[test]
    fn tests_are_not_production() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { {} }\n}\nfn c() {}\n#[cfg(test)]\nmod d;\n";

        let production = without_tests(code);

        assert!(production.contains("fn a") && production.contains("fn c"));
        assert!(!production.contains("fn b") && !production.contains("mod d"));
        assert_eq!(production.lines().count(), code.lines().count());
    }
}
