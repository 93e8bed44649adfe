//! What becomes of an upstream's response: kept, taken as news about what is stored, or let through.

use std::time::Duration;

use zproxy_sdk::cache::{self, Outcome, Terms};
use zproxy_sdk::{Response, clock, random};

use crate::directives::members;
use crate::freshness::{self, Asked, Fields, Storing};
use crate::key::{self, Url, is_token};
use crate::note::{Kept, Note, Vary};
use crate::plan::{Forward, Plan};
use crate::{Cache, serve};

/// Fields that the hook for responses is handed.
pub(crate) const FIELDS: [&str; 15] = [
    "cache-control",
    "cdn-cache-control",
    "surrogate-control",
    "pragma",
    "expires",
    "date",
    "age",
    "etag",
    "last-modified",
    "set-cookie",
    "cache-status",
    "vary",
    "location",
    "content-location",
    "surrogate-key",
];

/// For so long nobody waits for a response that was not to be stored.
const PASS_TIME: Duration = Duration::from_secs(120);

/// The longest that the host keeps anything.
pub(crate) const LONGEST: Duration = Duration::from_millis(u32::MAX as u64);

/// Fields that responses of one URL may be told apart by.
const VARY_MAX: usize = 16;

/// Tags of a response, and bytes of each: what the host takes.
const TAGS_MAX: usize = 32;
const TAG_BYTES_MAX: usize = 256;

impl Cache {
    pub(crate) fn respond(&self, plan: &Plan, response: &mut Response) {
        let status = response.status();
        match plan.forward {
            Forward::Bypass => {}
            Forward::Method => {
                if plan.is_unsafe && (200..400).contains(&status) {
                    self.invalidate(plan, response);
                    self.keep_post(plan, response);
                }
            }
            _ if status == 304 && plan.validating => return self.refresh(plan, response),
            _ => {
                if plan.stored
                    && matches!(status, 500 | 502 | 503 | 504)
                    && self.serve_stale(plan, response)
                {
                    return;
                }
                if plan.stored {
                    cache::count(Outcome::Expired);
                }
                let stored = self.keep(plan, response);
                // Failures of the moment say nothing about the next response.
                // Nor does what one client gets put an end to what is stored for all.
                let is_news = status < 500 && status != 304 && cache::lookup(&plan.key).is_none();
                if !stored && plan.is_get && plan.may_store && is_news {
                    cache::mark(&plan.key, Note::Pass.write(), PASS_TIME);
                }
                let stored = if stored { "; stored" } else { "" };
                let forward = plan.forward.as_str();
                return say(response, &format!("zproxy; fwd={forward}{stored}"));
            }
        }
        say(response, &format!("zproxy; fwd={}", plan.forward.as_str()));
    }

    /// Keeps a response, if that is allowed and of use.
    fn keep(&self, plan: &Plan, response: &Response) -> bool {
        if !plan.may_store || !plan.is_get {
            return false;
        }
        let Some(storing) = self.storing(plan, response) else { return false };
        let Some(names) = vary_names(response) else { return false };
        let mut key = plan.primary.clone();
        if !names.is_empty() {
            let vary = vary(plan, names);
            // What a plugin behind this one has made of a field is not what clients are told apart by.
            if !plan.seen.agrees(&vary.names, &response.request()) {
                return false;
            }
            let Some(variant) = variant(plan, &vary, response) else { return false };
            key = variant;
            cache::mark(&plan.primary, Note::Vary(vary).write(), LONGEST);
        }
        self.keep_under(&key, storing, response)
    }

    /// RFC 9110 §9.3.3: the answer to a POST that says that it is what a GET would get.
    fn keep_post(&self, plan: &Plan, response: &Response) {
        let Some(location) = response.header("content-location") else { return };
        let itself = plan.is_post && plan.may_store && response.status() == 200;
        if !itself || self.key_of(plan, response, &location).as_ref() != Some(&plan.primary) {
            return;
        }
        let explicit = ["cache-control", "expires"];
        if !explicit.iter().any(|name| response.header_bytes(name).is_some()) {
            return;
        }
        if let (Some(storing), Some([])) =
            (self.storing(plan, response), vary_names(response).as_deref())
        {
            self.keep_under(&plan.primary, storing, response);
        }
    }

