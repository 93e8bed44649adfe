//! Heads of responses that are sent more than once, and numbers in them.
//!
//! Not here: bodies, and where such heads come from (`plugin`).

use super::fields::Fields;
use super::head::ResponseHead;

impl Fields {
    /// Adds a number, as [`push`](Self::push) does.
    pub fn push_number(&mut self, name: &str, mut value: u64) {
        // As many as the largest number has.
        let mut digits = [0; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b'0' + u8::try_from(value % 10).unwrap_or_default();
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.push(name, &digits[start..]);
    }

    fn copy_from(&mut self, other: &Self) {
        debug_assert!(other.lines.iter().all(|line| !line.removed), "made by `copy_without`");
        self.clear();
        self.bytes.extend_from_slice(&other.bytes);
        self.lines.extend_from_slice(&other.lines);
        self.seen = other.seen;
    }

    fn copy_without(&self, without: &str) -> Self {
        let mut copy = Self::default();
        copy.bytes.reserve_exact(self.written_len());
        copy.lines.reserve_exact(self.len());
        for (name, value) in self.iter() {
            let goes = name.eq_ignore_ascii_case(without.as_bytes());
            // Names of fields are ASCII.
            if let (false, Ok(name)) = (goes, std::str::from_utf8(name)) {
                copy.push(name, value);
            }
        }
        copy
    }
}

impl ResponseHead {
    /// Makes it a copy of a head that [`copy_without`](Self::copy_without) has made.
    pub fn copy_from(&mut self, other: &Self) {
        self.fields.copy_from(&other.fields);
        self.status = other.status;
        self.version = other.version;
        self.reason_at = (0, 0);
    }

    /// A copy that has no room to spare, without the fields of this name and with the usual words for its status.
    #[must_use]
    pub fn copy_without(&self, name: &str) -> Self {
        Self {
            fields: self.fields.copy_without(name),
            status: self.status,
            version: self.version,
            reason_at: (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_what_was_not_removed_and_can_be_copied_again() {
        let mut head = ResponseHead::default();
        head.assign(203);
        for (name, value) in [("Age", "1"), ("Date", "d"), ("X-A", "a"), ("age", "2")] {
            head.fields.push(name, value.as_bytes());
        }
        head.fields.remove("x-a").unwrap();
        let copy = head.copy_without("age");
        let mut used = ResponseHead::default();
        used.assign(500);
        used.fields.push("X-Old", b"old");

        for age in [0, 7, 1234, u64::MAX] {
            used.copy_from(&copy);
            used.fields.push_number("age", age);

            let mut written = Vec::new();
            used.fields.write(&mut written);
            assert_eq!(String::from_utf8(written).unwrap(), format!("Date: d\r\nage: {age}\r\n"));
            assert_eq!((used.status, used.reason()), (203, head.reason()));
            assert!(used.fields.has(crate::http::Name::Date));
        }
    }
}
