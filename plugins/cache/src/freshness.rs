//! Whether a response may be stored, and for how long it is fresh (RFC 9111 §3, §4.2).

use crate::config::Policy;
use crate::date;
use crate::directives::{ResponseDirectives, members, seconds};
use crate::note::Kept;

/// Kept when it is stale, to be validated, for a day: what is asked for less often is not worth it.
const VALIDATABLE: u64 = 24 * 3600;

/// The longest that heuristics give (RFC 9111 §4.2.2 names a day as a typical bound).
const HEURISTIC_MAX: u64 = 24 * 3600;

/// Longer entity tags are not worth keeping.
const ETAG_BYTES_MAX: usize = 1024;

/// Statuses whose responses may have a lifetime that nobody has stated (RFC 9110 §15.1).
const HEURISTIC: [u16; 13] = [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 451, 501];

/// Those that `ttl_seconds` is for: errors are stored only when the operator says so.
const SILENT: [u16; 6] = [200, 203, 204, 300, 301, 308];

/// Final statuses whose meaning for caches is known here (RFC 9111 §3).
fn is_understood(status: u16) -> bool {
    matches!(status, 200..=205 | 207 | 208 | 226 | 300..=303 | 305 | 307 | 308 | 400..=417
        | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511)
}

/// A response's fields, as far as they matter here. Several lines are joined with `, `.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields<'a> {
    pub(crate) cache_control: Option<&'a [u8]>,
    pub(crate) targeted: Option<&'a [u8]>,
    pub(crate) surrogate: Option<&'a [u8]>,
    pub(crate) pragma: Option<&'a [u8]>,
    pub(crate) expires: Option<&'a [u8]>,
    pub(crate) date: Option<&'a [u8]>,
    pub(crate) age: Option<&'a [u8]>,
    pub(crate) etag: Option<&'a [u8]>,
    pub(crate) last_modified: Option<&'a [u8]>,
    pub(crate) set_cookie: bool,
    pub(crate) cache_status: bool,
}

/// What matters of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// It was authenticated, by `Authorization` or by a plugin.
    pub(crate) authenticated: bool,
    /// It had cookies.
    pub(crate) cookie: bool,
    /// Milliseconds from the request to the head of the response.
    pub(crate) delay_ms: u64,
}

/// How a response is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Storing {
    pub(crate) kept: Kept,
    /// For how long it is of use, fresh and stale.
    pub(crate) seconds: u64,
    /// Fields to leave out.
    pub(crate) without: Vec<String>,
}

/// Whether a status says something about one request and not about the resource: parts, conditions and what
/// was too much for somebody on the way. Stored, it would be what everybody gets.
fn is_about_the_request(status: u16) -> bool {
    matches!(status, 0..=199 | 206 | 304 | 412 | 416 | 417 | 431)
}

/// The directives that count: of the targeted field, if there is one (RFC 9213 §2.2), else of that which there was
/// before it.
fn read(fields: &Fields<'_>) -> (ResponseDirectives, bool) {
    let targeted = fields.targeted.and_then(ResponseDirectives::read_targeted);
    let surrogate = || fields.surrogate.and_then(ResponseDirectives::read_surrogate);
    match targeted.or_else(surrogate) {
        Some(targeted) => (targeted, true),
        None => (ResponseDirectives::read(fields.cache_control.unwrap_or_default()), false),
    }
}

/// How to store a response; none when that is not allowed, or of no use. `now` in seconds since 1970.
pub(crate) fn storing(
    status: u16,
    fields: &Fields<'_>,
    asked: Asked,
    policy: &Policy,
    now: u64,
) -> Option<Storing> {
    let (directives, targeted) = read(fields);
    // RFC 9111 §5.2.2.3: who understands the status need not heed `no-store`.
    let no_store = match directives.must_understand {
        true if !is_understood(status) => return None,
        true => false,
        false => directives.no_store,
    };
    if no_store || directives.private || is_about_the_request(status) {
        return None;
    }
    let shared = directives.public || directives.must_revalidate || directives.s_maxage.is_some();
    if asked.authenticated && !shared {
        return None;
    }
    let date = fields.date.and_then(|date| date::parse(date, now));
    let explicit = explicit(&directives, fields, targeted, date.unwrap_or(now), now);
    let lifetime = match explicit {
        Some(lifetime) => lifetime,
        None => silent(status, &directives, fields, asked, policy, date.unwrap_or(now), now)?,
    };
    let kept = kept(&directives, fields, lifetime, asked, policy, now);
    let stale = kept.while_revalidate.max(kept.if_error);
    let validator = !kept.etag.is_empty() || !kept.last_modified.is_empty();
    let fresh = if kept.no_cache { 0 } else { kept.lifetime.saturating_sub(kept.age) };
    let stale = if validator { stale.max(VALIDATABLE) } else { stale };
    if fresh == 0 && !validator {
        return None;
    }
    let seconds = fresh.saturating_add(stale);
    Some(Storing { kept, seconds, without: without(&directives) })
}