    fn keep_under(&self, key: &[u8], storing: Storing, response: &Response) -> bool {
        let length =
            response.header("content-length").and_then(|length| length.parse::<u64>().ok());
        if length.zip(self.body_bytes_max).is_some_and(|(length, max)| length > max) {
            return false;
        }
        let terms = Terms {
            note: Note::Response(storing.kept).write(),
            ttl: Duration::from_secs(storing.seconds).min(LONGEST),
            tags: tags(response),
            body_bytes_max: self.body_bytes_max,
            without: storing.without,
        };
        cache::keep(key, terms);
        true
    }

    fn storing(&self, plan: &Plan, response: &Response) -> Option<Storing> {
        let now_ms = clock::unix_ms();
        let asked = asked(plan, now_ms);
        with_fields(response, |fields| {
            freshness::storing(response.status(), fields, asked, &self.policy, now_ms / 1000)
        })
    }

    /// RFC 9111 §4.3.4: what is stored is still good.
    fn refresh(&self, plan: &Plan, response: &mut Response) {
        let now_ms = clock::unix_ms();
        let stored_field = |name: &str| cache::field(&plan.key, name);
        // The response as it will be: fields that this one does not have stay as they were.
        let new = |name: &str| response.header_bytes(name).map(std::borrow::Cow::into_owned);
        let get = |name: &str| new(name).or_else(|| stored_field(name));
        let (cache_control, expires) = (get("cache-control"), get("expires"));
        let (targeted, surrogate) = (get("cdn-cache-control"), get("surrogate-control"));
        let last_modified = get("last-modified");
        let (etag, date, age) =
            (stored_field("etag").or_else(|| new("etag")), new("date"), new("age"));
        let pragma = get("pragma");
        let fields = Fields {
            cache_control: cache_control.as_deref(),
            targeted: targeted.as_deref(),
            surrogate: surrogate.as_deref(),
            pragma: pragma.as_deref(),
            expires: expires.as_deref(),
            date: date.as_deref(),
            age: age.as_deref(),
            etag: etag.as_deref(),
            last_modified: last_modified.as_deref(),
            set_cookie: false,
            cache_status: get("cache-status").is_some(),
        };
        let Some(stored) = cache::lookup(&plan.key) else { return };
        let asked = asked(plan, now_ms);
        let storing =
            freshness::storing(stored.status, &fields, asked, &self.policy, now_ms / 1000);
        let (kept, seconds, without) = match storing {
            Some(storing) => (storing.kept, storing.seconds, storing.without),
            // It must not be stored from now on: this answer is its last.
            None => (Kept { no_cache: true, ..Kept::default() }, 1, Vec::new()),
        };
        let ttl = Duration::from_secs(seconds).min(LONGEST);
        // What is for this client alone must not get among the fields for all.
        if !without.iter().any(|name| response.header_bytes(name).is_some()) {
            cache::refresh(&plan.key, Note::Response(kept.clone()).write(), ttl);
        }
        let status = format!("zproxy; fwd={}; fwd-status=304", plan.forward.as_str());
        // For the client that the upstream was asked for, and nobody else.
        let fields = response.headers();
        let cookies = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        let cookies: Vec<Vec<u8>> = cookies.map(|(_, cookie)| cookie.to_vec()).collect();
        if let Some(reply) = serve(plan, &kept, kept.age, &stored, &status, &cookies) {
            cache::count(Outcome::Revalidated);
            response.replace_with(reply);
        }
    }

    /// RFC 5861 §4: better an old response than none.
    fn serve_stale(&self, plan: &Plan, response: &mut Response) -> bool {
        let Some(stored) = cache::lookup(&plan.key) else { return false };
        let Some(Note::Response(kept)) = Note::read(&stored.note) else { return false };
        let age = kept.age.saturating_add(stored.age.as_secs());
        let stale = age.saturating_sub(kept.lifetime);
        if kept.no_cache || kept.must_revalidate || stale > kept.if_error {
            return false;
        }
        let status =
            format!("zproxy; fwd=stale; fwd-status={}; detail=stale-if-error", response.status());
        let Some(reply) = serve(plan, &kept, age, &stored, &status, &[]) else { return false };
        cache::count(Outcome::Stale);
        response.replace_with(reply);
        true
    }

