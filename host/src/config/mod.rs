//! Configuration: what operators write, and what the gateway runs on.

mod settings;

pub use settings::*;
