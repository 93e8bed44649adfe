//! Who asks: the peer of a connection, and the client behind trusted proxies.
//!
//! Not here: the fields that tell the upstream (`headers`).

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::http::{Fields, Name, RequestHead};

/// Proxies between the client and this gateway that are looked at. Real chains have two or three.
const HOPS_MAX: usize = 32;

/// Longest text of an IP address: an IPv6 one without zone.
const ADDRESS_BYTES_MAX: usize = 39;

/// What is known of a client from its connection; made once per connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientFacts {
    /// The peer's address; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// Whether the peer is a proxy whose word about the client is believed.
    pub trusted: bool,
    /// Whether it speaks TLS.
    pub secure: bool,
    text: [u8; ADDRESS_BYTES_MAX],
    text_len: u8,
}

impl ClientFacts {
    /// A new connection.
    pub fn new(peer: Option<IpAddr>, scheme: &'static str, trusted: &[IpNet]) -> Self {
        // `::ffff:192.0.2.1` on a socket for both families is 192.0.2.1.
        let peer = peer.map(|peer| peer.to_canonical());
        let mut text = [0; ADDRESS_BYTES_MAX];
        let mut rest = text.as_mut_slice();
        // Cannot fail: the longest address fits.
        let written = peer.map(|peer| write!(rest, "{peer}"));
        debug_assert!(!matches!(written, Some(Err(_))), "an address is longer than it can be");
        let text_len = u8::try_from(ADDRESS_BYTES_MAX - rest.len()).unwrap_or_default();
        let trusted = peer.is_some_and(|peer| is_trusted(peer, trusted));
        Self { peer, trusted, secure: scheme == "https", text, text_len }
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// The peer's address as text, empty on a Unix socket.
    pub fn peer_text(&self) -> &[u8] {
        &self.text[..usize::from(self.text_len)]
    }
}

/// The client's address: the peer, or, where that is a trusted proxy, the nearest address in
/// `X-Forwarded-For` (else in `Forwarded`) that is not one.
///
/// Read from the right, because what stands left of an untrusted address is hearsay; garbage ends
/// the walk at the last address that could be read.
pub fn client_ip(peer: IpAddr, trusted: &[IpNet], head: &RequestHead) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let fields = &head.fields;
    if fields.has(Name::XForwardedFor) {
        furthest(peer, trusted, members(fields, Name::XForwardedFor).map(address))
    } else {
        furthest(peer, trusted, members(fields, Name::Forwarded).map(forwarded_for))
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

fn furthest(peer: IpAddr, trusted: &[IpNet], hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
    let mut client = peer;
    for hop in hops.take(HOPS_MAX) {
        let Some(address) = hop else { break };
        client = address.to_canonical();
        if !is_trusted(client, trusted) {
            break;
        }
    }
    client
}

/// Members of a list, the last first.
fn members(fields: &Fields, name: Name) -> impl Iterator<Item = &[u8]> {
    let values = fields.known(name).rev();
    values.flat_map(|value| value.rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// An address as proxies write it: with or without port and brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match bare {
        Some(bare) => bare.parse().ok(),
        None => text.parse::<SocketAddr>().ok().map(|address| address.ip()),
    }
}

/// The address in the `for` parameter of a `Forwarded` member (RFC 7239 §4, §6).
fn forwarded_for(member: &[u8]) -> Option<IpAddr> {
    member.split(|byte| *byte == b';').find_map(|pair| {
        let (name, value) = pair.split_at(memchr::memchr(b'=', pair)?);
        let value = &value[1..];
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| address(quoted.unwrap_or(value)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Version;
    use proptest::prelude::*;

    fn ip(lines: &[(&str, &str)], peer: &str) -> String {
        let mut head = RequestHead::default();
        head.assign("GET", "/", Version::Http11);
        for (name, value) in lines {
            head.fields.push(name, value.as_bytes());
        }
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        client_ip(peer.parse().unwrap(), &trusted, &head).to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(ip(&[("X-Forwarded-For", "1.1.1.1")], "2.2.2.2"), "2.2.2.2");
        assert_eq!(ip(&[], "::ffff:2.2.2.2"), "2.2.2.2");
    }

    #[test]
    fn behind_trusted_proxies_the_nearest_stranger_is_the_client() {
        for (list, expected) in [
            ("1.1.1.1", "1.1.1.1"),
            ("9.9.9.9, 1.1.1.1", "1.1.1.1"),
            ("9.9.9.9, 1.1.1.1,10.1.1.1 , fd00::1", "1.1.1.1"),
            ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
            ("1.1.1.1:4711", "1.1.1.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:10.1.1.1", "10.1.1.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(ip(&[("X-Forwarded-For", list)], "10.0.0.1"), expected, "{list}");
        }
        let lines = [("X-Forwarded-For", "1.1.1.1"), ("x-forwarded-for", "10.9.9.9")];
        assert_eq!(ip(&lines, "::ffff:10.0.0.1"), "1.1.1.1");
    }

    #[test]
    fn garbage_ends_the_walk() {
        for list in
            ["1.1.1.1, unknown, 10.2.2.2", "1.1.1.1, , 10.2.2.2", "1.1.1.1, 1.2.3, 10.2.2.2"]
        {
            assert_eq!(ip(&[("X-Forwarded-For", list)], "10.0.0.1"), "10.2.2.2", "{list}");
        }
        let endless = "10.1.1.1,".repeat(10_000) + "10.1.1.1";
        assert_eq!(ip(&[("X-Forwarded-For", &endless)], "10.0.0.1"), "10.1.1.1");
    }

    /// RFC 7239 §4.
    #[test]
    fn forwarded_is_read_where_there_is_nothing_else() {
        for (list, expected) in [
            ("for=1.1.1.1;proto=http;by=10.1.1.1", "1.1.1.1"),
            ("proto=http;FOR=\"[2001:db8::1]:47\", for=10.1.1.1", "2001:db8::1"),
            ("for=1.1.1.1, for=_hidden", "10.0.0.1"),
            ("by=1.1.1.1", "10.0.0.1"),
        ] {
            assert_eq!(ip(&[("Forwarded", list)], "10.0.0.1"), expected, "{list}");
        }
        let lines = [("Forwarded", "for=1.1.1.1"), ("X-Forwarded-For", "3.3.3.3")];
        assert_eq!(ip(&lines, "10.0.0.1"), "3.3.3.3");
    }

    #[test]
    fn the_longest_address_has_room() {
        let longest = "2001:1db8:1111:2222:3333:4444:5555:6666";
        let facts = ClientFacts::new(longest.parse().ok(), "http", &[]);

        assert_eq!(facts.peer_text(), longest.as_bytes());
        assert_eq!(ClientFacts::new(None, "http", &[]).peer_text(), b"");
    }

    proptest! {
        #[test]
        fn any_list_has_a_client(list in "[0-9a-f:.,;=\"\\[\\] for]{0,60}") {
            ip(&[("X-Forwarded-For", &list)], "10.0.0.1");
            ip(&[("Forwarded", &list)], "10.0.0.1");
        }

        #[test]
        fn every_address_has_room(peer: IpAddr) {
            let facts = ClientFacts::new(Some(peer), "http", &[]);
            let text = peer.to_canonical().to_string();
            prop_assert_eq!(facts.peer_text(), text.as_bytes());
        }
    }
}
