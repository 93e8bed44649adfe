//! `Cache-Control` of requests and responses (RFC 9111 §5.2), `CDN-Cache-Control` (RFC 9213), and `Surrogate-Control`, which
//! came before that.
//!
//! Directives are compared without regard to case. A value that is no number of seconds is as bad as can
//! be: of a response the freshness it would give is none (§4.2.1), and of two that differ the smaller counts.

/// The largest number of seconds; more is no different (RFC 9111 §1.2.2).
pub(crate) const SECONDS_MAX: u64 = 2_147_483_648;

/// What a response says about its storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseDirectives {
    pub(crate) max_age: Option<u64>,
    pub(crate) s_maxage: Option<u64>,
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) stale_while_revalidate: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
    /// Fields that `no-cache` or `private` names: they are not stored.
    pub(crate) fields: Vec<String>,
}

/// What a request says about stored responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestDirectives {
    pub(crate) max_age: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    /// `Some(SECONDS_MAX)`: however stale.
    pub(crate) max_stale: Option<u64>,
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) only_if_cached: bool,
}

/// Seconds (RFC 9111 §1.2.2). None for what is no number.
pub(crate) fn seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text.iter().try_fold(0_u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    });
    Some(number.unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

/// One member of a list of directives: lower-case name, and value without quotes.
struct Directive<'a> {
    name: String,
    value: Option<std::borrow::Cow<'a, [u8]>>,
}

/// The directives of a field. Commas within quoted strings do not part them; what is no directive is
/// left out.
fn directives(field: &[u8]) -> impl Iterator<Item = Directive<'_>> {
    members(field).filter_map(|member| {
        let end = member.iter().position(|byte| *byte == b'=').unwrap_or(member.len());
        let (name, value) = member.split_at(end);
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name.is_empty() || !name.iter().all(token) {
            return None;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let value = value.strip_prefix(b"=").map(unquoted);
        Some(Directive { name, value })
    })
}

/// Members of a list (RFC 9110 §5.6.1), without white space around them; empty ones are left out.
pub(crate) fn members(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    let parts = std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.iter().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => return true,
                _ => {}
            }
            false
        });
        rest = end.map(|end| &text[end + 1..]);
        Some(text[..end.unwrap_or(text.len())].trim_ascii())
    });
    parts.filter(|part| !part.is_empty())
}

fn unquoted(value: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    match inner {
        Some(inner) if inner.contains(&b'\\') => {
            let mut escaped = false;
            let kept = inner.iter().copied().filter(|byte| {
                escaped = *byte == b'\\' && !escaped;
                !escaped
            });
            kept.collect::<Vec<_>>().into()
        }
        Some(inner) => inner.into(),
        None => value.into(),
    }
}

/// The smaller of two numbers of one directive; nonsense is 0.
fn smaller(known: Option<u64>, value: Option<&[u8]>) -> Option<u64> {
    let new = value.and_then(seconds).unwrap_or(0);
    Some(known.map_or(new, |known| known.min(new)))
}

impl ResponseDirectives {
    /// Reads `Cache-Control`.
    pub(crate) fn read(field: &[u8]) -> Self {
        let mut read = Self::default();
        for Directive { name, value } in directives(field) {
            read.take(&name, value.as_deref());
        }
        read
    }

    /// Reads a targeted field, a dictionary of structured fields (RFC 8941 §3.2). `None` when it is none, or
    /// says nothing: then it counts as if it were not there (RFC 9213 §2.1).
    pub(crate) fn read_targeted(field: &[u8]) -> Option<Self> {
        let mut read = Self::default();
        let mut any = false;
        for member in members(field) {
            let (name, value) = dictionary_member(member)?;
            match value {
                Item::Integer(number) => read.take(name, Some(number.to_string().as_bytes())),
                Item::True => read.take(name, None),
                // RFC 9213 §2.1: a parameter of another type is ignored.
                Item::Other => {}
            }
            any |= matches!(value, Item::Integer(_) | Item::True);
        }
        any.then_some(read)
    }

    /// Reads `Surrogate-Control` (Edge Architecture Specification, W3C Note of 2001), which says how long a response may be
    /// stale behind a `+`. `None` when it says nothing, or not to this cache.
    pub(crate) fn read_surrogate(field: &[u8]) -> Option<Self> {
        let mut read = Self::default();
        for member in members(field) {
            let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let directive = directives(parts.next().unwrap_or_default()).next();
            let (Some(Directive { name, value }), None) = (directive, parts.next()) else {
                continue;
            };
            let value = value.as_deref();
            let plus = value.and_then(|value| value.iter().position(|byte| *byte == b'+'));
            match (&*name, value.zip(plus)) {
                ("max-age", Some((value, plus))) => {
                    read.take(&name, Some(&value[..plus]));
                    read.take("stale-while-revalidate", Some(&value[plus + 1..]));
                }
                ("max-age" | "no-store", _) => read.take(&name, value),
                _ => {}
            }
        }
        (read != Self::default()).then_some(read)
    }

