//! Answers from responses that it keeps (RFC 9111).
//!
//! ```text
//! request ─► key ─► stored? ─► fresh? ─► serve: whole, 304, a part
//!              │       │no        │no
//!              │       │          ├─► stale is allowed ─► serve, and fetch in the background
//!              │       ▼          ▼
//!              │    whose turn? ─► upstream, asking whether what is stored is still good
//!              │                      │
//! response ◄───┴── keep ◄── new ◄─────┼─► 304 ─► refresh, serve
//!                                     └─► failed ─► serve stale, where that is allowed
//! ```
//!
//! Decisions are made here; heads and bodies are the host's. What a hit needs to know is in one note
//! beside the stored response, so that it costs two calls of the host.
//!
//! Not here: memory and its bounds, waiting for others, purging (the host).

mod conditions;
mod config;
mod date;
mod directives;
mod freshness;
mod key;
mod note;
mod plan;
mod respond;

use std::time::Duration;

use zproxy_sdk::cache::{self, Outcome, Turn};
use zproxy_sdk::{Flow, Middleware, Problem, Reply, Request, Response, clock, context, export};

use conditions::{Conditions, Wanted};
use config::{Config, Policy};
use directives::RequestDirectives;
use key::{Part, Url};
use note::{Kept, Note};
use plan::{Forward, Plan, Seen};
use respond::LONGEST;

/// Fields that the hook for requests is handed.
const REQUEST_FIELDS: [&str; 13] = [
    ":method",
    ":scheme",
    ":authority",
    ":path",
    "cache-control",
    "pragma",
    "if-none-match",
    "if-modified-since",
    "if-match",
    "if-unmodified-since",
    "range",
    key::FORWARDED_HOST,
    // What most variants differ by: so that their answers depend on nothing that is not here.
    "accept-encoding",
];

/// Plugins that know who asks say so in a note of this name.
const AUTHENTICATED: &str = "authenticated";

/// Fields that make upstreams answer for something else than the URL, or in another way, without
/// `Vary` saying so: what comes of them is never stored.
const UNKEYED: [&str; 8] = [
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-host",
    "x-forwarded-scheme",
    "x-forwarded-prefix",
];

/// The plugin: a configuration, and what is wrong with it.
#[derive(Debug, serde::Deserialize)]
#[serde(from = "Config")]
struct Cache {
    policy: Policy,
    body_bytes_max: Option<u64>,
    parts: Vec<Part>,
    bypass: Option<String>,
    wait_ms: u32,
    problems: Vec<Problem>,
}

impl Middleware for Cache {
    fn request_fields(&self) -> Vec<&str> {
        let mut names = REQUEST_FIELDS.to_vec();
        names.extend(self.bypass.as_deref());
        for part in &self.parts {
            match part {
                Part::Header(name) => names.push(name),
                Part::Cookie(_) if !names.contains(&"cookie") => names.push("cookie"),
                _ => {}
            }
        }
        names
    }

    fn response_fields(&self) -> Vec<&str> {
        respond::FIELDS.to_vec()
    }

    fn validate(&self) -> Vec<Problem> {
        self.problems.clone()
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        match self.find(request) {
            Found::Answer(reply) => Flow::Reply(reply),
            Found::Wait => Flow::Next,
            Found::Upstream(plan) => {
                context::set(plan::NOTE, plan.write());
                Flow::Next
            }
        }
    }

    fn on_response(&self, response: &mut Response) {
        let plan = context::get(plan::NOTE);
        if let Some(mut plan) = plan.and_then(|plan| Plan::read(&plan)) {
            // A plugin behind this one may have found out only then.
            plan.authenticated |= context::get(AUTHENTICATED).is_some();
            self.respond(&plan, response);
        }
    }
}

/// What becomes of a request.
enum Found {
    /// It is answered from the cache.
    Answer(Reply),
    /// Another one fetches what it wants.
    Wait,
    /// It goes upstream.
    Upstream(Box<Plan>),
}

