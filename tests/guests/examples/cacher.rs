//! Keeps every 200 under the path of its request for a minute, and answers from what is kept. What a
//! request's `x-do` says comes first: `remove`, `purge` (all), `look`, `revalidate`, `huge-key`.

use std::time::Duration;

use zproxy_sdk::{Flow, Middleware, Reply, Request, Response, cache, context, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Cacher {}

const TTL: Duration = Duration::from_secs(60);

impl Middleware for Cacher {
    fn request_fields(&self) -> Vec<&str> {
        vec![":path", "x-do"]
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        let key = request.header_bytes(":path").unwrap_or_default().into_owned();
        let say = |text: String| Flow::Reply(Reply::status(200).body(text));
        match request.header("x-do").as_deref() {
            Some("remove") => return say(cache::remove(&key).to_string()),
            Some("purge") => return say(cache::remove_tagged("all").to_string()),
            Some("huge-key") => return say(format!("{:?}", cache::lookup(vec![0; 5000]))),
            Some("look") => {
                let stored = cache::lookup(&key).map(|stored| {
                    let kind = cache::field(&key, "content-type").unwrap_or_default();
                    let kind = String::from_utf8_lossy(&kind).into_owned();
                    let note = String::from_utf8_lossy(&stored.note).into_owned();
                    (stored.status, stored.body_bytes, kind, note)
                });
                return say(format!("{stored:?}"));
            }
            Some("revalidate") => request.set_header("if-none-match", "x"),
            _ => {
                if let Some(reply) = cache::serve(&key, &[("x-cache", b"hit")]) {
                    return Flow::Reply(reply);
                }
            }
        }
        context::set("key", &key);
        Flow::Next
    }

    fn on_response(&self, response: &mut Response) {
        let Some(key) = context::get("key") else { return };
        match response.status() {
            200 => cache::store(&key, "noted", TTL, &["all"]),
            304 if cache::refresh(&key, "fresh", TTL) => {
                if let Some(reply) = cache::serve(&key, &[("x-cache", b"revalidated")]) {
                    response.replace_with(reply);
                }
            }
            _ => {}
        }
    }
}

export!(Cacher);
