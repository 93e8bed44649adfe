//! Lets only requests with a valid JSON Web Token pass (RFC 7519, RFC 8725).
//!
//! ```text
//! find the token ─► seen before? ─► split, decode ─► keys for its alg and kid ─► signature ─► claims ─► next
//!        │                │ yes: still in its time? ─────────────────────────────────────────────────► next
//!        └────────────────┴────────────┴──────────────────┴────────────────────┴────────┴──► 401, 403, 503
//! ```
//!
//! Nothing that a token claims is believed before its signature holds, which the host checks. Where there are
//! several issuers `iss` is read before that: it says whose keys must have signed it, and nothing more. A client that is
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

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use zproxy_sdk::{Flow, Middleware, Problem, Request, clock, context, debug, export};

use claims::{Policy, Scopes};
use config::Config;
use json::{Json, Object};
use keys::{Found, KeyRing};
use refusal::{Kind, Outcomes, Refusal};
use remote::Remote;
use source::Source;
use token::{Headers, Token};
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
    headers: RefCell<Headers>,
    verified: RefCell<VerifiedTokens>,
    /// Whose turn it is among issuers that do not answer.
    turn: Cell<usize>,
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
                Flow::Reply(refusal.reply(request, &self.challenge, &self.scopes))
            }
        }
    }

    fn on_tick(&self) {
        let remotes =
            || self.issuers.iter().filter_map(|issuer| Some((issuer, issuer.remote.as_ref()?)));
        // What others have fetched needs no waiting.
        for (issuer, remote) in remotes() {
            self.renew(issuer, remote.take_in());
        }
        // Those that have answered before come first, so that they do not wait for one that hangs; of the
        // others one at a time, each in its turn.
        let (failed, good): (Vec<_>, Vec<_>) =
            remotes().partition(|(_, remote)| remote.has_failed());
        for (issuer, remote) in good {
            self.renew(issuer, remote.look_after());
        }
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        for (issuer, remote) in
            failed.iter().cycle().skip(turn % failed.len().max(1)).take(failed.len())
        {
            if remote.is_due() {
                self.renew(issuer, remote.look_after());
                break;
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
        let parsed = Token::parse(&token, &mut self.headers.borrow_mut())?;
        let payload;
        let (issuer, claims) = match self.issuers.as_slice() {
            [only] => {
                self.check_signature(only, &parsed)?;
                payload = parsed.payload()?;
                (only, read_claims(&payload)?)
            }
            several => {
                if !several.iter().any(|one| one.keys.borrow().takes(parsed.algorithm)) {
                    return Err(NOT_ALLOWED);
                }
                payload = parsed.payload()?;
                let claims = read_claims(&payload)?;
                let issuer = self.find_issuer(&claims)?;
                self.check_signature(issuer, &parsed)?;
                (issuer, claims)
            }
        };
        let times = issuer.policy.check(&claims, unix_ms)?;
        self.scopes.check(&claims)?;
        let fields = self.claims_to_headers.iter().map(|(claim, _)| claims::field(&claims, claim));
        let fields = fields.collect::<Result<_, _>>()?;
        let verified = Rc::new(Verified { claims: payload, fields, times });
        self.verified.borrow_mut().keep(&token, &verified);
        Ok(verified)
    }

    /// Whose keys a token has to be signed with, of several: the one that it names. That it may name him only his
    /// keys can tell.
    fn find_issuer(&self, claims: &Object<'_>) -> Result<&Issuer, Refusal> {
        let named = claims.get("iss").and_then(Json::as_str);
        let issuer = self.issuers.iter().find(|issuer| issuer.policy.issuer.as_deref() == named);
        issuer.ok_or(Kind::Claims.because("the issuer is another"))
    }

    /// Checks a token by its issuer's keys. One may be new, or none have come yet: somebody may have fetched
    /// it, else it is fetched.
    fn check_signature(&self, issuer: &Issuer, token: &Token<'_>) -> Result<(), Refusal> {
        let mut checked = issuer.try_keys(token);
        let Some(remote) = &issuer.remote else { return checked };
        for fetches in [false, true] {
            if checked.is_ok() || !issuer.keys.borrow().could_get(token) {
                return checked;
            }
            let entries = match fetches {
                false => remote.take_in(),
                true if !remote.is_ready() => remote.make_ready(),
                true if token.key_id.is_some() => remote.refresh_early(),
                true => None,
            };
            if self.renew(issuer, entries) {
                checked = issuer.try_keys(token);
            }
        }
        if checked.is_err() && !remote.is_ready() && issuer.keys.borrow().could_get(token) {
            return Err(Kind::Unready.because("the issuer's keys could not be fetched"));
        }
        checked
    }

    /// Takes new keys of an issuer. What was found good by the old ones may not be any more.
    fn renew(&self, issuer: &Issuer, came: Option<Vec<keys::Entry>>) -> bool {
        let Some(entries) = came else { return false };
        issuer.keys.borrow_mut().replace(entries);
        self.verified.borrow_mut().clear();
        true
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

impl Issuer {
    /// Tries the keys that are there.
    fn try_keys(&self, token: &Token<'_>) -> Result<(), Refusal> {
        match self.keys.borrow().verify(token) {
            Found::NotTaken => Err(NOT_ALLOWED),
            Found::NoKey => Err(Kind::UnknownKey.because("no key is known for the token")),
            Found::WrongSignature => Err(Kind::Signature.because("the signature is wrong")),
            Found::Signed => Ok(()),
        }
    }
}

fn read_claims(payload: &[u8]) -> Result<Object<'_>, Refusal> {
    json::object(payload).ok_or(Kind::Malformed.because("the claims are not one JSON object"))
}

const NOT_ALLOWED: Refusal = Refusal { kind: Kind::Algorithm, why: "the algorithm is not allowed" };

export!(Jwt: on_request, on_tick, validate);

#[cfg(test)]
mod tests;
