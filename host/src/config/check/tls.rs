//! TLS as it is written: which files, for which names, how strict.
//!
//! Not here: what is in the files (`crate::tls`).

use super::pattern;
use crate::config::file::{
    AlpnConfig, CertificateConfig, ClientAuthConfig, ListenerTlsConfig, TlsConfig,
    TlsVersionConfig, UpstreamTlsConfig, VerifyConfig,
};
use crate::config::problem::{At, Report, quote};
use crate::config::settings::{
    CertificateFiles, ClientAuth, HostPattern, ListenerTls, Protocols, Server, ServerAddress,
    TlsVersion, UpstreamProtocol, UpstreamTls,
};

/// TLS of the listener at `listener`.
pub(super) fn listener(
    written: &ListenerTlsConfig,
    listener: &At,
    report: &mut Report,
) -> ListenerTls {
    let at = listener.key("tls");
    let list = written.certificates.iter().enumerate();
    let list =
        list.map(|(index, one)| certificate(one, &at.key("certificates").index(index), report));
    let certificates: Vec<CertificateFiles> = list.collect();
    if certificates.is_empty() {
        let cure =
            "write `\"certificates\": [{\"cert_path\": \"cert.pem\", \"key_path\": \"key.pem\"}]`";
        report.incomplete(&at.key("certificates"), "there is no certificate", cure);
    }
    let ca = written.client_ca_path.as_ref().map(std::path::PathBuf::from);
    let client_auth = match (written.client_auth, ca) {
        (ClientAuthConfig::None, None) => ClientAuth::None,
        (ClientAuthConfig::None, Some(_)) => {
            if !report.is_broken(&at.key("client_auth")) {
                let message = "clients are not asked for certificates that this could verify";
                let cure = "write `\"client_auth\": \"required\"` or \"optional\", or remove it";
                report.problem(&at.key("client_ca_path"), message, cure);
            }
            ClientAuth::None
        }
        (ClientAuthConfig::Optional, Some(ca)) => ClientAuth::Optional(ca),
        (ClientAuthConfig::Required, Some(ca)) => ClientAuth::Required(ca),
        (ClientAuthConfig::Optional | ClientAuthConfig::Required, None) => {
            let message = "nothing says whose certificates clients may show";
            report.incomplete(&at.key("client_auth"), message, "add `client_ca_path`");
            ClientAuth::None
        }
    };
    let min_version = match written.min_version {
        TlsVersionConfig::V12 => TlsVersion::V12,
        TlsVersionConfig::V13 => TlsVersion::V13,
    };
    let mut alpn: Vec<&'static str> = Vec::new();
    for (index, protocol) in written.alpn.iter().enumerate() {
        let name = alpn_name(*protocol);
        if alpn.contains(&name) {
            let at = at.key("alpn").index(index);
            report.problem(&at, format!("{} is there twice", quote(name)), "remove one");
        }
        alpn.push(name);
    }
    ListenerTls { certificates, client_auth, min_version, alpn, at: at.to_string().into() }
}

/// TLS of the listener in the short form.
pub(super) fn short(written: &TlsConfig, report: &mut Report) -> Option<ListenerTls> {
    if !written.enabled {
        return None;
    }
    let at = At::default().key("tls");
    let mut path = |key: &str, path: &Option<String>| {
        path.clone().or_else(|| {
            let cure = format!("add `tls.{key}`, the path of a PEM file");
            report.incomplete(&at, format!("TLS needs `{key}`"), cure);
            None
        })
    };
    let cert = path("cert_path", &written.cert_path);
    let key = path("key_path", &written.key_path);
    let (cert, key) = (cert?.into(), key?.into());
    let files = CertificateFiles { cert, key, sni: Vec::new(), at: at.to_string().into() };
    let defaults = ListenerTlsConfig::default();
    Some(ListenerTls {
        certificates: vec![files],
        client_auth: ClientAuth::None,
        min_version: TlsVersion::V12,
        alpn: defaults.alpn.into_iter().map(alpn_name).collect(),
        at: at.to_string().into(),
    })
}

