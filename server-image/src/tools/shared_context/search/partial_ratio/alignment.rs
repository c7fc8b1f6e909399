//! The best alignment of a needle with a part of a text that is at least as long: a window of the needle's length, or
//! a shorter part at the text's start or end.

use super::subsequence::Rows;

/// The best score so far, and which scores count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Best {
    cutoff: f64,
    score: f64,
}

/// Where in the text a segment lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Whether the text starts with it.
    pub(super) first: bool,
    /// Whether the text ends with it.
    pub(super) last: bool,
}

impl Best {
    /// Nothing yet; only scores from `cutoff` will count.
    pub(super) const fn from(cutoff: f64) -> Self {
        Self { cutoff, score: 0.0 }
    }

    /// The score, from 0 to 100.
    pub(super) const fn score(self) -> f64 {
        self.score
    }

    /// Whether no other alignment can be better.
    pub(super) fn is_perfect(self) -> bool {
        self.score >= 100.0
    }

    /// Takes in all alignments within a segment of the text, whose rows are `rows`.
    ///
    /// Segments overlap by the needle's length, so that together they have every window.
    pub(super) fn improve<R: Rows>(&mut self, rows: &R, needle: usize, place: Place) {
        if place.first {
            self.improve_by_starts(rows, needle);
        }
        // The text's last window counts as an end of the text: RapidFuzz compares ends with the cutoff in another way
        // than windows, which shows when the score is the cutoff.
        let windows_end = if place.last { rows.len() - 1 } else { rows.len() };
        self.improve_by_windows(rows, needle, windows_end);
        if place.last {
            self.improve_by_ends(rows, needle);
        }
    }

    fn improve_by_starts<R: Rows>(&mut self, rows: &R, needle: usize) {
        let mut state = rows.fresh();
        let mut common = 0;
        for position in 0..needle - 1 {
            if rows.append(&mut state, position) {
                common += 1;
                self.offer_part(common, needle + position + 1);
            }
        }
    }

    fn improve_by_ends<R: Rows>(&mut self, rows: &R, needle: usize) {
        let mut state = rows.fresh();
        let mut common = 0;
        for taken in 1..=needle {
            if rows.append_mirrored(&mut state, rows.len() - taken) {
                common += 1;
                self.offer_part(common, needle + taken);
            }
        }
    }

    fn offer_part(&mut self, common: usize, total: usize) {
        let similarity = similarity(common, total);
        if similarity >= self.cutoff / 100.0 && similarity * 100.0 > self.score {
            self.score = similarity * 100.0;
        }
    }

    /// Looks for better windows among the first `end` characters.
    ///
    /// A window that improves the score must have a certain number of characters in common with the needle. So the
    /// common subsequence is grown from `start` until it has that many. A window that ends earlier cannot have them,
    /// and the next one to look at is the one that ends there.
    fn improve_by_windows<R: Rows>(&mut self, rows: &R, needle: usize, end: usize) {
        let mut wanted = self.least_better_window(needle);
        let mut start = 0;
        while start + needle <= end && wanted <= needle {
            if !rows.matches(start) {
                // The next window, or a part at the text's end, has as much in common.
                start += 1;
                continue;
            }
            let mut state = rows.fresh();
            let mut common = 0;
            let mut position = start;
            while common < wanted {
                if position == end {
                    return;
                }
                common += usize::from(rows.append(&mut state, position));
                position += 1;
            }
            if position - start <= needle {
                for rest in position..start + needle {
                    common += usize::from(rows.append(&mut state, rest));
                }
                self.score = window_score(common, needle);
                wanted = common + 1;
                start += 1;
            } else {
                start = position - needle;
            }
        }
    }

    /// Least number of characters in common with which a window is better than what there is; more than `needle` if
    /// no window can be.
    fn least_better_window(self, needle: usize) -> usize {
        let improves = |common| {
            let score = window_score(common, needle);
            score >= self.cutoff && score > self.score
        };
        let mut common = estimate(self.cutoff.max(self.score), needle);
        while common > 0 && improves(common - 1) {
            common -= 1;
        }
        while common <= needle && !improves(common) {
            common += 1;
        }
        common
    }
}

fn window_score(common: usize, needle: usize) -> f64 {
    similarity(common, 2 * needle) * 100.0
}

/// Similarity of two texts of `total` characters together, from 0 to 1: in the order of operations of RapidFuzz,
/// because another order rounds differently.
#[expect(clippy::cast_precision_loss, reason = "lengths of texts are far below 2^52")]
fn similarity(common: usize, total: usize) -> f64 {
    1.0 - (total - 2 * common) as f64 / total as f64
}

#[expect(clippy::cast_precision_loss, reason = "lengths of texts are far below 2^52")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 0 to the length; the conversion saturates"
)]
fn estimate(score: f64, needle: usize) -> usize {
    ((score / 100.0 * needle as f64) as usize).min(needle)
}