/// The freshness that a response states itself (RFC 9111 §4.2.1).
fn explicit(
    directives: &ResponseDirectives,
    fields: &Fields<'_>,
    targeted: bool,
    date: u64,
    now: u64,
) -> Option<u64> {
    if let Some(seconds) = directives.s_maxage.or(directives.max_age) {
        return Some(seconds);
    }
    // RFC 9213 §2.2: `Expires` does not count beside a targeted field either.
    let expires = fields.expires.filter(|_| !targeted)?;
    Some(date::parse(expires, now).map_or(0, |expires| expires.saturating_sub(date)))
}

/// The freshness of a response that states none. None: it is not stored.
fn silent(
    status: u16,
    directives: &ResponseDirectives,
    fields: &Fields<'_>,
    asked: Asked,
    policy: &Policy,
    date: u64,
    now: u64,
) -> Option<u64> {
    let validator = fields.etag.is_some() || fields.last_modified.is_some();
    if directives.no_cache {
        // Of use only to be validated.
        return validator.then_some(0);
    }
    let modified = fields.last_modified.and_then(|modified| date::parse(modified, now));
    // Who sets or reads cookies may answer each client differently, and has not said that it does not.
    let personal = (fields.set_cookie || asked.cookie) && !directives.public;
    let pragma = fields.pragma.is_some_and(|pragma| pragma.eq_ignore_ascii_case(b"no-cache"));
    if !personal && !pragma {
        if let Some(seconds) = policy.by_status(status) {
            return Some(seconds);
        }
        let heuristic = HEURISTIC.contains(&status) || directives.public;
        if let Some(modified) = modified
            && heuristic
            && policy.heuristic_percent > 0
        {
            let seconds = date.saturating_sub(modified) / 100 * policy.heuristic_percent;
            return Some(seconds.min(HEURISTIC_MAX));
        }
        if SILENT.contains(&status) && policy.ttl > 0 {
            return Some(policy.ttl);
        }
    }
    (validator && status == 200 && !personal).then_some(0)
}

fn kept(
    directives: &ResponseDirectives,
    fields: &Fields<'_>,
    lifetime: u64,
    asked: Asked,
    policy: &Policy,
    now: u64,
) -> Kept {
    let must_revalidate = directives.must_revalidate
        || directives.proxy_revalidate
        // RFC 9111 §5.2.2.10: it includes `proxy-revalidate`.
        || directives.s_maxage.is_some();
    let stale = |stated: Option<u64>, configured: u64| match must_revalidate || directives.no_cache
    {
        true => 0,
        false => stated.unwrap_or(configured),
    };
    let etag = fields.etag.filter(|etag| etag.len() <= ETAG_BYTES_MAX).unwrap_or_default();
    let modified = fields.last_modified.and_then(|modified| date::parse(modified, now));
    let date = fields.date.and_then(|date| date::parse(date, now));
    Kept {
        lifetime,
        age: age(fields, asked.delay_ms, now),
        while_revalidate: stale(directives.stale_while_revalidate, policy.while_revalidate),
        if_error: stale(directives.stale_if_error, policy.if_error),
        no_cache: directives.no_cache,
        must_revalidate,
        has_status: fields.cache_status,
        etag: etag.to_vec(),
        modified: modified.or(date).unwrap_or(now),
        last_modified: modified.and(fields.last_modified).unwrap_or_default().to_vec(),
    }
}

