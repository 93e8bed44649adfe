//! What a request has to do with the cache, kept from `on-request` for `on-response`.

use crate::conditions::Conditions;
use crate::note::{Reader, Vary, put};
use zproxy_sdk::Request;

/// The note of an exchange under which a plan is kept.
pub(crate) const NOTE: &str = "zproxy-cache";

/// Why a request goes upstream: a `fwd` of RFC 9211 §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    /// The operator wants it.
    Bypass,
    /// It is no GET or HEAD.
    Method,
    /// Nothing is stored for its URL,
    UriMiss,
    /// or for its other fields.
    VaryMiss,
    /// What is stored is no longer fresh.
    Stale,
    /// The client wants no stored response.
    Request,
}

impl Forward {
    const ALL: [Self; 6] =
        [Self::Bypass, Self::Method, Self::UriMiss, Self::VaryMiss, Self::Stale, Self::Request];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}

/// What a request has to do with the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) forward: Forward,
    /// The method can change what is stored (RFC 9110 §9.2.1).
    pub(crate) is_unsafe: bool,
    pub(crate) is_get: bool,
    pub(crate) is_post: bool,
    /// The response may be stored, as far as the request goes.
    pub(crate) may_store: bool,
    pub(crate) authenticated: bool,
    pub(crate) cookie: bool,
    /// Something is stored under `key`,
    pub(crate) stored: bool,
    /// and the request asks whether it is still good.
    pub(crate) validating: bool,
    /// When it was sent, in milliseconds since 1970.
    pub(crate) sent_ms: u64,
    /// The key of its URL.
    pub(crate) primary: Vec<u8>,
    /// The key of what is stored, or would be.
    pub(crate) key: Vec<u8>,
    pub(crate) vary: Option<Vary>,
    /// Scheme, authority and target, where other URLs may have to be found from them.
    pub(crate) url: [String; 3],
    /// The client's, as it has sent them.
    pub(crate) conditions: Conditions,
    /// The request's fields, as they came.
    pub(crate) seen: Seen,
}

/// Fields that are remembered: a quarter of what a note may hold.
const SEEN_MAX: usize = 1024;

/// Digests of a request's fields: name and value of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen(Vec<(u64, u64)>);

impl Seen {
    pub(crate) fn of(request: &Request) -> Self {
        let fields = request.headers();
        let mut names: Vec<String> =
            fields.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        // A response that varies by one of the others is not stored.
        names.truncate(SEEN_MAX);
        Self(
            names
                .iter()
                .map(|name| (digest(name.as_bytes()), Self::value(name, request)))
                .collect(),
        )
    }

    fn value(name: &str, request: &Request) -> u64 {
        digest(&request.header_bytes(name).unwrap_or_default())
    }

    /// Whether these fields have the values in `request` that they had then.
    pub(crate) fn agrees(&self, names: &[String], request: &Request) -> bool {
        names.iter().all(|name| {
            let of = digest(name.as_bytes());
            let then = self.0.iter().find(|(known, _)| *known == of).map(|(_, value)| *value);
            let now = request.header_bytes(name).map(|value| digest(&value));
            then == now
        })
    }
}

fn digest(bytes: &[u8]) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

impl Plan {
    pub(crate) fn new(forward: Forward, primary: Vec<u8>) -> Self {
        Self {
            forward,
            is_unsafe: false,
            is_get: false,
            is_post: false,
            may_store: false,
            authenticated: false,
            cookie: false,
            stored: false,
            validating: false,
            sent_ms: 0,
            key: primary.clone(),
            primary,
            vary: None,
            url: Default::default(),
            conditions: Conditions::default(),
            seen: Seen::default(),
        }
    }

    fn flags(&mut self) -> [&mut bool; 8] {
        [
            &mut self.is_unsafe,
            &mut self.is_get,
            &mut self.is_post,
            &mut self.may_store,
            &mut self.authenticated,
            &mut self.cookie,
            &mut self.stored,
            &mut self.validating,
        ]
    }

    pub(crate) fn write(mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.primary.len() + self.key.len() + 64);
        let forward = Forward::ALL.iter().position(|forward| *forward == self.forward);
        out.push(forward.and_then(|forward| u8::try_from(forward).ok()).unwrap_or(0));
        out.extend(self.flags().map(|flag| u8::from(*flag)));
        out.extend_from_slice(&self.sent_ms.to_le_bytes());
        put(&mut out, &self.primary);
        put(&mut out, &self.key);
        match &self.vary {
            None => put(&mut out, b""),
            Some(vary) => put(&mut out, &crate::note::Note::Vary(vary.clone()).write()),
        }
        self.url.iter().for_each(|part| put(&mut out, part.as_bytes()));
        self.conditions.write(&mut out);
        let seen: Vec<u8> = self
            .seen
            .0
            .iter()
            .flat_map(|(name, value)| [*name, *value])
            .flat_map(u64::to_le_bytes)
            .collect();
        put(&mut out, &seen);
        out
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let forward = *Forward::ALL.get(usize::from(reader.byte()?))?;
        let mut plan = Self::new(forward, Vec::new());
        for flag in plan.flags() {
            *flag = reader.byte()? != 0;
        }
        plan.sent_ms = reader.number()?;
        plan.primary = reader.bytes()?.to_vec();
        plan.key = reader.bytes()?.to_vec();
        plan.vary = match crate::note::Note::read(reader.bytes()?) {
            Some(crate::note::Note::Vary(vary)) => Some(vary),
            _ => None,
        };
        for part in &mut plan.url {
            *part = String::from_utf8_lossy(reader.bytes()?).into_owned();
        }
        plan.conditions = Conditions::read(&mut reader)?;
        let mut seen = Reader(reader.bytes()?);
        while let (Some(name), Some(value)) = (seen.number(), seen.number()) {
            plan.seen.0.push((name, value));
        }
        Some(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut plan = Plan::new(Forward::Stale, b"http://h/\n".to_vec());
        (plan.is_get, plan.validating, plan.sent_ms) = (true, true, 5);
        plan.key = b"k".to_vec();
        plan.vary = Some(Vary { id: [3; 8], names: vec!["a".to_owned()] });
        plan.url[1] = "h".to_owned();
        plan.conditions.range = Some(b"bytes=0-1".to_vec());
        plan.seen.0.push((1, 2));

        assert_eq!(Plan::read(&plan.clone().write()), Some(plan));
        assert_eq!(Plan::read(b"x"), None);
    }
}