fn upstream(plan: Plan) -> Found {
    Found::Upstream(Box::new(plan))
}

impl Cache {
    fn find(&self, request: &mut Request) -> Found {
        let method = request.method().into_owned();
        let (is_get, is_head) = (method == "GET", method == "HEAD");
        let bypassed = self.bypass.as_ref().is_some_and(|name| request.header(name).is_some());
        let Some(primary) = self.key(request).filter(|_| !bypassed) else {
            cache::count(Outcome::Bypass);
            return upstream(Plan::new(Forward::Bypass, Vec::new()));
        };
        if !is_get && !is_head {
            cache::count(Outcome::Bypass);
            let mut plan = Plan::new(Forward::Method, primary);
            plan.is_unsafe = !matches!(&*method, "OPTIONS" | "TRACE");
            plan.is_post = method == "POST";
            if plan.is_unsafe {
                let [scheme, authority, target] =
                    [request.scheme(), request.authority(), request.path_and_query()];
                plan.url = [scheme.into_owned(), authority.into_owned(), target.into_owned()];
            }
            self.complete(&mut plan, request);
            return upstream(plan);
        }
        let asked = RequestDirectives::read(
            request.header_bytes("cache-control").as_deref(),
            request.header_bytes("pragma").as_deref(),
        );
        let conditions = Conditions {
            none_match: request.header_bytes("if-none-match").map(Into::into),
            modified_since: request.header_bytes("if-modified-since").map(Into::into),
            range: request.header_bytes("range").map(Into::into),
            if_range: None,
        };
        let mut plan = Plan::new(Forward::UriMiss, primary);
        (plan.is_get, plan.conditions) = (is_get, conditions);
        if plan.conditions.range.is_some() {
            plan.conditions.if_range = request.header_bytes("if-range").map(Into::into);
        }
        // RFC 9110 §13.1.1, §13.1.4: these are for who has the resource itself.
        let foreign = ["if-match", "if-unmodified-since"];
        if foreign.iter().any(|name| request.header_bytes(name).is_some()) {
            plan.forward = Forward::Request;
            cache::count(Outcome::Bypass);
            self.complete(&mut plan, request);
            return upstream(plan);
        }
        let mut waits = true;
        let mut found = cache::lookup(&plan.key);
        if let Some(stored) = found.take_if(|stored| stored.status == 0) {
            match Note::read(&stored.note) {
                Some(Note::Vary(vary)) => {
                    let Some(variant) = key::variant(&plan.primary, &vary, request) else {
                        cache::count(Outcome::Bypass);
                        return upstream(Plan::new(Forward::Bypass, Vec::new()));
                    };
                    (plan.key, plan.vary, plan.forward) = (variant, Some(vary), Forward::VaryMiss);
                    found = cache::lookup(&plan.key);
                    if found.take_if(|stored| stored.status == 0).is_some() {
                        waits = false;
                    }
                }
                _ => waits = false,
            }
        }
        if let Some(stored) = found
            && let Some(Note::Response(kept)) = Note::read(&stored.note)
        {
            return self.use_stored(request, plan, asked, &stored, &kept);
        }
        self.miss(request, plan, asked, waits)
    }

