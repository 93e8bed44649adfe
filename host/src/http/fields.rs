//! Header fields: received bytes, an index over them, and edits.
//!
//! ```text
//! bytes  │ GET / HTTP/1.1␍␊ │ Host: a␍␊ │ Cookie: b␍␊ │ x-added: c␍␊ │
//! lines                      ▲ kept       ▲ removed      ▲ added later
//! ```
//!
//! A field is a whole line within `bytes`, CR LF included. Removing marks its line; adding appends
//! a line to `bytes`. What is left untouched goes out as the bytes that came in: neighbouring
//! lines as one run.
//!
//! Not here: start lines (`head`), and what makes a received line well-formed (`parse`).

use std::ops::Range;

/// Edits may add this much to a head. Far above any honest use, far below what hurts.
pub const EDIT_BYTES_MAX: usize = 64 * 1024;

/// A pooled head keeps its buffer for the next message up to this size.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Fields that the gateway itself reads; all others are `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// None of the below.
    Other,
    /// RFC 9110 §7.6.1.
    Connection,
    /// RFC 9110 §8.6.
    ContentLength,
    /// RFC 9110 §6.6.1.
    Date,
    /// RFC 9110 §10.1.1.
    Expect,
    /// RFC 7239.
    Forwarded,
    /// RFC 9110 §7.2.
    Host,
    /// RFC 7540 §3.2.1, obsolete, hop-by-hop.
    Http2Settings,
    /// RFC 2068 §19.7.1, hop-by-hop.
    KeepAlive,
    /// RFC 9110 §11.7.1, hop-by-hop in effect.
    ProxyAuthenticate,
    /// RFC 9110 §11.7.2, hop-by-hop in effect.
    ProxyAuthorization,
    /// Never standard, hop-by-hop.
    ProxyConnection,
    /// RFC 9110 §10.1.4, hop-by-hop.
    Te,
    /// W3C Trace Context.
    Traceparent,
    /// RFC 9110 §6.6.2.
    Trailer,
    /// RFC 9112 §6.1.
    TransferEncoding,
    /// RFC 9110 §7.8.
    Upgrade,
    /// RFC 9110 §7.6.3.
    Via,
    /// De facto standard.
    XForwardedFor,
    /// De facto standard.
    XForwardedHost,
    /// De facto standard.
    XForwardedProto,
    /// De facto standard.
    XRequestId,
}

impl Name {
    /// Classifies a field name, in any case.
    pub fn of(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let ends = ends(name);
        // The length decides among at most three candidates, so that most names cost one comparison.
        match name.len() {
            2 if ends == const { self::ends(b"te") } => Self::Te,
            3 if ends == const { self::ends(b"via") } => Self::Via,
            4 if ends == const { self::ends(b"host") } => Self::Host,
            4 if ends == const { self::ends(b"date") } => Self::Date,
            6 if ends == const { self::ends(b"expect") } => Self::Expect,
            7 if ends == const { self::ends(b"upgrade") } => Self::Upgrade,
            7 if ends == const { self::ends(b"trailer") } => Self::Trailer,
            9 if ends == const { self::ends(b"forwarded") } => Self::Forwarded,
            10 if ends == const { self::ends(b"connection") } => Self::Connection,
            10 if ends == const { self::ends(b"keep-alive") } => Self::KeepAlive,
            11 if ends == const { self::ends(b"traceparent") } => Self::Traceparent,
            12 if ends == const { self::ends(b"x-request-id") } => Self::XRequestId,
            14 if ends == const { self::ends(b"content-length") } => Self::ContentLength,
            14 if ends == const { self::ends(b"http2-settings") } => Self::Http2Settings,
            15 if ends == const { self::ends(b"x-forwarded-for") } => Self::XForwardedFor,
            16 if ends == const { self::ends(b"proxy-connection") } => Self::ProxyConnection,
            16 if ends == const { self::ends(b"x-forwarded-host") } => Self::XForwardedHost,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-forwarded-proto") => Self::XForwardedProto,
            18 if is("proxy-authenticate") => Self::ProxyAuthenticate,
            19 if is("proxy-authorization") => Self::ProxyAuthorization,
            _ => Self::Other,
        }
    }

