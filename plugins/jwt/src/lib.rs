//! Lets only requests with a valid JSON Web Token pass (RFC 7519, RFC 8725).
//!
//! ```text
//! find the token ─► seen before? ─► split, decode ─► keys for its alg and kid ─► signature ─► claims ─► next
//!        │                │ yes: still in its time? ─────────────────────────────────────────────────► next
//!        └────────────────┴────────────┴──────────────────┴────────────────────┴────────┴──► 401, 403, 503
//! ```
//!
//! Claims are not even parsed before the signature holds, which the host checks. A client that is
//! refused is never told why; the operator reads it in the log at level `debug`, and counts it in metrics.
//! Keys that a token brings along or leads to (`jwk`, `jku`, `x5u`, `x5c`) are never looked at; its `kid` only
//! chooses among the keys that are there.
//!
//! Layout: `source` finds tokens, `token` reads their header, `keys` has the keys and `remote` those of a
//! URL, `claims` judges what a token says, `verified` remembers what was found good.
//!
//! Not here: signature maths (the host), getting tokens.

mod config;
mod source;
mod token;
mod keys;
mod remote;
mod claims;
mod verified;
mod refusal;
mod json;

use std::cell::RefCell;
use std::rc::Rc;

use zproxy_sdk::{Flow, Middleware, Problem, Request, clock, context, debug, export};

use claims::{Policy, Scopes};
use config::Config;
use keys::{Found, KeyRing};
use refusal::{Kind, Outcomes, Refusal};
use remote::Remote;
use source::Source;
use token::Token;
use verified::{Verified, VerifiedTokens};

/// The plugin: a configuration that is good when it has no problems.
#[derive(Debug, serde::Deserialize)]
#[serde(from = "Config")]
struct Jwt {
    problems: Vec<Problem>,
    enabled: bool,
    issuers: Vec<Issuer>,
    scopes: Scopes,
    /// Claim and lower-case field name.
    claims_to_headers: Vec<(String, String)>,
    source: Source,
    forward_token: bool,
    /// What a challenge begins with: the scheme, and the realm if there is one.
    challenge: String,
    verified: RefCell<VerifiedTokens>,
    outcomes: Option<Outcomes>,
}

/// Who signs tokens, with what, and what they must say.
#[derive(Debug)]
struct Issuer {
    keys: RefCell<KeyRing>,
    /// Where its keys come from, if they are not in the configuration.
    remote: Option<Remote>,
    policy: Policy,
}

/// Where later plugins of the chain find the claims, as the token has them.
const CLAIMS_NOTE: &str = "jwt.claims";

impl Middleware for Jwt {
    fn request_fields(&self) -> Vec<&str> {
        vec![self.source.field()]
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        if !self.enabled {
            // Nobody vouches for these fields now.
            self.remove_lookalikes(request);
            return Flow::Next;
        }
        match self.check(request) {
            Ok(verified) => {
                self.count(Kind::Accepted);
                context::set(CLAIMS_NOTE, &verified.claims);
                self.pass(request, &verified.fields);
                Flow::Next
            }
            Err(refusal) => {
                debug!("refused: {}", refusal.why);
                self.count(refusal.kind);
                Flow::Reply(refusal.reply(&self.challenge, &self.scopes))
            }
        }
    }

    fn on_tick(&self) {
        for issuer in &self.issuers {
            if let Some(remote) = &issuer.remote {
                self.renew(issuer, remote.look_after());
            }
        }
    }

    fn validate(&self) -> Vec<Problem> {
        self.problems.clone()
    }
}

impl Jwt {
    /// What is known of the request's token, when the request may pass.
    fn check(&self, request: &Request) -> Result<Rc<Verified>, Refusal> {
        let token = self.source.find(request)?;
        let unix_ms = clock::unix_ms();
        if let Some(known) = self.verified.borrow().find(&token) {
            known.check_time(unix_ms)?;
            return Ok(known);
        }
        let parsed = Token::parse(&token)?;
        let (issuer, payload) = self.find_signer(&parsed)?;
        let claims = json::object(&payload);
        let claims = claims.ok_or(Kind::Malformed.because("the claims are not one JSON object"))?;
        let times = issuer.policy.check(&claims, unix_ms)?;
        self.scopes.check(&claims)?;
        let fields = self.claims_to_headers.iter().map(|(claim, _)| claims::field(&claims, claim));
        let fields = fields.collect::<Result<_, _>>()?;
        let verified = Rc::new(Verified { claims: payload, fields, times });
        self.verified.borrow_mut().keep(&token, &verified);
        Ok(verified)
    }

