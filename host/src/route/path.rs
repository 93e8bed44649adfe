//! One spelling for every path, before anything is decided by it.
//!
//! A path has many spellings, and a gateway that compares one while its upstream obeys another
//! protects nothing. [`normalize`] runs once, on the target as received; routing, plugins and the
//! upstream all see its result. What it closes:
//!
//! | the client sends | without it | here |
//! |---|---|---|
//! | `/public/../admin`, `/public/%2e%2E/admin` | matches the open `/public`, is served as `/admin` | becomes `/admin` |
//! | `/%61dmin` | does not match the guarded `/admin`, is served as `/admin` | becomes `/admin` |
//! | `/caf%c3%a9`, `/caf%C3%A9` | two spellings, two cache keys, one guarded | upper case |
//! | `/../../etc/passwd` | climbs out of what a rewrite confines it to | refused |
//! | `/public\..\admin` | servers that take `\` for `/` | refused |
//! | `/public/..;/admin` | servers that cut `;…` off before they resolve dots | refused |
//! | `/public/..%2Fadmin`, `..%5Cadmin` | servers that decode before they resolve dots | refused |
//! | `/a%00.png` | servers that end a name at NUL | refused |
//! | `/a%zz`, `/a%4` | servers that each guess differently | refused |
//!
//! What stays as it is, because it means something to honest upstreams: `%2F` and every other
//! encoded reserved character, `//`, `;parameters`, upper and lower case, the query. An upstream
//! that merges slashes or drops `;…` has a larger name space than its routes; guard it at `/`.
//!
//! Not here: which bytes a request line may hold (`http::parse`).

use std::borrow::Cow;

use memchr::memchr;

/// Why a request target was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// RFC 9112 §3.2.1.
    #[error("a path must begin with `/`")]
    NotAbsolute,
    /// Neither in a path nor in a query: control characters, blanks, beyond ASCII, `#`; in a
    /// path: `\`.
    #[error("a character that no target may hold")]
    Character,
    /// `%` without two hexadecimal digits after it.
    #[error("an invalid percent-encoding")]
    Encoding,
    /// `%00`.
    #[error("an encoded NUL")]
    Nul,
    /// More `..` than segments before them.
    #[error("a path that leaves the root")]
    AboveRoot,
    /// `.` or `..` next to an encoded slash, an encoded backslash or a `;`.
    #[error("a hidden dot segment")]
    HiddenDots,
}

/// Brings a request target in origin form into its one spelling (RFC 3986 §6.2.2).
///
/// Percent-encoded unreserved characters are decoded, other encodings get upper case digits,
/// characters that must be encoded are, dot segments are removed. The result is visible ASCII,
/// begins with `/` and normalizes to itself. Borrowed when there was nothing to do.
pub fn normalize(target: &str) -> Result<Cow<'_, str>, PathError> {
    let bytes = target.as_bytes();
    let path_end = memchr(b'?', bytes).unwrap_or(bytes.len());
    let (path, query) = bytes.split_at(path_end);
    if path.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    if !is_query(query) {
        return Err(PathError::Character);
    }
    if is_plain(path) {
        return Ok(Cow::Borrowed(target));
    }
    let mut normal = rebuild(path)?;
    if normal == path {
        return Ok(Cow::Borrowed(target));
    }
    normal.extend_from_slice(query);
    debug_assert!(normal.is_ascii(), "every other byte is encoded or refused");
    String::from_utf8(normal).map(Cow::Owned).map_err(|_| PathError::Character)
}

/// Percent-encodes what a path written in a config file may hold and a target may not.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !is_encoded_always(byte) {
            encoded.push(byte);
        } else {
            push_encoded(&mut encoded, byte);
        }
    }
    String::from_utf8_lossy(&encoded).into_owned()
}

/// Appends `%XX`.
pub(super) fn push_encoded(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'%');
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

/// RFC 3986 §2.3.
pub(super) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Visible, yet not allowed in a URI but encoded (RFC 3986 §2).
pub(super) fn is_encoded_always(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// Whether a path has nothing that [`rebuild`] would have to look at.
///
/// Without branches, so that it becomes vector code: nearly every path is plain.
fn is_plain(path: &[u8]) -> bool {
    let odd = |byte: u8| {
        (byte <= b' ')
            | (byte >= b'{') & (byte != b'~')
            | (byte == b'"')
            | (byte == b'#')
            | (byte == b'%')
            | (byte == b'<')
            | (byte == b'>')
            | (byte == b'\\')
            | (byte == b'^')
            | (byte == b'`')
    };
    let after = path.get(1..).unwrap_or_default();
    let dots = path
        .iter()
        .zip(after)
        .fold(false, |found, (byte, next)| found | ((*byte == b'/') & (*next == b'.')));
    !path.iter().fold(dots, |found, byte| found | odd(*byte))
}

/// Whether a query, its `?` included, holds nothing but visible ASCII, and no `#`.
fn is_query(query: &[u8]) -> bool {
    query.iter().fold(true, |good, byte| good & byte.is_ascii_graphic() & (*byte != b'#'))
}

/// Writes the path anew, segment by segment.
fn rebuild(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len() + 16);
    out.push(b'/');
    let mut segments = path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        // `out` ends with the slash before this segment.
        let start = out.len();
        push_segment(&mut out, segment)?;
        match &out[start..] {
            b"." => out.truncate(start),
            b".." => {
                out.truncate(start - 1);
                // RFC 3986 §5.2.4 would stop at the root; an honest client never gets there.
                let parent = memchr::memrchr(b'/', &out).ok_or(PathError::AboveRoot)?;
                out.truncate(parent + 1);
            }
            written if has_hidden_dots(written) => return Err(PathError::HiddenDots),
            _ if segments.peek().is_some() => out.push(b'/'),
            _ => {}
        }
    }
    Ok(out)
}

