//! Finds members of a JSON text that comes in pieces, and puts something else in place of their values.
//!
//! ```text
//!             "                  "                  :                     : of a hidden name
//!   Between ────► Text (a key?) ────► Behind ────────────► Between … ─────────────► Value ─► Hidden ─► Between
//! ```
//!
//! A string is a key when a colon follows, so nothing has to be known of what it is in, and nesting costs
//! no memory: what is kept between two pieces is bounded by the longest name. A hidden value ends where its
//! brackets are closed; they are counted, and what is in strings does not count.
//!
//! Not here: which bodies are JSON (`lib`).

/// What is hidden.
pub(crate) struct Rules {
    names: Vec<String>,
    /// What takes the place of a value.
    with: Vec<u8>,
    /// The longest way to write one of the names: six bytes for each of theirs (`\u0061`).
    key_bytes_max: usize,
}

impl Rules {
    pub(crate) fn new(names: Vec<String>, with: String) -> Self {
        let longest = names.iter().map(String::len).max().unwrap_or_default();
        Self { names, with: with.into_bytes(), key_bytes_max: 6 * longest }
    }

    /// Whether the value of a member is hidden; `key` is its name as it is written.
    fn hide(&self, key: &[u8]) -> bool {
        if !key.contains(&b'\\') {
            return self.names.iter().any(|name| name.as_bytes() == key);
        }
        let quoted = [b"\"", key, b"\""].concat();
        let read: Result<String, _> = serde_json::from_slice(&quoted);
        read.is_ok_and(|key| self.names.contains(&key))
    }
}

#[derive(Clone, Copy, Default, PartialEq)]
enum At {
    #[default]
    Between,
    /// In a string, which is a key if a colon follows.
    Text,
    /// Behind a string.
    Behind,
    /// Behind the colon of a hidden member.
    Value,
    /// In its value: in a number or a word, a string, or so many brackets.
    Hidden,
}

/// How far a text has been read.
#[derive(Default)]
pub(crate) struct Redactor {
    at: At,
    /// Behind a backslash, in a string.
    escaped: bool,
    /// Of a hidden value: in a string.
    quoted: bool,
    /// Of a hidden value: brackets that are open.
    depth: u32,
    /// The last string as it is written, or the beginning of one that is longer than any name.
    key: Vec<u8>,
}

impl Redactor {
    /// Reads a piece; what goes on in its place, nothing when it is the piece itself.
    pub(crate) fn feed(&mut self, piece: &[u8], rules: &Rules) -> Option<Vec<u8>> {
        let mut changed = self.at == At::Hidden;
        let mut out = Vec::new();
        // From here on the piece is kept, unless something is hidden.
        let mut kept = 0;
        for (at, &byte) in piece.iter().enumerate() {
            match self.at {
                At::Between => {
                    if byte == b'"' {
                        self.begin_text();
                    }
                }
                At::Text => self.text(byte, rules.key_bytes_max),
                At::Behind => match byte {
                    b' ' | b'\t' | b'\r' | b'\n' => {}
                    b':' if rules.hide(&self.key) => self.at = At::Value,
                    b'"' => self.begin_text(),
                    _ => self.at = At::Between,
                },
                At::Value => {
                    if !byte.is_ascii_whitespace() {
                        out.extend_from_slice(&piece[kept..at]);
                        out.extend_from_slice(&rules.with);
                        changed = true;
                        self.at = At::Hidden;
                        self.quoted = byte == b'"';
                        self.depth = u32::from(matches!(byte, b'{' | b'['));
                    }
                }
                At::Hidden => {
                    if let Some(ends_behind) = self.hidden(byte) {
                        self.at = At::Between;
                        kept = at + usize::from(ends_behind);
                    }
                }
            }
        }
        if self.at != At::Hidden && changed {
            out.extend_from_slice(&piece[kept..]);
        }
        changed.then_some(out)
    }

    fn begin_text(&mut self) {
        self.at = At::Text;
        self.escaped = false;
        self.key.clear();
    }

    fn text(&mut self, byte: u8, key_bytes_max: usize) {
        if byte == b'"' && !self.escaped {
            self.at = At::Behind;
            return;
        }
        self.escaped = byte == b'\\' && !self.escaped;
        // One more than fits, so that the beginning of a longer one is never taken for the whole.
        if self.key.len() <= key_bytes_max {
            self.key.push(byte);
        }
    }

