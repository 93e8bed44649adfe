//! The raw output of a run, kept whole: one folder with everything that the table came from.
//!
//! - `run.json`: command line, versions, machine, scenarios · `measurements.jsonl`: one line a
//!   measurement, written as it comes · `table.md` · `configs/`: one file a contender, as used.
//!
//! Not here: what the figures say (`report`).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// The folder of one run.
pub(crate) struct Record {
    folder: PathBuf,
    measurements: File,
}

impl Record {
    /// Makes the folder; a number is added to the name of one that is there.
    pub(crate) fn create(wanted: &Path) -> Result<Self> {
        let mut folder = wanted.to_owned();
        let mut number = 2;
        while folder.exists() {
            folder = PathBuf::from(format!("{}-{number}", wanted.display()));
            number += 1;
        }
        fs::create_dir_all(folder.join("configs"))
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let measurements = File::create(folder.join("measurements.jsonl"))?;
        Ok(Self { folder, measurements })
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes what holds for the whole run.
    pub(crate) fn run(&self, facts: &Value) -> Result<()> {
        Ok(fs::write(self.folder.join("run.json"), format!("{facts:#}\n"))?)
    }

    /// Adds one measurement.
    pub(crate) fn measurement(&mut self, measurement: &Value) -> Result<()> {
        Ok(writeln!(self.measurements, "{measurement}")?)
    }

    /// Keeps a contender's configuration, the last one used.
    pub(crate) fn config(&self, contender: &str, file: &str, text: &str) -> Result<()> {
        let path = self.folder.join("configs").join(format!("{contender}-{file}"));
        Ok(fs::write(path, text)?)
    }

    /// Writes the table.
    pub(crate) fn table(&self, table: &str) -> Result<()> {
        Ok(fs::write(self.folder.join("table.md"), table)?)
    }
}
