//! Keys, each bound to one algorithm when it is read.
//!
//! An algorithm says which kind of key it takes, and every format gives one kind: `secret` a shared
//! secret, `pem` a public key, `jwk` what its `kty` says. So a public key, which everybody knows, can
//! never become an HMAC secret (RFC 8725 §2.1).
//!
//! Errors name what is wrong and never the key.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::ED25519;
use aws_lc_rs::signature::EcdsaVerificationAlgorithm;
use aws_lc_rs::signature::ParsedPublicKey;
use aws_lc_rs::signature::RsaParameters;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use aws_lc_rs::signature::VerificationAlgorithm;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::der;
use crate::plugin::host::request::shown;

/// Every algorithm, by its JWS name (RFC 7518 §3.1, RFC 8037 §3.1).
const ALGORITHMS: [(&str, Scheme); 12] = [
    ("HS256", Scheme::Hmac(&hmac::HMAC_SHA256)),
    ("HS384", Scheme::Hmac(&hmac::HMAC_SHA384)),
    ("HS512", Scheme::Hmac(&hmac::HMAC_SHA512)),
    ("RS256", Scheme::Rsa(&RSA_PKCS1_2048_8192_SHA256)),
    ("RS384", Scheme::Rsa(&RSA_PKCS1_2048_8192_SHA384)),
    ("RS512", Scheme::Rsa(&RSA_PKCS1_2048_8192_SHA512)),
    ("PS256", Scheme::Rsa(&RSA_PSS_2048_8192_SHA256)),
    ("PS384", Scheme::Rsa(&RSA_PSS_2048_8192_SHA384)),
    ("PS512", Scheme::Rsa(&RSA_PSS_2048_8192_SHA512)),
    ("ES256", Scheme::Ecdsa(&ECDSA_P256_SHA256_FIXED, "P-256")),
    ("ES384", Scheme::Ecdsa(&ECDSA_P384_SHA384_FIXED, "P-384")),
    ("EdDSA", Scheme::Ed25519),
];

/// The smallest RSA modulus that is taken, in bytes (RFC 7518 §3.3).
const MODULUS_BYTES_MIN: usize = 256;

/// How signatures are made and checked.
#[derive(Clone, Copy)]
enum Scheme {
    Hmac(&'static hmac::Algorithm),
    Rsa(&'static RsaParameters),
    /// With the curve's name in a JWK.
    Ecdsa(&'static EcdsaVerificationAlgorithm, &'static str),
    Ed25519,
}

impl Scheme {
    /// What its keys are called.
    fn kind(self) -> &'static str {
        match self {
            Self::Hmac(_) => "shared secret",
            Self::Rsa(_) => "RSA public key of 2048 to 8192 bits",
            Self::Ecdsa(_, "P-256") => "public key on the curve P-256",
            Self::Ecdsa(..) => "public key on the curve P-384",
            Self::Ed25519 => "Ed25519 public key",
        }
    }

    /// `kty` of its keys in a JWK.
    fn jwk_type(self) -> &'static str {
        match self {
            Self::Hmac(_) => "oct",
            Self::Rsa(_) => "RSA",
            Self::Ecdsa(..) => "EC",
            Self::Ed25519 => "OKP",
        }
    }
}

/// A key and what it is for.
pub(super) enum Key {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// A key of a set.
pub(super) struct Member {
    pub(super) key: Key,
    pub(super) id: Option<String>,
    pub(super) algorithm: &'static str,
}

impl Key {
    /// Reads a key for `algorithm`.
    pub(super) fn read(algorithm: &str, format: &str, material: &[u8]) -> Result<Self, String> {
        let known = ALGORITHMS.iter().find(|(name, _)| *name == algorithm);
        let Some((name, scheme)) = known else {
            let names: Vec<_> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
            let (algorithm, names) = (shown(algorithm), names.join(", "));
            return Err(format!("algorithm `{algorithm}` is not known; known are {names}"));
        };
        match (format, scheme) {
            ("secret", Scheme::Hmac(hash)) => Self::secret(hash, material),
            ("pem", Scheme::Rsa(_) | Scheme::Ecdsa(..) | Scheme::Ed25519) => {
                Self::pem(*scheme, material)
            }
            ("jwk", _) => {
                let jwk: Jwk = serde_json::from_slice(material)
                    .map_err(|error| format!("this is no JWK: {}", place_of(&error)))?;
                jwk.key(name, *scheme)
            }
            ("secret" | "pem", _) => {
                let other = if format == "pem" { "secret" } else { "pem" };
                Err(format!(
                    "format `{format}` does not go with {name}, which takes a {}; `{other}` and \
                     `jwk` do",
                    scheme.kind()
                ))
            }
            _ => {
                Err(format!("format `{}` is not known; known are secret, pem, jwk", shown(format)))
            }
        }
    }

