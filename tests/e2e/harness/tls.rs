//! TLS in the hands of a test: authorities, certificates as files, clients and servers by rustls.
//!
//! Not here: connections once they are made (`wire`).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use serde_json::{Value, json};

/// TLS 1.2 only.
pub const V12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
/// TLS 1.3 only.
pub const V13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Someone whose word about others is believed.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What a certificate is like.
pub struct Wanted<'a> {
    /// Whom it is for.
    pub names: &'a [&'a str],
    /// Years of its beginning and end, January 1st.
    pub years: (i32, i32),
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes its own certificate into a file.
    pub fn write(&self, path: PathBuf) -> PathBuf {
        std::fs::write(&path, &self.pem).unwrap();
        path
    }

    /// A certificate for these names in `dir`, its files named by `stem`.
    pub fn issue(&self, dir: &Path, stem: &str, names: &[&str]) -> Files {
        self.issue_as(dir, stem, &Wanted { names, years: (2020, 2120) })
    }

    /// A certificate as it is wanted.
    pub fn issue_as(&self, dir: &Path, stem: &str, wanted: &Wanted<'_>) -> Files {
        let names: Vec<String> = wanted.names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, stem);
        params.not_before = date_time_ymd(wanted.years.0, 1, 1);
        params.not_after = date_time_ymd(wanted.years.1, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files {
            cert: dir.join(format!("{stem}.pem")),
            key: dir.join(format!("{stem}-key.pem")),
        };
        std::fs::write(&files.cert, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// A client that believes it.
    pub fn client(&self) -> Client {
        Client {
            versions: rustls::ALL_VERSIONS,
            alpn: Vec::new(),
            identity: None,
            roots: self.roots(),
        }
    }
}

impl Files {
    /// As an entry of `certificates`.
    pub fn entry(&self) -> Value {
        json!({ "cert_path": self.cert, "key_path": self.key })
    }

    fn load(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_file_iter(&self.cert).unwrap().map(Result::unwrap);
        (chain.collect(), PrivateKeyDer::from_pem_file(&self.key).unwrap())
    }

    /// What a server with this certificate runs on.
    pub fn server(&self) -> Arc<ServerConfig> {
        let (chain, key) = self.load();
        let builder = ServerConfig::builder_with_provider(default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
    }

    /// The same, for clients whose certificate this authority has signed.
    pub fn server_for(&self, clients: &Authority) -> Arc<ServerConfig> {
        let (chain, key) = self.load();
        let provider: Arc<_> = default_provider().into();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            clients.roots().into(),
            Arc::clone(&provider),
        );
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_client_cert_verifier(verifier.build().unwrap());
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }
}

/// What a client is like.
pub struct Client {
    /// Versions that it speaks.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Protocols that it offers.
    pub alpn: Vec<&'static str>,
    /// What it shows.
    pub identity: Option<Files>,
    roots: RootCertStore,
}

impl Client {
    /// Speaks these versions only.
    pub fn versions(mut self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions;
        self
    }

    /// Offers these protocols.
    pub fn alpn(mut self, alpn: &[&'static str]) -> Self {
        self.alpn = alpn.to_vec();
        self
    }

    /// Shows this certificate.
    pub fn identity(mut self, files: &Files) -> Self {
        self.identity = Some(files.clone());
        self
    }

    /// What it runs on; keep it to resume sessions.
    pub fn config(self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(default_provider().into());
        let builder = builder.with_protocol_versions(self.versions).unwrap();
        let builder = builder.with_root_certificates(self.roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = files.load();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// A connection by TLS, as far as tests look at it.
pub trait Session: Read + Write + Send {
    /// What it is over.
    fn tcp(&self) -> &TcpStream;
    /// Says that nothing follows.
    fn say_goodbye(&mut self);
}

impl Session for StreamOwned<ClientConnection, TcpStream> {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }

    fn say_goodbye(&mut self) {
        self.conn.send_close_notify();
        self.flush().unwrap();
    }
}

impl Session for StreamOwned<ServerConnection, TcpStream> {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }

    fn say_goodbye(&mut self) {
        self.conn.send_close_notify();
        self.flush().unwrap();
    }
}

/// A session as a client, its handshake done.
pub fn shake(
    address: &str,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    shake_over(TcpStream::connect(address)?, config, name)
}

/// The same over a connection on which something has been said already.
pub fn shake_over(
    mut socket: TcpStream,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    socket.set_read_timeout(Some(super::DEADLINE))?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}
