//! One certificate with its key: from files to what rustls shows, and what people should know of it.
//!
//! Not here: who gets it (`names`).

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::config::{CertificateFiles, Environment, HostPattern, Problem};

/// The largest file that is read. A system's roots have a quarter of it.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// A certificate that ends so soon is warned about: automatic renewal has failed for weeks by then.
const SOON_DAYS: i64 = 10;

const DAY: i64 = 24 * 60 * 60;

/// What a certificate says of itself, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CertificateFacts {
    /// Its file.
    pub path: PathBuf,
    /// Names that it is shown for.
    pub sni: Vec<String>,
    /// Names and addresses that it is for.
    pub names: Vec<String>,
    /// Whom it is about.
    pub subject: String,
    /// Who says so.
    pub issuer: String,
    /// The issuer's number for it, hexadecimal.
    pub serial: String,
    /// Digest of the whole, SHA-256, hexadecimal.
    pub sha256: String,
    /// When it begins to be valid, as RFC 3339 writes it.
    pub not_before: String,
    /// When it ends.
    pub not_after: String,
    /// The same in seconds since 1970.
    #[serde(skip)]
    pub not_after_unix: i64,
    /// What is wrong with it and no reason to refuse it.
    pub problems: Vec<String>,
}

/// Files as they are read, with what tells one content from another.
pub(super) struct Files<'a> {
    pub(super) environment: &'a dyn Environment,
    /// Digest of each file, by path; of one that cannot be read, none.
    pub(super) digests: BTreeMap<PathBuf, Option<[u8; 32]>>,
}

impl Files<'_> {
    pub(super) fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let read = self.environment.read(path, FILE_BYTES_MAX);
        self.digests.insert(path.to_owned(), read.as_deref().ok().map(sha256));
        read.map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "it does not exist".into(),
                io::ErrorKind::PermissionDenied => "permission denied".into(),
                _ => error.to_string(),
            };
            format!("cannot read {}: {why}", path.display())
        })
    }

    /// What the contents of these files are, all together. Reads them.
    pub(super) fn digest<'p>(&mut self, paths: impl Iterator<Item = &'p Path>) -> [u8; 32] {
        let mut all = Vec::new();
        for path in paths {
            let _ = self.read(path);
            all.extend_from_slice(&self.digests.get(path).copied().flatten().unwrap_or_default());
        }
        sha256(&all)
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Reads a certificate and its key. What cannot be used is among `problems`; what can be used and
/// should not is in the facts.
pub(super) fn load(
    written: &CertificateFiles,
    files: &mut Files<'_>,
    now: i64,
    problems: &mut Vec<Problem>,
) -> Option<(Arc<CertifiedKey>, Vec<HostPattern>, CertificateFacts)> {
    let chain = files.read(&written.cert).and_then(|bytes| certificates(&written.cert, &bytes));
    let chain = chain.map_err(|problem| {
        let at = format!("{}.cert_path", written.at);
        problems.push(Problem::at(
            &at,
            problem,
            "give a PEM file with the certificate and its chain",
        ));
    });
    let mut warnings = Vec::new();
    let key = files.read(&written.key).and_then(|bytes| key(&written.key, &bytes));
    let key = key.and_then(|key| permitted(&written.key, &mut warnings).map(|()| key));
    let key = key.map_err(|problem| {
        let at = format!("{}.key_path", written.at);
        problems.push(Problem::at(&at, problem, "give a PEM file with the certificate's key"));
    });
    let (chain, key) = (chain.ok()?, key.ok()?);
    let mut facts = match facts(&written.cert, &chain[0], now) {
        Ok(facts) => facts,
        Err(problem) => {
            let at = format!("{}.cert_path", written.at);
            problems.push(Problem::at(&at, problem, "have it issued anew"));
            return None;
        }
    };
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|error| {
        let message = format!("{}: the key cannot be used: {error}", written.key.display());
        let cure = "use RSA with 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519";
        problems.push(Problem::at(&format!("{}.key_path", written.at), message, cure));
    });
    let certified = CertifiedKey::new(chain, signing.ok()?);
    if let Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) = certified.keys_match() {
        let (key, cert) = (written.key.display(), written.cert.display());
        let message = format!("{key} is not the key of the certificate in {cert}");
        let cure = "give the key that this certificate was issued for";
        problems.push(Problem::at(&format!("{}.key_path", written.at), message, cure));
        return None;
    }
    facts.problems.extend(warnings);
    let names = match written.sni.as_slice() {
        [] => facts.names.iter().filter_map(|name| pattern(name)).collect(),
        sni => sni.to_vec(),
    };
    for name in names.iter().map(written_name) {
        if !facts.names.iter().any(|own| is_for(own, &name)) {
            facts.problems.push(format!("it is shown for {name}, which it is not for"));
        }
        facts.sni.push(name);
    }
    for problem in &facts.problems {
        let path = written.cert.display();
        log::warn!(target: "tls", "{}: {path}: {problem}", written.at);
    }
    Some((Arc::new(certified), names, facts))
}

