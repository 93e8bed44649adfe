//! TLS to clients.
//!
//! Not here: reading certificates (`certificate`), finding the one for a client (`names`).

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use super::certificate::{self, CertificateFacts, Files};
use super::names::Certificates;
use crate::config::{self, ClientAuth, Problem, TlsVersion};

/// TLS of one listener.
#[derive(Debug)]
pub struct ListenerTls {
    /// What rustls runs on.
    pub config: Arc<ServerConfig>,
    /// Which certificate is for whom.
    pub certificates: Arc<Certificates>,
    /// What the certificates say, in the order of the settings.
    pub facts: Vec<CertificateFacts>,
    pub(super) settings: config::ListenerTls,
    pub(super) digest: [u8; 32],
}

/// Whom the client's certificates are verified by; listeners with the same share the keys of tickets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TicketScope(ClientAuth, [u8; 32]);

/// Every file that a listener needs.
pub(super) fn files(tls: &config::ListenerTls) -> impl Iterator<Item = &std::path::Path> {
    let ca = match &tls.client_auth {
        ClientAuth::None => None,
        ClientAuth::Optional(ca) | ClientAuth::Required(ca) => Some(ca.as_path()),
    };
    tls.certificates.iter().flat_map(|one| [one.cert.as_path(), one.key.as_path()]).chain(ca)
}

/// Which keys of tickets a listener needs.
pub(super) fn scope(tls: &config::ListenerTls, files: &mut Files<'_>) -> TicketScope {
    let digest = match &tls.client_auth {
        ClientAuth::None => [0; 32],
        ClientAuth::Optional(ca) | ClientAuth::Required(ca) => {
            files.digest(std::iter::once(ca.as_path()))
        }
    };
    TicketScope(tls.client_auth.clone(), digest)
}

/// Makes what a listener needs. `None`: something is among the problems.
pub(super) fn make(
    settings: &config::ListenerTls,
    files: &mut Files<'_>,
    provider: &Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
    now: i64,
    problems: &mut Vec<Problem>,
) -> Option<ListenerTls> {
    let before = problems.len();
    let mut facts = Vec::new();
    let mut list = Vec::new();
    for one in &settings.certificates {
        if let Some((key, names, about)) = certificate::load(one, files, now, problems) {
            list.push((key, names));
            facts.push(about);
        }
    }
    let roots = match &settings.client_auth {
        ClientAuth::None => None,
        ClientAuth::Optional(ca) | ClientAuth::Required(ca) => {
            let roots = roots(ca, files);
            let roots = roots.map_err(|problem| {
                let at = format!("{}.client_ca_path", settings.at);
                problems.push(Problem::at(&at, problem, "give a PEM file with certificates"));
            });
            roots.ok()
        }
    };
    if problems.len() > before {
        return None;
    }
    let versions: &[&SupportedProtocolVersion] = match settings.min_version {
        TlsVersion::V12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::V13 => &[&version::TLS13],
    };
    let certificates = Arc::new(Certificates::new(list));
    let made = config(settings, provider, versions, roots, &certificates);
    let mut config = match made {
        Ok(config) => config,
        Err(error) => {
            problems.push(Problem::at(&settings.at, error, "mend the files that it names"));
            return None;
        }
    };
    config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.ticketer = tickets;
    // Clients that are old or misled would choose worse than this end does.
    config.ignore_client_order = true;
    // Sessions are with the client, in its ticket: workers need not ask each other.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let digest = files.digest(self::files(settings));
    let (config, settings) = (Arc::new(config), settings.clone());
    Some(ListenerTls { config, certificates, facts, settings, digest })
}

fn config(
    settings: &config::ListenerTls,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    roots: Option<RootCertStore>,
    certificates: &Arc<Certificates>,
) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let provider = Arc::clone(provider);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match settings.client_auth {
                ClientAuth::Optional(_) => verifier.allow_unauthenticated(),
                ClientAuth::None | ClientAuth::Required(_) => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let certificates = Arc::clone(certificates);
    Ok(builder.with_cert_resolver(certificates))
}

/// The roots in a PEM file, at least one.
pub(super) fn roots(
    path: &std::path::Path,
    files: &mut Files<'_>,
) -> Result<RootCertStore, String> {
    let list = files.read(path).and_then(|bytes| certificate::certificates(path, &bytes))?;
    let mut roots = RootCertStore::empty();
    for (index, one) in list.into_iter().enumerate() {
        roots.add(one).map_err(|error| {
            format!("certificate {} in {} cannot be a root: {error}", index + 1, path.display())
        })?;
    }
    Ok(roots)
}