    /// Its place in a set of names.
    pub(super) fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether the field belongs to the framing of a message or to one connection, and is thus the
    /// gateway's business and never a plugin's.
    pub fn is_framing(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::ContentLength
                | Self::Http2Settings
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }
}

/// The first and the last eight bytes of a name in lower case, which may overlap; all of one that is shorter.
/// Comparing these is a few instructions, where comparing texts of some length or other is a call.
const fn ends(name: &[u8]) -> [u64; 2] {
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        return [lower(u64::from_le_bytes(*first)), lower(u64::from_le_bytes(*last))];
    }
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return [lower(first as u64 | (last as u64) << 32), 0];
    }
    match *name {
        [a, b] => [lower(u64::from_le_bytes([a, b, 0, 0, 0, 0, 0, 0])), 0],
        [a, b, c] => [lower(u64::from_le_bytes([a, b, c, 0, 0, 0, 0, 0])), 0],
        _ => [0, 0],
    }
}

/// Eight bytes at a time: sets the bit 0x20 of those that are capital letters.
const fn lower(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let low = word & (ONES * 0x7f);
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let above_z = low + ONES * (0x7f - b'Z' as u64);
    let capitals = (from_a ^ above_z) & !word & (ONES * 0x80);
    word | (capitals >> 2)
}

/// Why an edit was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// RFC 9110 §5.6.2.
    #[error("a field name must be a token")]
    Name,
    /// RFC 9110 §5.5.
    #[error("a field value must not hold control characters")]
    Value,
    /// The framing of a message is not a plugin's business.
    #[error("a field that frames the message cannot be changed")]
    Framing,
    /// More than [`EDIT_BYTES_MAX`].
    #[error("edits exceed 64 KiB")]
    TooLarge,
    /// An answer's body is larger than it may be.
    #[error("the body exceeds 1 MiB")]
    Body,
    /// Not a request target in origin form.
    #[error("a path must begin with `/` and hold visible ASCII other than `#` only")]
    Path,
    /// Outside of 200 to 599.
    #[error("a status must be 200 to 599")]
    Status,
}

/// One field line within [`Fields::bytes`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) start: u32,
    pub(super) name_end: u32,
    pub(super) value_start: u32,
    pub(super) value_end: u32,
    /// After CR LF.
    pub(super) end: u32,
    pub(super) name: Name,
    pub(super) removed: bool,
}

/// The fields of a message head.
#[derive(Debug, Default)]
pub struct Fields {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: Vec<Line>,
    /// Known names that the message may have, one bit each: most are looked for and not there.
    pub(super) seen: u32,
    edited: usize,
    /// Indexes into `lines` of those removed since the message began, in that order.
    removals: Vec<u32>,
    /// How often `clear` was called: tells a mark on this message from one on another.
    message: u32,
}

/// A moment in the life of [`Fields`] that they can go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    bytes: usize,
    lines: usize,
    edited: usize,
    removals: usize,
    message: u32,
}

/// Whether `name` is a token (RFC 9110 §5.6.2).
pub fn is_token(name: &[u8]) -> bool {
    let known = |byte: &u8| TOKEN[usize::from(*byte)];
    !name.is_empty() && name.iter().map(known).fold(true, |good, known| good & known)
}

/// Whether `value` may stand in a field line: no control characters but HTAB (RFC 9110 §5.5).
pub fn is_value(value: &[u8]) -> bool {
    // No early exit, so that the compiler makes vector code of it.
    value.iter().fold(true, |good, byte| good & (*byte >= 0x20 || *byte == b'\t') & (*byte != 0x7f))
}

/// Whether a field is of the `X-Forwarded-*` family, also with the `_` that servers which hand
/// fields over as environment variables cannot tell from `-`.
pub fn is_forwarding(name: &[u8]) -> bool {
    let [b'x' | b'X', b'-' | b'_', rest @ ..] = name else { return false };
    rest.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"forwarded"))
}