/// TLS to the servers of the upstream at `upstream`.
pub(super) fn upstream(
    written: &UpstreamTlsConfig,
    servers: &[Server],
    upstream: &At,
    report: &mut Report,
) -> Option<UpstreamTls> {
    let at = upstream.key("tls");
    if written.verify == VerifyConfig::Said(false) {
        let message = "without verification anybody on the way can read and change everything";
        let cure = "give the servers' roots in `ca_path`, or write \"insecure\" if that is meant";
        report.problem(&at.key("verify"), message, cure);
    }
    let server_name = written.sni.as_deref().and_then(|name| match pattern::host(name) {
        Ok(HostPattern::Exact(name)) => Some(name.trim_matches(['[', ']']).into()),
        _ => {
            let message = format!("{} is not the name of one host", quote(name));
            report.problem(&at.key("sni"), message, "write one like \"api.internal\"");
            None
        }
    });
    if !written.enabled {
        return None;
    }
    let nameless = servers.iter().any(|one| matches!(one.address, ServerAddress::Unix(_)));
    if nameless && written.sni.is_none() {
        let message = "a server at a Unix socket has no name that its certificate could be for";
        report.incomplete(&at, message, "add `sni`");
    }
    let identity = match (&written.cert_path, &written.key_path) {
        (Some(cert), Some(key)) => Some(CertificateFiles {
            cert: cert.into(),
            key: key.into(),
            sni: Vec::new(),
            at: at.to_string().into(),
        }),
        (Some(_), None) => {
            report.incomplete(&at.key("cert_path"), "its key is missing", "add `key_path`");
            None
        }
        (None, Some(_)) => {
            report.incomplete(&at.key("key_path"), "its certificate is missing", "add `cert_path`");
            None
        }
        (None, None) => None,
    };
    Some(UpstreamTls {
        server_name,
        ca: written.ca_path.as_ref().map(Into::into),
        verify: !matches!(written.verify, VerifyConfig::Insecure(_)),
        identity,
        alpn: offered(UpstreamProtocol::Auto),
        at: at.to_string().into(),
    })
}

/// TLS to the server of an `https` URL at `at`.
pub(super) fn of_url(at: &At) -> UpstreamTls {
    let at = at.to_string().into();
    let alpn = offered(UpstreamProtocol::Auto);
    UpstreamTls { server_name: None, ca: None, verify: true, identity: None, alpn, at }
}

fn certificate(written: &CertificateConfig, at: &At, report: &mut Report) -> CertificateFiles {
    let mut sni = Vec::new();
    for (index, name) in written.sni.iter().enumerate() {
        let at = at.key("sni").index(index);
        if let Some(name) = report.take(&at, pattern::host(name)) {
            sni.push(name);
        }
    }
    let (cert, key) = (written.cert_path.as_str().into(), written.key_path.as_str().into());
    CertificateFiles { cert, key, sni, at: at.to_string().into() }
}

fn alpn_name(protocol: AlpnConfig) -> &'static str {
    match protocol {
        AlpnConfig::Http2 => "h2",
        AlpnConfig::Http11 => "http/1.1",
    }
}

/// What is offered to servers.
pub(super) fn offered(protocol: UpstreamProtocol) -> &'static [&'static str] {
    match protocol {
        UpstreamProtocol::Auto => &["h2", "http/1.1"],
        UpstreamProtocol::H1 => &["http/1.1"],
        UpstreamProtocol::H2 => &["h2"],
    }
}

/// What a listener does not speak is not agreed to.
pub(super) fn spoken(mut tls: ListenerTls, protocols: Protocols) -> ListenerTls {
    tls.alpn.retain(|name| if *name == "h2" { protocols.h2 } else { protocols.h1 });
    tls
}