    /// Something is stored that fits.
    fn use_stored(
        &self,
        request: &mut Request,
        mut plan: Plan,
        asked: RequestDirectives,
        stored: &cache::Stored,
        kept: &Kept,
    ) -> Found {
        let age = kept.age.saturating_add(stored.age.as_secs());
        let is_arriving = stored.body_bytes == u64::MAX;
        let stale_for = age.checked_sub(kept.lifetime);
        let usable = !kept.no_cache
            && match stale_for {
                None => true,
                // RFC 9111 §5.2.1.2, §4.2.4.
                Some(stale) => {
                    !kept.must_revalidate && asked.max_stale.is_some_and(|max| stale <= max)
                }
            };
        let wanted = asked.is_silent() || {
            let left = kept.lifetime.saturating_sub(age);
            let young = asked.max_age.is_none_or(|max| age <= max);
            let lasting = asked.min_fresh.is_none_or(|min| left >= min);
            !asked.no_cache && !asked.no_store && young && lasting
        };
        if usable && wanted {
            let outcome = match (is_arriving, stale_for) {
                (true, _) => Outcome::Collapsed,
                (_, None) => Outcome::Hit,
                (_, Some(_)) => Outcome::Stale,
            };
            let status = match (is_arriving, stale_for) {
                (true, _) => format!("zproxy; fwd={}; collapsed", plan.forward.as_str()),
                (_, None) => "zproxy; hit".to_owned(),
                (_, Some(stale)) => format!("zproxy; hit; ttl=-{stale}"),
            };
            if let Some(reply) = serve(&plan, kept, age, stored, &status, &[]) {
                cache::count(outcome);
                if outcome == Outcome::Hit && asked.is_silent() && self.is_all_declared(&plan) {
                    let [lifetime, age] = [kept.lifetime, kept.age].map(Duration::from_secs);
                    let left = lifetime.saturating_sub(age).saturating_sub(stored.age);
                    cache::repeat(left.min(LONGEST), age, outcome);
                }
                return Found::Answer(reply);
            }
            return self.miss(request, plan, asked, true);
        }
        plan.forward = if usable { Forward::Request } else { Forward::Stale };
        if asked.only_if_cached {
            return nothing_cached();
        }
        if asked.no_store {
            cache::count(Outcome::Bypass);
            self.complete(&mut plan, request);
            plan.may_store = false;
            return upstream(plan);
        }
        // What is good for one request only is not waited for by others.
        let shared = !kept.no_cache && kept.lifetime > 0 && asked.takes_what_is_fresh();
        if is_arriving {
            return self.miss(request, plan, asked, shared);
        }
        // RFC 5861 §3.
        let may_be_stale = stale_for.is_some_and(|stale| stale < kept.while_revalidate);
        if may_be_stale && !kept.no_cache && wanted && plan.is_get {
            let status = format!("zproxy; hit; ttl=-{}", stale_for.unwrap_or_default());
            if let Some(reply) = serve(&plan, kept, age, stored, &status, &[]) {
                cache::count(Outcome::Stale);
                self.complete(&mut plan, request);
                plan.stored = true;
                validate(request, &mut plan, kept);
                let key = plan.key.clone();
                context::set(plan::NOTE, plan.write());
                // When one is under way already, that is enough.
                cache::refetch(key);
                return Found::Answer(reply);
            }
        }
        if plan.is_get && shared && !self.claim(&plan) {
            return Found::Wait;
        }
        self.complete(&mut plan, request);
        plan.stored = true;
        validate(request, &mut plan, kept);
        upstream(plan)
    }

    /// Whether the fields that the hook is handed are all that the answer depends on.
    fn is_all_declared(&self, plan: &Plan) -> bool {
        let declared = self.request_fields();
        let vary = plan.vary.iter().flat_map(|vary| &vary.names);
        plan.conditions.is_empty() && vary.into_iter().all(|name| declared.contains(&name.as_str()))
    }

    /// Nothing is stored that fits.
    fn miss(
        &self,
        request: &mut Request,
        mut plan: Plan,
        asked: RequestDirectives,
        waits: bool,
    ) -> Found {
        if asked.only_if_cached {
            return nothing_cached();
        }
        // What answers a condition or a range is of no use to others.
        let shared =
            waits && plan.is_get && plan.conditions.is_empty() && asked.takes_what_is_fresh();
        if shared && !self.claim(&plan) {
            return Found::Wait;
        }
        cache::count(Outcome::Miss);
        self.complete(&mut plan, request);
        plan.may_store &= !asked.no_store;
        upstream(plan)
    }

