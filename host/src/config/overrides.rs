//! Flags and variables that override the file: `--set KEY=VALUE`, `--listen`, `--workers` …
//!
//! They are applied to the tree before anything is checked, so a wrong one is reported like a
//! wrong key, with the flag in place of the file.
//!
//! Not here: reading the command line, and which of flag and variable wins (the caller adds
//! them in the order of rising precedence).

use super::document::{Content, DEPTH_MAX, Document, Member, Node};
use super::parse;
use super::problem::{At, Origin, Report, Step, quote, shorten};

/// What flags and variables change in a configuration.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<Override>);

/// One flag or variable.
#[derive(Clone, Debug)]
struct Override {
    /// How messages name it.
    name: String,
    /// What it changes.
    change: Change,
}

/// What a flag changes.
#[derive(Clone, Debug)]
enum Change {
    /// Sets the value at a path: JSON if it is JSON, else a string.
    Set(Vec<Step>, String),
    /// Replaces all listeners.
    Listen(String),
    /// Sets the number of workers.
    Workers(String),
    /// Moves or switches off the admin listener.
    Admin(String),
    /// Sets the plugins folder.
    PluginsDir(String),
}

impl Overrides {
    /// Adds `--set KEY=VALUE`. KEY is a path such as `limits.headers_max` or
    /// `routes[0].upstream` (`routes.0.upstream` is the same; a key with a dot is written
    /// `upstreams["a.b"]`); the index after the last element appends. VALUE is JSON, or else a
    /// string.
    ///
    /// # Errors
    /// What is wrong with `argument`, for a usage message.
    pub fn set(&mut self, argument: &str) -> Result<(), String> {
        let (key, value) = split(argument)
            .ok_or_else(|| format!("{} has no `=`; write `--set KEY=VALUE`", quote(argument)))?;
        let steps = path(key).ok_or_else(|| {
            let example = "write it like `limits.headers_max` or `routes[0].upstream`";
            format!("{} is not a path of the configuration; {example}", quote(key))
        })?;
        // The value may be a secret and is never part of a message's place.
        self.add(format!("--set {}", shorten(key)), Change::Set(steps, value.into()));
        Ok(())
    }

    /// Makes `address` the only listener. `source` is the flag or variable that says so.
    pub fn listen(&mut self, source: &str, address: &str) {
        self.add(source.into(), Change::Listen(address.into()));
    }

    /// Sets the number of workers, or `auto`; where they sit stays as the file says.
    pub fn workers(&mut self, source: &str, count: &str) {
        self.add(source.into(), Change::Workers(count.into()));
    }

    /// Moves the admin listener to `address`, or switches it `off`.
    pub fn admin(&mut self, source: &str, address: &str) {
        self.add(source.into(), Change::Admin(address.into()));
    }

    /// Sets the plugins folder.
    pub fn plugins_dir(&mut self, source: &str, folder: &str) {
        self.add(source.into(), Change::PluginsDir(folder.into()));
    }

    fn add(&mut self, name: String, change: Change) {
        self.0.push(Override { name, change });
    }

    /// Changes `document` as told, in order.
    pub(super) fn apply(&self, document: &mut Document<'_>, report: &mut Report) {
        let root = &mut document.root;
        for (index, Override { name, change }) in self.0.iter().enumerate() {
            document.overrides.push(name.clone());
            let origin = Origin::Override(index);
            match change {
                Change::Set(steps, value) => set_parsed(root, steps, value, origin, report),
                Change::Listen(address) => {
                    for key in ["listen_address", "listen_port", "listeners"] {
                        remove(root, key);
                    }
                    let mut listener = Node::empty(origin);
                    let address = Node::text(origin, address.as_str());
                    set(&mut listener, &keys(&["address"]), address, origin, report);
                    let listeners = Node::new(origin, Content::List(vec![listener]));
                    set(root, &keys(&["listeners"]), listeners, origin, report);
                }
                Change::Workers(count) => {
                    let placed = root.member("workers").map(|node| &node.content);
                    let steps = match placed {
                        Some(Content::Object(_)) => keys(&["workers", "count"]),
                        _ => keys(&["workers"]),
                    };
                    set_parsed(root, &steps, count, origin, report);
                }
                Change::Admin(address) if address == "off" => {
                    let off = Node::new(origin, Content::Null);
                    set(root, &keys(&["admin"]), off, origin, report);
                }
                Change::Admin(address) => {
                    let address = Node::text(origin, address.as_str());
                    set(root, &keys(&["admin", "address"]), address, origin, report);
                }
                Change::PluginsDir(folder) => {
                    let folder = Node::text(origin, folder.as_str());
                    set(root, &keys(&["plugins_dir"]), folder, origin, report);
                }
            }
        }
    }
}

