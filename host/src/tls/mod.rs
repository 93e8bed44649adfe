//! TLS, but for the records: certificates, whom to believe, and what is agreed to.
//!
//! ```text
//!   settings ─► load: read files ─► check ─► TlsSet ─► a part of the snapshot
//!                         ▲                    │
//!      a reload, or a file that has changed ───┘ keeps what has not
//! ```
//!
//! A [`TlsSet`] is made by the control thread and never changed. A handshake takes the one that is current when
//! it begins; connections that are open do not notice. What is the same in two sets is the same object: so
//! sessions with servers go on, and the keys of tickets are shared by all workers and outlive reloads.
//!
//! Tickets open sessions without the client's certificate being looked at again, so listeners share their
//! keys only where they ask the same of clients, by the same roots.
//!
//! Layout: `certificate` reads one certificate, `names` finds the one for a client, `server` and `client` make
//! what rustls runs on, `load` does all of it for the settings.
//!
//! Not here: records and sockets (`io`), time limits (`connection`, `upstream`), when to load (`control`).

mod certificate;
mod client;
mod load;
mod names;
mod server;
#[cfg(test)]
mod tests;

pub use certificate::CertificateFacts;
pub use client::{UpstreamTls, client, server_name};
pub use load::{TlsSet, load};
pub use names::{Certificates, Hello};
pub use server::ListenerTls;

/// A version as people write it: `TLSv1.3`.
#[must_use]
pub fn version_name(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "",
    }
}