    fn take(&mut self, name: &str, value: Option<&[u8]>) {
        match (name, value) {
            ("max-age", _) => self.max_age = smaller(self.max_age, value),
            ("s-maxage", _) => self.s_maxage = smaller(self.s_maxage, value),
            ("stale-while-revalidate", _) => {
                self.stale_while_revalidate = smaller(self.stale_while_revalidate, value);
            }
            ("stale-if-error", _) => self.stale_if_error = smaller(self.stale_if_error, value),
            ("no-store", _) => self.no_store = true,
            ("public", _) => self.public = true,
            ("must-revalidate", _) => self.must_revalidate = true,
            ("proxy-revalidate", _) => self.proxy_revalidate = true,
            ("must-understand", _) => self.must_understand = true,
            // RFC 9111 §5.2.2.4, §5.2.2.7: with names it is about these fields only.
            ("no-cache" | "private", Some(names))
                if names.iter().any(u8::is_ascii_alphanumeric) =>
            {
                let names = members(names).map(|name| String::from_utf8_lossy(name).into_owned());
                self.fields.extend(names);
            }
            ("no-cache", _) => self.no_cache = true,
            ("private", _) => self.private = true,
            _ => {}
        }
    }
}

impl RequestDirectives {
    /// Reads `Cache-Control`, or `Pragma` where there is none (RFC 9111 §5.4).
    pub(crate) fn read(cache_control: Option<&[u8]>, pragma: Option<&[u8]>) -> Self {
        let mut read = Self::default();
        let Some(field) = cache_control else {
            let pragma = pragma.unwrap_or_default();
            read.no_cache = directives(pragma).any(|directive| directive.name == "no-cache");
            return read;
        };
        for Directive { name, value } in directives(field) {
            let value = value.as_deref();
            match name.as_str() {
                "max-age" => read.max_age = smaller(read.max_age, value),
                "min-fresh" => read.min_fresh = value.and_then(seconds).max(read.min_fresh),
                "max-stale" if value.is_none() => read.max_stale = Some(SECONDS_MAX),
                "max-stale" => read.max_stale = value.and_then(seconds),
                "no-cache" => read.no_cache = true,
                "no-store" => read.no_store = true,
                "only-if-cached" => read.only_if_cached = true,
                _ => {}
            }
        }
        read
    }

    /// Whether any fresh response will do, so that what another request fetches may.
    pub(crate) fn takes_what_is_fresh(&self) -> bool {
        let picky = self.max_age.is_some() || self.min_fresh.is_some();
        !self.no_cache && !self.no_store && !picky
    }

    /// Whether it says nothing, so that a fresh response may be used as it is.
    pub(crate) fn is_silent(&self) -> bool {
        *self == Self::default()
    }
}

/// A value of a structured field, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    Integer(u64),
    True,
    Other,
}

