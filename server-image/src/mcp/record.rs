//! One request from its arrival to the end of its answer: its slot, and how it is counted.

use http::StatusCode;
use std::sync::Mutex;

use crate::admission::Slot;
use crate::lock;
use crate::metrics::requests::Outcome;
use crate::telemetry::Observed;

/// An admitted request. Both the answer and the running handler hold it: it ends, and gives its slot back, when the
/// answer is complete, or, if the client goes away before, when the handler has stopped too.
#[derive(Debug)]
pub(super) struct Record {
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    observed: Observed,
    slot: Slot,
    /// What the handler said, if it said anything.
    outcome: Option<Outcome>,
}

impl Record {
    pub(super) const fn new(observed: Observed, slot: Slot) -> Self {
        Self {
            open: Mutex::new(Some(Open {
                observed,
                slot,
                outcome: None,
            })),
        }
    }

    /// Notes how the handler ended, which the HTTP status does not show.
    pub(super) fn handled(&self, outcome: Outcome) {
        if let Some(open) = lock(&self.open).as_mut() {
            open.outcome = Some(outcome);
        }
    }

    /// The answer has been handed over completely.
    pub(super) fn complete(&self, status: StatusCode) {
        self.end(|handled| {
            let by_status = if status.as_u16() < 400 {
                Outcome::Ok
            } else {
                Outcome::HttpError(status.as_u16())
            };
            handled.unwrap_or(by_status)
        });
    }

    /// The answer did not come in time.
    pub(super) fn timed_out(&self) {
        self.end(|_| Outcome::TimedOut);
    }

    fn end(&self, outcome: impl FnOnce(Option<Outcome>) -> Outcome) {
        let Some(open) = lock(&self.open).take() else { return };
        let service = open.slot.held();
        drop(open.slot);
        open.observed.ended(outcome(open.outcome), Some(service));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(|_| Outcome::Cancelled);
    }
}
