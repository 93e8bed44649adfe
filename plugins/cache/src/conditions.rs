//! Conditions and ranges of requests, held against what is stored (RFC 9110 §13, §14).

use crate::date;
use crate::directives::members;
use crate::note::{Kept, Reader, put};

/// What a client wants to know of what it has, and which part it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) none_match: Option<Vec<u8>>,
    pub(crate) modified_since: Option<Vec<u8>>,
    pub(crate) range: Option<Vec<u8>>,
    pub(crate) if_range: Option<Vec<u8>>,
}

/// What of a stored response a client is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    All,
    /// A 304: it has it.
    NotModified,
    /// These bytes.
    Part(u64, u64),
    /// A 416: bytes that there are not.
    Unsatisfiable,
}

impl Conditions {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for value in [&self.none_match, &self.modified_since, &self.range, &self.if_range] {
            out.push(u8::from(value.is_some()));
            put(out, value.as_deref().unwrap_or_default());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut next = || {
            let is_there = reader.byte()? == 1;
            let value = reader.bytes()?;
            Some(is_there.then(|| value.to_vec()))
        };
        Some(Self {
            none_match: next()?,
            modified_since: next()?,
            range: next()?,
            if_range: next()?,
        })
    }

    /// What of a stored 200 with so long a body is wanted; the length is none while that is not known.
    pub(crate) fn judge(&self, kept: &Kept, length: Option<u64>, is_get: bool, now: u64) -> Wanted {
        // RFC 9110 §13.2.2: the first that is there decides.
        let has_it = match (&self.none_match, &self.modified_since) {
            (Some(tags), _) => matches(tags, &kept.etag),
            (None, Some(since)) => date::parse(since, now).is_some_and(|it| kept.modified <= it),
            (None, None) => false,
        };
        if has_it {
            return Wanted::NotModified;
        }
        // RFC 9110 §14.2: ranges are for GET.
        let (Some(range), Some(length), true) = (&self.range, length, is_get) else {
            return Wanted::All;
        };
        match &self.if_range {
            Some(validator) if !is_same(validator, kept) => Wanted::All,
            _ => part(range, length),
        }
    }
}

/// Whether one of these tags is the stored one, weakly compared (RFC 9110 §8.8.3.2).
fn matches(tags: &[u8], etag: &[u8]) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let mut tags = members(tags);
    tags.any(|tag| tag == b"*" || (!etag.is_empty() && opaque(tag) == opaque(etag)))
}

/// Whether `If-Range` names exactly what is stored (RFC 9110 §13.1.5): a weak tag never does.
fn is_same(validator: &[u8], kept: &Kept) -> bool {
    match validator.starts_with(b"\"") || validator.starts_with(b"W/") {
        true => !validator.starts_with(b"W/") && validator == kept.etag,
        false => !kept.last_modified.is_empty() && validator == kept.last_modified,
    }
}

