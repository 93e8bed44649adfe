//! TLS to servers.
//!
//! Without roots of its own an upstream is verified by those that this system trusts, read from where its
//! libraries read them: so what an operator or a distribution adds or takes back for the whole machine holds here,
//! too, and no list grows old inside of a binary.
//!
//! Not here: connecting (`upstream`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::{self, CertificateFacts, Files, sha256};
use super::server::roots;
use crate::config::{self, Problem, ServerAddress};

/// TLS to the servers of one upstream.
#[derive(Debug)]
pub struct UpstreamTls {
    /// What rustls runs on; sessions with servers are in it.
    pub config: Arc<ClientConfig>,
    /// The same for what must be HTTP/1.1: callouts and upgrades.
    pub config_h1: Arc<ClientConfig>,
    /// What the certificate says that the gateway shows.
    pub identity: Option<CertificateFacts>,
    pub(super) settings: config::UpstreamTls,
    pub(super) digest: [u8; 32],
}

/// The roots that this system trusts.
pub(super) struct SystemRoots {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) digest: [u8; 32],
    /// Why there are none.
    pub(super) problem: Option<String>,
}

impl SystemRoots {
    pub(super) fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut all = Vec::new();
        found.certs.iter().for_each(|one| all.extend_from_slice(one));
        let mut roots = RootCertStore::empty();
        // A bundle may hold some that are too old to be read.
        roots.add_parsable_certificates(found.certs);
        let problem = roots.is_empty().then(|| {
            let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
            format!("this system trusts no roots{why}")
        });
        Self { roots: Arc::new(roots), digest: sha256(&all), problem }
    }
}

/// Whom a server must be. `None`: its address says no name.
#[must_use]
pub fn server_name(
    settings: &config::UpstreamTls,
    address: &ServerAddress,
) -> Option<ServerName<'static>> {
    let name = match (&settings.server_name, address) {
        (Some(name), _) => name.to_string(),
        (None, ServerAddress::Ip(address)) => return Some(address.ip().into()),
        (None, ServerAddress::Name { host, .. }) => host.trim_end_matches('.').to_owned(),
        (None, ServerAddress::Unix(_)) => return None,
    };
    ServerName::try_from(name).ok()
}

/// Every file that an upstream needs.
pub(super) fn files(tls: &config::UpstreamTls) -> impl Iterator<Item = &Path> {
    let identity = tls.identity.iter().flat_map(|one| [one.cert.as_path(), one.key.as_path()]);
    tls.ca.as_deref().into_iter().chain(identity)
}

/// What makes two upstreams need the same.
pub(super) fn digest(
    settings: &config::UpstreamTls,
    files: &mut Files<'_>,
    system: &mut Option<SystemRoots>,
) -> [u8; 32] {
    let own = files.digest(self::files(settings));
    if settings.ca.is_some() || !settings.verify {
        return own;
    }
    sha256(&[own, system.get_or_insert_with(SystemRoots::load).digest].concat())
}

/// Makes what an upstream needs. `None`: something is among the problems.
pub(super) fn make(
    settings: &config::UpstreamTls,
    files: &mut Files<'_>,
    provider: &Arc<CryptoProvider>,
    system: &mut Option<SystemRoots>,
    now: i64,
    problems: &mut Vec<Problem>,
) -> Option<UpstreamTls> {
    let before = problems.len();
    let digest = digest(settings, files, system);
    let roots = match &settings.ca {
        _ if !settings.verify => None,
        Some(ca) => {
            let roots = roots(ca, files).map_err(|problem| {
                let at = format!("{}.ca_path", settings.at);
                problems.push(Problem::at(&at, problem, "give a PEM file with certificates"));
            });
            roots.ok().map(Arc::new)
        }
        None => {
            let system = system.get_or_insert_with(SystemRoots::load);
            if let Some(problem) = &system.problem {
                let message = format!("{problem}, so no server could be believed");
                let cure = "install `ca-certificates`, or give roots in `tls.ca_path`";
                problems.push(Problem::at(&settings.at, message, cure));
            }
            Some(Arc::clone(&system.roots))
        }
    };
    let identity = settings.identity.as_ref();
    let identity = identity.and_then(|one| certificate::load(one, files, now, problems));
    if problems.len() > before {
        return None;
    }
    let (key, about) = identity.map(|(key, _, about)| (key, about)).unzip();
    match config(provider, roots, key, settings.alpn) {
        Ok(config) => {
            let mut config_h1 = config.clone();
            config_h1.alpn_protocols = vec![b"http/1.1".to_vec()];
            let (config, config_h1) = (Arc::new(config), Arc::new(config_h1));
            let settings = settings.clone();
            Some(UpstreamTls { config, config_h1, identity: about, settings, digest })
        }
        Err(error) => {
            problems.push(Problem::at(&settings.at, error, "mend the files that it names"));
            None
        }
    }
}

/// What a program runs on that asks servers by itself: those are believed for whom a root in `ca` vouches, or
/// without it one that this system trusts. With `verify` false everybody is.
pub fn client(ca: Option<&Path>, verify: bool, alpn: &[&str]) -> Result<ClientConfig, String> {
    let roots = match ca {
        _ if !verify => None,
        Some(path) => {
            let mut files = Files { environment: &config::System, digests: BTreeMap::new() };
            Some(Arc::new(roots(path, &mut files)?))
        }
        None => {
            let system = SystemRoots::load();
            if let Some(problem) = system.problem {
                return Err(problem);
            }
            Some(system.roots)
        }
    };
    config(&Arc::new(default_provider()), roots, None, alpn)
}

/// Without roots, nothing is verified.
pub(super) fn config(
    provider: &Arc<CryptoProvider>,
    roots: Option<Arc<RootCertStore>>,
    identity: Option<Arc<rustls::sign::CertifiedKey>>,
    alpn: &[&str],
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match roots {
        Some(roots) => builder.with_root_certificates(roots),
        None => {
            let verifier = Arc::new(Unverified(Arc::clone(provider)));
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(key) => {
            let shown = rustls::sign::SingleCertAndKey::from(key);
            builder.with_client_cert_resolver(Arc::new(shown))
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// Believes every server, because an operator has written `insecure`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