/// The certificates in a PEM file, at least one.
pub(super) fn certificates(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(format!("{shown} holds no certificate{}", hint(bytes))),
        Err(error) => Err(format!("{shown} is not good PEM: {error}")),
    }
}

fn key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let shown = path.display();
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound if holds(bytes, b"ENCRYPTED PRIVATE KEY") => {
            format!("the key in {shown} is encrypted; `openssl pkey -in {shown}` decrypts it")
        }
        rustls::pki_types::pem::Error::NoItemsFound => {
            format!("{shown} holds no private key{}", hint(bytes))
        }
        error => format!("{shown} is not good PEM: {error}"),
    })
}

/// What a file may be that is not what was expected.
fn hint(bytes: &[u8]) -> &'static str {
    match bytes {
        _ if holds(bytes, b"-----BEGIN ") => "",
        [0x30, ..] => ": it is DER, not PEM",
        _ => ": it is not PEM",
    }
}

fn holds(bytes: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(bytes, word).is_some()
}

/// Who may do what with a key's file.
fn permitted(path: &Path, warnings: &mut Vec<String>) -> Result<(), String> {
    // It has just been read.
    let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
    let (mode, shown) = (found.permissions().mode() & 0o777, path.display());
    if mode & 0o002 != 0 {
        return Err(format!(
            "{shown} can be changed by everybody on this machine (mode {mode:04o}); run `chmod 600`"
        ));
    }
    if mode & 0o004 != 0 {
        warnings.push(format!(
            "its key {shown} can be read by everybody on this machine (mode {mode:04o}); run `chmod 600`"
        ));
    }
    Ok(())
}

/// What a certificate says.
pub(super) fn facts(path: &Path, der: &[u8], now: i64) -> Result<CertificateFacts, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| {
        format!("{} holds a certificate that is broken: {error}", path.display())
    })?;
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let names: Vec<String> = alternatives
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        })
        .collect();
    let (begin, end) = (parsed.validity().not_before, parsed.validity().not_after);
    let mut problems = Vec::new();
    let left = end.timestamp() - now;
    if left < 0 {
        let days = -left / DAY;
        problems.push(format!("it has expired {} ({days} days ago)", rfc3339(end)));
    } else if left < SOON_DAYS * DAY {
        problems.push(format!("it expires {} (in {} days)", rfc3339(end), left / DAY));
    }
    if begin.timestamp() > now {
        problems.push(format!("it is not valid before {}", rfc3339(begin)));
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(CertificateFacts {
        path: path.to_owned(),
        sni: Vec::new(),
        names,
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: hex(parsed.raw_serial()),
        sha256: hex(&sha256(der)),
        not_before: rfc3339(begin),
        not_after: rfc3339(end),
        not_after_unix: end.timestamp(),
        problems,
    })
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

fn rfc3339(time: ASN1Time) -> String {
    let time = time.to_datetime();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The name that a client asks for, as a pattern. Addresses are not asked for (RFC 6066 §3).
fn pattern(name: &str) -> Option<HostPattern> {
    match name.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => Some(HostPattern::Suffix(suffix.to_owned())),
        Some(_) => None,
        None if name.parse::<std::net::IpAddr>().is_ok() => None,
        None => Some(HostPattern::Exact(name.to_owned())),
    }
}

fn written_name(name: &HostPattern) -> String {
    match name {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

/// Whether a certificate for `own` is one for `name`; either may be a wildcard. RFC 9525 §6.3.
fn is_for(own: &str, name: &str) -> bool {
    own == name
        || own.strip_prefix("*.").is_some_and(|parent| {
            name.split_once('.').is_some_and(|(label, rest)| label != "*" && rest == parent)
        })
}
