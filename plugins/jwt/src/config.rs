//! From what the operator writes to [`Jwt`]. What is wrong is collected, each problem with its place.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use zproxy_sdk::Problem;
use zproxy_sdk::crypto::Key;

use crate::claims::{Policy, Scopes};
use crate::keys::{Entry, KeyRing, take_set};
use crate::refusal::Outcomes;
use crate::remote::Remote;
use crate::source::Source;
use crate::token::Algorithm;
use crate::{Issuer, Jwt};

/// As written. Keys are [`Value`]s, because serde's own message for a wrong type shows what it found.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Whether tokens are asked for. Default: true.
    enabled: bool,
    /// The secret that tokens are signed with. RFC 7518 §3.2 wants as many bytes as the hash has:
    /// 32, 48 or 64.
    jwt_secret: Option<Value>,
    /// A public key or a certificate.
    public_key_pem: Option<Value>,
    /// A JWK set, as an object or as text.
    jwks: Option<Value>,
    /// Where a JWK set is published.
    jwks_url: Option<String>,
    /// How often it is fetched. Default: 300.
    jwks_refresh_seconds: u32,
    /// How long that may take. Default: 5000.
    jwks_timeout_ms: u32,
    /// Which algorithms are accepted. Default: by the key.
    algorithms: Option<Vec<String>>,
    /// What the claim `iss` must be.
    issuer: Option<String>,
    /// What the claim `aud` must be or hold: one of these. Unset: `aud` is not looked at.
    audience: Option<OneOrMany>,
    /// Several who sign tokens, each with keys and an `issuer` of its own.
    issuers: Vec<IssuerConfig>,
    /// How far clocks may be apart, in `exp` and `nbf`. Default: 0.
    leeway_seconds: u32,
    /// Claims that must be there. Default: none, so a token without `exp` never expires.
    required_claims: Vec<String>,
    /// Scopes that must be there; without them the answer is 403.
    required_scopes: Vec<String>,
    /// Claim → field: what the upstream is told. Such fields of the client are removed.
    claims_to_headers: BTreeMap<String, String>,
    /// `"header"` (default), `{"cookie": NAME}` or `{"query": NAME}`.
    token_from: Source,
    /// Whether the upstream gets the token too. Default: true.
    forward_token: bool,
    /// What a challenge calls the area that the token is for.
    realm: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            jwt_secret: None,
            public_key_pem: None,
            jwks: None,
            jwks_url: None,
            jwks_refresh_seconds: REFRESH_SECONDS,
            jwks_timeout_ms: TIMEOUT_MS,
            algorithms: None,
            issuer: None,
            audience: None,
            issuers: Vec::new(),
            leeway_seconds: 0,
            required_claims: Vec::new(),
            required_scopes: Vec::new(),
            claims_to_headers: BTreeMap::new(),
            token_from: Source::default(),
            forward_token: true,
            realm: None,
        }
    }
}

/// One of several issuers; what is left out is taken from beside `issuers`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerConfig {
    issuer: Option<String>,
    audience: Option<OneOrMany>,
    algorithms: Option<Vec<String>>,
    jwt_secret: Option<Value>,
    public_key_pem: Option<Value>,
    jwks: Option<Value>,
    jwks_url: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "write a string or an array of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Issuers publish new keys some time before they use them, and a key that is not known is asked for.
const REFRESH_SECONDS: u32 = 300;
const REFRESH_SECONDS_MAX: u32 = 7 * 24 * 3600;

const TIMEOUT_MS: u32 = 5000;
const TIMEOUT_MS_MAX: u32 = 30_000;

/// Each may be asked for its keys.
const ISSUERS_MAX: usize = 32;

impl From<Config> for Jwt {
    fn from(config: Config) -> Self {
        let mut problems = Problems(Vec::new());
        // Switched off it needs no keys.
        let issuers = if config.enabled { config.issuers(&mut problems) } else { Vec::new() };
        if let Err((key, message)) = config.token_from.check() {
            problems.add(format!("/token_from/{key}"), message);
        }
        for (index, scope) in config.required_scopes.iter().enumerate() {
            // RFC 6749 §3.3: what a scope is made of.
            let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
            if scope.is_empty() || !scope.bytes().all(plain) {
                problems.add(format!("/required_scopes/{index}"), format!("`{scope}` is no scope"));
            }
        }
        let challenge = match &config.realm {
            None => "Bearer".to_owned(),
            Some(realm) => {
                let plain = |byte: u8| (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte);
                if !realm.bytes().all(plain) {
                    problems.add("/realm", "write visible ASCII without `\"` and `\\`");
                }
                format!("Bearer realm=\"{realm}\"")
            }
        };
        Self {
            enabled: config.enabled,
            issuers,
            scopes: Scopes(config.required_scopes),
            claims_to_headers: fields(config.claims_to_headers, &mut problems),
            source: config.token_from,
            forward_token: config.forward_token,
            challenge,
            headers: RefCell::default(),
            verified: RefCell::default(),
            turn: Cell::default(),
            outcomes: Outcomes::new().map_err(|error| problems.add("", error)).ok(),
            problems: problems.0,
        }
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem::new(path, message));
    }
}

