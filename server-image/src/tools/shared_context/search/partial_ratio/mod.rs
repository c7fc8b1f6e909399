//! `partial_ratio` as RapidFuzz 3.14 defines it, to the last bit of the result: how well the shorter of two texts fits
//! the best-fitting part of the longer one, from 0 to 100.
//!
//! The fit of two texts is their normalized indel similarity: `2 · common ÷ (sum of the lengths)`, where `common` is
//! the length of the longest common subsequence and lengths are in code points. Parts are all windows of the shorter
//! text's length and all shorter starts and ends of the longer text. RapidFuzz measures the parts one by one; here all
//! starts and all ends are one pass each, and most windows are skipped.

mod alignment;
mod pattern;
mod subsequence;

use alignment::{Best, Place};
use pattern::{Characters, Pattern};
use subsequence::{Fixed, Wide};

/// Least characters of text that are looked up at a time: bounds the memory, not what is found.
const SEGMENT: usize = 4096;

/// The score of `first` and `second`, from 0 to 100, or 0 if it is below `cutoff`.
///
/// Two empty texts fit perfectly, an empty one and another not at all. Above a `cutoff` of 100 everything is 0.
#[must_use]
pub fn partial_ratio(first: &str, second: &str, cutoff: f64) -> f64 {
    Scorer::new(first).score(second, cutoff)
}

/// Scores many texts against one query. Its memory grows with the query, not with the texts.
#[derive(Debug)]
pub struct Scorer {
    query: String,
    query_length: usize,
    query_pattern: Pattern,
    text_pattern: Pattern,
    rows: Vec<u64>,
}

impl Scorer {
    /// A scorer for `query`.
    #[must_use]
    pub fn new(query: &str) -> Self {
        let query_length = length(query);
        let mut query_pattern = Pattern::empty();
        query_pattern.set(query, query_length);
        Self {
            query: query.to_owned(),
            query_length,
            query_pattern,
            text_pattern: Pattern::empty(),
            rows: Vec::new(),
        }
    }

    /// [`partial_ratio`] of the query and `text`. The higher `cutoff`, the faster.
    pub fn score(&mut self, text: &str, cutoff: f64) -> f64 {
        let text_length = length(text);
        if cutoff > 100.0 {
            return 0.0;
        }
        if self.query_length == 0 || text_length == 0 {
            return if self.query_length == text_length { 100.0 } else { 0.0 };
        }
        if self.query_length < text_length {
            return align(&self.query_pattern, text, text_length, cutoff, &mut self.rows);
        }
        self.text_pattern.set(text, text_length);
        let score = align(
            &self.text_pattern,
            &self.query,
            self.query_length,
            cutoff,
            &mut self.rows,
        );
        // Of two texts of one length either can be the needle.
        if self.query_length == text_length && score < 100.0 {
            let other = align(&self.query_pattern, text, text_length, cutoff, &mut self.rows);
            return score.max(other);
        }
        score
    }
}

fn length(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.chars().count()
    }
}

/// The score of a needle and a text of `length` characters, at least as long, neither of them empty.
fn align(needle: &Pattern, text: &str, length: usize, cutoff: f64, rows: &mut Vec<u64>) -> f64 {
    let segment = SEGMENT.max(4 * needle.length());
    let mut best = Best::from(cutoff);
    let mut text = Characters::of(text);
    let mut read = 0;
    rows.clear();
    while read < length && !best.is_perfect() {
        let first = read == 0;
        let kept = if first {
            0
        } else {
            keep_last(rows, needle.length() * needle.words()) / needle.words()
        };
        let taken = (segment - kept).min(length - read);
        needle.look_up(&mut text, taken, rows);
        read += taken;
        improve(
            &mut best,
            rows,
            needle,
            Place {
                first,
                last: read == length,
            },
        );
    }
    best.score()
}

/// Removes all but the last `count` words.
fn keep_last(rows: &mut Vec<u64>, count: usize) -> usize {
    rows.drain(..rows.len() - count);
    count
}

