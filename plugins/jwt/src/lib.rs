//! Lets only requests with a valid JSON Web Token pass (RFC 7519, RFC 8725).
//!
//! ```text
//! find the token ─► split, decode ─► algorithm allowed? ─► signature ─► claims ─► headers ─► next
//!        └───────────────┴──────────────────┴─────────────────┴──────────┴────► 401
//! ```
//!
//! Claims are not even parsed before the signature holds, which the host checks. A client that is
//! refused is never told why; the operator reads it in the log at level `debug`. Keys that a token
//! brings along or names (`jwk`, `jku`, `x5u`, `kid`) are never looked at.
//!
//! Not here: signature maths (the host), getting tokens.

mod config;
mod source;
mod token;
mod claims;
mod json;

use zproxy_sdk::{Flow, Middleware, Reply, Request, clock, context, debug, export};

use config::Config;
use source::Source;
use token::Keys;

/// What every refusal says: nothing about keys, nothing about what was wrong.
const PROBLEM: &str = r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"a valid token is required"}"#;

/// The plugin: a configuration whose values have been checked.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "Config")]
struct Jwt {
    keys: Keys,
    policy: claims::Policy,
    /// Claim and lower-case field name.
    claims_to_headers: Vec<(String, String)>,
    source: Source,
    forward_token: bool,
}

/// Why a request is refused, for the operator.
type Refusal = &'static str;

impl Middleware for Jwt {
    fn request_fields(&self) -> Vec<&str> {
        vec![self.source.field()]
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        match self.check(request) {
            Ok(headers) => {
                self.pass(request, headers);
                Flow::Next
            }
            Err(refusal) => {
                debug!("refused: {refusal}");
                Flow::Reply(
                    Reply::status(401)
                        .header("www-authenticate", r#"Bearer error="invalid_token""#)
                        .header("content-type", "application/problem+json")
                        .body(PROBLEM),
                )
            }
        }
    }
}

impl Jwt {
    /// The value of each of `claims_to_headers`, when the request may pass.
    fn check(&self, request: &Request) -> Result<Vec<Option<String>>, Refusal> {
        let token = self.source.find(request)?;
        let payload = self.keys.verify(&token)?;
        let claims = json::object(&payload).ok_or("the claims are not one JSON object")?;
        self.policy.check(&claims, clock::unix_ms())?;
        self.claims_to_headers.iter().map(|(claim, _)| claims::field(&claims, claim)).collect()
    }

    /// Prepares a request for the upstream. A field that a claim goes to is the plugin's alone:
    /// what the client sent under that name never gets through.
    fn pass(&self, request: &mut Request, values: Vec<Option<String>>) {
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

export!(Jwt: on_request);

#[cfg(test)]
mod tests;
