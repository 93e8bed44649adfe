//! Names for one exchange: request ids (UUID version 7, RFC 9562 §5.7) and W3C Trace Context.
//!
//! Time and chance are arguments; everything is written into arrays on the stack.
//!
//! Not here: which fields carry them (`headers`).

/// A request id from a trusted peer is kept up to this length: what common generators make,
/// with room, and small enough for every log.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Trace id, 32 lower case hexadecimal digits.
    pub id: [u8; 32],
    /// Whether somebody up the line records it.
    pub sampled: bool,
}

impl Trace {
    /// Begins a trace.
    pub fn new(random: [u64; 2], sampled: bool) -> Self {
        let mut id = [0; 32];
        // An id of nothing but zeros would be invalid (§3.2.2.3).
        hex(&mut id[..16], random[0]);
        hex(&mut id[16..], random[1].max(1));
        Self { id, sampled }
    }

    /// Reads a `traceparent`; `None` for one that must not be continued (§3.2.2, §4.3).
    ///
    /// Later versions may append to it, and are read as far as this one goes.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, later) = value.split_at_checked(55)?;
        let [v0, v1, b'-', id @ .., b'-', f0, f1] = known else { return None };
        let (id, span) = (&id[..32], &id[32..]);
        let [b'-', span @ ..] = span else { return None };
        let is_hex = |text: &[u8]| text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let is_zero = |text: &[u8]| text.iter().all(|byte| *byte == b'0');
        let good = is_hex(&[*v0, *v1, *f0, *f1]) && is_hex(id) && is_hex(span);
        let fits = match (v0, v1) {
            (b'f', b'f') => false,
            (b'0', b'0') => later.is_empty(),
            _ => later.is_empty() || later[0] == b'-',
        };
        if !good || !fits || is_zero(id) || is_zero(span) {
            return None;
        }
        let sampled = matches!(f1, b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f');
        Some(Self { id: id.try_into().ok()?, sampled })
    }

    /// The `traceparent` that goes on, with the gateway's own span.
    pub fn parent(&self, span: u64) -> [u8; 55] {
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
        value[3..35].copy_from_slice(&self.id);
        hex(&mut value[36..52], span.max(1));
        value[54] = if self.sampled { b'1' } else { b'0' };
        value
    }
}

/// A UUID of version 7: sorts by time.
pub fn uuid_v7(unix_ms: u64, random: [u64; 2]) -> [u8; 36] {
    // 48 bits of time, version 7, 12 random bits; variant 0b10, 62 random bits.
    let high = (unix_ms << 16) | 0x7000 | (random[0] & 0x0fff);
    let low = (random[1] >> 2) | (1 << 63);
    let mut digits = [0; 32];
    hex(&mut digits[..16], high);
    hex(&mut digits[16..], low);
    let mut uuid = [b'-'; 36];
    for (to, from) in
        [(0..8, 0..8), (9..13, 8..12), (14..18, 12..16), (19..23, 16..20), (24..36, 20..32)]
    {
        uuid[to].copy_from_slice(&digits[from]);
    }
    uuid
}

/// Whether a peer's request id can be kept: short, and harmless in logs, URLs and headers.
pub fn is_request_id(id: &[u8]) -> bool {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~+/=:@".contains(byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(known)
}

/// Writes `value` into 16 digits.
fn hex(out: &mut [u8], value: u64) {
    for (digits, byte) in out.chunks_exact_mut(2).zip(value.to_be_bytes()) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_parent_is_continued_with_a_new_span() {
        let trace = Trace::parse(GOOD.as_bytes()).unwrap();

        assert_eq!(
            trace.parent(0x12).as_slice(),
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000012-01"
        );
        assert_eq!(Trace::parse(&trace.parent(0)), Some(trace));
        let unsampled = Trace::parse(GOOD.replace("-01", "-02").as_bytes()).unwrap();
        assert!(!unsampled.sampled);
    }

    #[test]
    fn later_versions_are_read_as_far_as_known() {
        for later in [GOOD.replace("00-", "cc-"), GOOD.replace("00-", "cc-") + "-more"] {
            assert!(Trace::parse(later.as_bytes()).is_some(), "{later}");
        }
    }

    #[test]
    fn an_invalid_parent_is_not_continued() {
        for bad in [
            String::new(),
            GOOD[..54].to_owned(),
            GOOD.to_owned() + "-",
            GOOD.to_owned() + "0",
            GOOD.to_uppercase(),
            GOOD.replace("00-0", "ff-0"),
            GOOD.replace("00-0", "cc-0") + "x",
            GOOD.replace("-b7", "_b7"),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replace("-01", "-0g"),
        ] {
            assert_eq!(Trace::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    /// RFC 9562, appendix A.6.
    #[test]
    fn a_uuid_is_laid_out_as_the_rfc_shows() {
        let uuid = uuid_v7(0x017F_22E2_79B0, [0xCC3, 0x18C4_DC0C_0C07_398F << 2]);

        assert_eq!(uuid.as_slice(), b"017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
    }

    proptest! {
        #[test]
        fn what_is_made_is_valid(random: [u64; 2], sampled: bool, span: u64, now: u64) {
            let trace = Trace::new(random, sampled);
            prop_assert_eq!(Trace::parse(&trace.parent(span)), Some(trace));
            let uuid = uuid_v7(now, random);
            prop_assert!(is_request_id(&uuid));
            prop_assert_eq!(uuid[14], b'7');
            prop_assert!(b"89ab".contains(&uuid[19]));
        }

        #[test]
        fn any_bytes_can_be_a_parent(value: Vec<u8>) {
            let _ = Trace::parse(&value);
        }
    }
}
