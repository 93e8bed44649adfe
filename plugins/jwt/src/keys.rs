//! Keys, each bound to its algorithm (RFC 8725 §3.1), and which of them a token is tried with.

use serde_json::{Map, Value};
use zproxy_sdk::crypto::{self, Key};

use crate::token::{Algorithm, Token};

/// Keys that one token is tried with: one as a rule, more when it names none of several.
const ATTEMPTS_MAX: usize = 8;

/// A key.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) algorithm: Algorithm,
    /// Its `kid`.
    pub(crate) id: Option<String>,
    pub(crate) key: Key,
}

/// The keys of one issuer.
#[derive(Debug)]
pub(crate) struct KeyRing {
    entries: Vec<Entry>,
    /// What its tokens may be signed with.
    algorithms: Vec<Algorithm>,
}

/// What came of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Tokens of this algorithm are not taken.
    NotTaken,
    /// There is no key that it could be signed with.
    NoKey,
    /// None of those that it could be signed with has signed it.
    WrongSignature,
    Signed,
}

impl KeyRing {
    pub(crate) fn new(entries: Vec<Entry>, algorithms: Vec<Algorithm>) -> Self {
        Self { entries, algorithms }
    }

    pub(crate) fn replace(&mut self, entries: Vec<Entry>) {
        self.entries = entries;
    }

    /// Whether its tokens may be signed so.
    pub(crate) fn takes(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether a key that is not here could have signed a token, and none that is.
    pub(crate) fn could_get(&self, token: &Token<'_>) -> bool {
        self.takes(token.algorithm) && self.fitting(token).next().is_none()
    }

    /// The keys that a token could be signed with.
    fn fitting<'a>(&'a self, token: &'a Token<'_>) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(|entry| {
            let named = token.key_id.as_deref().zip(entry.id.as_deref());
            entry.algorithm == token.algorithm && named.is_none_or(|(wanted, id)| wanted == id)
        })
    }

    /// Looks for the key that has signed a token. A `kid` that the operator's key does not have chooses
    /// nothing: a secret or a PEM file has no name.
    pub(crate) fn verify(&self, token: &Token<'_>) -> Found {
        if !self.takes(token.algorithm) {
            return Found::NotTaken;
        }
        let mut found = Found::NoKey;
        for entry in self.fitting(token).take(ATTEMPTS_MAX) {
            if entry.key.verify(token.signed.as_bytes(), &token.signature) {
                return Found::Signed;
            }
            found = Found::WrongSignature;
        }
        found
    }
}

/// Takes the keys of a set in. `wanted`: what the operator allows, if that was said; a key that does not
/// say what it is for is then for all of these that go with its type, else for what is usual. `public`: what
/// everybody can read holds no secrets.
pub(crate) fn take_set(
    text: &[u8],
    wanted: Option<&[Algorithm]>,
    public: bool,
) -> Result<Vec<Entry>, String> {
    let set: Map<String, Value> =
        serde_json::from_slice(text).map_err(|_| "it is no JSON object".to_owned())?;
    let Some(Value::Array(keys)) = set.get("keys") else {
        return Err("it has no `keys`".to_owned());
    };
    let mut given = Vec::new();
    for key in keys {
        let Value::Object(key) = key else { continue };
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        if public && text("kty") == Some("oct") {
            continue;
        }
        match (text("alg"), wanted) {
            (Some(name), Some(wanted)) => {
                if Algorithm::parse(name).is_some_and(|one| wanted.contains(&one)) {
                    given.push(key.clone());
                }
            }
            (None, Some(wanted)) => {
                let fitting = wanted.iter().filter(|one| one.goes_with(text("kty"), text("crv")));
                given.extend(fitting.map(|one| {
                    let mut key = key.clone();
                    key.insert("alg".to_owned(), one.name().into());
                    key
                }));
            }
            (_, None) => given.push(key.clone()),
        }
    }
    let given = serde_json::json!({ "keys": given }).to_string();
    let taken = crypto::key_set(given.as_bytes())?;
    let entries: Vec<Entry> = taken
        .into_iter()
        .filter_map(|one| {
            let algorithm = Algorithm::parse(&one.algorithm)?;
            Some(Entry { algorithm, id: one.id, key: one.key })
        })
        .collect();
    if entries.is_empty() {
        return Err("it holds no key that can check the tokens' signatures".to_owned());
    }
    Ok(entries)
}