    /// Whether `signature` is that of `data`.
    pub(super) fn verify(&self, data: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(key) => hmac::verify(key, data, signature).is_ok(),
            Self::Public(key) => key.verify_sig(data, signature).is_ok(),
        }
    }

    /// The signature of `data`, which only a shared secret can make.
    pub(super) fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Secret(key) => Some(hmac::sign(key, data).as_ref().to_vec()),
            Self::Public(_) => None,
        }
    }

    fn secret(hash: &hmac::Algorithm, material: &[u8]) -> Result<Self, String> {
        if material.is_empty() {
            return Err("the secret is empty".to_owned());
        }
        if material.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Err("the secret is a PEM file, which is no secret between two; use an \
                        algorithm for public keys"
                .to_owned());
        }
        Ok(Self::Secret(Box::new(hmac::Key::new(*hash, material))))
    }

    fn pem(scheme: Scheme, text: &[u8]) -> Result<Self, String> {
        let (label, bytes) = pem(text)?;
        let key = match label {
            "PUBLIC KEY" => Some(&*bytes),
            "RSA PUBLIC KEY" if matches!(scheme, Scheme::Rsa(_)) => Some(&*bytes),
            "CERTIFICATE" => der::public_key_of(&bytes),
            _ if label.ends_with("PRIVATE KEY") => {
                return Err("this is a private key; give the public one".to_owned());
            }
            _ => return Err(format!("`{}` is no kind of public key", shown(label))),
        };
        let wrong = || format!("this is no {}", scheme.kind());
        Self::public(scheme, key.ok_or_else(wrong)?)
    }

    fn public(scheme: Scheme, bytes: &[u8]) -> Result<Self, String> {
        let algorithm: &'static dyn VerificationAlgorithm = match scheme {
            Scheme::Rsa(parameters) => parameters,
            Scheme::Ecdsa(curve, _) => curve,
            Scheme::Ed25519 => &ED25519,
            Scheme::Hmac(_) => return Err("a public key is no secret".to_owned()),
        };
        let key = ParsedPublicKey::new(algorithm, bytes)
            .map_err(|_| format!("this is no {}", scheme.kind()))?;
        // A shorter modulus would make every signature wrong, and nobody would know why.
        if matches!(scheme, Scheme::Rsa(_)) && bytes.len() < MODULUS_BYTES_MIN {
            return Err(format!("this is no {}", scheme.kind()));
        }
        Ok(Self::Public(key))
    }
}

/// Reads those keys of a JWK set (RFC 7517 §5) that can check signatures.
pub(super) fn read_set(jwks: &[u8]) -> Result<Vec<Member>, String> {
    #[derive(Deserialize)]
    struct Set<'a> {
        #[serde(borrow)]
        keys: Vec<&'a serde_json::value::RawValue>,
    }
    let set: Set<'_> = serde_json::from_slice(jwks)
        .map_err(|error| format!("this is no set of JWKs: {}", place_of(&error)))?;
    // A key of a kind that is not known here must not cost the others.
    let keys = set.keys.iter().filter_map(|text| serde_json::from_str::<Jwk>(text.get()).ok());
    Ok(keys.filter_map(Jwk::member).collect())
}

/// Where a text stops being JSON, without a word of it.
fn place_of(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => "a key is missing or of the wrong type".to_owned(),
        _ => format!("it is not JSON in line {}, column {}", error.line(), error.column()),
    }
}