    /// The issuer whose key has signed the token, and its payload.
    fn find_signer(&self, token: &Token<'_>) -> Result<(&Issuer, Vec<u8>), Refusal> {
        let mut found = self.try_keys(token);
        // Its key may be new, or none have come yet: somebody may have fetched it, else it is fetched.
        for fetches in [false, true] {
            let mut came = false;
            for issuer in &self.issuers {
                let Some(remote) = &issuer.remote else { continue };
                if found.is_ok() || !issuer.keys.borrow().could_get(token) {
                    continue;
                }
                let entries = match fetches {
                    false => remote.take_in(),
                    true if !remote.is_ready() => remote.make_ready(),
                    true if token.key_id.is_some() => remote.refresh_early(),
                    true => None,
                };
                came |= self.renew(issuer, entries);
            }
            if came {
                found = self.try_keys(token);
            }
        }
        let unready = |issuer: &Issuer| {
            let remote = issuer.remote.as_ref();
            remote.is_some_and(|remote| !remote.is_ready()) && issuer.keys.borrow().could_get(token)
        };
        if found.is_err() && self.issuers.iter().any(unready) {
            return Err(Kind::Unready.because("the issuer's keys could not be fetched"));
        }
        found
    }

    /// Takes new keys of an issuer. What was found good by the old ones may not be any more.
    fn renew(&self, issuer: &Issuer, came: Option<Vec<keys::Entry>>) -> bool {
        let Some(entries) = came else { return false };
        issuer.keys.borrow_mut().replace(entries);
        self.verified.borrow_mut().clear();
        true
    }

    /// Tries the keys that are there.
    fn try_keys(&self, token: &Token<'_>) -> Result<(&Issuer, Vec<u8>), Refusal> {
        let mut attempts = keys::ATTEMPTS_MAX;
        let mut refusal = Kind::Algorithm.because("the algorithm is not allowed");
        let mut payload = None;
        for issuer in &self.issuers {
            let keys = issuer.keys.borrow();
            match keys.verify(token, &mut attempts) {
                Found::NotTaken => continue,
                Found::NoKey => refusal = refusal.or(UNKNOWN_KEY),
                Found::WrongSignature => {
                    refusal = Kind::Signature.because("the signature is wrong")
                }
                Found::Signed => {
                    let bytes = match payload.take() {
                        Some(bytes) => bytes,
                        None => token.payload()?,
                    };
                    if self.issuers.len() == 1 || issuer.policy.is_from(&bytes) {
                        return Ok((issuer, bytes));
                    }
                    payload = Some(bytes);
                    refusal = Kind::Claims.because("the issuer is another");
                }
            }
        }
        Err(refusal)
    }

    fn count(&self, kind: Kind) {
        if let Some(outcomes) = &self.outcomes {
            outcomes.count(kind);
        }
    }

    /// Prepares a request for the upstream. A field that a claim goes to is the plugin's alone:
    /// what the client sent under that name never gets through.
    fn pass(&self, request: &mut Request, values: &[Option<String>]) {
        // For plugins that keep responses: this one may be for this client alone.
        context::set("authenticated", "jwt");
        if !self.forward_token {
            self.source.strip(request);
        }
        self.remove_lookalikes(request);
        for ((_, name), value) in self.claims_to_headers.iter().zip(values) {
            match value {
                Some(value) => request.set_header(name, value),
                None => request.remove_header(name),
            }
        }
    }

    /// Removes fields that an upstream may take for those of the claims: CGI and what followed it
    /// (RFC 3875 §4.1.18) cannot tell `x_user_id` from `x-user-id`.
    fn remove_lookalikes(&self, request: &mut Request) {
        if self.claims_to_headers.is_empty() {
            return;
        }
        let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        let same = |a: &str, b: &str| a.bytes().map(fold).eq(b.bytes().map(fold));
        let fields = request.headers();
        for (name, _) in fields.iter() {
            if self.claims_to_headers.iter().any(|(_, ours)| same(name, ours)) {
                request.remove_header(name);
            }
        }
    }
}

const UNKNOWN_KEY: Refusal =
    Refusal { kind: Kind::UnknownKey, why: "no key is known for the token" };

export!(Jwt: on_request, on_tick, validate);

#[cfg(test)]
mod tests;
