//! Where plugins' state is kept: `state`.
//!
//! No message shows a password: of a URL only the part that is wrong.

use std::sync::Arc;
use std::time::Duration;

use super::address;
use super::tls;
use crate::config::file::{BackendConfig, StateConfig, StateErrorConfig};
use crate::config::problem::{At, Refusal, Report, quote};
use crate::config::redis::{Redis, StateError};
use crate::config::settings::{Secret, Server, ServerAddress, UpstreamTls};

const CURE: &str = "write one like \"redis://:PASSWORD@redis.internal:6379/0\"";

/// Longest beginning of a key.
const PREFIX_BYTES_MAX: usize = 64;

/// Where a URL leads, and who asks there.
struct Place {
    address: ServerAddress,
    tls: bool,
    user: Option<String>,
    password: Option<String>,
    database: u32,
}

/// Checks what was written; `None`: state is in memory.
pub(super) fn check(written: &StateConfig, report: &mut Report) -> Option<Arc<Redis>> {
    let at = At::default().key("state");
    if written.backend == BackendConfig::Memory {
        if written.url.is_some() {
            let cure = "write `\"backend\": \"redis\"`, or remove the URL";
            report.problem(&at.key("url"), "the backend \"memory\" is nowhere else", cure);
        }
        return None;
    }
    let prefix = &written.prefix;
    if prefix.len() > PREFIX_BYTES_MAX || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("{} cannot be what keys begin with", quote(prefix));
        let cure = format!("write visible ASCII, at most {PREFIX_BYTES_MAX}");
        report.problem(&at.key("prefix"), message, cure);
    }
    let Some(text) = &written.url else {
        report.incomplete(&at, "there is no `url` that says where Redis is", CURE);
        return None;
    };
    let place = report.take(&at.key("url"), url(text))?;
    for (key, beside, within) in [
        ("user", written.user.is_some(), place.user.is_some()),
        ("password", written.password.is_some(), place.password.is_some()),
    ] {
        if beside && within {
            report.problem(&at.key(key), "the URL has one, too", "remove one of both");
        }
    }
    let user = written.user.clone().or(place.user);
    let password = written.password.clone().or(place.password);
    if user.is_some() && password.is_none() {
        report.incomplete(&at, "there is a user without a password", "add `password`");
    }
    if written.password.as_deref().is_some_and(str::is_empty) {
        let cure = "write it, or leave `password` out";
        report.problem(&at.key("password"), "the password is empty", cure);
    }
    let tls = encryption(written, &place.address, place.tls, &at, report);
    Some(Arc::new(Redis {
        address: place.address,
        tls,
        user: user.map(|user| Secret::new(user.as_bytes())),
        password: password.map(|password| Secret::new(password.as_bytes())),
        database: place.database,
        prefix: prefix.as_str().into(),
        timeout: Duration::from_millis(written.timeout_ms.into()),
        on_error: match written.on_error {
            StateErrorConfig::Local => StateError::Local,
            StateErrorConfig::Open => StateError::Open,
            StateErrorConfig::Closed => StateError::Closed,
        },
    }))
}

fn encryption(
    written: &StateConfig,
    address: &ServerAddress,
    secure: bool,
    at: &At,
    report: &mut Report,
) -> Option<UpstreamTls> {
    if !secure {
        if written.tls.as_ref().is_some_and(|tls| tls.enabled) {
            let cure = "begin the URL with `rediss://`, or remove `tls`";
            report.problem(&at.key("tls"), "the URL is one without TLS", cure);
        }
        return None;
    }
    let settings = written.tls.clone().unwrap_or_default();
    if !settings.enabled {
        let cure = "begin the URL with `redis://`, or remove `enabled`";
        report.problem(&at.key("tls").key("enabled"), "the URL is one with TLS", cure);
    }
    let servers = [Server { address: address.clone(), weight: 1 }];
    let tls = tls::upstream(&settings, &servers, at, report)?;
    // Redis asks for no protocol by ALPN.
    Some(UpstreamTls { alpn: &[], ..tls })
}

fn url(text: &str) -> Result<Place, Refusal> {
    let refuse = |what: String, cure: &str| Err((what, cure.to_owned()));
    if let Some(rest) = text.strip_prefix("unix:").or(text.strip_prefix("redis+unix:")) {
        return unix(rest);
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => return refuse("is no URL".to_owned(), CURE),
    };
    let tls = match scheme.as_str() {
        "redis" => false,
        "rediss" => true,
        _ => {
            return refuse(
                format!("{} is a scheme that Redis does not have", quote(&scheme)),
                CURE,
            );
        }
    };
    if rest.contains(['?', '#']) {
        let cure = "leave out what follows the database; options are keys of `state`";
        return refuse("the URL has a query".to_owned(), cure);
    }
    // What comes before the last `@` may hold anything.
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    if authority.is_empty() {
        return refuse("the URL has no host".to_owned(), CURE);
    }
    let with_port = match address::has_port(authority) {
        true => authority.to_owned(),
        false => format!("{authority}:6379"),
    };
    let address = address::server(&with_port)?;
    let database = database(path)?;
    let (user, password) = match credentials {
        None => (None, None),
        Some(text) => {
            let (user, password) = text.split_once(':').unwrap_or((text, ""));
            (decoded(user, "user name")?, decoded(password, "password")?)
        }
    };
    Ok(Place { address, tls, user, password, database })
}

fn unix(rest: &str) -> Result<Place, Refusal> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let address = address::server(&format!("unix:{path}"))?;
    let database = match query.strip_prefix("db=") {
        _ if query.is_empty() => 0,
        Some(number) => database(number)?,
        None => {
            let message = format!("{} is not the number of a database", quote(query));
            return Err((message, "write \"?db=1\", and other options as keys of `state`".into()));
        }
    };
    Ok(Place { address, tls: false, user: None, password: None, database })
}

fn database(text: &str) -> Result<u32, Refusal> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        let message = format!("{} is not the number of a database", quote(text));
        (message, "end the URL with a number like \"/0\"".to_owned())
    })
}

/// Undoes percent-encoding (RFC 3986 §2.1). `None`: nothing is written.
fn decoded(text: &str, what: &str) -> Result<Option<String>, Refusal> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let code = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let code = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let Some(code) = code else {
            let cure = "write a `%` as `%25`, or the password into `state.password`";
            return Err((
                format!("the {what} in the URL has a `%` that stands for nothing"),
                cure.into(),
            ));
        };
        bytes.push(code);
        rest = &behind[2..];
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((!text.is_empty()).then_some(text)),
        Err(_) => Err((format!("the {what} in the URL is no UTF-8"), CURE.to_owned())),
    }
}
