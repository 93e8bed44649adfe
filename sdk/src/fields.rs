//! What requests and responses have in common: fields handed over with the call, and all fields
//! in one buffer.

use std::borrow::Cow;
use std::rc::Rc;

/// The values that the host handed over with a call, by declared name.
#[derive(Debug, Default)]
pub(crate) struct Pushed {
    names: Rc<[String]>,
    values: Vec<Option<Vec<u8>>>,
    /// Names that an edit has touched since: the host knows better.
    stale: Vec<String>,
}

/// What a look-up among the pushed values found.
pub(crate) enum Known<'a> {
    /// It was handed over: this is it.
    Value(Option<&'a [u8]>),
    /// Not declared, or edited since: ask the host.
    Ask,
}

impl Pushed {
    pub(crate) fn new(names: Rc<[String]>, values: Vec<Option<Vec<u8>>>) -> Self {
        Self { names, values, stale: Vec::new() }
    }

    pub(crate) fn find(&self, name: &str) -> Known<'_> {
        let declared = self.names.iter().position(|n| n.eq_ignore_ascii_case(name));
        if self.stale.iter().any(|n| n.eq_ignore_ascii_case(name)) {
            return Known::Ask;
        }
        // A host that hands over fewer values than were asked for is asked again.
        match declared.and_then(|index| self.values.get(index)) {
            Some(value) => Known::Value(value.as_deref()),
            None => Known::Ask,
        }
    }

    /// Notes that `name` has been edited.
    pub(crate) fn forget(&mut self, name: &str) {
        if let Some(declared) = self.names.iter().find(|n| n.eq_ignore_ascii_case(name)) {
            self.stale.push(declared.clone());
        }
    }
}

/// Text for people: bytes that are not UTF-8 become U+FFFD, so that a field that is there never
/// looks absent.
pub(crate) fn text(value: Cow<'_, [u8]>) -> Cow<'_, str> {
    match value {
        // Asked first, since what is lossy goes byte by byte.
        Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(bytes),
        },
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Cow::Owned(text),
            Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        },
    }
}

/// All fields of a message, in the order received. [`Fields::iter`] reads them.
#[derive(Debug)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub(crate) fn new(packed: Vec<u8>) -> Self {
        Self(packed)
    }

    /// Name and value of each field, names as received.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (name, value, behind) = split_field(rest)?;
            rest = behind;
            Some((name, value))
        })
    }
}

/// The first of `(u16le name length, u16le value length, name, value)*`; none at the end, and none
/// for a buffer that is cut short.
fn split_field(packed: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (lengths, rest) = packed.split_first_chunk::<4>()?;
    let name_length = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
    let value_length = usize::from(u16::from_le_bytes([lengths[2], lengths[3]]));
    let (name, rest) = rest.split_at_checked(name_length)?;
    let (value, rest) = rest.split_at_checked(value_length)?;
    // A name is a token (RFC 9110 §5.6.2), so always ASCII.
    Some((std::str::from_utf8(name).ok()?, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_buffer_that_is_cut_short_ends_the_iteration() {
        let packed = b"\x04\x00\x03\x00hostabc\x01\x00\x09\x00xab".to_vec();

        let fields = Fields::new(packed);

        assert_eq!(fields.iter().collect::<Vec<_>>(), [("host", b"abc".as_slice())]);
    }

    #[test]
    fn an_edited_field_is_asked_for_again() {
        let names: Rc<[String]> = ["host".to_owned(), ":path".to_owned()].into();
        let mut pushed = Pushed::new(names, vec![Some(b"a".to_vec()), None]);
        assert!(matches!(pushed.find("Host"), Known::Value(Some(b"a"))));
        assert!(matches!(pushed.find(":path"), Known::Value(None)));
        assert!(matches!(pushed.find("accept"), Known::Ask));

        pushed.forget("HOST");

        assert!(matches!(pushed.find("host"), Known::Ask));
        assert!(matches!(pushed.find(":path"), Known::Value(None)));
    }
}
