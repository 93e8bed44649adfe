//! Tokens that were found good, so that the next request with the same one costs a look.
//!
//! A table of places; a token's place is said by the end of its signature, which is as good as random and
//! which nobody can choose who cannot sign. Whatever comes to a taken place takes it, when it comes for the second
//! time: a copy of a token that never comes again would cost more than a look for it. A token is compared
//! as a whole. What was found is good for as long as the token says, and as long as the keys stay the same.

use std::rc::Rc;

use crate::claims::Times;

/// Places: so many tokens are used by one worker at a time.
const PLACES: usize = 4096;

/// Memory for all of them. When it is used up the table begins anew.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// A longer token is checked every time.
const TOKEN_BYTES_MAX: usize = 4096;

/// What is known of a good token.
#[derive(Debug)]
pub(crate) struct Verified {
    /// The payload, as it is in the token.
    pub(crate) claims: Vec<u8>,
    /// The value of each of `claims_to_headers`.
    pub(crate) fields: Vec<Option<String>>,
    pub(crate) times: Times,
}

impl Verified {
    pub(crate) fn check_time(&self, unix_ms: u64) -> Result<(), crate::Refusal> {
        self.times.check(unix_ms)
    }
}

#[derive(Debug, Default)]
pub(crate) struct VerifiedTokens {
    /// Empty until the first token comes.
    places: Vec<Option<(Box<str>, Rc<Verified>)>>,
    /// The end of the token that came to each place last.
    came: Vec<u64>,
    bytes: usize,
}

impl VerifiedTokens {
    pub(crate) fn find(&self, token: &str) -> Option<Rc<Verified>> {
        let (known, verified) = self.places.get(place(token))?.as_ref()?;
        (**known == *token).then(|| Rc::clone(verified))
    }

    /// Takes a token in, if it has come before.
    pub(crate) fn keep(&mut self, token: &str, verified: &Rc<Verified>) {
        if token.len() > TOKEN_BYTES_MAX {
            return;
        }
        self.came.resize(PLACES, 0);
        if std::mem::replace(&mut self.came[place(token)], end(token)) != end(token) {
            return;
        }
        if self.bytes + bytes(token, verified) > BYTES_MAX {
            self.clear();
        }
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let place = &mut self.places[place(token)];
        if let Some((old, gone)) = place.take() {
            self.bytes -= bytes(&old, &gone);
        }
        self.bytes += bytes(token, verified);
        *place = Some((token.into(), Rc::clone(verified)));
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What an entry takes, roughly.
fn bytes(token: &str, verified: &Verified) -> usize {
    let fields = verified.fields.iter().flatten().map(String::len).sum::<usize>();
    token.len() + verified.claims.len() + fields + 32 * verified.fields.len() + 160
}

fn end(token: &str) -> u64 {
    u64::from_le_bytes(token.as_bytes().last_chunk().copied().unwrap_or_default())
}

fn place(token: &str) -> usize {
    // The last symbol of base64url does not use all of its bits.
    let mixed = end(token).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> 32).unwrap_or(0) % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified() -> Rc<Verified> {
        let times = Times { begins_ms: f64::NEG_INFINITY, ends_ms: f64::INFINITY };
        Rc::new(Verified { claims: vec![0; 1000], fields: vec![Some("x".to_owned()), None], times })
    }

    #[test]
    fn tokens_are_found_as_a_whole() {
        let mut tokens = VerifiedTokens::default();
        tokens.keep("a.b.cccccccc", &verified());
        assert!(tokens.find("a.b.cccccccc").is_none(), "once is not enough");
        tokens.keep("a.b.cccccccc", &verified());

        assert!(tokens.find("a.b.cccccccc").is_some());
        for other in ["A.b.cccccccc", "a.b.cccccccd", "b.cccccccc", "", "a.b.cccccccc "] {
            assert!(tokens.find(other).is_none(), "{other}");
        }
        tokens.clear();
        assert!(tokens.find("a.b.cccccccc").is_none());
    }

    /// Everybody who gets tokens could fill a worker's memory otherwise.
    #[test]
    fn memory_has_an_end() {
        let mut tokens = VerifiedTokens::default();
        for number in 0..20_000_u64 {
            let token = format!("{:0>2000}{number:020}", "");
            tokens.keep(&token, &verified());
            tokens.keep(&token, &verified());
            let held = tokens.places.iter().flatten().map(|(token, one)| bytes(token, one));
            if number % 500 == 0 {
                assert_eq!(held.sum::<usize>(), tokens.bytes);
            }
            assert!(tokens.bytes <= BYTES_MAX);
        }
        assert!(tokens.bytes > BYTES_MAX / 8);
        tokens.keep(&"x".repeat(TOKEN_BYTES_MAX + 1), &verified());
        tokens.keep(&"x".repeat(TOKEN_BYTES_MAX + 1), &verified());
        assert!(tokens.find(&"x".repeat(TOKEN_BYTES_MAX + 1)).is_none());
    }
}
