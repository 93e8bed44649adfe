//! Plugins.

pub mod chain;
pub mod exchange;
pub mod middleware;

pub use chain::*;
pub use exchange::{Exchange, Flow};
pub use middleware::Middleware;
