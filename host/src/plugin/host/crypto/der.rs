//! As much DER (X.690) as it takes to find the public key of a certificate.
//!
//! Not here: the key's own encoding, which aws-lc reads, and whether the certificate is valid: whoever
//! hands it over trusts it.

const SEQUENCE: u8 = 0x30;

/// `[0] EXPLICIT`, the version.
const VERSION: u8 = 0xa0;

/// The `SubjectPublicKeyInfo` of a certificate (RFC 5280 §4.1), tag and length included.
pub(super) fn public_key_of(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest, VERSION)?.2;
    }
    // Serial number, algorithm, issuer, validity, subject.
    for _ in 0..5 {
        rest = element(rest, *rest.first()?)?.2;
    }
    Some(element(rest, SEQUENCE)?.1)
}

/// The element with this tag that `bytes` begin with: its content, the whole of it, and what follows.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8], &[u8])> {
    if *bytes.first()? != tag {
        return None;
    }
    let first = usize::from(*bytes.get(1)?);
    let (length, header) = match first {
        0..=0x7f => (first, 2),
        // A certificate has no element that takes more than three bytes to count.
        0x81..=0x83 => {
            let digits = bytes.get(2..2 + (first & 0x7f))?;
            let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
            (length, 2 + digits.len())
        }
        _ => return None,
    };
    let end = header + length;
    Some((bytes.get(header..end)?, &bytes[..end], &bytes[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_and_cut_ones_are_not() {
        let bytes = [0x30, 0x81, 0x02, 1, 2, 9];

        assert_eq!(element(&bytes, 0x30), Some((&bytes[3..5], &bytes[..5], &bytes[5..])));
        assert_eq!(element(&bytes, 0x31), None);
        for end in 0..5 {
            assert_eq!(element(&bytes[..end], 0x30), None);
        }
        assert_eq!(element(&[0x30, 0x80, 0, 0], 0x30), None, "of no definite length");
        assert_eq!(element(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], 0x30), None);
    }
}
