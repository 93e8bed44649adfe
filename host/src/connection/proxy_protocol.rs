//! The PROXY protocol, versions 1 and 2: whom a load balancer has accepted.
//!
//! Pure: bytes in, a header out. What one version allows and nobody sends is refused, since a header that two
//! readers read differently is a client with two addresses. Fields of version 2 that come after the
//! addresses (TLVs) are skipped.
//!
//! Not here: from whom a header is taken (`open`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest line of version 1, its end included (§2.1).
const LINE_BYTES_MAX: usize = 107;

/// The longest header of version 2. Real ones have 16 bytes, addresses, and a few fields of some dozen
/// bytes; one with a client's certificate in it may have two thousand.
const HEADER_BYTES_MAX: usize = 4096;

/// What every header of version 2 begins with (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Who speaks through the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// A client at this address; `None`: one of the load balancer's own machine.
    Client(Option<IpAddr>),
    /// The load balancer itself, to see whether somebody is there; or a client that it says nothing of.
    Itself,
}

/// Reads a header; also says how many bytes it has. `None`: it is not complete.
///
/// # Errors
///
/// There is none.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
    let beginning = &SIGNATURE[..bytes.len().min(SIGNATURE.len())];
    if bytes.starts_with(beginning) {
        return binary(bytes);
    }
    let beginning = &b"PROXY "[..bytes.len().min(6)];
    if bytes.starts_with(beginning) {
        return line(bytes);
    }
    Err("it has no beginning")
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`.
fn line(bytes: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
    let Some(end) = memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE_BYTES_MAX)]) else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err("its line is too long") };
    };
    let text = bytes[..end].strip_suffix(b"\r").ok_or("its line has a bare LF")?;
    let text = std::str::from_utf8(text).map_err(|_| "its line is no text")?;
    let mut words = text.split(' ').skip(1);
    let v6 = match words.next() {
        Some("TCP4") => false,
        Some("TCP6") => true,
        // §2.1: what follows is to be ignored.
        Some("UNKNOWN") => return Ok(Some((Header::Itself, end + 1))),
        _ => return Err("its family is unknown"),
    };
    let mut address = || {
        let address: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
        address.filter(|address| address.is_ipv6() == v6).ok_or("an address is wrong")
    };
    let (source, _) = (address()?, address()?);
    let mut port = || {
        let word = words.next().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
        // No sign, no zeros in front: §2.1.
        let word = word.filter(|word| *word == "0" || !word.starts_with('0'));
        word.and_then(|word| word.parse::<u16>().ok()).ok_or("a port is wrong")
    };
    port()?;
    port()?;
    match words.next() {
        None => Ok(Some((Header::Client(Some(source)), end + 1))),
        Some(_) => Err("its line goes on"),
    }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
    let Some(([.., version_command, family, high, low], rest)) = bytes.split_first_chunk::<16>()
    else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if version_command >> 4 != 2 {
        return Err("its version is unknown");
    }
    if 16 + length > HEADER_BYTES_MAX {
        return Err("it is too long");
    }
    let local = match version_command & 0xf {
        0 => true,
        1 => false,
        _ => return Err("its command is unknown"),
    };
    let Some(rest) = rest.get(..length) else { return Ok(None) };
    let header = match (family, rest) {
        _ if local => Header::Itself,
        // AF_INET, AF_INET6, AF_UNIX, each with SOCK_STREAM.
        (0x11, [a, b, c, d, _, _, _, _, _, _, _, _, ..]) => {
            Header::Client(Some(Ipv4Addr::new(*a, *b, *c, *d).into()))
        }
        (0x21, addresses) if addresses.len() >= 36 => {
            let source = addresses.first_chunk::<16>().ok_or("an address is wrong")?;
            Header::Client(Some(Ipv6Addr::from(*source).into()))
        }
        (0x31, addresses) if addresses.len() >= 216 => Header::Client(None),
        // AF_UNSPEC: §2.2: the addresses of the connection are to be used.
        (0x00, _) => Header::Itself,
        _ => return Err("its addresses are none of a stream"),
    };
    Ok(Some((header, 16 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Header {
        Header::Client(Some(address.parse().unwrap()))
    }

    fn v2(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, [version_command, family].as_slice(), &length, rest].concat()
    }

    #[test]
    fn a_header_says_who_the_client_is_and_where_it_ends() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 187];
        let v6: Vec<u8> = (0..36).collect();
        let tlvs = [v4.as_slice(), &[4, 0, 2, 9, 9], &[0xea, 0, 1, 7]].concat();
        for (bytes, header) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec(), client("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(), client("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Itself),
            (b"PROXY UNKNOWN ff::1 a b c d e\r\n".to_vec(), Header::Itself),
            (v2(0x21, 0x11, &v4), client("192.0.2.1")),
            (v2(0x21, 0x21, &v6), client("1:203:405:607:809:a0b:c0d:e0f")),
            (v2(0x21, 0x11, &tlvs), client("192.0.2.1")),
            (v2(0x21, 0x31, &[0; 216]), Header::Client(None)),
            (v2(0x20, 0x00, &[]), Header::Itself),
            (v2(0x20, 0x11, &v4), Header::Itself),
            (v2(0x21, 0x00, &[1, 2, 3]), Header::Itself),
        ] {
            let length = bytes.len();
            let more = [bytes.as_slice(), b"GET / HTTP/1.1\r\n"].concat();

            assert_eq!(parse(&more), Ok(Some((header, length))), "{more:?}");
            for cut in 0..length {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} of {bytes:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_a_meaning(rest: Vec<u8>, kind in 0..3_usize) {
            let start = [b"PROXY ".as_slice(), SIGNATURE, b""][kind];
            let bytes = [start, &rest].concat();
            if let Ok(Some((_, length))) = parse(&bytes) {
                proptest::prop_assert!(length <= bytes.len());
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 107], b"\r\n"].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"proxy TCP4 192.0.2.1 198.51.100.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 65536\r\n".to_vec(),
            b"PROXY TCP4  192.0.2.1 198.51.100.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n".to_vec(),
            b"PROXY \xff\r\n".to_vec(),
            long,
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x21, 0x12, &[0; 12]),
            v2(0x21, 0x41, &[0; 12]),
            v2(0x21, 0x11, &[0; 5000]),
            SIGNATURE[..11].iter().copied().chain([b'x']).collect(),
        ] {
            assert!(parse(&bytes).is_err(), "{bytes:?}");
        }
    }
}