    /// Reads a byte of a hidden value; when it ends, whether behind this byte or before.
    fn hidden(&mut self, byte: u8) -> Option<bool> {
        if self.quoted {
            let ends = byte == b'"' && !self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            self.quoted = !ends;
            return (ends && self.depth == 0).then_some(true);
        }
        match byte {
            b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => Some(false),
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                None
            }
            b'}' | b']' => {
                self.depth -= 1;
                (self.depth == 0).then_some(true)
            }
            b'"' => {
                self.quoted = true;
                self.escaped = false;
                None
            }
            _ => None,
        }
    }

    /// For a note.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.at as u8, u8::from(self.escaped), u8::from(self.quoted)];
        bytes.extend(self.depth.to_le_bytes());
        bytes.extend(&self.key);
        bytes
    }

    /// From a note. Notes are for all plugins of a chain to see: one that somebody else has changed gives
    /// some redactor, never a failure.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let Some((&[at, escaped, quoted, a, b, c, d], key)) = bytes.split_first_chunk() else {
            return Self::default();
        };
        let all = [At::Between, At::Text, At::Behind, At::Value, At::Hidden];
        Self {
            at: all.into_iter().find(|known| *known as u8 == at).unwrap_or_default(),
            escaped: escaped != 0,
            quoted: quoted != 0,
            depth: u32::from_le_bytes([a, b, c, d]),
            key: key.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::new(vec!["password".into(), "tökén".into()], "\"***\"".into())
    }

    /// In these pieces, with a note in between.
    fn redact<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut note = Redactor::default().to_bytes();
        let mut out = Vec::new();
        for piece in pieces {
            let mut redactor = Redactor::from_bytes(&note);
            let redacted = redactor.feed(piece, &rules());
            out.extend(redacted.unwrap_or_else(|| piece.to_vec()));
            note = redactor.to_bytes();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_hidden_wherever_their_names_are_and_however_they_are_written() {
        for (text, expected) in [
            (r#"{"password": "a"}"#, r#"{"password": "***"}"#),
            (r#"{"password" : -1.5e3 , "b":1}"#, r#"{"password" : "***" , "b":1}"#),
            (r#"{"password":null}"#, r#"{"password":"***"}"#),
            (r#"[{"a":[{"password":true}]}]"#, r#"[{"a":[{"password":"***"}]}]"#),
            (r#"{"password":{"a":["}\"]",{}]},"b":2}"#, r#"{"password":"***","b":2}"#),
            (r#"{"password":[1,[2]] , "b":2}"#, r#"{"password":"***" , "b":2}"#),
            (r#"{"password":"a\\"} {"password":"\""}"#, r#"{"password":"***"} {"password":"***"}"#),
            (r#"{"pass\u0077ord":"a"}"#, r#"{"pass\u0077ord":"***"}"#),
            (r#"{"t\u00f6k\u00E9n":"a","tökén":1}"#, r#"{"t\u00f6k\u00E9n":"***","tökén":"***"}"#),
            // No names, or others.
            (r#"["password", "a"]"#, r#"["password", "a"]"#),
            (
                r#"{"a":"password","b":"\"password\":1"}"#,
                r#"{"a":"password","b":"\"password\":1"}"#,
            ),
            (
                r#"{"passwords":1,"xpassword":2,"PASSWORD":3}"#,
                r#"{"passwords":1,"xpassword":2,"PASSWORD":3}"#,
            ),
            (r#"{"":1,"\\":2,"\"password":3}"#, r#"{"":1,"\\":2,"\"password":3}"#),
        ] {
            assert_eq!(redact([text.as_bytes()]), expected);
            // Wherever the text is cut, and in single bytes.
            for cut in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                assert_eq!(redact([first, second]), expected, "cut at {cut}");
            }
            assert_eq!(redact(text.as_bytes().chunks(1)), expected);
        }
    }

    #[test]
    fn what_is_kept_between_pieces_is_bounded() {
        let mut redactor = Redactor::default();
        let long = [b"{\"", &[b'x'; 100_000][..]].concat();

        assert_eq!(redactor.feed(&long, &rules()), None);

        assert!(redactor.to_bytes().len() < 100, "{}", redactor.to_bytes().len());
        let deep = [b"{\"password\":".as_slice(), &[b'['; 100_000]].concat();
        assert_eq!(redact([&deep[..]]), "{\"password\":\"***\"");
    }

    #[test]
    fn a_piece_that_hides_nothing_is_passed_on() {
        assert_eq!(Redactor::default().feed(br#"{"a": 1}"#, &rules()), None);
    }

    #[test]
    fn a_note_of_somebody_else_is_no_reason_to_fail() {
        for note in [&b""[..], b"abc", &[255; 20], &[4, 0, 0, 0, 0, 0, 0]] {
            let _ = Redactor::from_bytes(note).feed(b"]}\":\"x\"", &rules());
        }
    }
}
