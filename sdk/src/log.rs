//! Lines in the gateway's log, marked with the plugin's name.
//!
//! Use [`debug!`](crate::debug), [`info!`](crate::info), [`warn!`](crate::warn) and
//! [`error!`](crate::error): a line below the gateway's level is neither made nor handed over.

use std::cell::Cell;

use crate::host;

/// How much a line matters; the later, the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For the plugin's author.
    Debug,
    /// For the operator, in the normal course of things.
    Info,
    /// Something is off; the request goes on.
    Warn,
    /// Something failed.
    Error,
}

/// Whether the host has been asked, and what it said.
#[derive(Clone, Copy)]
enum Threshold {
    Unknown,
    Silent,
    From(Level),
}

thread_local! {
    // Asked once per instance, as `log.max-level` advises.
    static THRESHOLD: Cell<Threshold> = const { Cell::new(Threshold::Unknown) };
}

/// Whether a line of this level would be written.
#[must_use]
pub fn enabled(level: Level) -> bool {
    if let Threshold::Unknown = THRESHOLD.get() {
        ask();
    }
    match THRESHOLD.get() {
        Threshold::From(least) => level >= least,
        Threshold::Silent | Threshold::Unknown => false,
    }
}

/// Asks the host for its level.
pub(crate) fn ask() {
    THRESHOLD.set(match host::log::max_level() {
        None => Threshold::Silent,
        Some(host::log::Level::Debug) => Threshold::From(Level::Debug),
        Some(host::log::Level::Info) => Threshold::From(Level::Info),
        Some(host::log::Level::Warn) => Threshold::From(Level::Warn),
        Some(host::log::Level::Error) => Threshold::From(Level::Error),
    });
}

/// Writes a line, if its level is [`enabled`]. More than 4 KiB is cut. Never waits.
pub fn write(level: Level, message: &str) {
    if !enabled(level) {
        return;
    }
    let level = match level {
        Level::Debug => host::log::Level::Debug,
        Level::Info => host::log::Level::Info,
        Level::Warn => host::log::Level::Warn,
        Level::Error => host::log::Level::Error,
    };
    host::log::write(level, message);
}

/// Formats and writes a line of the given level, or does neither.
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $($message:tt)+) => {
        if $crate::log::enabled($crate::log::Level::$level) {
            $crate::log::write($crate::log::Level::$level, &::std::format!($($message)+));
        }
    };
}

/// Writes a line for the plugin's author. Takes what `format!` takes.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::__log!(Debug, $($message)+) };
}

/// Writes a line for the operator, in the normal course of things. Takes what `format!` takes.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::__log!(Info, $($message)+) };
}

/// Writes a line that says something is off. Takes what `format!` takes.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::__log!(Warn, $($message)+) };
}

/// Writes a line that says something failed. Takes what `format!` takes.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::__log!(Error, $($message)+) };
}
