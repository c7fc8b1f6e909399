//! What was needed over the last minutes.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What one tick needed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Needed {
    /// When, in seconds.
    pub time: f64,
    /// Replicas for the measured demand.
    pub replicas: u32,
    /// The same if demand were a little lower: an increase starts when even this is more than there is.
    pub at_least: u32,
    /// The same if demand were a little higher, and every pod without data were full: a decrease stops here.
    pub at_most: u32,
}

/// The needs of the last minutes, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NeedWindow {
    entries: VecDeque<Needed>,
}

impl NeedWindow {
    /// Adds the newest need and forgets what is older than `keep_seconds`.
    pub fn push(&mut self, needed: Needed, keep_seconds: f64) {
        self.entries.push_back(needed);
        while self
            .entries
            .front()
            .is_some_and(|oldest| oldest.time < needed.time - keep_seconds)
        {
            self.entries.pop_front();
        }
    }

    /// The greatest `value` within the `seconds` before `time`; the newest entry always counts.
    pub fn greatest(&self, time: f64, seconds: f64, value: impl Fn(&Needed) -> u32) -> Option<u32> {
        self.within(time, seconds).map(value).max()
    }

    /// The least `value` within the `seconds` before `time`; the newest entry always counts.
    pub fn least(&self, time: f64, seconds: f64, value: impl Fn(&Needed) -> u32) -> Option<u32> {
        self.within(time, seconds).map(value).min()
    }

    /// Like `autoscaling/v2`: an entry exactly as old as the window is outside.
    fn within(&self, time: f64, seconds: f64) -> impl Iterator<Item = &Needed> {
        let newest = self.entries.len().saturating_sub(1);
        let inside = move |(index, entry): &(usize, &Needed)| *index == newest || entry.time > time - seconds;
        self.entries.iter().enumerate().filter(inside).map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(needs: &[(f64, u32)]) -> NeedWindow {
        let mut window = NeedWindow::default();
        for (time, replicas) in needs {
            let needed = Needed {
                time: *time,
                replicas: *replicas,
                at_least: *replicas,
                at_most: *replicas,
            };
            window.push(needed, 1_000.0);
        }
        window
    }

    /// A peak that leaves the window too early takes away pods that are still needed.
    #[test]
    fn a_peak_counts_until_it_is_as_old_as_the_window() {
        let window = window(&[(0.0, 9), (60.0, 4), (180.0, 3)]);
        let cases = [
            ("just inside", 179.9, 9),
            ("exactly as old", 180.0, 4),
            ("both peaks out", 240.0, 3),
        ];
        for (name, time, expected) in cases {
            assert_eq!(
                window.greatest(time, 180.0, |needed| needed.replicas),
                Some(expected),
                "{name}"
            );
        }
    }

    #[test]
    fn a_window_of_no_length_sees_the_newest_need() {
        let window = window(&[(0.0, 9), (5.0, 4)]);
        assert_eq!(window.greatest(5.0, 0.0, |needed| needed.replicas), Some(4));
        assert_eq!(window.least(5.0, 0.0, |needed| needed.replicas), Some(4));
    }

    #[test]
    fn old_needs_are_forgotten() {
        let mut window = window(&[(0.0, 9)]);
        window.push(
            Needed {
                time: 100.0,
                replicas: 1,
                at_least: 1,
                at_most: 1,
            },
            60.0,
        );
        assert_eq!(window.entries.len(), 1);
    }
}
