//! What is remembered of a stored response, so that serving it asks the host for nothing else; and what
//! stands under a key instead of a response.

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// A response.
    Response(Kept),
    /// Responses differ by these fields of requests, and are under keys of their own.
    Vary(Vary),
    /// What comes from there is not stored, so that nobody needs to wait for anybody.
    Pass,
}

/// How responses of one URL are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vary {
    /// Part of the keys: responses from before an invalidation are not found again.
    pub(crate) id: [u8; 8],
    /// In lower case, sorted.
    pub(crate) names: Vec<String>,
}

/// What is remembered of a response. Times are seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// How long it is fresh, from its birth on.
    pub(crate) lifetime: u64,
    /// How old it was when it was stored.
    pub(crate) age: u64,
    /// For how long it may be served stale while another one is fetched,
    pub(crate) while_revalidate: u64,
    /// or when there is no other.
    pub(crate) if_error: u64,
    /// Each use has to be validated first.
    pub(crate) no_cache: bool,
    /// Stale, it must not be used without.
    pub(crate) must_revalidate: bool,
    /// It has a `Cache-Status` of an upstream.
    pub(crate) has_status: bool,
    /// `ETag`; empty when it has none.
    pub(crate) etag: Vec<u8>,
    /// `Last-Modified`, else when it was made.
    pub(crate) modified: u64,
    /// `Last-Modified`, as it was written; empty when it has none.
    pub(crate) last_modified: Vec<u8>,
}

const RESPONSE: u8 = b'R';
const VARY: u8 = b'V';
const PASS: u8 = b'P';

const NO_CACHE: u8 = 1;
const MUST_REVALIDATE: u8 = 2;
const HAS_STATUS: u8 = 4;

/// Bytes, read from the front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (bytes, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        self.0 = rest;
        Some(bytes)
    }
}

/// Appends bytes with their length; more than 64 KiB are cut, which nothing here has.
pub(crate) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&bytes[..length.into()]);
}

impl Note {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        match self {
            Self::Pass => out.push(PASS),
            Self::Vary(Vary { id, names }) => {
                out.push(VARY);
                out.extend_from_slice(id);
                names.iter().for_each(|name| put(&mut out, name.as_bytes()));
            }
            Self::Response(kept) => {
                out.push(RESPONSE);
                let flag = |is: bool, flag: u8| if is { flag } else { 0 };
                out.push(
                    flag(kept.no_cache, NO_CACHE)
                        | flag(kept.must_revalidate, MUST_REVALIDATE)
                        | flag(kept.has_status, HAS_STATUS),
                );
                for number in
                    [kept.lifetime, kept.age, kept.while_revalidate, kept.if_error, kept.modified]
                {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                put(&mut out, &kept.etag);
                put(&mut out, &kept.last_modified);
            }
        }
        out
    }

    /// None for what this version has not written.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        match reader.byte()? {
            PASS => Some(Self::Pass),
            VARY => {
                let (id, rest) = reader.0.split_first_chunk::<8>()?;
                let mut names = Vec::new();
                let mut reader = Reader(rest);
                while let Some(name) = reader.bytes() {
                    names.push(String::from_utf8_lossy(name).into_owned());
                }
                Some(Self::Vary(Vary { id: *id, names }))
            }
            RESPONSE => {
                let flags = reader.byte()?;
                Some(Self::Response(Kept {
                    no_cache: flags & NO_CACHE != 0,
                    must_revalidate: flags & MUST_REVALIDATE != 0,
                    has_status: flags & HAS_STATUS != 0,
                    lifetime: reader.number()?,
                    age: reader.number()?,
                    while_revalidate: reader.number()?,
                    if_error: reader.number()?,
                    modified: reader.number()?,
                    etag: reader.bytes()?.to_vec(),
                    last_modified: reader.bytes()?.to_vec(),
                }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let kept = Kept {
            lifetime: 60,
            age: 1,
            while_revalidate: 2,
            if_error: 3,
            no_cache: true,
            must_revalidate: false,
            has_status: true,
            etag: b"\"e\"".to_vec(),
            modified: 5,
            last_modified: b"x".to_vec(),
        };
        let vary = Vary { id: [7; 8], names: vec!["accept".to_owned(), "x".to_owned()] };
        for note in [Note::Response(kept), Note::Vary(vary), Note::Pass] {
            let written = note.write();
            assert_eq!(Note::read(&written), Some(note));
        }
        assert_eq!(Note::read(b""), None);
        assert_eq!(Note::read(b"noted"), None);
        assert_eq!(Note::read(b"R\x00\x01"), None);
    }
}
