//! Which certificate a client gets.
//!
//! Not here: what certificates are for (`certificate`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::HostPattern;

/// A listener's certificates, by name.
#[derive(Debug, Default)]
pub struct Certificates {
    keys: Vec<Arc<CertifiedKey>>,
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what stands behind `*.`.
    below: HashMap<Box<str>, Vec<usize>>,
    /// For those who ask for none, or for one that is not here.
    usual: Vec<usize>,
}

/// What a client has asked for, on its way from rustls to the connection: rustls asks for a certificate in the
/// middle of a step of the handshake, and does not tell the name otherwise.
#[derive(Debug, Default)]
pub struct Hello {
    /// The name, in lower case.
    pub server_name: Option<Box<str>>,
}

thread_local! {
    static HELLO: RefCell<Option<Hello>> = const { RefCell::new(None) };
}

impl Hello {
    /// What was asked for in the step that has just been made, if that was when it was asked.
    #[must_use]
    pub fn take() -> Option<Self> {
        HELLO.take()
    }
}

impl Certificates {
    /// Certificates with the names that each is shown for. Of several for one name the first comes first;
    /// the first of all, with those for the same names, is the usual one.
    #[must_use]
    pub fn new(list: Vec<(Arc<CertifiedKey>, Vec<HostPattern>)>) -> Self {
        let mut certificates = Self::default();
        let mut first = Vec::new();
        for (index, (key, names)) in list.into_iter().enumerate() {
            for name in &names {
                let (map, name) = match name {
                    HostPattern::Exact(name) => (&mut certificates.exact, name.as_str()),
                    HostPattern::Suffix(suffix) => (&mut certificates.below, &suffix[1..]),
                };
                map.entry(name.into()).or_default().push(index);
            }
            if index == 0 || names == first {
                certificates.usual.push(index);
            }
            if index == 0 {
                first = names;
            }
            certificates.keys.push(key);
        }
        certificates
    }

    /// Indexes of those that are shown for this very name, which is in lower case.
    fn named(&self, name: &str) -> Option<&[usize]> {
        let below = || self.below.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(below).map(Vec::as_slice)
    }

    /// Whether a request for `host` has come on a connection for another name, which another certificate
    /// is shown for: its sender has mistaken this connection for one to `host` (RFC 9110 §15.5.20).
    #[must_use]
    pub fn misdirects(&self, server_name: &str, host: &str) -> bool {
        if host.eq_ignore_ascii_case(server_name) {
            return false;
        }
        let host = host.to_ascii_lowercase();
        let Some(of_host) = self.named(host.trim_end_matches('.')) else { return false };
        let shown = self.named(server_name).unwrap_or(&self.usual);
        !shown.iter().any(|one| of_host.contains(one))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let server_name = hello.server_name().map(str::to_ascii_lowercase);
        let list = server_name.as_deref().and_then(|name| self.named(name)).unwrap_or(&self.usual);
        let schemes = hello.signature_schemes();
        let usable = |index: &&usize| self.keys[**index].key.choose_scheme(schemes).is_some();
        let index = list.iter().find(usable).or(list.first())?;
        HELLO.set(Some(Hello { server_name: server_name.map(Into::into) }));
        self.keys.get(*index).map(Arc::clone)
    }
}
