//! The gateway's own log: lines on stderr for the operator.
//!
//! Code logs through the crate `log`; this is where the lines go. `2026-11-21T07:00:00.123Z INFO
//! control: listening on 127.0.0.1:8080`. `ZPROXY_LOG` is `off`, `error`, `warn`, `info` (default),
//! `debug` or `trace`.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{LevelFilter, Log, Metadata, Record};

use super::date;
use super::sink::Sink;

struct Stderr(Sink);

static LOG: OnceLock<Stderr> = OnceLock::new();

/// Sends log lines to stderr from now on. A second call changes nothing.
pub fn start(level: LevelFilter) {
    if LOG.get().is_some() {
        return;
    }
    let open = || Ok(Box::new(std::io::stderr()) as Box<dyn std::io::Write + Send>);
    let Ok(sink) = Sink::start("log", Box::new(open)) else { return };
    if log::set_logger(LOG.get_or_init(|| Stderr(sink))).is_ok() {
        log::set_max_level(level);
    }
}

/// Waits until all lines so far are written, but not for ever.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.0.flush();
    }
}

/// Lines that were dropped because stderr was too slow.
pub fn dropped() -> u64 {
    LOG.get().map_or(0, |log| log.0.dropped())
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // Libraries have their own idea of what matters to an operator.
        let target = record.target();
        let (target, foreign) = match target.strip_prefix("zproxy::") {
            Some(own) => (own, false),
            None => (target, target.contains("::") || target.starts_with("wasmtime")),
        };
        if !self.enabled(record.metadata()) || (foreign && record.level() > log::Level::Warn) {
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = date::timestamp(u64::try_from(since.as_millis()).unwrap_or_default());
        let text = record.args().to_string();
        // One record, one line: what a peer or a plugin says cannot look like another record.
        let text = text.replace(|c: char| c.is_control() && c != '\t', " ");
        let line = format!("{now} {} {target}: {text}\n", record.level());
        self.0.send(line.into_bytes(), 1);
    }

    fn flush(&self) {
        self.0.flush();
    }
}
