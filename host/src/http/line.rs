//! One line of an HTTP/1 head: where it ends, and the field in it (RFC 9112 §2.2, §5).
//!
//! Not here: what the fields say (`parse`).

use memchr::memchr;

use super::fields::{Line, Name, TOKEN, at, is_token};
use crate::error::RequestError;

/// The end of the line that begins at `from`: the position of its CR.
pub(super) fn end(bytes: &[u8], from: usize) -> Result<usize, RequestError> {
    let lf = memchr(b'\n', &bytes[from..]).ok_or(RequestError::Malformed("unfinished line"))?;
    if lf == 0 || bytes[from + lf - 1] != b'\r' {
        return Err(RequestError::Malformed("bare LF"));
    }
    Ok(from + lf - 1)
}

/// The field line that begins at `start`. Folded lines (§5.2), white space before the colon (§5.1) and control
/// characters are errors.
pub(super) fn field(bytes: &[u8], start: usize) -> Result<Line, RequestError> {
    try_field(bytes, start).ok_or_else(|| fault(bytes, start))
}

/// The field line that begins at `start`, if it is one.
fn try_field(bytes: &[u8], start: usize) -> Option<Line> {
    let name_end = find(bytes, start, |word| zeros(word ^ (ONES * u64::from(b':'))))?;
    let name = &bytes[start..name_end];
    let known = Name::of(name);
    if known == Name::Other && !is_token(name) {
        return None;
    }
    let blank = |byte: u8| matches!(byte, b' ' | b'\t');
    let mut value_start = name_end + 1;
    while blank(*bytes.get(value_start)?) {
        value_start += 1;
    }
    let cr = value_end(bytes, value_start)?;
    if !bytes[cr..].starts_with(b"\r\n") {
        return None;
    }
    let mut value_end = cr;
    while value_end > value_start && blank(bytes[value_end - 1]) {
        value_end -= 1;
    }
    Some(Line {
        start: at(start),
        name_end: at(name_end),
        value_start: at(value_start),
        value_end: at(value_end),
        end: at(cr + 2),
        name: known,
        removed: false,
    })
}

/// A byte of one in each place of a word.
const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// Marks bytes that are zero by their highest bit. Those above the lowest marked one may be wrong.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// Where the first byte is that no field value has (RFC 9110 §5.5).
fn value_end(bytes: &[u8], mut from: usize) -> Option<usize> {
    loop {
        from = find(bytes, from, |word| {
            let controls = word.wrapping_sub(ONES * 0x20) & !word & (ONES << 7);
            controls | zeros(word ^ (ONES * 0x7f))
        })?;
        if bytes[from] != b'\t' {
            return Some(from);
        }
        from += 1;
    }
}

/// Where the first byte is, from `from` on, that `marks` marks in a word of eight. Names and values are mostly
/// so short that calling something faster would take longer.
#[inline(always)]
fn find(bytes: &[u8], mut from: usize, marks: impl Fn(u64) -> u64) -> Option<usize> {
    while let Some(word) = bytes.get(from..).and_then(<[u8]>::first_chunk) {
        let marked = marks(u64::from_le_bytes(*word));
        if marked != 0 {
            return Some(from + marked.trailing_zeros() as usize / 8);
        }
        from += 8;
    }
    let rest = bytes.get(from..)?;
    // Spaces are never looked for.
    let mut word = [b' '; 8];
    word[..rest.len()].copy_from_slice(rest);
    let marked = marks(u64::from_le_bytes(word));
    (marked != 0).then(|| from + marked.trailing_zeros() as usize / 8)
}

/// What is wrong with the line that begins at `start` and is no field line.
fn fault(bytes: &[u8], start: usize) -> RequestError {
    let end = match end(bytes, start) {
        Ok(end) => end,
        Err(error) => return error,
    };
    let name = bytes[start..end].iter().position(|byte| !TOKEN[usize::from(*byte)]);
    RequestError::Malformed(match name {
        Some(colon @ 1..) if bytes[start + colon] == b':' => "field value",
        _ => "field name",
    })
}

#[cfg(test)]
mod tests {
    use super::super::fields::is_value;
    use super::*;
    use proptest::prelude::*;

    /// The rules, one after another.
    fn by_the_book(bytes: &[u8]) -> Result<(usize, usize, usize, usize), RequestError> {
        let end = end(bytes, 0)?;
        let line = &bytes[..end];
        let colon = line.iter().position(|byte| !TOKEN[usize::from(*byte)]);
        let colon = colon.filter(|colon| *colon > 0 && line[*colon] == b':');
        let colon = colon.ok_or(RequestError::Malformed("field name"))?;
        let blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
        let before = line[colon + 1..].iter().take_while(blank).count();
        let after = line[colon + 1 + before..].iter().rev().take_while(blank).count();
        let value = colon + 1 + before..end - after;
        if !is_value(&line[value.clone()]) {
            return Err(RequestError::Malformed("field value"));
        }
        Ok((colon, value.start, value.end, end + 2))
    }

    proptest! {
        #[test]
        fn a_field_is_what_the_rules_say(
            line in prop_oneof![
                "[a-zA-Z-]{0,20}[: ]{0,2}[\\x00-\\x7f\u{80}-\u{ff}]{0,40}",
                "[a-z-]{1,20}:[ \t]{0,3}[ -~\t\u{a0}]{0,60}[ \t]{0,3}",
                "[\\x00-\\x7f]{0,30}",
            ],
            end in prop::sample::select(vec!["\r\n", "\n", "\r", "", "\r\n\r\n", "\r\nnext: line\r\n\r\n"]),
        ) {
            let bytes = [line.as_bytes(), end.as_bytes()].concat();
            let found = field(&bytes, 0);
            let found = found.map(|l| (l.name_end, l.value_start, l.value_end, l.end));
            let found = found.map(|(a, b, c, d)| (a as usize, b as usize, c as usize, d as usize));
            prop_assert_eq!(found, by_the_book(&bytes));
        }
    }
}
