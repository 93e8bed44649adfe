//! What claims must say (RFC 7519 §4.1), and how they go into fields.

use serde_json::{Map, Value};

use crate::Refusal;

/// What claims must say.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<Vec<String>>,
    pub(crate) leeway_seconds: u32,
    pub(crate) required: Vec<String>,
}

impl Policy {
    /// Whether these claims are good at this time.
    pub(crate) fn check(&self, claims: &Map<String, Value>, unix_ms: u64) -> Result<(), Refusal> {
        for claim in &self.required {
            if claims.get(claim).is_none_or(Value::is_null) {
                return Err("a required claim is missing");
            }
        }
        self.check_times(claims, unix_ms)?;
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err("the issuer is another");
        }
        if let Some(audience) = &self.audience
            && !is_for(claims.get("aud"), audience)
        {
            return Err("the audience is another");
        }
        Ok(())
    }

    fn check_times(&self, claims: &Map<String, Value>, unix_ms: u64) -> Result<(), Refusal> {
        // Dates may have fractions (RFC 7519 §2) and any size: floating point has room for all,
        // and for today's it is exact to a microsecond.
        #[allow(clippy::cast_precision_loss, reason = "exact until the year 287396")]
        let now = unix_ms as f64 / 1000.0;
        let leeway = f64::from(self.leeway_seconds);

        // RFC 7519 §4.1.4: on or after this moment it must not be accepted.
        if date(claims, "exp")?.is_some_and(|expires| now >= expires + leeway) {
            return Err("the token has expired");
        }
        // §4.1.5: before this moment it must not be.
        if date(claims, "nbf")?.is_some_and(|begins| now + leeway < begins) {
            return Err("the token is not valid yet");
        }
        // §4.1.6: tells an age; it has to be a date, and nothing follows from it.
        date(claims, "iat")?;
        Ok(())
    }
}

/// A claim that is a date, if it is there.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or("a date is not a number"),
    }
}

/// Whether `aud`, a string or an array of strings (RFC 7519 §4.1.3), names one of `wanted`.
fn is_for(aud: Option<&Value>, wanted: &[String]) -> bool {
    match aud {
        Some(Value::String(one)) => wanted.contains(one),
        Some(Value::Array(many)) => {
            many.iter().all(Value::is_string)
                && many.iter().filter_map(Value::as_str).any(|one| wanted.iter().any(|w| w == one))
        }
        _ => false,
    }
}

/// A claim as the value of a field: strings as they are, everything else as JSON. None when there
/// is no such claim; an error for one that would not stay a single value.
pub(crate) fn field(claims: &Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    let value = match claims.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    // RFC 9110 §5.5: control characters have no place in a field.
    if value.chars().any(char::is_control) {
        return Err("a claim does not fit into a field");
    }
    Ok(Some(value))
}