/// RFC 3986 §6.2.2.1 and §6.2.2.2.
fn push_segment(out: &mut Vec<u8>, segment: &[u8]) -> Result<(), PathError> {
    let mut rest = segment;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'%' => {
                let [high, low, after @ ..] = rest else { return Err(PathError::Encoding) };
                rest = after;
                let decoded = hex(*high)? << 4 | hex(*low)?;
                match decoded {
                    0 => return Err(PathError::Nul),
                    plain if is_unreserved(plain) => out.push(plain),
                    other => push_encoded(out, other),
                }
            }
            b'\\' | b'#' => return Err(PathError::Character),
            byte if !byte.is_ascii_graphic() => return Err(PathError::Character),
            byte if is_encoded_always(*byte) => push_encoded(out, *byte),
            byte => out.push(*byte),
        }
    }
    Ok(())
}

fn hex(digit: u8) -> Result<u8, PathError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(PathError::Encoding),
    }
}

/// Whether a normal segment becomes a dot segment for a server that decodes slashes first or cuts
/// off what follows a `;`.
fn has_hidden_dots(segment: &[u8]) -> bool {
    let is_dots = |piece: &[u8]| {
        let name = piece.split(|byte| *byte == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    let mut start = 0;
    for percent in memchr::memchr_iter(b'%', segment) {
        if matches!(segment.get(percent + 1..percent + 3), Some(b"2F" | b"5C")) {
            if is_dots(&segment[start..percent]) {
                return true;
            }
            start = percent + 3;
        }
    }
    is_dots(&segment[start..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(target: &str) -> String {
        normalize(target).unwrap().into_owned()
    }

    #[test]
    fn a_plain_target_is_borrowed() {
        for target in ["/", "/a/b.c", "/a//b/", "/a;v=1/b?x=%zz&y=/../", "/~u/@me:x", "/?"] {
            assert!(matches!(normalize(target), Ok(Cow::Borrowed(same)) if same == target));
        }
    }

    /// Its slow path finds nothing to change, so the head need not be edited.
    #[test]
    fn a_normal_target_with_encodings_or_dots_is_borrowed() {
        for target in ["/.well-known/x", "/...", "/a%2Fb", "/caf%C3%A9?q=%41", "/a.%2Fb"] {
            assert!(matches!(normalize(target), Ok(Cow::Borrowed(same)) if same == target));
        }
    }

    /// RFC 3986 §6.2.2.1, §6.2.2.2.
    #[test]
    fn encodings_get_one_spelling() {
        assert_eq!(normal("/%61dmin%7e%2D"), "/admin~-");
        assert_eq!(normal("/caf%c3%a9"), "/caf%C3%A9");
        assert_eq!(normal("/a%2fb%3f"), "/a%2Fb%3F");
        assert_eq!(normal("/a|b{c}\"?{|}"), "/a%7Cb%7Bc%7D%22?{|}");
        // Decoding happens once: what comes out is not decoded again.
        assert_eq!(normal("/%2561"), "/%2561");
    }

    /// RFC 3986 §5.2.4.
    #[test]
    fn dot_segments_are_removed() {
        for (target, expected) in [
            ("/public/../admin", "/admin"),
            ("/public/%2e%2E/admin?q=..", "/admin?q=.."),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/a/b/c/./../../g", "/a/g"),
        ] {
            assert_eq!(normal(target), expected, "{target}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for (target, error) in [
            ("", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
            ("?/", PathError::NotAbsolute),
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/%2e%2e/b", PathError::AboveRoot),
            ("/a%00", PathError::Nul),
            ("/a%", PathError::Encoding),
            ("/a%4", PathError::Encoding),
            ("/a%zz", PathError::Encoding),
            ("/a%4/b", PathError::Encoding),
            ("/a\\b", PathError::Character),
            ("/a#b", PathError::Character),
            ("/a?b#c", PathError::Character),
            ("/a b", PathError::Character),
            ("/a?b c", PathError::Character),
            ("/a\r\nb", PathError::Character),
            ("/ä", PathError::Character),
            ("/public/..;/admin", PathError::HiddenDots),
            ("/.;x/admin", PathError::HiddenDots),
            ("/public/..%2fadmin", PathError::HiddenDots),
            ("/public/x%5c%2e%2e", PathError::HiddenDots),
            ("/public/x%2F..;a%2Fb", PathError::HiddenDots),
        ] {
            assert_eq!(normalize(target), Err(error), "{target}");
        }
    }

    /// Text of the characters that matter here, so that random text meets the rules.
    fn target() -> impl Strategy<Value = String> {
        "/([a./%;?#\\\\{~]|%[0-9a-fA-F]{2}|%2[eEfF]|%5[cC]|\\.\\.?|ä){0,12}"
    }

    proptest! {
        #[test]
        fn any_text_is_normalized_or_refused(text in any::<String>()) {
            let _ = normalize(&text);
        }

        #[test]
        fn the_result_is_normal(target in target()) {
            if let Ok(normal) = normalize(&target) {
                prop_assert_eq!(normalize(&normal), Ok(Cow::Borrowed(&*normal)));
                prop_assert!(normal.starts_with('/') && normal.bytes().all(|b| b.is_ascii_graphic()));
                let path = normal.split('?').next().unwrap();
                prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(!path.contains('\\') && !path.contains("%00"));
            }
        }

        /// The short cut sees everything that the long way would change.
        #[test]
        fn the_fast_path_agrees_with_the_slow_one(target in target()) {
            let path = target.split('?').next().unwrap().as_bytes();
            if is_plain(path) {
                prop_assert_eq!(rebuild(path), Ok(path.to_vec()));
            }
        }
    }
}