/// A member of a dictionary: `key`, `key=value`, each with parameters.
fn dictionary_member(member: &[u8]) -> Option<(&str, Item)> {
    let text = std::str::from_utf8(member).ok()?;
    let starts = |c: char| c.is_ascii_lowercase() || c == '*';
    let goes_on = |c: char| starts(c) || c.is_ascii_digit() || "_-.".contains(c);
    let end = text.find(|c| !goes_on(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if !name.starts_with(starts) {
        return None;
    }
    let (item, rest) = match rest.strip_prefix('=') {
        None => (Item::True, rest),
        Some(value) => item(value)?,
    };
    (rest.is_empty() || rest.starts_with(';')).then_some((name, item))
}

fn item(value: &str) -> Option<(Item, &str)> {
    let end = value.find([';', ' ']).unwrap_or(value.len());
    match value.chars().next()? {
        '"' => {
            let mut escaped = false;
            let end = value[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            Some((Item::Other, &value[end + 2..]))
        }
        '?' if value.starts_with("?1") => Some((Item::True, &value[2..])),
        '?' if value.starts_with("?0") => Some((Item::Other, &value[2..])),
        c if c.is_ascii_digit() => {
            let (number, rest) = value.split_at(end);
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            match (digits, number.split_once('.')) {
                // RFC 8941 §3.3.1: 15 digits at most.
                (true, _) if number.len() <= 15 => {
                    Some((Item::Integer(number.parse().ok()?), rest))
                }
                (false, Some((whole, part))) => {
                    let good = |text: &str| {
                        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
                    };
                    (good(whole) && good(part)).then_some((Item::Other, rest))
                }
                _ => None,
            }
        }
        '-' => {
            let digits = &value[1..end];
            let good = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            good.then_some((Item::Other, &value[end..]))
        }
        c if c.is_ascii_alphabetic() || c == '*' || c == ':' || c == '(' => {
            Some((Item::Other, &value[end..]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn max_age(field: &str) -> Option<u64> {
        ResponseDirectives::read(field.as_bytes()).max_age
    }

    #[test]
    fn seconds_are_digits_and_have_an_end() {
        assert_eq!(max_age("max-age=3600"), Some(3600));
        assert_eq!(max_age("MaX-aGe=003600"), Some(3600));
        assert_eq!(max_age("max-age=\"3600\""), Some(3600));
        for large in ["2147483648", "2147483649", "99999999999", "99999999999999999999999"] {
            assert_eq!(max_age(&format!("max-age={large}")), Some(SECONDS_MAX));
        }
        for bad in ["-1", "'3600'", "3600a", "a3600", "3600.0", "", " 3600", "+1"] {
            assert_eq!(max_age(&format!("max-age={bad}")), Some(0), "{bad}");
        }
        assert_eq!(max_age("max-age =3600"), None);
        assert_eq!(max_age("max-age=1800, max-age=1"), Some(1));
        assert_eq!(max_age("max-age"), Some(0));
    }

    /// What stands in a quoted string is no directive.
    #[test]
    fn quoted_strings_hide_what_is_in_them() {
        assert_eq!(max_age("extension=\"max-age=3600\", max-age=1"), Some(1));
        assert_eq!(max_age("max-age=1, extension=\"a, max-age=3600\""), Some(1));
        assert_eq!(max_age("x=\"a\\\", max-age=3600\", max-age=2"), Some(2));
        let read = ResponseDirectives::read(b"foo=\"no-store\", bar=\"private");
        assert_eq!(read, ResponseDirectives::default());
    }

    #[test]
    fn directives_with_names_are_about_these_fields() {
        let read = ResponseDirectives::read(b"no-cache=\"a, b\", private=\"C\", max-age=1");

        assert_eq!(read.fields, ["a", "b", "C"]);
        assert!(!read.no_cache && !read.private);
        let read = ResponseDirectives::read(b"No-CaChE, private=\"\", NO-STORE");
        assert!(read.no_cache && read.private && read.no_store);
    }

    #[test]
    fn requests_are_read_with_pragma_in_the_place_of_what_is_missing() {
        let read = |cc: &str| RequestDirectives::read(Some(cc.as_bytes()), Some(b"no-cache"));
        assert!(RequestDirectives::read(None, Some(b"no-cache")).no_cache);
        assert!(RequestDirectives::read(None, Some(b"foo")).is_silent());
        assert!(read("nothing-to-see-here").is_silent());
        assert_eq!(read("max-stale").max_stale, Some(SECONDS_MAX));
        assert_eq!(read("max-stale=5").max_stale, Some(5));
        assert_eq!(read("max-age=x").max_age, Some(0));
        assert_eq!(read("min-fresh=7").min_fresh, Some(7));
        assert!(read("only-if-cached, no-store, no-cache").only_if_cached);
    }

    #[test]
    fn what_surrogates_are_told_is_for_all_or_for_one_of_them() {
        let read = |field: &str| ResponseDirectives::read_surrogate(field.as_bytes());
        assert_eq!(read("foobar, MaX-aGe=3600").unwrap().max_age, Some(3600));
        let extended = read("content=\"ESI/1.0\", max-age=3600+600").unwrap();
        assert_eq!((extended.max_age, extended.stale_while_revalidate), (Some(3600), Some(600)));
        assert_eq!(read("max-age=10;other, max-age=20").unwrap().max_age, Some(20));
        assert!(read("no-store").unwrap().no_store);
        for nothing in
            ["", "max-age=3600;other", "no-store;other", "content=\"ESI/1.0\"", "private"]
        {
            assert_eq!(read(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_targeted_field_is_a_dictionary_or_nothing() {
        let read = |field: &str| ResponseDirectives::read_targeted(field.as_bytes());
        assert_eq!(read("max-age=100").unwrap().max_age, Some(100));
        assert_eq!(read("foobar, max-age=3600;x=1").unwrap().max_age, Some(3600));
        assert_eq!(read("max-age=99999999999").unwrap().max_age, Some(SECONDS_MAX));
        assert!(read("no-store").unwrap().no_store);
        assert!(read("private, x=?0, y=\"a\", z=tok, d=1.5, n=-1").unwrap().private);
        for bad in [
            "",
            "max-age=100, &&&&&",
            "max-age=\"100\"",
            "max-age =100",
            "max-age= 100",
            "MaX-aGe=100",
            "max-age=1000000000000000",
            "x=\"a",
            "max-age=1.",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
