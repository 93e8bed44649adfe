//! A token's three parts, and whether the signature is right (RFC 7515 §5.2).

use serde_json::Value;
use zproxy_sdk::crypto::Key;

use crate::{Refusal, json};

/// More than any client of a gateway carries; others limit whole heads to less.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// An algorithm that this version knows. There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
}

impl Algorithm {
    /// By its name in RFC 7518 §3.1, which is case-sensitive.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "HS384" => Some(Self::Hs384),
            "HS512" => Some(Self::Hs512),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }
}

/// The keys that may sign a token, each bound to its algorithm.
#[derive(Debug)]
pub(crate) struct Keys(pub(crate) Vec<(Algorithm, Key)>);

impl Keys {
    /// The payload, if one of these keys signed it.
    pub(crate) fn verify(&self, token: &str) -> Result<Vec<u8>, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("the token is longer than 16 KiB");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("the token has no three parts")?;
        let (header, payload) = signed.split_once('.').ok_or("the token has no three parts")?;
        if payload.contains('.') {
            return Err("the token has more than three parts");
        }

        let header = decode(header).ok_or("the header is not base64url")?;
        let header = json::object(&header).ok_or("the header is not one JSON object")?;
        // RFC 7515 §4.1.11: who does not understand a critical extension must refuse; none is.
        if header.contains_key("crit") {
            return Err("the header has a critical extension");
        }
        let Some(Value::String(algorithm)) = header.get("alg") else {
            return Err("the header has no algorithm");
        };
        let key = Algorithm::parse(algorithm)
            .and_then(|wanted| self.0.iter().find(|(bound, _)| *bound == wanted))
            .map(|(_, key)| key)
            .ok_or("the algorithm is not allowed")?;

        let signature = decode(signature).ok_or("the signature is not base64url")?;
        let payload = decode(payload).ok_or("the claims are not base64url")?;
        if !key.verify(signed.as_bytes(), &signature) {
            return Err("the signature is wrong");
        }
        Ok(payload)
    }
}

/// Base64url as RFC 7515 §2 has it: no padding, no line ends, and no bits left over, so that one
/// text only stands for some bytes.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for &symbol in group {
            bits = bits << 6 | u32::from(value(symbol)?);
        }
        let [_, a, b, c] = match group.len() {
            4 => bits,
            3 => bits << 6,
            2 => bits << 12,
            _ => return None,
        }
        .to_be_bytes();
        match group.len() {
            4 => bytes.extend_from_slice(&[a, b, c]),
            3 if c == 0 => bytes.extend_from_slice(&[a, b]),
            2 if b == 0 && c == 0 => bytes.push(a),
            _ => return None,
        }
    }
    Some(bytes)
}

/// The six bits that a symbol stands for (RFC 4648 §5).
fn value(symbol: u8) -> Option<u8> {
    match symbol {
        b'A'..=b'Z' => Some(symbol - b'A'),
        b'a'..=b'z' => Some(symbol - b'a' + 26),
        b'0'..=b'9' => Some(symbol - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

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