/// The one range that is asked for. Several are answered with everything, which is always right.
fn part(range: &[u8], length: u64) -> Wanted {
    let digits = |text: &[u8]| -> Option<Option<u64>> {
        if text.is_empty() {
            return Some(None);
        }
        if !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(Some(std::str::from_utf8(text).ok()?.parse().unwrap_or(u64::MAX)))
    };
    let read = || {
        let unit = range.get(..6)?;
        if !unit.eq_ignore_ascii_case(b"bytes=") {
            return None;
        }
        let set = range[6..].trim_ascii();
        let dash = set.iter().position(|byte| *byte == b'-')?;
        Some((digits(&set[..dash])?, digits(&set[dash + 1..])?))
    };
    match read() {
        Some((Some(first), last)) => {
            let last = last.unwrap_or(u64::MAX);
            match first <= last {
                false => Wanted::All,
                true if first >= length => Wanted::Unsatisfiable,
                true => Wanted::Part(first, last.min(length - 1)),
            }
        }
        Some((None, Some(0))) => Wanted::Unsatisfiable,
        Some((None, Some(_))) if length == 0 => Wanted::Unsatisfiable,
        Some((None, Some(suffix))) => Wanted::Part(length.saturating_sub(suffix), length - 1),
        Some((None, None)) | None => Wanted::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn kept(etag: &str) -> Kept {
        Kept {
            etag: etag.into(),
            modified: 784_111_777,
            last_modified: DATE.into(),
            ..Kept::default()
        }
    }

    fn judge(etag: &str, fields: &[(&str, &str)]) -> Wanted {
        let get = |name: &str| {
            fields
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.as_bytes().to_vec())
        };
        let conditions = Conditions {
            none_match: get("inm"),
            modified_since: get("ims"),
            range: get("range"),
            if_range: get("if-range"),
        };
        let mut written = Vec::new();
        conditions.write(&mut written);
        assert_eq!(Conditions::read(&mut Reader(&written)).as_ref(), Some(&conditions));
        conditions.judge(&kept(etag), Some(10), true, 784_111_777)
    }

    #[test]
    fn tags_come_before_dates_and_are_compared_weakly() {
        let inm = |value| [("inm", value)];
        assert_eq!(judge("\"a\"", &inm("\"a\"")), Wanted::NotModified);
        assert_eq!(judge("W/\"a\"", &inm("\"x\", \"a\"")), Wanted::NotModified);
        assert_eq!(judge("\"a\"", &inm("W/\"a\", \"x\"")), Wanted::NotModified);
        assert_eq!(judge("\"a,b\"", &inm("\"a,b\"")), Wanted::NotModified);
        assert_eq!(judge("", &inm("*")), Wanted::NotModified);
        assert_eq!(judge("\"a\"", &inm("\"b\"")), Wanted::All);
        assert_eq!(judge("", &inm("\"b\"")), Wanted::All);
        assert_eq!(judge("\"a\"", &[("inm", "\"b\""), ("ims", DATE)]), Wanted::All);
    }

    #[test]
    fn dates_are_compared_as_dates() {
        assert_eq!(judge("", &[("ims", DATE)]), Wanted::NotModified);
        assert_eq!(judge("", &[("ims", "Sunday, 06-Nov-94 08:49:37 GMT")]), Wanted::NotModified);
        assert_eq!(judge("", &[("ims", "Sun, 06 Nov 1994 08:49:36 GMT")]), Wanted::All);
        assert_eq!(judge("", &[("ims", "yesterday")]), Wanted::All);
    }

    #[test]
    fn one_range_is_a_part_and_many_are_everything() {
        let range = |value| judge("\"a\"", &[("range", value)]);
        assert_eq!(range("bytes=0-1"), Wanted::Part(0, 1));
        assert_eq!(range("Bytes=1-"), Wanted::Part(1, 9));
        assert_eq!(range("bytes=-3"), Wanted::Part(7, 9));
        assert_eq!(range("bytes=-30"), Wanted::Part(0, 9));
        assert_eq!(range("bytes=9-99999999999999999999999"), Wanted::Part(9, 9));
        assert_eq!(range("bytes=10-"), Wanted::Unsatisfiable);
        assert_eq!(range("bytes=-0"), Wanted::Unsatisfiable);
        for other in
            ["bytes=0-1,3-4", "lines=0-1", "bytes=3-2", "bytes=", "bytes=-", "bytes=a-b", "b"]
        {
            assert_eq!(range(other), Wanted::All, "{other}");
        }
    }

    #[test]
    fn a_part_of_something_else_is_no_use() {
        let if_range = |value| judge("\"a\"", &[("range", "bytes=0-1"), ("if-range", value)]);
        assert_eq!(if_range("\"a\""), Wanted::Part(0, 1));
        assert_eq!(if_range(DATE), Wanted::Part(0, 1));
        for other in ["\"b\"", "W/\"a\"", "Sun, 06 Nov 1994 08:49:38 GMT"] {
            assert_eq!(if_range(other), Wanted::All, "{other}");
        }
    }
}
