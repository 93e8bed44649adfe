//! What requests are counted by: parts of a key, and how they become bytes.
//!
//! A key of two parts must not be that of two others that read the same when written one after the other:
//! each part begins with its kind and, where its length is not known by that, its length.

use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use zproxy_sdk::{Request, context, crypto};

use crate::address;

/// The client's address.
pub(crate) const CLIENT: &str = ":client-address";

/// Where `jwt` leaves the claims of a token that it has checked.
const CLAIMS: &str = "jwt.claims";

/// Longest value that is kept as it is; of longer ones the digest.
const VALUE_BYTES_MAX: usize = 64;

/// Longest key, without what the limit puts in front: the host takes 256 bytes.
const KEY_BYTES_MAX: usize = 200;

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The network that the client's address is in, with so many bits.
    Client { bits_v4: u8, bits_v6: u8 },
    /// The value of a field; without it the client's address.
    Header { name: String, or: Box<Part> },
    /// A claim of the token that `jwt` has checked; without it the client's address.
    Claim { name: String, or: Box<Part> },
    /// The route's name.
    Route,
}

impl Part {
    /// Fields that it reads in every call.
    pub(crate) fn fields(&self) -> Vec<&str> {
        match self {
            Self::Client { .. } => vec![CLIENT],
            Self::Header { name, or } => [name.as_str()].into_iter().chain(or.fields()).collect(),
            // As a rule there is a token.
            Self::Claim { .. } => Vec::new(),
            Self::Route => vec![":route"],
        }
    }

    /// Adds what this part of the request is.
    pub(crate) fn write(&self, request: &Request, key: &mut Vec<u8>) {
        match self {
            Self::Client { bits_v4, bits_v6 } => {
                match request.client_address() {
                    Some(IpAddr::V4(v4)) => {
                        key.push(b'4');
                        write_network(v4.into(), *bits_v4, key);
                    }
                    Some(IpAddr::V6(v6)) => {
                        key.push(b'6');
                        write_network(v6.into(), *bits_v6, key);
                    }
                    // Of a Unix socket nobody knows who it is.
                    None => key.push(b'?'),
                }
            }
            Self::Header { name, or } => match request.header_bytes(name) {
                Some(value) => write_value(b'h', &value, key),
                None => or.write(request, key),
            },
            Self::Claim { name, or } => match claim(name) {
                Some(value) => write_value(b'c', value.as_bytes(), key),
                None => or.write(request, key),
            },
            Self::Route => write_value(b'r', request.route().as_bytes(), key),
        }
    }
}

/// Adds the bytes that the network's bits are in.
fn write_network(address: IpAddr, bits: u8, key: &mut Vec<u8>) {
    let bytes = usize::from(bits.div_ceil(8));
    match address::first(address, bits) {
        IpAddr::V4(v4) => key.extend_from_slice(&v4.octets()[..bytes.min(4)]),
        IpAddr::V6(v6) => key.extend_from_slice(&v6.octets()[..bytes.min(16)]),
    }
}

fn write_value(kind: u8, value: &[u8], key: &mut Vec<u8>) {
    key.push(kind);
    match u8::try_from(value.len()) {
        Ok(length) if value.len() <= VALUE_BYTES_MAX => {
            key.push(length);
            key.extend_from_slice(value);
        }
        _ => {
            key.push(u8::MAX);
            key.extend_from_slice(&crypto::sha256(value));
        }
    }
}

/// Puts a digest in the place of a key that is too long, behind its first `kept` bytes.
pub(crate) fn shorten(key: &mut Vec<u8>, kept: usize) {
    if key.len() > kept + KEY_BYTES_MAX {
        let digest = crypto::sha256(&key[kept..]);
        key.truncate(kept);
        key.push(b'#');
        key.extend_from_slice(&digest);
    }
}

/// A claim of the token that `jwt` has checked: a string as it is, everything else as JSON.
fn claim(name: &str) -> Option<String> {
    let claims = context::get(CLAIMS)?;
    let found =
        serde_json::Deserializer::from_slice(&claims).deserialize_map(Only(name)).ok()??;
    match found {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// Reads one member of an object, and the others only as far as it takes to find their ends.
struct Only<'a>(&'a str);

impl<'de> Visitor<'de> for Only<'_> {
    type Value = Option<serde_json::Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<Name>()? {
            if name.0 == self.0 {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);
