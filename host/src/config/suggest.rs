//! Did you mean: the known word that is closest to a written one.

/// Longest word that is compared; longer ones are no typing errors.
const WORD_BYTES_MAX: usize = 64;

/// Candidates that are compared, so that a huge file cannot make its own report endless.
const CANDIDATES_MAX: usize = 256;

/// The candidate that `written` was most likely meant to be.
pub(super) fn closest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if written.len() > WORD_BYTES_MAX {
        return None;
    }
    let written = fold(written);
    candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .filter(|candidate| candidate.len() <= WORD_BYTES_MAX)
        .map(|candidate| (distance(&written, &fold(candidate)), candidate))
        // A third of the word may be wrong; of a short word one character.
        .filter(|(edits, candidate)| *edits <= (candidate.chars().count() / 3).max(1))
        .filter(|(edits, candidate)| *edits < candidate.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Spelling without what people mix up: case, `-` and `_`.
fn fold(word: &str) -> Vec<char> {
    word.chars()
        .map(|letter| if letter == '-' { '_' } else { letter.to_ascii_lowercase() })
        .collect()
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for row in 1..=from.len() {
        let mut current = vec![row];
        for column in 1..=to.len() {
            let same = from[row - 1] == to[column - 1];
            let mut edits = (last[column - 1] + usize::from(!same))
                .min(last[column] + 1)
                .min(current[column - 1] + 1);
            let swapped = row > 1
                && column > 1
                && from[row - 1] == to[column - 2]
                && from[row - 2] == to[column - 1];
            if swapped {
                edits = edits.min(before[column - 2] + 1);
            }
            current.push(edits);
        }
        before = std::mem::replace(&mut last, current);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_word_and_other_words_none() {
        let keys = ["listen_address", "listen_port", "upstream", "upstreams", "name", "to"];
        for (written, meant) in [
            ("listen_adress", Some("listen_address")),
            ("listen-port", Some("listen_port")),
            ("LISTEN_PORT", Some("listen_port")),
            ("upstraem", Some("upstream")),
            ("upstreamz", Some("upstream")),
            ("nmae", Some("name")),
            ("telemetry", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(closest(written, keys), meant, "{written}");
        }
    }

    #[test]
    fn huge_words_are_not_compared() {
        assert_eq!(closest(&"a".repeat(1 << 20), ["a"]), None);
    }
}