    /// False: another request fetches it, and this one waits.
    fn claim(&self, plan: &Plan) -> bool {
        if self.wait_ms == 0 {
            return true;
        }
        match cache::claim(&plan.key, Duration::from_millis(self.wait_ms.into())) {
            Turn::Fetch | Turn::Alone => true,
            Turn::Wait => false,
        }
    }

    /// What has to be known when the response is there, and only then.
    fn complete(&self, plan: &mut Plan, request: &Request) {
        plan.sent_ms = clock::unix_ms();
        plan.authenticated = request.header_bytes("authorization").is_some();
        plan.cookie = request.header_bytes("cookie").is_some();
        plan.seen = Seen::of(request);
        let length = request.header_bytes("content-length");
        let has_body = length.is_some_and(|length| *length != *b"0")
            || request.header_bytes("transfer-encoding").is_some();
        let unkeyed = UNKEYED.iter().any(|name| {
            let keyed = Part::Header((*name).to_owned());
            request.header_bytes(name).is_some() && !self.parts.contains(&keyed)
        });
        plan.may_store = (plan.is_get && !has_body && !unkeyed) || (plan.is_post && !unkeyed);
    }

    fn key(&self, request: &Request) -> Option<Vec<u8>> {
        let (scheme, authority) = (request.scheme(), request.authority());
        let target = request.path_and_query();
        let url = Url { scheme: &scheme, authority: &authority, target: &target };
        key::primary(&self.parts, url, request)
    }
}

/// Asks the upstream whether what is stored is still good (RFC 9111 §4.3.1).
fn validate(request: &mut Request, plan: &mut Plan, kept: &Kept) {
    if kept.etag.is_empty() && kept.last_modified.is_empty() {
        return;
    }
    plan.validating = true;
    for (name, value) in [("if-none-match", &kept.etag), ("if-modified-since", &kept.last_modified)]
    {
        match value.is_empty() {
            false => request.set_header(name, value),
            true => request.remove_header(name),
        }
    }
    if plan.conditions.range.is_some() {
        request.remove_header("range");
        request.remove_header("if-range");
    }
}

/// RFC 9111 §5.2.1.7.
fn nothing_cached() -> Found {
    cache::count(Outcome::Miss);
    Found::Answer(
        Reply::status(504)
            .header("cache-status", "zproxy; detail=only-if-cached")
            .header("content-type", "text/plain")
            .body("there is nothing in the cache for this request\n"),
    )
}

/// What is stored as the answer to this request: all of it, or what its conditions ask for; with `cookies`, which
/// are for this client.
fn serve(
    plan: &Plan,
    kept: &Kept,
    age: u64,
    stored: &cache::Stored,
    status: &str,
    cookies: &[Vec<u8>],
) -> Option<Reply> {
    let age = age.to_string();
    let status = match kept.has_status {
        false => status.to_owned(),
        true => {
            let before = cache::field(&plan.key, "cache-status").unwrap_or_default();
            format!("{}, {status}", String::from_utf8_lossy(&before))
        }
    };
    let mut fields = vec![("age", age.as_bytes()), ("cache-status", status.as_bytes())];
    fields.extend(cookies.iter().map(|cookie| ("set-cookie", cookie.as_slice())));
    let conditional = stored.status == 200 && !plan.conditions.is_empty();
    let length = Some(stored.body_bytes).filter(|length| *length != u64::MAX);
    let wanted = match conditional {
        false => Wanted::All,
        true => {
            let now = clock::unix_ms() / 1000;
            plan.conditions.judge(kept, length, plan.is_get, now)
        }
    };
    match wanted {
        Wanted::All => cache::serve(&plan.key, &fields),
        Wanted::NotModified => cache::serve_not_modified(&plan.key, &fields),
        Wanted::Part(first, last) => cache::serve_part(&plan.key, first, last, &fields),
        Wanted::Unsatisfiable => {
            let range = format!("bytes */{}", length.unwrap_or_default());
            Some(Reply::status(416).header("content-range", range).header("cache-status", status))
        }
    }
}

export!(Cache: on_request, on_response, validate);

#[cfg(test)]
mod tests;