/// RFC 9440 §4: only who has verified a certificate may say so. `_` is read as `-` by some servers.
pub fn is_client_certificate(name: &[u8]) -> bool {
    let fields: [&[u8]; 2] = [b"client-cert", b"client-cert-chain"];
    let same =
        |byte: &u8, of: &u8| byte.to_ascii_lowercase() == *of || (*byte == b'_' && *of == b'-');
    matches!(name, [b'c' | b'C', ..])
        && fields.iter().any(|field| {
            name.len() == field.len() && name.iter().zip(*field).all(|(byte, of)| same(byte, of))
        })
}

pub(super) const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "the table has 256 entries")]
        let this = byte as u8;
        table[byte] = matches!(this,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        byte += 1;
    }
    table
};

/// Narrows a position. Heads are limited to far less than 4 GiB where they are read and edited.
pub(super) fn at(position: usize) -> u32 {
    debug_assert!(u32::try_from(position).is_ok(), "heads are limited to far below 4 GiB");
    #[expect(clippy::cast_possible_truncation, reason = "checked above; limits keep heads small")]
    let position = position as u32;
    position
}

pub(super) fn range(start: u32, end: u32) -> Range<usize> {
    start as usize..end as usize
}

impl Fields {
    /// Forgets the message, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.lines.clear();
        self.seen = 0;
        self.edited = 0;
        self.removals.clear();
        self.message = self.message.wrapping_add(1);
    }

    /// Remembers this moment. Costs a few copies and no memory.
    pub fn mark(&self) -> Mark {
        Mark {
            bytes: self.bytes.len(),
            lines: self.lines.len(),
            edited: self.edited,
            removals: self.removals.len(),
            message: self.message,
        }
    }

    /// Undoes every edit since `mark`. False, and nothing is done, when the message of that mark
    /// is gone.
    pub fn roll_back(&mut self, mark: &Mark) -> bool {
        if mark.message != self.message {
            return false;
        }
        for line in self.removals.drain(mark.removals..) {
            self.lines[line as usize].removed = false;
        }
        self.lines.truncate(mark.lines);
        self.bytes.truncate(mark.bytes);
        self.edited = mark.edited;
        true
    }

    /// Fields in order: name as received, value without surrounding white space.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.kept().map(|line| (self.name_of(line), self.value_of(line)))
    }

    /// The value of the first field of this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The values of every field of this name, in order.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let known = Name::of(name.as_bytes());
        self.kept().filter_map(move |line| {
            let same = if known == Name::Other {
                line.name == Name::Other
                    && (line.name_end - line.start) as usize == name.len()
                    && self.name_of(line).eq_ignore_ascii_case(name.as_bytes())
            } else {
                line.name == known
            };
            same.then(|| self.value_of(line))
        })
    }

    /// The values of every field of a known name, in order.
    pub fn known(&self, name: Name) -> impl DoubleEndedIterator<Item = &[u8]> {
        debug_assert!(name != Name::Other, "`Other` is no name");
        let lines = if self.may_have(name) { &self.lines[..] } else { &[] };
        lines
            .iter()
            .filter(move |line| line.name == name && !line.removed)
            .map(|line| self.value_of(line))
    }

    /// Where the value of the first field of a known name is, removed or not.
    pub(super) fn first_at(&self, name: Name) -> Option<(u32, u32)> {
        let line = self.lines.iter().find(|line| line.name == name)?;
        Some((line.value_start, line.value_end))
    }

    /// All values of a name joined with `separator`; borrowed when there is only one.
    pub fn joined<'a>(
        &'a self,
        name: &str,
        separator: &[u8],
    ) -> Option<std::borrow::Cow<'a, [u8]>> {
        let mut values = self.all(name);
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(first.into()) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.extend_from_slice(separator);
            joined.extend_from_slice(value);
        }
        Some(joined.into())
    }

    /// Removes every field of this name, by what a plugin may touch.
    pub fn remove(&mut self, name: &str) -> Result<(), EditError> {
        check_name(name)?;
        self.drop_all(name);
        Ok(())
    }

    /// Replaces every field of this name by one, by what a plugin may touch.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), EditError> {
        check_name(name)?;
        self.check_edit(name, value)?;
        self.drop_all(name);
        self.push(name, value);
        Ok(())
    }

    /// Whether a plugin may add this field.
    pub fn check(name: &str, value: &[u8]) -> Result<(), EditError> {
        check_name(name)?;
        if is_value(value) { Ok(()) } else { Err(EditError::Value) }
    }

    /// Adds a field, by what a plugin may touch.
    pub fn append(&mut self, name: &str, value: &[u8]) -> Result<(), EditError> {
        check_name(name)?;
        self.check_edit(name, value)?;
        self.push(name, value);
        Ok(())
    }

    /// Adds a field of which [`check`](Self::check) has said that it is good.
    pub(crate) fn append_checked(&mut self, name: &str, value: &[u8]) -> Result<(), EditError> {
        self.spend(name.len() + value.len() + 4)?;
        self.push(name, value);
        Ok(())
    }

    /// Removes every field of a known name.
    pub fn remove_known(&mut self, name: Name) {
        if !self.may_have(name) {
            return;
        }
        for (index, line) in self.lines.iter_mut().enumerate() {
            if line.name == name && !line.removed {
                line.removed = true;
                self.removals.push(at(index));
            }
        }
    }

    /// Removes every field that `condemned` says yes to.
    pub fn remove_if(&mut self, condemned: impl Fn(&[u8], Name) -> bool) {
        for (index, line) in self.lines.iter_mut().enumerate() {
            let name = &self.bytes[range(line.start, line.name_end)];
            if !line.removed && condemned(name, line.name) {
                line.removed = true;
                self.removals.push(at(index));
            }
        }
    }

    /// Shows every field to `condemned`, once and in order, and removes those it says yes to. Cannot be
    /// undone.
    pub(crate) fn sift(&mut self, mut condemned: impl FnMut(Name, &[u8], &[u8]) -> bool) {
        let Self { bytes, lines, .. } = self;
        for line in lines.iter_mut().filter(|line| !line.removed) {
            let name = &bytes[range(line.start, line.name_end)];
            let value = &bytes[range(line.value_start, line.value_end)];
            line.removed = condemned(line.name, name, value);
        }
    }

    /// Removes every field whose name is a member of the list `list`, but for those that
    /// `protected` says yes to.
    ///
    /// Costs members times fields: the caller limits both. Cannot be undone.
    pub(crate) fn remove_listed(&mut self, list: Name, protected: impl Fn(Name) -> bool) {
        let Self { bytes, lines, .. } = self;
        for index in 0..lines.len() {
            let Line { name, value_start, value_end, removed, .. } = lines[index];
            if name != list || removed {
                continue;
            }
            for member in bytes[range(value_start, value_end)].split(|byte| *byte == b',') {
                let member = member.trim_ascii();
                for line in lines.iter_mut().filter(|line| !protected(line.name)) {
                    let name = &bytes[range(line.start, line.name_end)];
                    // The list itself stays until all of it has been read.
                    line.removed |= line.name != list && name.eq_ignore_ascii_case(member);
                }
            }
        }
    }

    /// Adds a field that the gateway made itself; name and value are known to be good.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        debug_assert!(is_value(value), "checked by the caller");
        self.bytes.reserve(name.len() + value.len() + 4);
        let line = self.open_line(name);
        self.bytes.extend_from_slice(value);
        self.close_line(line);
    }

    /// Adds a field with the value of the first field `of`, if there is one.
    pub fn push_copy(&mut self, name: &str, of: Name) {
        let source = self.kept().find(|line| line.name == of).copied();
        if let Some(source) = source {
            let line = self.open_line(name);
            self.bytes.extend_from_within(range(source.value_start, source.value_end));
            self.close_line(line);
        }
    }

    /// Adds `member` to the end of the list in the fields of a known name; they become one field.
    /// Cannot be undone.
    pub(crate) fn extend_list(&mut self, name: &str, member: &[u8]) {
        debug_assert!(is_value(member), "checked by the caller");
        let line = self.open_line(name);
        debug_assert!(line.name != Name::Other, "`Other` is no name");
        if self.may_have(line.name) {
            for old in self.lines.iter_mut().filter(|old| !old.removed && old.name == line.name) {
                old.removed = true;
                let value = range(old.value_start, old.value_end);
                if !value.is_empty() {
                    self.bytes.extend_from_within(value);
                    self.bytes.extend_from_slice(b", ");
                }
            }
        }
        self.bytes.extend_from_slice(member);
        self.close_line(line);
    }

    /// Begins a line; its value is appended to `bytes` by the caller.
    fn open_line(&mut self, name: &str) -> Line {
        debug_assert!(is_token(name.as_bytes()), "checked by the caller");
        let start = at(self.bytes.len());
        self.bytes.extend_from_slice(name.as_bytes());
        let name_end = at(self.bytes.len());
        self.bytes.extend_from_slice(b": ");
        let value_start = at(self.bytes.len());
        let name = Name::of(name.as_bytes());
        Line { start, name_end, value_start, value_end: 0, end: 0, name, removed: false }
    }

    fn close_line(&mut self, mut line: Line) {
        line.value_end = at(self.bytes.len());
        self.bytes.extend_from_slice(b"\r\n");
        line.end = at(self.bytes.len());
        self.seen |= line.name.bit();
        self.lines.push(line);
    }

    /// False when no field of this known name has ever been in the message.
    fn may_have(&self, name: Name) -> bool {
        self.seen & name.bit() != 0
    }

    /// Whether some field of this known name is there.
    pub fn has(&self, name: Name) -> bool {
        self.may_have(name) && self.kept().any(|line| line.name == name)
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.kept().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept().next().is_none()
    }

    /// Writes all field lines; neighbours that nobody touched as one run.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut run = 0..0;
        for line in self.kept() {
            let line = range(line.start, line.end);
            if line.start == run.end {
                run.end = line.end;
            } else {
                out.extend_from_slice(&self.bytes[run]);
                run = line;
            }
        }
        out.extend_from_slice(&self.bytes[run]);
    }

    /// Bytes that [`write`](Self::write) would add.
    pub fn written_len(&self) -> usize {
        self.kept().map(|line| (line.end - line.start) as usize).sum()
    }

    pub(super) fn kept(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.removed)
    }

    fn name_of(&self, line: &Line) -> &[u8] {
        &self.bytes[range(line.start, line.name_end)]
    }

    fn value_of(&self, line: &Line) -> &[u8] {
        &self.bytes[range(line.value_start, line.value_end)]
    }

    fn drop_all(&mut self, name: &str) {
        self.remove_if(|other, _| other.eq_ignore_ascii_case(name.as_bytes()));
    }

    fn check_edit(&mut self, name: &str, value: &[u8]) -> Result<(), EditError> {
        if !is_value(value) {
            return Err(EditError::Value);
        }
        self.spend(name.len() + value.len() + 4)
    }

    /// Takes `bytes` off what edits may still add.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), EditError> {
        self.edited = self.edited.saturating_add(bytes);
        if self.edited > EDIT_BYTES_MAX { Err(EditError::TooLarge) } else { Ok(()) }
    }
}

