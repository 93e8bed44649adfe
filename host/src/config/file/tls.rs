//! TLS to clients and to servers: `listeners[].tls`, `upstreams.tls`, the short `tls`.
//!
//! Not here: reading the files that these name (`tls`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS of the listener in the short form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Tls")]
pub struct TlsConfig {
    /// Whether clients speak TLS.
    pub enabled: bool,

    /// PEM file with the certificate and its chain. Not read while `enabled` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "cert.pem")]
    pub cert_path: Option<String>,

    /// PEM file with the certificate's key. Not read while `enabled` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "key.pem")]
    pub key_path: Option<String>,
}

/// TLS to clients.
///
/// Files are watched: a new certificate serves new connections within two seconds, and those that
/// are open go on. One that cannot be used is refused, and the old one goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ListenerTls")]
pub struct ListenerTlsConfig {
    /// The certificates, at least one. A client gets the one for the name that it asks for (SNI), and
    /// the first one if it asks for none or for another. Of several for one name (such as RSA and
    /// ECDSA) it gets the first that it can verify.
    #[schemars(length(min = 1), extend("x-required" = true))]
    pub certificates: Vec<CertificateConfig>,

    /// PEM file with the certificates of those who sign clients' certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "clients-ca.pem")]
    pub client_ca_path: Option<String>,

    /// Whether clients show certificates of their own, which are verified by `client_ca_path`. Upstreams
    /// get them as `Client-Cert` and `Client-Cert-Chain` (RFC 9440); fields of these names that clients
    /// send are always removed.
    pub client_auth: ClientAuthConfig,

    /// The oldest version that is spoken.
    pub min_version: TlsVersionConfig,

    /// Protocols that are agreed to by ALPN, the preferred one first, of those in `protocols`. A client that offers others only is
    /// refused; one that offers none speaks HTTP/1.1.
    #[schemars(length(min = 1))]
    pub alpn: Vec<AlpnConfig>,
}

impl Default for ListenerTlsConfig {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            client_ca_path: None,
            client_auth: ClientAuthConfig::None,
            min_version: TlsVersionConfig::V12,
            alpn: vec![AlpnConfig::Http2, AlpnConfig::Http11],
        }
    }
}

/// One certificate and its key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Certificate")]
pub struct CertificateConfig {
    /// PEM file with the certificate, and after it those of its signers up to the root.
    #[schemars(example = "cert.pem", extend("x-required" = true))]
    pub cert_path: String,

    /// PEM file with the certificate's key: PKCS #8, PKCS #1 or SEC1, not encrypted. One that everybody on
    /// this machine can read is warned about, one that everybody can change is refused.
    #[schemars(example = "key.pem", extend("x-required" = true))]
    pub key_path: String,

    /// Names that it is shown for: `example.com`, or `*.example.com` for every name one label longer.
    /// When left out, the names that the certificate is for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["example.com", "*.example.com"]]))]
    pub sni: Vec<String>,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "ClientAuth")]
pub enum ClientAuthConfig {
    /// They are not asked for any.
    None,
    /// They are asked, and may have none. One that cannot be verified ends the handshake.
    Optional,
    /// Without a certificate there is no connection.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TlsVersion")]
pub enum TlsVersionConfig {
    /// TLS 1.2, with forward secrecy and authenticated encryption only.
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// A protocol, by its ALPN name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Alpn")]
pub enum AlpnConfig {
    /// HTTP/2.
    #[serde(rename = "h2")]
    Http2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http11,
}

/// TLS to servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "UpstreamTls")]
pub struct UpstreamTlsConfig {
    /// Whether the servers speak TLS. False leaves the other keys without effect.
    pub enabled: bool,

    /// The name that servers are asked for and whose certificate they must show. When left out, the host
    /// of the server's address; a Unix socket has none, so it needs this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "api.internal")]
    pub sni: Option<String>,

    /// PEM file with the roots that servers' certificates are verified by. When left out, those that this
    /// system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "internal-ca.pem")]
    pub ca_path: Option<String>,

    /// Whether servers must prove who they are. `true`, or the word `"insecure"`: then anybody on the way
    /// can read and change everything, and the log says so at every load.
    pub verify: VerifyConfig,

    /// PEM file with the certificate that the gateway shows to servers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "gateway.pem")]
    pub cert_path: Option<String>,

    /// PEM file with its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "gateway-key.pem")]
    pub key_path: Option<String>,
}

impl Default for UpstreamTlsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            sni: None,
            ca_path: None,
            verify: VerifyConfig::Said(true),
            cert_path: None,
            key_path: None,
        }
    }
}

/// Whether servers must prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Verify")]
pub enum VerifyConfig {
    /// They must; `false` is refused, since it is written too easily.
    Said(bool),
    /// They need not.
    Insecure(InsecureConfig),
}

/// The word `"insecure"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Insecure")]
pub enum InsecureConfig {
    /// Nothing is verified.
    Insecure,
}
