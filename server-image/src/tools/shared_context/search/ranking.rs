//! The messages of a session that fit a query best, kept while the session's messages pass by.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::partial_ratio::Scorer;
use super::text::{Searched, lower};

/// What to look for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The query.
    pub query: String,
    /// Least score of a result, from 0 to 100.
    pub threshold: f64,
    /// Most results.
    pub limit: usize,
    /// Whether metadata is searched, too.
    pub metadata: bool,
}

/// A message and how well it fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// Id of the message.
    pub id: i64,
    /// From 0 to 100.
    pub score: f64,
}

/// Higher scores first; of equal scores, newer messages first.
impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Ranked {}

/// The best messages so far. It holds ids and scores only, so that its size does not depend on the messages.
#[derive(Debug)]
pub struct Ranking {
    scorer: Scorer,
    wanted: Wanted,
    /// The worst of the best on top.
    best: BinaryHeap<Reverse<Ranked>>,
    text: String,
    query_words: usize,
}

impl Ranking {
    /// An empty ranking.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        let mut query = wanted.query.clone();
        lower(&mut query);
        Self {
            scorer: Scorer::new(&query),
            best: BinaryHeap::with_capacity(wanted.limit + 1),
            query_words: query.len().div_ceil(64),
            wanted,
            text: String::new(),
        }
    }

    /// Whether metadata is searched, too.
    #[must_use]
    pub const fn wants_metadata(&self) -> bool {
        self.wanted.metadata
    }

    /// Looks at one message. Messages come newest first.
    pub fn offer(&mut self, message: Searched<'_>) {
        let cutoff = self.cutoff();
        message.write_to(&mut self.text);
        let score = self.scorer.score(&self.text, cutoff);
        if score < cutoff {
            return;
        }
        self.best.push(Reverse(Ranked { id: message.id, score }));
        if self.best.len() > self.wanted.limit {
            self.best.pop();
        }
    }

    /// The score from which a message is taken in: once there are enough, it must be better than the worst of them,
    /// as it is older.
    fn cutoff(&self) -> f64 {
        match self.best.peek() {
            Some(Reverse(worst)) if self.is_full() => worst.score.next_up(),
            _ => self.wanted.threshold,
        }
    }

    fn is_full(&self) -> bool {
        self.best.len() >= self.wanted.limit
    }

    /// Whether no older message can change the ranking.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_full() && self.cutoff() > 100.0
    }

    /// Upper bound of the work to score texts of `bytes` together, in steps of about a nanosecond; most texts need far
    /// less.
    #[must_use]
    pub const fn work(&self, bytes: usize) -> usize {
        bytes.saturating_mul(2 + 2 * self.query_words)
    }

    /// The best messages, the best first.
    #[must_use]
    pub fn into_best(self) -> Vec<Ranked> {
        self.best
            .into_sorted_vec()
            .into_iter()
            .map(|Reverse(ranked)| ranked)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::partial_ratio;
    use super::*;

    fn ranked(wanted: Wanted, newest_first: &[(i64, &str)]) -> (Vec<(i64, f64)>, bool) {
        let mut ranking = Ranking::new(wanted);
        for (id, content) in newest_first {
            ranking.offer(Searched {
                id: *id,
                sender: "",
                content,
                metadata: None,
            });
        }
        let settled = ranking.is_settled();
        let best = ranking.into_best();
        (
            best.into_iter().map(|ranked| (ranked.id, ranked.score)).collect(),
            settled,
        )
    }

    fn wanted(query: &str, threshold: f64, limit: usize) -> Wanted {
        Wanted {
            query: query.to_owned(),
            threshold,
            limit,
            metadata: false,
        }
    }

    /// Whoever searches wants the best message on top, and of equal ones the newest; the same text twice is two
    /// messages.
    #[test]
    fn the_best_come_first_and_of_equals_the_newest() {
        let messages = [
            (9, "nothing"),
            (8, "the cache"),
            (7, "CACHE"),
            (5, "cachet"),
            (4, "the cache"),
            (2, "cche"),
        ];
        for (name, limit, expected) in [
            ("all", 10, &[8, 7, 5, 4, 2][..]),
            ("fewer", 2, &[8, 7]),
            ("one", 1, &[8]),
        ] {
            let (found, _) = ranked(wanted("Cache", 60.0, limit), &messages);
            let ids: Vec<i64> = found.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, expected, "{name}");
        }
    }

    /// A threshold of 0 shows every message; one of 100 only perfect ones.
    #[test]
    fn the_threshold_itself_is_enough() {
        let messages = [(3, "zzz"), (2, "cache"), (1, "cachx")];
        for (threshold, expected) in [
            (0.0, vec![2, 1, 3]),
            (80.0, vec![2, 1]),
            (80.1, vec![2]),
            (100.0, vec![2]),
        ] {
            let (found, _) = ranked(wanted("cache", threshold, 10), &messages);
            let ids: Vec<i64> = found.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, expected, "from {threshold}");
        }
    }

    /// Reading on when nothing can change costs time for nothing; stopping early loses results.
    #[test]
    fn it_is_settled_when_full_of_perfect_scores() {
        for (name, limit, expected) in [("full", 2, true), ("not full", 3, false)] {
            let (_, settled) = ranked(wanted("cache", 0.0, limit), &[(2, "cache"), (1, "cache")]);
            assert_eq!(settled, expected, "{name}");
        }
        let (_, settled) = ranked(wanted("cache", 0.0, 2), &[(2, "cache"), (1, "cachx")]);
        assert!(!settled, "a perfect message could follow");
    }

    proptest! {
        /// Saving work by the worst of the best so far must not change the result.
        #[test]
        fn it_is_the_start_of_the_sorted_list(
            query in "[a-c]{1,8}", contents in prop::collection::vec("[a-d ]{0,12}", 0..40), limit in 1_usize..12, threshold in 0.0..100.0,
        ) {
            let count = i64::try_from(contents.len()).unwrap();
            let messages: Vec<(i64, &str)> = (0..count).rev().zip(contents.iter().map(String::as_str)).collect();
            let mut all: Vec<(i64, f64)> = messages
                .iter()
                .map(|(id, content)| (*id, partial_ratio(&query, &format!(" {content}"), 0.0)))
                .filter(|(_, score)| *score >= threshold)
                .collect();
            all.sort_by(|left, right| right.1.total_cmp(&left.1).then(right.0.cmp(&left.0)));
            all.truncate(limit);
            prop_assert_eq!(ranked(wanted(&query, threshold, limit), &messages).0, all);
        }
    }
}