/// What is read of a JWK (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl Jwk {
    fn key(&self, name: &str, scheme: Scheme) -> Result<Key, String> {
        if self.kty != scheme.jwk_type() {
            let (found, kind) = (shown(&self.kty), scheme.jwk_type());
            return Err(format!("{name} takes a key with `kty` `{kind}`, not `{found}`"));
        }
        if let Some(alg) = self.alg.as_deref().filter(|alg| *alg != name) {
            return Err(format!("the key says that it is for `{}`, not for {name}", shown(alg)));
        }
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify" || op == "sign");
        if self.usage.as_deref().is_some_and(|usage| usage != "sig")
            || !self.key_ops.as_ref().is_none_or(verifies)
        {
            return Err("the key says that it is not for signatures".to_owned());
        }
        if self.d.is_some() {
            return Err("this is a private key; give the public one".to_owned());
        }
        match scheme {
            Scheme::Hmac(hash) => Key::secret(hash, &part("k", self.k.as_deref())?),
            Scheme::Rsa(parameters) => {
                let (n, e) = (part("n", self.n.as_deref())?, part("e", self.e.as_deref())?);
                let wrong = || format!("this is no {}", scheme.kind());
                if n.len() < MODULUS_BYTES_MIN {
                    return Err(wrong());
                }
                let key = RsaPublicKeyComponents { n, e }.to_parsed_public_key(parameters);
                key.map(Key::Public).map_err(|_| wrong())
            }
            Scheme::Ecdsa(_, curve) => {
                self.on_curve(curve)?;
                let (x, y) = (part("x", self.x.as_deref())?, part("y", self.y.as_deref())?);
                // SEC 1 §2.3.3: a point that is not compressed.
                Key::public(scheme, &[&[4], x.as_slice(), y.as_slice()].concat())
            }
            Scheme::Ed25519 => {
                self.on_curve("Ed25519")?;
                Key::public(scheme, &part("x", self.x.as_deref())?)
            }
        }
    }

    fn on_curve(&self, curve: &str) -> Result<(), String> {
        let found = self.crv.as_deref().unwrap_or_default();
        if found == curve {
            return Ok(());
        }
        Err(format!("the key is on the curve `{}`, not on {curve}", shown(found)))
    }

    /// The key of a set, if it can check signatures.
    fn member(self) -> Option<Member> {
        let usual = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Some("RS256"),
            ("EC", Some("P-256")) => Some("ES256"),
            ("EC", Some("P-384")) => Some("ES384"),
            ("OKP", Some("Ed25519")) => Some("EdDSA"),
            // Nothing says how a shared secret is used.
            _ => None,
        };
        let name = self.alg.as_deref().or(usual)?;
        let (algorithm, scheme) = ALGORITHMS.iter().find(|(known, _)| *known == name)?;
        let key = self.key(algorithm, *scheme).ok()?;
        Some(Member { key, id: self.kid, algorithm })
    }
}

/// A part of a JWK, which is base64url (RFC 7515 §2).
fn part(name: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("the key has no `{name}`"))?;
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(text);
    decoded.map_err(|_| format!("`{name}` of the key is not base64url without padding"))
}

/// The first block of a PEM file (RFC 7468): its label and content.
fn pem(text: &[u8]) -> Result<(&str, Vec<u8>), String> {
    const BEGIN: &str = "-----BEGIN ";
    let no_pem = || "this is no PEM file: it has no whole block `-----BEGIN …`".to_owned();
    let text = std::str::from_utf8(text).map_err(|_| no_pem())?;
    let (_, text) = text.split_once(BEGIN).ok_or_else(no_pem)?;
    let (label, text) = text.split_once("-----").ok_or_else(no_pem)?;
    let (content, _) = text.split_once(&format!("-----END {label}-----")).ok_or_else(no_pem)?;
    let content: String = content.split_ascii_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(content);
    Ok((label, bytes.map_err(|_| "the PEM file is damaged: it is not base64".to_owned())?))
}