/// Sets the value that `text` describes.
fn set_parsed(root: &mut Node, steps: &[Step], text: &str, origin: Origin, report: &mut Report) {
    let at = At(steps.to_vec());
    let value = parse::parse_value(text, origin, &at, report);
    let value = value.unwrap_or_else(|| Node::text(origin, text));
    set(root, steps, value, origin, report);
}

/// Puts `value` at `steps`, making the objects and lists on the way there.
fn set(root: &mut Node, steps: &[Step], value: Node, origin: Origin, report: &mut Report) {
    let mut node = root;
    for (depth, step) in steps.iter().enumerate() {
        if matches!(node.content, Content::Null) {
            node.content = match step {
                Step::Key(_) => Content::Object(Vec::new()),
                Step::Index(_) => Content::List(Vec::new()),
            };
            node.origin = origin;
        }
        let next = match (&mut node.content, step) {
            (Content::Object(members), Step::Key(_) | Step::Index(_)) => {
                let key = match step {
                    Step::Key(key) => key.clone(),
                    Step::Index(index) => index.to_string(),
                };
                let known = members.iter().position(|member| member.key == key);
                let place = known.unwrap_or_else(|| {
                    let node = Node::new(origin, Content::Null);
                    members.push(Member { key, origin, node });
                    members.len() - 1
                });
                members.get_mut(place).map(|member| &mut member.node)
            }
            (Content::List(elements), Step::Index(index)) => {
                if *index == elements.len() {
                    elements.push(Node::new(origin, Content::Null));
                }
                elements.get_mut(*index)
            }
            _ => None,
        };
        match next {
            Some(next) => node = next,
            None => return refuse(steps, depth, origin, report),
        }
    }
    *node = value;
}

/// Says why the path of a flag leads nowhere.
fn refuse(steps: &[Step], depth: usize, origin: Origin, report: &mut Report) {
    let at = At(steps[..depth].to_vec());
    let message = match &steps[depth] {
        Step::Key(key) => format!("has no keys, so there is no {} to set", quote(key)),
        Step::Index(index) => format!("has no element {index} to set"),
    };
    let cure = "give a path that exists, or set the whole value as JSON";
    report.problem_from(&at, origin, message, cure);
}

fn remove(root: &mut Node, key: &str) {
    if let Content::Object(members) = &mut root.content {
        members.retain(|member| member.key != key);
    }
}

fn keys(names: &[&str]) -> Vec<Step> {
    names.iter().map(|name| Step::Key((*name).into())).collect()
}

/// `KEY=VALUE` at the first `=` outside of quotes.
fn split(argument: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let end = argument.bytes().position(|byte| {
        quoted ^= byte == b'"';
        byte == b'=' && !quoted
    })?;
    Some((&argument[..end], &argument[end + 1..]))
}

/// The steps of a path as it is written in a flag; `None` when it is none.
pub(super) fn path(text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() || steps.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, after) = quoted.split_once("\"]")?;
            steps.push(Step::Key(key.into()));
            rest = after;
        } else if let Some(index) = rest.strip_prefix('[') {
            let (index, after) = index.split_once(']')?;
            steps.push(Step::Index(index.parse().ok()?));
            rest = after;
        } else {
            if !steps.is_empty() {
                rest = rest.strip_prefix('.')?;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let key = &rest[..end];
            steps.push(match key.parse() {
                _ if key.is_empty() => return None,
                Ok(index) => Step::Index(index),
                Err(_) => Step::Key(key.into()),
            });
            rest = &rest[end..];
        }
        if steps.len() > DEPTH_MAX {
            return None;
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_flags_are_written_in_several_ways() {
        for (text, meant) in [
            ("limits.headers_max", Some("limits.headers_max")),
            ("routes.0.upstream", Some("routes[0].upstream")),
            ("routes[0].upstream", Some("routes[0].upstream")),
            ("upstreams[\"a.b\"].servers[1]", Some("upstreams[\"a.b\"].servers[1]")),
            ("", None),
            ("a..b", None),
            ("a.", None),
            (".a", None),
            ("a[x]", None),
            ("a[0", None),
            ("a[0]b", None),
        ] {
            let steps = path(text);
            assert_eq!(steps.map(|steps| At(steps).to_string()).as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn a_flag_without_a_value_or_path_is_a_usage_error() {
        let mut overrides = Overrides::default();

        let no_value = overrides.set("limits").unwrap_err();
        assert_eq!(no_value, "`limits` has no `=`; write `--set KEY=VALUE`");
        let no_path = overrides.set("=1").unwrap_err();
        assert!(no_path.starts_with("`` is not a path of the configuration; write"), "{no_path}");
        let too_deep = overrides.set(&format!("{}x=1", "a.".repeat(100_000))).unwrap_err();
        assert!(too_deep.contains("is not a path"), "{too_deep}");
    }
}
