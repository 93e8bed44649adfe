//! One spelling for every host, so that comparing hosts is comparing bytes.
//!
//! Not here: which hosts are valid (`http::parse`, `config`).

use std::io::Write;
use std::net::Ipv6Addr;

/// DNS allows 253 characters; whatever is longer matches no route's host.
pub(super) const HOST_BYTES_MAX: usize = 255;

/// Where a host is written anew, when it has to be.
pub(super) type Buffer = [u8; HOST_BYTES_MAX];

/// The host of `authority` in lower case, without port and final dot; an IPv6 literal in brackets
/// and in the form of RFC 5952. `None` when nothing is left, or too much.
pub(super) fn canonical<'a>(authority: &'a str, buffer: &'a mut Buffer) -> Option<&'a str> {
    if let Some(literal) = authority.strip_prefix('[') {
        let address: Ipv6Addr = literal.split_once(']')?.0.parse().ok()?;
        let mut rest = &mut buffer[..];
        write!(rest, "[{address}]").ok()?;
        let length = HOST_BYTES_MAX - rest.len();
        return std::str::from_utf8(&buffer[..length]).ok();
    }
    let name = authority.split_once(':').map_or(authority, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > HOST_BYTES_MAX {
        return None;
    }
    if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(name);
    }
    let lower = &mut buffer[..name.len()];
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

/// A host as a config file writes it: as [`canonical`], and an IPv6 address also without brackets.
pub(super) fn canonical_pattern(host: &str) -> Option<String> {
    let bracketed;
    let host = if host.parse::<Ipv6Addr>().is_ok() {
        bracketed = format!("[{host}]");
        &bracketed
    } else {
        host
    };
    canonical(host, &mut [0; HOST_BYTES_MAX]).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_host_is_one() {
        for (authority, expected) in [
            ("Example.COM", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com:8080", Some("example.com")),
            ("EXAMPLE.com.:80", Some("example.com")),
            ("10.0.0.1:80", Some("10.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("[0:0::0:1]", Some("[::1]")),
            ("[2001:DB8::A]", Some("[2001:db8::a]")),
            ("[::1", None),
            ("[x]", None),
            ("", None),
            (".", None),
            (":80", None),
        ] {
            assert_eq!(canonical(authority, &mut [0; HOST_BYTES_MAX]), expected, "{authority}");
        }
        assert_eq!(canonical(&"a".repeat(256), &mut [0; HOST_BYTES_MAX]), None);
        assert_eq!(canonical_pattern("2001:DB8::1").as_deref(), Some("[2001:db8::1]"));
    }
}
