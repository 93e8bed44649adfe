//! What claims must say (RFC 7519 §4.1), and how they go into fields.

use crate::json::{Json, Object};
use crate::refusal::{Kind, Refusal};

/// What the claims of an issuer's tokens must say.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<Vec<String>>,
    pub(crate) leeway_seconds: u32,
    pub(crate) required: Vec<String>,
}

/// When a token is good, leeway included; in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Times {
    pub(crate) begins_ms: f64,
    pub(crate) ends_ms: f64,
}

impl Policy {
    /// Whether these claims are good at this time; when they are.
    pub(crate) fn check(&self, claims: &Object<'_>, unix_ms: u64) -> Result<Times, Refusal> {
        for claim in &self.required {
            if claims.get(claim).is_none_or(|claim| matches!(claim, Json::Null)) {
                return Err(Kind::Claims.because("a required claim is missing"));
            }
        }
        let times = self.times(claims)?;
        times.check(unix_ms)?;
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Json::as_str) != Some(issuer)
        {
            return Err(Kind::Claims.because("the issuer is another"));
        }
        if let Some(audience) = &self.audience
            && !is_for(claims.get("aud"), audience)
        {
            return Err(Kind::Claims.because("the audience is another"));
        }
        Ok(times)
    }

    fn times(&self, claims: &Object<'_>) -> Result<Times, Refusal> {
        let leeway = f64::from(self.leeway_seconds);
        // RFC 7519 §4.1.4: on or after this moment it must not be accepted.
        let ends = date(claims, "exp")?.map(|expires| (expires + leeway) * 1000.0);
        // §4.1.5: before this moment it must not be.
        let begins = date(claims, "nbf")?.map(|begins| (begins - leeway) * 1000.0);
        // §4.1.6: tells an age; it has to be a date, and nothing follows from it.
        date(claims, "iat")?;
        Ok(Times {
            begins_ms: begins.unwrap_or(f64::NEG_INFINITY),
            ends_ms: ends.unwrap_or(f64::INFINITY),
        })
    }
}

impl Times {
    pub(crate) fn check(&self, unix_ms: u64) -> Result<(), Refusal> {
        // Dates may have fractions (RFC 7519 §2) and any size: floating point has room for all,
        // and for today's it is exact to a microsecond.
        #[allow(clippy::cast_precision_loss, reason = "exact until the year 287396")]
        let now = unix_ms as f64;
        if now >= self.ends_ms {
            return Err(Kind::Expired.because("the token has expired"));
        }
        if now < self.begins_ms {
            return Err(Kind::Expired.because("the token is not valid yet"));
        }
        Ok(())
    }
}

/// A claim that is a date, if it is there.
fn date(claims: &Object<'_>, name: &str) -> Result<Option<f64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            value.as_f64().map(Some).ok_or(Kind::Claims.because("a date is not a number"))
        }
    }
}

/// Whether `aud`, a string or an array of strings (RFC 7519 §4.1.3), names one of `wanted`.
fn is_for(aud: Option<&Json<'_>>, wanted: &[String]) -> bool {
    let is_wanted = |one: &str| wanted.iter().any(|wanted| wanted == one);
    match aud {
        Some(Json::Text(one)) => is_wanted(one),
        Some(Json::List(many)) => {
            many.iter().all(|one| one.as_str().is_some())
                && many.iter().filter_map(Json::as_str).any(is_wanted)
        }
        _ => false,
    }
}

/// Scopes that a token must have.
#[derive(Debug, Default)]
pub(crate) struct Scopes(pub(crate) Vec<String>);

impl Scopes {
    /// Whether all of them are in `scope` (RFC 8693 §4.2: one string) or in `scp`, which others write.
    pub(crate) fn check(&self, claims: &Object<'_>) -> Result<(), Refusal> {
        let has = |wanted: &String| {
            let claims = [claims.get("scope"), claims.get("scp")];
            claims.into_iter().flatten().any(|claim| match claim {
                Json::Text(text) => text.split(' ').any(|one| one == wanted),
                Json::List(list) => list.iter().any(|one| one.as_str() == Some(wanted)),
                _ => false,
            })
        };
        if self.0.iter().all(has) {
            return Ok(());
        }
        Err(Kind::Scope.because("a scope is missing"))
    }

    /// As a challenge names them.
    pub(crate) fn names(&self) -> String {
        self.0.join(" ")
    }
}

/// A claim as the value of a field: strings as they are, everything else as JSON. None when there
/// is no such claim; an error for one that would not stay a single value.
pub(crate) fn field(claims: &Object<'_>, name: &str) -> Result<Option<String>, Refusal> {
    let value = match claims.get(name) {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Text(text)) => text.clone().into_owned(),
        // Writing to memory cannot fail.
        Some(other) => serde_json::to_string(other).unwrap_or_default(),
    };
    // RFC 9110 §5.5: control characters have no place in a field.
    if value.chars().any(char::is_control) {
        return Err(Kind::Claims.because("a claim does not fit into a field"));
    }
    Ok(Some(value))
}
