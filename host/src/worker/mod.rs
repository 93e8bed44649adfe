//! The workers: where each one sits, and on what machine.
//!
//! Layout: `topology` reads the machine and what this process may use of it, `placement` decides
//! from that and the configuration how many workers there are and where each one sits.

pub mod placement;
pub mod topology;