fn improve(best: &mut Best, rows: &[u64], needle: &Pattern, place: Place) {
    let length = needle.length();
    match needle.words() {
        1 => best.improve(&Fixed::<1>(rows.as_chunks().0), length, place),
        2 => best.improve(&Fixed::<2>(rows.as_chunks().0), length, place),
        4 => best.improve(&Fixed::<4>(rows.as_chunks().0), length, place),
        8 => best.improve(&Fixed::<8>(rows.as_chunks().0), length, place),
        words => best.improve(&Wide { rows, words }, length, place),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What RapidFuzz 3.14.6 gave: `["first", "second", "cutoff", "score"]` a line. The test `rapidfuzz` of the server
    /// compares this file, and many more texts, with RapidFuzz itself.
    const VECTORS: &str = include_str!("vectors.jsonl");

    /// Agents tune their thresholds to RapidFuzz's scores; another score finds other messages.
    #[test]
    fn scores_are_those_of_rapidfuzz() {
        let mut count = 0;
        for line in VECTORS.lines() {
            let (first, second, cutoff, score): (String, String, String, String) = serde_json::from_str(line).unwrap();
            let found = partial_ratio(&first, &second, cutoff.parse().unwrap());
            let expected: f64 = score.parse().unwrap();
            assert_eq!(found.to_bits(), expected.to_bits(), "{found} for {line}");
            count += 1;
        }
        assert!(count > 200, "{count} vectors");
    }

    /// The definition, word for word and slow.
    fn defined(first: &str, second: &str) -> f64 {
        let (first, second): (Vec<char>, Vec<char>) = (first.chars().collect(), second.chars().collect());
        let (needle, text) = if first.len() <= second.len() {
            (first, second)
        } else {
            (second, first)
        };
        if needle.is_empty() {
            return if text.is_empty() { 100.0 } else { 0.0 };
        }
        let mut best = best_part(&needle, &text);
        if needle.len() == text.len() {
            best = best.max(best_part(&text, &needle));
        }
        best
    }

    fn best_part(needle: &[char], text: &[char]) -> f64 {
        let starts = (1..needle.len()).map(|end| &text[..end]);
        let ends = (text.len() - needle.len()..text.len()).map(|start| &text[start..]);
        let parts = starts.chain(text.windows(needle.len())).chain(ends);
        parts.map(|part| fit(needle, part)).fold(0.0, f64::max)
    }

    fn fit(first: &[char], second: &[char]) -> f64 {
        let mut lengths = vec![0_u32; second.len() + 1];
        for one in first {
            let mut diagonal = 0;
            for (place, other) in second.iter().enumerate() {
                let above = lengths[place + 1];
                lengths[place + 1] = if one == other {
                    diagonal + 1
                } else {
                    above.max(lengths[place])
                };
                diagonal = above;
            }
        }
        let total = u32::try_from(first.len() + second.len()).unwrap();
        (1.0 - f64::from(total - 2 * lengths[second.len()]) / f64::from(total)) * 100.0
    }

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ab]{0,40}",
            "[a-e ]{0,80}",
            "[a-zäß日本😀]{0,150}",
            "(ab|ba|c){0,40}",
            any::<String>()
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Skipping windows must never skip the best one.
        #[test]
        fn the_score_is_the_best_of_all_parts(first in texts(), second in texts()) {
            prop_assert_eq!(partial_ratio(&first, &second, 0.0).to_bits(), defined(&first, &second).to_bits());
        }

        /// A cutoff is only there to save work.
        #[test]
        fn a_cutoff_changes_no_score_above_it(first in texts(), second in texts(), cutoff in 0.0..100.0) {
            let score = partial_ratio(&first, &second, 0.0);
            let expected = if score >= cutoff { score } else { 0.0 };
            prop_assert_eq!(partial_ratio(&first, &second, cutoff).to_bits(), expected.to_bits());
        }

        /// A query buried in a long text is found wherever it is: texts are looked up in segments.
        #[test]
        fn a_copy_in_a_long_text_is_found(query in "[a-z]{1,300}", before in 0_usize..9000, after in 0_usize..9000) {
            let text = format!("{}{query}{}", "é".repeat(before), "-".repeat(after));
            prop_assert_eq!(partial_ratio(&query, &text, 60.0).to_bits(), 100.0_f64.to_bits());
        }

        /// One scorer serves all messages of a session: what it saw before must not show.
        #[test]
        fn a_scorer_forgets_the_last_text(query in texts(), texts in prop::collection::vec(texts(), 1..6)) {
            let mut scorer = Scorer::new(&query);
            for text in texts {
                prop_assert_eq!(scorer.score(&text, 0.0).to_bits(), partial_ratio(&query, &text, 0.0).to_bits());
            }
        }
    }
}