fn check_name(name: &str) -> Result<(), EditError> {
    if !is_token(name.as_bytes()) {
        return Err(EditError::Name);
    }
    if Name::of(name.as_bytes()).is_framing() { Err(EditError::Framing) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.push(name, value.as_bytes());
        }
        fields
    }

    fn written(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write(&mut out);
        assert_eq!(out.len(), fields.written_len());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn untouched_fields_are_written_as_they_came() {
        let fields = fields(&[("Host", "a"), ("X-Y", "b")]);

        assert_eq!(written(&fields), "Host: a\r\nX-Y: b\r\n");
    }

    #[test]
    fn a_known_name_is_known_in_any_case_and_nothing_else_is() {
        let known = [
            "te",
            "via",
            "host",
            "date",
            "expect",
            "upgrade",
            "trailer",
            "forwarded",
            "connection",
            "keep-alive",
            "traceparent",
            "x-request-id",
            "content-length",
            "http2-settings",
            "x-forwarded-for",
            "proxy-connection",
            "x-forwarded-host",
            "transfer-encoding",
            "x-forwarded-proto",
            "proxy-authenticate",
            "proxy-authorization",
        ];
        let mut seen = 0;
        for name in known {
            let of = Name::of(name.as_bytes());
            assert_ne!(of, Name::Other, "{name}");
            seen |= of.bit();
            for place in 0..name.len() {
                for other in 0..=u8::MAX {
                    let mut bytes = name.as_bytes().to_vec();
                    bytes[place] = other;
                    let same = bytes.eq_ignore_ascii_case(name.as_bytes());
                    assert_eq!(Name::of(&bytes) == of, same, "{bytes:?}");
                }
            }
            assert_eq!(Name::of(name.to_uppercase().as_bytes()), of);
        }
        assert_eq!(seen.count_ones() as usize, known.len());
        assert_eq!(Name::of(b""), Name::Other);
    }

    #[test]
    fn set_replaces_every_field_of_the_name_in_any_case() {
        let mut fields = fields(&[("X-Y", "1"), ("Accept", "*/*"), ("x-y", "2")]);

        fields.set("X-y", b"3").unwrap();

        assert_eq!(written(&fields), "Accept: */*\r\nX-y: 3\r\n");
        assert_eq!(fields.get("x-Y"), Some(b"3".as_slice()));
    }

    #[test]
    fn repeated_fields_are_joined_in_order() {
        let fields = fields(&[("a", "1"), ("b", "x"), ("A", "2")]);

        assert_eq!(fields.joined("a", b", ").unwrap().as_ref(), b"1, 2");
        assert_eq!(fields.joined("c", b", "), None);
    }

    #[test]
    fn a_list_is_extended_into_one_field() {
        let mut fields = fields(&[("x-forwarded-for", "1"), ("a", "b"), ("X-Forwarded-For", "2")]);

        fields.extend_list("X-Forwarded-For", b"3");
        fields.extend_list("Via", b"1.1 a");

        assert_eq!(written(&fields), "a: b\r\nX-Forwarded-For: 1, 2, 3\r\nVia: 1.1 a\r\n");
    }

    #[test]
    fn a_value_is_copied_to_another_name() {
        let mut fields = fields(&[("Host", "a")]);

        fields.push_copy("X-Forwarded-Host", Name::Host);
        fields.push_copy("X-Nothing", Name::Date);

        assert_eq!(written(&fields), "Host: a\r\nX-Forwarded-Host: a\r\n");
    }

    #[test]
    fn listed_fields_are_removed_in_any_case() {
        let lines = [
            ("Connection", "a , B,,host,connection"),
            ("A", "1"),
            ("b", "2"),
            ("c", "3"),
            ("Host", "h"),
        ];
        let mut fields = fields(&lines);
        fields.push("connection", b"c");

        fields.remove_listed(Name::Connection, |name| name == Name::Host);

        assert_eq!(
            written(&fields),
            "Connection: a , B,,host,connection\r\nHost: h\r\nconnection: c\r\n"
        );
    }

    #[test]
    fn edits_that_would_break_the_message_are_refused() {
        let mut fields = fields(&[]);

        assert_eq!(fields.set("a b", b""), Err(EditError::Name));
        assert_eq!(fields.set("", b""), Err(EditError::Name));
        assert_eq!(fields.append("a", b"x\r\ny: z"), Err(EditError::Value));
        assert_eq!(fields.remove("Content-Length"), Err(EditError::Framing));
        assert_eq!(fields.append("transfer-encoding", b"chunked"), Err(EditError::Framing));
    }

    /// A plugin that fails half-way must leave nothing behind.
    #[test]
    fn edits_are_undone_back_to_a_mark() {
        let mut fields = fields(&[("a", "1"), ("b", "2"), ("c", "3")]);
        fields.remove("b").unwrap();
        let mark = fields.mark();
        fields.set("a", b"x").unwrap();
        fields.append("d", b"4").unwrap();
        fields.remove("d").unwrap();
        fields.remove("c").unwrap();

        assert!(fields.roll_back(&mark));

        assert_eq!(written(&fields), "a: 1\r\nc: 3\r\n");
        fields.clear();
        assert!(!fields.roll_back(&mark), "another message");
    }

    /// A plugin that sets a header in a loop must not grow the process.
    #[test]
    fn edits_are_bounded() {
        let mut fields = fields(&[]);
        let value = [b'x'; 1000];
        let taken = (0..1000).take_while(|_| fields.set("a", &value).is_ok()).count();

        assert!((60..=66).contains(&taken), "{taken}");
    }
}
