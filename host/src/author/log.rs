//! What plugins write to the log, kept for whoever asks.
//!
//! Not here: the gateway's log (`telemetry::log`).

use std::sync::{Mutex, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};

/// The target of lines that plugins write themselves.
const TARGET: &str = "zproxy::plugin";

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Keeper;

impl Log for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {}", record.level().as_str().to_lowercase(), record.args());
            LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    fn flush(&self) {}
}

/// Keeps what plugins write from now on, unless this process logs already.
pub(super) fn keep() {
    if log::set_logger(&Keeper).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
}

/// The lines since this was last asked: `info NAME: text`.
pub(super) fn take() -> Vec<String> {
    std::mem::take(&mut *LINES.lock().unwrap_or_else(PoisonError::into_inner))
}
