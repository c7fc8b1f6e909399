//! One request from its arrival to the end of its answer: its slot, and how it is counted.

use http::StatusCode;
use std::sync::Mutex;

use crate::admission::Slot;
use crate::lock;
use crate::metrics::requests::Outcome;
use crate::telemetry::Observed;

/// A request that asks for a slot, or has one. One that never gets a slot ends as shed when it is dropped. An admitted
/// one is held by both the answer and the running handler: it ends, and gives its slot back, when the answer is
/// complete, or, if the client goes away before, when the handler has stopped too.
#[derive(Debug)]
pub(super) struct Record {
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    observed: Observed,
    /// `None` until it is admitted.
    slot: Option<Slot>,
    /// What the handler said, if it said anything.
    outcome: Option<Outcome>,
}

impl Record {
    pub(super) const fn new(observed: Observed) -> Self {
        Self {
            open: Mutex::new(Some(Open {
                observed,
                slot: None,
                outcome: None,
            })),
        }
    }

    /// It has got its slot.
    pub(super) fn admitted(&self, slot: Slot) {
        if let Some(open) = lock(&self.open).as_mut() {
            open.slot = Some(slot);
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
        let service = open.slot.as_ref().map(Slot::held);
        drop(open.slot);
        // Who was refused, and who gave up while waiting, found no slot: admission counts both as shed.
        let outcome = if service.is_some() {
            outcome(open.outcome)
        } else {
            Outcome::Shed
        };
        open.observed.ended(outcome, service);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(|_| Outcome::Cancelled);
    }
}