/// How old a response is when it arrives (RFC 9111 §4.2.3). Of several values of `Age` the first counts, and
/// what is no number does not (§5.1).
fn age(fields: &Fields<'_>, delay_ms: u64, now: u64) -> u64 {
    let stated = fields.age.and_then(|age| members(age).next()).and_then(seconds).unwrap_or(0);
    let date = fields.date.and_then(|date| date::parse(date, now));
    let apparent = date.map_or(0, |date| now.saturating_sub(date));
    apparent.max(stated.saturating_add(delay_ms / 1000))
}

/// Fields that are one client's or one hop's alone.
fn without(directives: &ResponseDirectives) -> Vec<String> {
    let hop = ["age", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization"];
    let own = hop.iter().map(|name| (*name).to_owned());
    own.chain(directives.fields.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 784_111_777;
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 09:49:37 GMT";

    fn fields<'a>(lines: &[(&str, &'a str)]) -> Fields<'a> {
        let get = |name: &str| {
            lines.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes())
        };
        Fields {
            cache_control: get("cache-control"),
            targeted: get("cdn-cache-control"),
            surrogate: get("surrogate-control"),
            pragma: get("pragma"),
            expires: get("expires"),
            date: get("date"),
            age: get("age"),
            etag: get("etag"),
            last_modified: get("last-modified"),
            set_cookie: get("set-cookie").is_some(),
            cache_status: false,
        }
    }

    fn stored(status: u16, lines: &[(&str, &str)]) -> Option<Kept> {
        let policy = Policy { ttl: 0, ..Policy::default() };
        storing(status, &fields(lines), Asked::default(), &policy, NOW).map(|it| it.kept)
    }

    fn lifetime(lines: &[(&str, &str)]) -> Option<u64> {
        stored(200, lines).map(|kept| kept.lifetime)
    }

    #[test]
    fn stated_freshness_in_its_order() {
        let cc = |value| ("cache-control", value);
        assert_eq!(lifetime(&[cc("max-age=10")]), Some(10));
        assert_eq!(lifetime(&[cc("max-age=10, s-maxage=5")]), Some(5));
        assert_eq!(lifetime(&[cc("max-age=0, s-maxage=5"), ("expires", "0")]), Some(5));
        assert_eq!(lifetime(&[("expires", LATER), ("date", DATE)]), Some(3600));
        assert_eq!(lifetime(&[("expires", LATER), ("date", "foo")]), Some(3600));
        assert_eq!(lifetime(&[("expires", "0"), ("date", DATE)]), None);
        assert_eq!(lifetime(&[cc("max-age=0"), ("expires", LATER)]), None);
        assert_eq!(lifetime(&[cc("no-store"), ("cdn-cache-control", "max-age=7")]), Some(7));
        assert_eq!(lifetime(&[cc("max-age=9"), ("cdn-cache-control", "no-store")]), None);
        assert_eq!(lifetime(&[cc("max-age=9"), ("cdn-cache-control", "max-age=\"7\"")]), Some(9));
        assert_eq!(lifetime(&[("cdn-cache-control", "foo"), ("expires", LATER)]), None);
        let surrogate = |value| ("surrogate-control", value);
        assert_eq!(lifetime(&[cc("no-store"), surrogate("max-age=7")]), Some(7));
        assert_eq!(lifetime(&[cc("max-age=9"), surrogate("no-store"), ("expires", LATER)]), None);
        assert_eq!(
            lifetime(&[surrogate("max-age=7"), ("cdn-cache-control", "max-age=8")]),
            Some(8)
        );
        assert_eq!(lifetime(&[cc("max-age=9"), surrogate("max-age=7;other")]), Some(9));
        assert_eq!(lifetime(&[]), None);
    }

    #[test]
    fn what_must_not_be_stored_is_not() {
        let cc = |value| ("cache-control", value);
        for forbidden in ["no-store, max-age=9", "private, max-age=9", "NO-STORE", "max-age=-1"] {
            assert_eq!(stored(200, &[cc(forbidden)]), None, "{forbidden}");
        }
        assert_eq!(stored(599, &[cc("max-age=9, must-understand")]), None);
        assert!(stored(599, &[cc("max-age=9")]).is_some());
        assert!(stored(200, &[cc("max-age=9, must-understand, no-store")]).is_some());
        assert_eq!(stored(206, &[cc("max-age=9")]), None);
        assert_eq!(stored(304, &[cc("max-age=9")]), None);
    }

    /// RFC 9111 §3.5.
    #[test]
    fn answers_to_authenticated_requests_are_stored_when_they_say_so() {
        let asked = Asked { authenticated: true, ..Asked::default() };
        let policy = Policy::default();
        let may = |value| {
            let fields = fields(&[("cache-control", value)]);
            storing(200, &fields, asked, &policy, NOW).is_some()
        };
        assert!(!may("max-age=9"));
        assert!(!may("proxy-revalidate, max-age=9"));
        assert!(may("max-age=9, public") && may("max-age=9, must-revalidate") && may("s-maxage=9"));
        assert!(storing(200, &fields(&[]), asked, &policy, NOW).is_none());
    }

    #[test]
    fn the_silent_are_stored_as_the_operator_says() {
        let policy = Policy {
            ttl: 60,
            heuristic_percent: 10,
            negative: [("404", 5), ("4xx", 7), ("5xx", 2), ("503", 1), ("422", 3)]
                .map(|(status, seconds)| (status.to_owned(), seconds))
                .to_vec(),
            ..Policy::default()
        };
        let of = |status, lines: &[(&str, &str)], asked| {
            storing(status, &fields(lines), asked, &policy, NOW).map(|it| it.kept.lifetime)
        };
        let plain = Asked::default();
        let old = ("last-modified", "Sun, 06 Nov 1994 08:32:57 GMT");
        assert_eq!(of(200, &[], plain), Some(60));
        assert_eq!(of(200, &[old, ("date", DATE)], plain), Some(100));
        assert_eq!(of(599, &[old], plain), None);
        assert_eq!(of(599, &[old, ("cache-control", "public")], plain), Some(100));
        assert_eq!(of(404, &[], plain), Some(5));
        assert_eq!(of(503, &[], plain), Some(1));
        assert_eq!([410, 414].map(|status| of(status, &[], plain)), [Some(7); 2]);
        assert_eq!([500, 502].map(|status| of(status, &[], plain)), [None, Some(2)]);
        assert_eq!(of(422, &[], plain), Some(3), "the operator names it");
        for personal in [400, 401, 403, 407, 413, 429, 431] {
            assert_eq!(of(personal, &[], plain), None, "{personal}: one client's doing");
        }
        assert_eq!(of(201, &[old], plain), None);
        assert_eq!(of(200, &[("set-cookie", "a=b")], plain), None);
        assert_eq!(of(200, &[], Asked { cookie: true, ..plain }), None);
        assert_eq!(of(200, &[("pragma", "no-cache")], plain), None);
        assert_eq!(of(200, &[("cache-control", "no-cache")], plain), None);
        assert_eq!(of(200, &[("cache-control", "no-cache"), ("etag", "\"1\"")], plain), Some(0));
        assert_eq!(
            of(200, &[("set-cookie", "a=b"), ("cache-control", "max-age=1")], plain),
            Some(1)
        );
    }

    #[test]
    fn age_is_read_with_tolerance_and_never_too_small() {
        let of = |age: &str, delay_ms| {
            let lines = [("age", age), ("date", DATE)];
            super::age(&fields(&lines), delay_ms, NOW + 3)
        };
        assert_eq!(of("7200", 0), 7200);
        assert_eq!(of("7200", 2500), 7202);
        assert_eq!([of("7200, 0", 0), of("0, 7200", 0)], [7200, 3]);
        assert_eq!([of("abc", 0), of("-7200", 0), of("7200.0", 0), of("7200;a", 0)], [3; 4]);
        assert_eq!(of("99999999999", 0), 2_147_483_648);
    }

    #[test]
    fn how_stale_it_may_be_served() {
        let windows = |value: &str| {
            let policy = Policy { while_revalidate: 1, if_error: 2, ..Policy::default() };
            let fields = fields(&[("cache-control", value)]);
            let kept = storing(200, &fields, Asked::default(), &policy, NOW).unwrap().kept;
            (kept.while_revalidate, kept.if_error)
        };
        assert_eq!(windows("max-age=9"), (1, 2));
        assert_eq!(windows("max-age=9, stale-while-revalidate=5, stale-if-error=6"), (5, 6));
        for strict in ["must-revalidate", "proxy-revalidate", "s-maxage=9"] {
            let value = format!("max-age=9, {strict}, stale-if-error=6");
            assert_eq!(windows(&value), (0, 0));
        }
    }
}
