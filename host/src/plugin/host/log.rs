//! `zproxy:gateway/log`.

use super::State;
use super::bindings::zproxy::gateway::log::{Host, Level};

impl Host for State {
    fn max_level(&mut self) -> Option<Level> {
        match ::log::max_level() {
            ::log::LevelFilter::Off => None,
            ::log::LevelFilter::Error => Some(Level::Error),
            ::log::LevelFilter::Warn => Some(Level::Warn),
            ::log::LevelFilter::Info => Some(Level::Info),
            ::log::LevelFilter::Debug | ::log::LevelFilter::Trace => Some(Level::Debug),
        }
    }

    fn write(&mut self, level: Level, message: String) {
        let level = match level {
            Level::Debug => ::log::Level::Debug,
            Level::Info => ::log::Level::Info,
            Level::Warn => ::log::Level::Warn,
            Level::Error => ::log::Level::Error,
        };
        self.journal().line(level, message.as_bytes());
    }
}
