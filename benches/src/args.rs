//! Command-line flags: `--name value`, and `--name` alone for switches.
//!
//! Flags are taken one by one; what is left when [`Flags::finish`] is called was misspelt.
//!
//! Not here: which flags exist; every command takes its own.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// The flags of one command that nobody has taken yet.
pub(crate) struct Flags {
    /// Name without dashes, and the value unless the flag is a switch.
    left: Vec<(String, Option<String>)>,
}

impl Flags {
    /// Splits arguments into flags; those named in `switches` have no value.
    pub(crate) fn parse(arguments: Vec<String>, switches: &[&str]) -> Result<Self> {
        let mut left = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(name) = argument.strip_prefix("--") else {
                bail!("`{argument}` is not a flag");
            };
            if let Some((name, value)) = name.split_once('=') {
                left.push((name.to_owned(), Some(value.to_owned())));
            } else if switches.contains(&name) {
                left.push((name.to_owned(), None));
            } else {
                let value = arguments.next().with_context(|| format!("--{name} needs a value"))?;
                left.push((name.to_owned(), Some(value)));
            }
        }
        Ok(Self { left })
    }

    /// Whether a switch was given.
    pub(crate) fn switch(&mut self, name: &str) -> bool {
        let before = self.left.len();
        self.left.retain(|(given, _)| given != name);
        before != self.left.len()
    }

    /// Every value given for a flag, in order.
    pub(crate) fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.left).into_iter().partition(|f| f.0 == name);
        self.left = left;
        let taken: Vec<(String, Option<String>)> = taken;
        taken.into_iter().filter_map(|(_, value)| value).collect()
    }

    /// The last value given for a flag.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.all(name).pop()
    }

    /// The words of a flag like `--only a,b`; empty when it was not given.
    pub(crate) fn words(&mut self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// The value of a flag if it was given, refused outside `range`: every run has an end.
    pub(crate) fn within<T>(&mut self, name: &str, range: RangeInclusive<T>) -> Result<Option<T>>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse::<T>() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => bail!("--{name} {text}: give a number from {} to {}", range.start(), range.end()),
        }
    }

    /// Refuses what no one has taken.
    pub(crate) fn finish(self) -> Result<()> {
        match self.left.first() {
            Some((name, _)) => bail!("unknown flag --{name}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Flags {
        let arguments = line.split(' ').map(str::to_owned).collect();
        Flags::parse(arguments, &["quick"]).unwrap()
    }

    #[test]
    fn values_switches_and_lists_are_told_apart() {
        let mut flags = flags("--quick --only a,b --header x --header=y --rounds 3");

        assert!(flags.switch("quick"));
        assert!(!flags.switch("quick"));
        assert_eq!(flags.words("only"), ["a", "b"]);
        assert_eq!(flags.all("header"), ["x", "y"]);
        assert_eq!(flags.within("rounds", 1..=5_u32).unwrap(), Some(3));
        flags.finish().unwrap();
    }

    #[test]
    fn what_is_out_of_bounds_or_unknown_is_refused() {
        assert!(flags("--rounds 9").within("rounds", 1..=5_u32).is_err());
        assert!(flags("--rounds x").within("rounds", 1..=5_u32).is_err());
        assert!(flags("--wrong 1").finish().is_err());
        assert!(Flags::parse(vec!["--only".into()], &[]).is_err());
        assert!(Flags::parse(vec!["only".into()], &[]).is_err());
    }
}
