//! What becomes of requests: counted, and for those that are refused an answer (RFC 6750 §3).
//!
//! A client learns the error code and nothing else: neither which keys there are nor what was wrong.

use zproxy_sdk::metrics::Counter;
use zproxy_sdk::{Reply, Request};

use crate::claims::Scopes;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Accepted,
    Missing,
    /// More than one token, of which another may be believed elsewhere.
    Ambiguous,
    Malformed,
    Algorithm,
    UnknownKey,
    Signature,
    Expired,
    Claims,
    Scope,
    /// The issuer's keys have not come yet.
    Unready,
}

/// Why a request is refused; `why` is for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) why: &'static str,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Accepted,
        Self::Missing,
        Self::Ambiguous,
        Self::Malformed,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::Expired,
        Self::Claims,
        Self::Scope,
        Self::Unready,
    ];

    pub(crate) fn because(self, why: &'static str) -> Refusal {
        Refusal { kind: self, why }
    }

    /// As metrics name it, and what that means.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Accepted => ("accepted", "Requests whose token was good."),
            Self::Missing => ("missing", "Requests refused: without a token."),
            Self::Ambiguous => ("ambiguous", "Requests refused: with two tokens."),
            Self::Malformed => ("malformed", "Requests refused: what they brought is no token."),
            Self::Algorithm => ("algorithm", "Requests refused: an algorithm that is not allowed."),
            Self::UnknownKey => ("unknown_key", "Requests refused: a key that is not known."),
            Self::Signature => ("signature", "Requests refused: a wrong signature."),
            Self::Expired => ("expired", "Requests refused: a token before or after its time."),
            Self::Claims => ("claims", "Requests refused: claims that are not as they must be."),
            Self::Scope => ("scope", "Requests refused with 403: a scope is missing."),
            Self::Unready => ("unready", "Requests refused with 503: no keys yet."),
        }
    }
}

impl Refusal {
    /// What the client gets.
    pub(crate) fn reply(self, request: &Request, challenge: &str, scopes: &Scopes) -> Reply {
        let separator = if challenge.ends_with('"') { ", " } else { " " };
        let challenge = |error: &str| format!("{challenge}{separator}error=\"{error}\"");
        let (status, title, detail) = match self.kind {
            Kind::Scope => (403, "Forbidden", "the token does not allow this"),
            Kind::Unready => (503, "Service Unavailable", "tokens cannot be checked at this time"),
            _ => (401, "Unauthorized", "a valid token is required"),
        };
        let reply = Reply::refusal(request, status, title, detail);
        match self.kind {
            Kind::Unready => reply.header("retry-after", "1"),
            Kind::Scope => {
                let names = scopes.names();
                reply.header(
                    "www-authenticate",
                    format!("{}, scope=\"{names}\"", challenge("insufficient_scope")),
                )
            }
            Kind::Ambiguous => reply.header("www-authenticate", challenge("invalid_request")),
            _ => reply.header("www-authenticate", challenge("invalid_token")),
        }
    }
}

/// A counter for each kind.
#[derive(Debug)]
pub(crate) struct Outcomes(Vec<Counter>);

impl Outcomes {
    pub(crate) fn new() -> Result<Self, String> {
        let counter = |kind: &Kind| {
            let (name, help) = kind.name();
            Counter::new(name, help)
        };
        Ok(Self(Kind::ALL.iter().map(counter).collect::<Result<_, _>>()?))
    }

    pub(crate) fn count(&self, kind: Kind) {
        if let Some(counter) = self.0.get(kind as usize) {
            counter.add(1);
        }
    }
}
