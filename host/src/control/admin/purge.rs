//! `POST /cache/purge`: stored responses are forgotten at once, on all workers.
//!
//! Not here: what keys look like (the plugin), but for this: they begin with the URL and a line feed.

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Admin, Answer, json, problem};
use crate::state::cache::Cache;

/// Far more than a URL and its name take.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What is to be forgotten.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    /// One URL, with all responses that it has.
    url: Option<String>,
    /// All URLs that begin so.
    prefix: Option<String>,
    /// What was stored with this name.
    surrogate_key: Option<String>,
    /// Everything.
    #[serde(default)]
    all: bool,
    /// Of this plugin alone.
    plugin: Option<String>,
}

const CURE: &str =
    "write one of {\"url\": …}, {\"prefix\": …}, {\"surrogate_key\": …}, {\"all\": true}";

/// Forgets what the body says.
pub(super) async fn purge(admin: &Admin, request: Request<Incoming>) -> Answer {
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
    };
    let purge: Purge = match serde_json::from_slice(&body) {
        Ok(purge) => purge,
        Err(error) => {
            return problem(StatusCode::UNPROCESSABLE_ENTITY, &format!("{error}; {CURE}"));
        }
    };
    let states = admin.running.states();
    let wanted = |name: &str| purge.plugin.as_ref().is_none_or(|plugin| plugin == name);
    let states = states.iter().filter(|state| wanted(state.name()));
    let caches: Vec<_> = states.filter_map(|state| state.granted_cache()).collect();
    if let (Some(plugin), []) = (&purge.plugin, caches.as_slice()) {
        return problem(
            StatusCode::NOT_FOUND,
            &format!("there is no cache of a plugin `{plugin}`"),
        );
    }
    let Some(forget) = forget(purge) else {
        return problem(StatusCode::UNPROCESSABLE_ENTITY, CURE);
    };
    let removed: usize = caches.iter().map(|cache| forget(cache)).sum();
    json(StatusCode::OK, &json!({ "removed": removed }))
}

/// Forgets things in a cache; how many they were.
type Forget = Box<dyn Fn(&Cache) -> usize>;

/// What is to be done with each cache. None: nothing was said, or two things.
fn forget(purge: Purge) -> Option<Forget> {
    let url = |key: &[u8]| key.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec();
    Some(match (purge.url, purge.prefix, purge.surrogate_key, purge.all) {
        (Some(wanted), None, None, false) => {
            Box::new(move |cache| cache.remove_if(|key| url(key) == wanted.as_bytes()))
        }
        (None, Some(prefix), None, false) => {
            Box::new(move |cache| cache.remove_if(|key| url(key).starts_with(prefix.as_bytes())))
        }
        (None, None, Some(tag), false) => Box::new(move |cache| cache.remove_tagged(&tag)),
        (None, None, None, true) => Box::new(|cache| cache.remove_if(|_| true)),
        _ => return None,
    })
}
