//! How the replica count changed, as it was observed: whoever changed it, and whether or not a decision was acted on.

use serde::{Deserialize, Serialize};

/// Seconds for which changes are kept: the longest period of a policy and of the guard against flapping.
const KEPT_SECONDS: f64 = 3_600.0;

/// The changes of the last hour, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Changes {
    events: Vec<Change>,
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Change {
    time: f64,
    from: u32,
    to: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    time: f64,
    replicas: u32,
}

impl Changes {
    /// Takes the replica count of `time`. A change is dated to the tick before, which is when it was decided.
    pub fn observe(&mut self, time: f64, replicas: u32) {
        if let Some(seen) = self.seen.filter(|seen| seen.replicas != replicas) {
            self.events.push(Change {
                time: seen.time,
                from: seen.replicas,
                to: replicas,
            });
        }
        self.seen = Some(Seen { time, replicas });
        self.events.retain(|change| change.time > time - KEPT_SECONDS);
    }

    /// The replica count `period` seconds before `time`, given the count now.
    pub fn start_of_period(&self, replicas: u32, time: f64, period: f64) -> u32 {
        let first = self.events.iter().find(|change| change.time > time - period);
        first.map_or(replicas, |change| change.from)
    }

    /// How often the direction of change turned within the `seconds` before `time`.
    pub fn reversals(&self, time: f64, seconds: f64) -> usize {
        let turned = |pair: &&[Change]| (pair[0].to > pair[0].from) != (pair[1].to > pair[1].from);
        let turns = self.events.windows(2).filter(turned);
        turns.filter(|pair| pair[1].time > time - seconds).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(counts: &[(f64, u32)]) -> Changes {
        let mut changes = Changes::default();
        for (time, replicas) in counts {
            changes.observe(*time, *replicas);
        }
        changes
    }

    #[test]
    fn a_period_starts_with_the_count_before_its_first_change() {
        let changes = history(&[(0.0, 2), (5.0, 6), (10.0, 6), (15.0, 9)]);
        let cases = [
            ("nothing in the period", 12.0, 2.0, 9),
            ("last change", 14.0, 8.0, 6),
            ("both", 14.0, 60.0, 2),
        ];
        for (name, time, period, expected) in cases {
            assert_eq!(changes.start_of_period(9, time, period), expected, "{name}");
        }
    }

    #[test]
    fn counts_turns_not_steps() {
        let changes = history(&[(0.0, 2), (5.0, 4), (10.0, 6), (15.0, 5), (20.0, 4), (25.0, 8)]);
        assert_eq!(changes.reversals(25.0, 600.0), 2);
        assert_eq!(changes.reversals(25.0, 10.0), 1);
    }

    /// A server that runs for months must not make the operator's memory grow.
    #[test]
    fn forgets_after_an_hour() {
        let mut changes = history(&[(0.0, 2), (5.0, 4)]);
        changes.observe(4_000.0, 4);
        assert!(changes.events.is_empty());
    }
}