impl Config {
    fn issuers(&self, problems: &mut Problems) -> Vec<Issuer> {
        if !(1..=REFRESH_SECONDS_MAX).contains(&self.jwks_refresh_seconds) {
            problems.add("/jwks_refresh_seconds", format!("write 1 to {REFRESH_SECONDS_MAX}"));
        }
        if !(1..=TIMEOUT_MS_MAX).contains(&self.jwks_timeout_ms) {
            problems.add("/jwks_timeout_ms", format!("write 1 to {TIMEOUT_MS_MAX}"));
        }
        let alone = IssuerConfig {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            algorithms: self.algorithms.clone(),
            jwt_secret: self.jwt_secret.clone(),
            public_key_pem: self.public_key_pem.clone(),
            jwks: self.jwks.clone(),
            jwks_url: self.jwks_url.clone(),
        };
        if self.issuers.is_empty() {
            return self.check_issuer(&alone, "", problems).into_iter().collect();
        }
        if let Some(key) = alone.sources().first() {
            problems.add(format!("/{key}"), "belongs into `issuers`, where there are some");
        }
        if self.issuer.is_some() {
            problems.add("/issuer", "belongs into `issuers`, where there are some");
        }
        if self.issuers.len() > ISSUERS_MAX {
            problems.add("/issuers", format!("more than {ISSUERS_MAX}"));
        }
        let mut issuers = Vec::new();
        for (index, one) in self.issuers.iter().enumerate() {
            let at = format!("/issuers/{index}");
            let first = self.issuers.iter().position(|other| other.issuer == one.issuer);
            if one.issuer.is_none() && self.issuers.len() > 1 {
                problems.add(&*at, "has no `issuer`, which tells whose tokens its keys may sign");
            } else if first.is_some_and(|first| first < index) {
                problems.add(format!("{at}/issuer"), "is there twice; put its keys into one set");
            }
            issuers.extend(self.check_issuer(one, &at, problems));
        }
        issuers
    }

    fn check_issuer(
        &self,
        one: &IssuerConfig,
        at: &str,
        problems: &mut Problems,
    ) -> Option<Issuer> {
        let before = problems.0.len();
        let (audience, audience_at) = match &one.audience {
            Some(own) => (Some(own), format!("{at}/audience")),
            None => (self.audience.as_ref(), "/audience".to_owned()),
        };
        let audience = match audience {
            None => None,
            Some(OneOrMany::One(audience)) => Some(vec![audience.clone()]),
            Some(OneOrMany::Many(audiences)) => {
                if audiences.is_empty() {
                    problems.add(audience_at, "is empty");
                }
                Some(audiences.clone())
            }
        };
        let (algorithms, algorithms_at) = match &one.algorithms {
            Some(own) => (Some(own), format!("{at}/algorithms")),
            None => (self.algorithms.as_ref(), "/algorithms".to_owned()),
        };
        let (ring, remote) = match one.sources().as_slice() {
            [] => {
                problems.add(
                    at,
                    "there is no key; write `jwt_secret`, `public_key_pem`, `jwks` or `jwks_url`",
                );
                return None;
            }
            [source] => {
                let public = *source == "public_key_pem" || *source == "jwks_url";
                let secret = *source == "jwt_secret";
                let wanted = algorithms.map(|names| {
                    let mut list = Vec::new();
                    if names.is_empty() {
                        problems.add(&*algorithms_at, "is empty; leave it out to go by the key");
                    }
                    for (index, name) in names.iter().enumerate() {
                        match algorithm(name, public, secret) {
                            Ok(algorithm) => list.push(algorithm),
                            Err(message) => {
                                problems.add(format!("{algorithms_at}/{index}"), message)
                            }
                        }
                    }
                    list
                });
                if problems.0.len() > before {
                    return None;
                }
                let found = self.keys(one, wanted);
                found.map_err(|message| problems.add(format!("{at}/{source}"), message)).ok()?
            }
            [first, second, ..] => {
                let message =
                    format!("there is `{first}` already; write one, or a list of `issuers`");
                problems.add(format!("{at}/{second}"), message);
                return None;
            }
        };
        let policy = Policy {
            issuer: one.issuer.clone(),
            audience,
            leeway_seconds: self.leeway_seconds,
            required: self.required_claims.clone(),
        };
        Some(Issuer { keys: RefCell::new(ring), remote, policy })
    }

