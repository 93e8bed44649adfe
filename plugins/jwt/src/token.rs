//! A token's three parts (RFC 7515 §5.2).

use std::rc::Rc;

use crate::json::{self, Json};
use crate::refusal::{Kind, Refusal};

/// More than any client of a gateway carries; others limit whole heads to less.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// An algorithm that signs tokens. There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Algorithm(usize);

/// Names (RFC 7518 §3.1, RFC 8037 §3.1), and `kty` and `crv` of the keys that go with them.
const ALGORITHMS: [(&str, &str, Option<&str>); 12] = [
    ("HS256", "oct", None),
    ("HS384", "oct", None),
    ("HS512", "oct", None),
    ("RS256", "RSA", None),
    ("RS384", "RSA", None),
    ("RS512", "RSA", None),
    ("PS256", "RSA", None),
    ("PS384", "RSA", None),
    ("PS512", "RSA", None),
    ("ES256", "EC", Some("P-256")),
    ("ES384", "EC", Some("P-384")),
    ("EdDSA", "OKP", Some("Ed25519")),
];

impl Algorithm {
    /// By its name, which is case-sensitive.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        ALGORITHMS.iter().position(|(known, ..)| *known == name).map(Self)
    }

    /// All there are, or those that only a public key can check.
    pub(crate) fn all(public: bool) -> Vec<Self> {
        (0..ALGORITHMS.len()).map(Self).filter(|one| !public || !one.is_secret()).collect()
    }

    pub(crate) fn name(self) -> &'static str {
        ALGORITHMS[self.0].0
    }

    /// Whether who can check can sign.
    pub(crate) fn is_secret(self) -> bool {
        ALGORITHMS[self.0].1 == "oct"
    }

    /// Whether a key of this type and curve can be used with it.
    pub(crate) fn goes_with(self, kind: Option<&str>, curve: Option<&str>) -> bool {
        let (_, kty, crv) = ALGORITHMS[self.0];
        kind == Some(kty) && (crv.is_none() || crv == curve)
    }
}

/// What a header says.
#[derive(Clone, Debug)]
struct Header {
    algorithm: Algorithm,
    key_id: Option<Rc<str>>,
}

/// The last header that was good: tokens of one issuer have the same.
#[derive(Debug, Default)]
pub(crate) struct Headers(Option<(Box<str>, Header)>);

impl Headers {
    fn read(&mut self, text: &str) -> Result<Header, Refusal> {
        if let Some((known, header)) = &self.0
            && **known == *text
        {
            return Ok(header.clone());
        }
        let malformed = |why| Kind::Malformed.because(why);
        let header = decode(text).ok_or(malformed("the header is not base64url"))?;
        let header = json::object(&header).ok_or(malformed("the header is not one JSON object"))?;
        // RFC 7515 §4.1.11: who does not understand a critical extension must refuse; none is.
        if header.get("crit").is_some() {
            return Err(malformed("the header has a critical extension"));
        }
        let algorithm = match header.get("alg") {
            Some(Json::Text(name)) => Algorithm::parse(name)
                .ok_or(Kind::Algorithm.because("the algorithm is not allowed"))?,
            _ => return Err(malformed("the header has no algorithm")),
        };
        let key_id = match header.get("kid") {
            None => None,
            Some(Json::Text(id)) => Some(Rc::from(&**id)),
            Some(_) => return Err(malformed("the key's name is no text")),
        };
        let header = Header { algorithm, key_id };
        self.0 = Some((text.into(), header.clone()));
        Ok(header)
    }
}

/// A token whose header has been read, and nothing else.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    pub(crate) algorithm: Algorithm,
    /// `kid`.
    pub(crate) key_id: Option<Rc<str>>,
    /// What the signature is over.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
    payload: &'a str,
}

impl<'a> Token<'a> {
    pub(crate) fn parse(token: &'a str, headers: &mut Headers) -> Result<Self, Refusal> {
        let malformed = |why| Kind::Malformed.because(why);
        if token.len() > TOKEN_BYTES_MAX {
            return Err(malformed("the token is longer than 16 KiB"));
        }
        let three = malformed("the token has no three parts");
        let (signed, signature) = token.rsplit_once('.').ok_or(three)?;
        let (header, payload) = signed.split_once('.').ok_or(three)?;
        if payload.contains('.') {
            return Err(malformed("the token has more than three parts"));
        }

        let Header { algorithm, key_id } = headers.read(header)?;
        let signature = decode(signature).ok_or(malformed("the signature is not base64url"))?;
        Ok(Self { algorithm, key_id, signed, signature, payload })
    }

    /// The claims as bytes. To be asked for when the signature holds.
    pub(crate) fn payload(&self) -> Result<Vec<u8>, Refusal> {
        decode(self.payload).ok_or(Kind::Malformed.because("the claims are not base64url"))
    }
}

/// Base64url as RFC 7515 §2 has it: no padding, no line ends, and no bits left over, so that one
/// text only stands for some bytes.
fn decode(text: &str) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_bytes().as_chunks::<4>();
    let mut bytes = Vec::with_capacity(groups.len() * 3 + 2);
    bytes.resize(groups.len() * 3, 0);
    let mut all = 0;
    for (group, three) in groups.iter().zip(bytes.as_chunks_mut::<3>().0) {
        let [a, b, c, d] = group.map(|symbol| VALUES[usize::from(symbol)]);
        // Asked about once, for all of them.
        all |= a | b | c | d;
        *three = [a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d];
    }
    if all & NO_VALUE != 0 {
        return None;
    }
    let value = |symbol: u8| Some(VALUES[usize::from(symbol)]).filter(|value| *value != NO_VALUE);
    match *rest {
        [] => {}
        [a, b] => {
            let (a, b) = (value(a)?, value(b)?);
            if b & 0x0f != 0 {
                return None;
            }
            bytes.push(a << 2 | b >> 4);
        }
        [a, b, c] => {
            let (a, b, c) = (value(a)?, value(b)?, value(c)?);
            if c & 0x03 != 0 {
                return None;
            }
            bytes.extend_from_slice(&[a << 2 | b >> 4, b << 4 | c >> 2]);
        }
        _ => return None,
    }
    Some(bytes)
}

/// What no symbol stands for: values have six bits.
const NO_VALUE: u8 = 0x80;

/// The six bits that a symbol stands for (RFC 4648 §5).
static VALUES: [u8; 256] = {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut values = [NO_VALUE; 256];
    let mut value: u8 = 0;
    while (value as usize) < SYMBOLS.len() {
        values[SYMBOLS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648 §10, in its url alphabet and without padding.
    #[test]
    fn base64url_has_one_way_to_write_some_bytes() {
        for (text, bytes) in
            [("", ""), ("Zg", "f"), ("Zm8", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(decode("-_-_").as_deref(), Some(&[0xfb, 0xff, 0xbf][..]));
        for text in ["Z", "Zg==", "Zh", "Zm9", "Zm8=", "Zm9v=", "Zm9v\n", "+/+/", "Zm 8", "Zm9vY"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
