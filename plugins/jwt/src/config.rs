//! From what the operator writes to [`Jwt`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use zproxy_sdk::crypto::Key;

use crate::Jwt;
use crate::claims::Policy;
use crate::source::Source;
use crate::token::{Algorithm, Keys};

/// As written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The secret that tokens are signed with. RFC 7518 §3.2 wants as many bytes as the hash has:
    /// 32, 48 or 64. A `Value`, because serde's own message for a wrong type shows what it found.
    jwt_secret: Option<Value>,
    public_key_pem: Option<IgnoredAny>,
    jwks: Option<IgnoredAny>,
    jwks_url: Option<IgnoredAny>,
    /// Which algorithms are accepted: HS256, HS384, HS512. Default: HS256 alone.
    algorithms: Option<Vec<String>>,
    /// What the claim `iss` must be.
    issuer: Option<String>,
    /// What the claim `aud` must be or hold: one of these. Unset: `aud` is not looked at.
    audience: Option<OneOrMany>,
    /// How far clocks may be apart, in `exp` and `nbf`. Default: 0.
    #[serde(default)]
    leeway_seconds: u32,
    /// Claims that must be there. Default: none, so a token without `exp` never expires.
    #[serde(default)]
    required_claims: Vec<String>,
    /// Claim → field: what the upstream is told. Such fields of the client are removed.
    #[serde(default)]
    claims_to_headers: BTreeMap<String, String>,
    /// `"header"` (default), `{"cookie": NAME}` or `{"query": NAME}`.
    #[serde(default)]
    token_from: Source,
    /// Whether the upstream gets the token too. Default: true.
    #[serde(default = "yes")]
    forward_token: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "audience: write a string or an array of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn yes() -> bool {
    true
}

impl TryFrom<Config> for Jwt {
    type Error = String;

    fn try_from(config: Config) -> Result<Self, String> {
        for (name, given) in [
            ("public_key_pem", config.public_key_pem.is_some()),
            ("jwks", config.jwks.is_some()),
            ("jwks_url", config.jwks_url.is_some()),
        ] {
            if given {
                return Err(format!("{name}: not supported by this version; write `jwt_secret`"));
            }
        }
        let secret = match config.jwt_secret {
            Some(Value::String(secret)) if !secret.is_empty() => secret,
            Some(Value::String(_)) => return Err("jwt_secret: is empty".to_owned()),
            Some(_) => return Err("jwt_secret: write a string".to_owned()),
            None => {
                return Err(
                    "jwt_secret: is missing; write the secret that signs your tokens".to_owned()
                );
            }
        };
        let audience = match config.audience {
            None => None,
            Some(OneOrMany::One(audience)) => Some(vec![audience]),
            Some(OneOrMany::Many(audiences)) if !audiences.is_empty() => Some(audiences),
            Some(OneOrMany::Many(_)) => return Err("audience: is empty".to_owned()),
        };
        config.token_from.check()?;
        Ok(Self {
            keys: keys(secret.as_bytes(), config.algorithms)?,
            policy: Policy {
                issuer: config.issuer,
                audience,
                leeway_seconds: config.leeway_seconds,
                required: config.required_claims,
            },
            claims_to_headers: fields(config.claims_to_headers)?,
            source: config.token_from,
            forward_token: config.forward_token,
        })
    }
}

/// One key per algorithm: the secret under each name that the operator allows.
fn keys(secret: &[u8], names: Option<Vec<String>>) -> Result<Keys, String> {
    let names = names.unwrap_or_else(|| vec!["HS256".to_owned()]);
    if names.is_empty() {
        return Err("algorithms: is empty; write [\"HS256\"]".to_owned());
    }
    let mut keys = Vec::new();
    for name in names {
        let Some(algorithm) = Algorithm::parse(&name) else {
            return Err(format!(
                "algorithms: `{name}` is not supported by this version; write HS256, HS384 or HS512"
            ));
        };
        let key = Key::new(algorithm.name(), "secret", secret)
            .map_err(|reason| format!("jwt_secret: {reason}"))?;
        keys.push((algorithm, key));
    }
    Ok(Keys(keys))
}

/// Checks field names now, so that no request fails on them later.
fn fields(names: BTreeMap<String, String>) -> Result<Vec<(String, String)>, String> {
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
        let name = name.to_ascii_lowercase();
        // RFC 9110 §5.6.2: what a token is made of.
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty()
            || !name.bytes().all(token)
            || REFUSED.contains(&&*name.replace('_', "-"))
        {
            return Err(format!("claims_to_headers: `{name}` cannot be set as a field"));
        }
        if fields.iter().any(|(_, taken)| *taken == name) {
            return Err(format!("claims_to_headers: two claims go to `{name}`"));
        }
        fields.push((claim, name));
    }
    Ok(fields)
}
