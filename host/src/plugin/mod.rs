//! Plugins.

pub mod exchange;
pub mod middleware;

pub use exchange::{Exchange, Flow};
pub use middleware::Middleware;
