//! When observed values are worth writing into a status.

use crate::TargetReport;
use serde::{Deserialize, Serialize};

/// Relative change of an observed value below which it is not written.
const WORTH_WRITING: f64 = 0.10;
/// Seconds for which a value must have kept away from the written one: as long as the window it is measured over, so
/// that all of its samples are others. Chance brings a value back by then; a real change does not.
const LASTING_SECONDS: f64 = 60.0;

/// Keeps what was last written into `status.targets` and says when that is out of date.
///
/// A verdict that flips is written at once. An observed value is written when it moved by more than 10 % and by more
/// than chance explains, and has stayed away for 60 seconds, so that steady load leads to no write at all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reporter {
    written: Vec<TargetReport>,
    away_since: Option<f64>,
}

impl Reporter {
    /// A reporter that takes `written`, the content of the status, as already written: a restart of the operator writes
    /// nothing.
    #[must_use]
    pub fn new(written: Vec<TargetReport>) -> Self {
        Self {
            written,
            away_since: None,
        }
    }

    /// What the status should hold.
    #[must_use]
    pub fn written(&self) -> &[TargetReport] {
        &self.written
    }

    /// Takes the newest reports, at `time` in seconds, and returns whether [`Self::written`] changed.
    pub fn update(&mut self, time: f64, reports: Vec<TargetReport>) -> bool {
        if self.written == reports {
            self.away_since = None;
            return false;
        }
        if flipped(&self.written, &reports) {
            return self.write(reports);
        }
        if !moved(&self.written, &reports) {
            self.away_since = None;
            return false;
        }
        let since = *self.away_since.get_or_insert(time);
        if time - since >= LASTING_SECONDS {
            self.write(reports)
        } else {
            false
        }
    }

    fn write(&mut self, reports: Vec<TargetReport>) -> bool {
        self.written = reports;
        self.away_since = None;
        true
    }
}

/// Whether a target was added, removed or changed, or a verdict or state differs.
fn flipped(written: &[TargetReport], reports: &[TargetReport]) -> bool {
    let verdict = |report: &TargetReport| (report.name.clone(), report.target.to_bits(), report.state, report.met);
    !written.iter().map(verdict).eq(reports.iter().map(verdict))
}

/// Whether an observed value moved by more than is worth writing and more than chance explains.
fn moved(written: &[TargetReport], reports: &[TargetReport]) -> bool {
    written
        .iter()
        .zip(reports)
        .any(|(old, new)| match (old.observed, new.observed) {
            (Some(old), Some(value)) => {
                let by_chance = new.plausible.is_some_and(|(least, most)| (least..=most).contains(&old));
                !by_chance && (value - old).abs() > WORTH_WRITING * old.abs().max(value.abs())
            }
            (old, value) => old.is_some() != value.is_some(),
        })
}