    /// RFC 9111 §4.4.
    fn invalidate(&self, plan: &Plan, response: &Response) {
        cache::remove(&plan.primary);
        for name in ["location", "content-location"] {
            let other = response.header(name).and_then(|url| self.key_of(plan, response, &url));
            if let Some(other) = other {
                cache::remove(other);
            }
        }
    }

    /// The key that a URL of the same origin has: that of the request with another first line.
    fn key_of(&self, plan: &Plan, response: &Response, reference: &str) -> Option<Vec<u8>> {
        let [scheme, authority, target] = &plan.url;
        let url = Url { scheme, authority, target };
        let target = key::same_origin(url, reference)?;
        key::primary(&self.parts, Url { target: &target, ..url }, &response.request())
    }
}

fn asked(plan: &Plan, now_ms: u64) -> Asked {
    Asked {
        authenticated: plan.authenticated,
        cookie: plan.cookie,
        delay_ms: now_ms.saturating_sub(plan.sent_ms),
    }
}

fn with_fields<T>(response: &Response, use_them: impl FnOnce(&Fields<'_>) -> T) -> T {
    let get = |name| response.header_bytes(name);
    let (cache_control, targeted) = (get("cache-control"), get("cdn-cache-control"));
    let surrogate = get("surrogate-control");
    let (pragma, expires, date) = (get("pragma"), get("expires"), get("date"));
    let (age, etag, last_modified) = (get("age"), get("etag"), get("last-modified"));
    use_them(&Fields {
        cache_control: cache_control.as_deref(),
        targeted: targeted.as_deref(),
        surrogate: surrogate.as_deref(),
        pragma: pragma.as_deref(),
        expires: expires.as_deref(),
        date: date.as_deref(),
        age: age.as_deref(),
        etag: etag.as_deref(),
        last_modified: last_modified.as_deref(),
        set_cookie: get("set-cookie").is_some(),
        cache_status: get("cache-status").is_some(),
    })
}

/// The names in `Vary`, in lower case. None: no request is like another (`*`), or there are too many.
fn vary_names(response: &Response) -> Option<Vec<String>> {
    let field = response.header_bytes("vary");
    let mut names = Vec::new();
    for name in members(field.as_deref().unwrap_or_default()) {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        // What is no name cannot be compared by.
        if name == "*" || !is_token(&name) {
            return None;
        }
        names.push(name);
    }
    names.sort();
    names.dedup();
    (names.len() <= VARY_MAX).then_some(names)
}

/// How responses of this URL are told apart from now on. Names that were known stay, so that an upstream that
/// names now these and now those does not make its responses forget each other.
fn vary(plan: &Plan, mut names: Vec<String>) -> Vary {
    let now = cache::lookup(&plan.primary).filter(|stored| stored.status == 0);
    let Some(Note::Vary(known)) = now.and_then(|stored| Note::read(&stored.note)) else {
        return Vary { id: fresh_id(), names };
    };
    names.extend(known.names.iter().cloned());
    names.sort();
    names.dedup();
    if names == known.names || names.len() > VARY_MAX {
        return known;
    }
    Vary { id: fresh_id(), names }
}

fn fresh_id() -> [u8; 8] {
    let mut id = [0; 8];
    id.iter_mut().zip(random::bytes(8)).for_each(|(byte, random)| *byte = random);
    id
}

fn variant(plan: &Plan, vary: &Vary, response: &Response) -> Option<Vec<u8>> {
    match &plan.vary {
        Some(known) if known == vary => Some(plan.key.clone()),
        _ => key::variant(&plan.primary, vary, &response.request()),
    }
}

/// Surrogate keys: names to purge by.
fn tags(response: &Response) -> Vec<String> {
    let Some(field) = response.header("surrogate-key") else { return Vec::new() };
    let names = field.split([' ', ',']).filter(|name| !name.is_empty());
    let names = names.filter(|name| name.len() <= TAG_BYTES_MAX);
    names.take(TAGS_MAX).map(str::to_owned).collect()
}

/// Adds to `Cache-Status` (RFC 9211 §2: behind what is there).
fn say(response: &mut Response, status: &str) {
    response.append_header("cache-status", status);
}