    /// The keys of an issuer with one source, or where they come from.
    fn keys(
        &self,
        one: &IssuerConfig,
        wanted: Option<Vec<Algorithm>>,
    ) -> Result<(KeyRing, Option<Remote>), String> {
        if let Some(url) = &one.jwks_url {
            check_url(url)?;
            let refresh = Duration::from_secs(self.jwks_refresh_seconds.into());
            let remote = Remote::new(url.clone(), refresh, self.jwks_timeout_ms, wanted.clone());
            let algorithms = wanted.unwrap_or_else(|| Algorithm::all(true));
            return Ok((KeyRing::new(Vec::new(), algorithms), Some(remote)));
        }
        let entries = if let Some(secret) = &one.jwt_secret {
            let secret = text(secret)?;
            if secret.is_empty() {
                return Err("is empty".to_owned());
            }
            let usual = || Algorithm::parse("HS256").into_iter().collect();
            with_each(&wanted.unwrap_or_else(usual), "secret", secret.as_bytes())?
        } else if let Some(pem) = &one.public_key_pem {
            let pem = text(pem)?.as_bytes();
            match wanted {
                Some(wanted) => with_each(&wanted, "pem", pem)?,
                None => vec![by_key(pem)?],
            }
        } else {
            let set = match one.jwks.as_ref() {
                Some(Value::String(text)) => text.clone(),
                Some(set @ Value::Object(_)) => set.to_string(),
                _ => return Err("write a JWK set: an object, or its text".to_owned()),
            };
            take_set(set.as_bytes(), wanted.as_deref(), false)?
        };
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for entry in &entries {
            if !algorithms.contains(&entry.algorithm) {
                algorithms.push(entry.algorithm);
            }
        }
        Ok((KeyRing::new(entries, algorithms), None))
    }
}

impl IssuerConfig {
    /// Names of the sources of keys that were written.
    fn sources(&self) -> Vec<&'static str> {
        [
            ("jwt_secret", self.jwt_secret.is_some()),
            ("public_key_pem", self.public_key_pem.is_some()),
            ("jwks", self.jwks.is_some()),
            ("jwks_url", self.jwks_url.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, written)| written.then_some(name))
        .collect()
    }
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "write a string".to_owned())
}

/// An algorithm that can be used with a source of keys.
fn algorithm(name: &str, public: bool, secret: bool) -> Result<Algorithm, String> {
    let known = Algorithm::parse(name);
    match known {
        Some(one) if (one.is_secret() && !public) || (!one.is_secret() && !secret) => Ok(one),
        // RFC 8725 §2.1: a public key must never become a secret.
        _ => {
            let all = Algorithm::all(false).into_iter();
            let fitting = all
                .filter(|one| if secret { one.is_secret() } else { !public || !one.is_secret() });
            let names: Vec<_> = fitting.map(Algorithm::name).collect();
            Err(format!("`{name}` does not go with this key; write {}", names.join(", ")))
        }
    }
}

/// The same key for each algorithm.
fn with_each(
    algorithms: &[Algorithm],
    format: &str,
    material: &[u8],
) -> Result<Vec<Entry>, String> {
    let entry = |algorithm: &Algorithm| {
        let key = Key::new(algorithm.name(), format, material)?;
        Ok(Entry { algorithm: *algorithm, id: None, key })
    };
    algorithms.iter().map(entry).collect()
}

/// A public key with the algorithm that is usual for its type.
fn by_key(pem: &[u8]) -> Result<Entry, String> {
    let mut reason = String::new();
    for name in ["RS256", "ES256", "ES384", "EdDSA"] {
        let Some(algorithm) = Algorithm::parse(name) else { continue };
        match Key::new(name, "pem", pem) {
            Ok(key) => return Ok(Entry { algorithm, id: None, key }),
            Err(error) if reason.is_empty() => reason = error,
            Err(_) => {}
        }
    }
    Err(reason)
}

fn check_url(url: &str) -> Result<(), String> {
    let rest =
        ["https://", "http://", "upstream://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    if host.is_empty() || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("`{url}` is no URL; write one like \"https://idp.example/jwks.json\""));
    }
    Ok(())
}

/// Checks field names now, so that no request fails on them later.
fn fields(names: BTreeMap<String, String>, problems: &mut Problems) -> Vec<(String, String)> {
    /// Fields that frame a message, which the host refuses, and the one that names the site.
    const REFUSED: [&str; 10] = [
        "connection",
        "content-length",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let mut fields: Vec<(String, String)> = Vec::new();
    for (claim, name) in names {
        let at = format!("/claims_to_headers/{}", claim.replace('~', "~0").replace('/', "~1"));
        let name = name.to_ascii_lowercase();
        // RFC 9110 §5.6.2: what a token is made of.
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty()
            || !name.bytes().all(token)
            || REFUSED.contains(&&*name.replace('_', "-"))
        {
            problems.add(at, format!("`{name}` cannot be set as a field"));
        } else if fields.iter().any(|(_, taken)| *taken == name) {
            problems.add(at, format!("two claims go to `{name}`"));
        } else {
            fields.push((claim, name));
        }
    }
    fields
}
