//! What is counted and measured while a run is under way.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use serde::Serialize;

use crate::latency::{Latencies, Precision};
use crate::outcome::{FailureKind, Refusal};

/// How requests ended. `offered` is the sum of the others once every request has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Requests that were due.
    pub offered: u64,
    /// Requests with a proper answer.
    pub completed: u64,
    /// Requests that the server refused because of overload: HTTP 503 with `Retry-After`, or 429.
    pub shed: u64,
    /// Requests that failed in any other way.
    pub failed: u64,
    /// Requests that were never sent because too many were unanswered.
    pub unsent: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.offered += other.offered;
        self.completed += other.completed;
        self.shed += other.shed;
        self.failed += other.failed;
        self.unsent += other.unsent;
    }
}

/// What was counted and measured of one tool.
#[derive(Clone, Debug, Serialize)]
pub struct ToolRecord {
    /// The tool.
    pub tool: String,
    /// How its requests ended.
    #[serde(flatten)]
    pub counts: Counts,
    /// From when a request was due to its complete answer: what a user waits. Completed requests only.
    pub latency: Latencies,
    /// From when a request was really sent to its complete answer. Completed requests only.
    pub service_latency: Latencies,
}

impl ToolRecord {
    pub(crate) fn new(tool: impl Into<String>) -> Self {
        let latencies = || Latencies::new(Precision::Totals);
        Self {
            tool: tool.into(),
            counts: Counts::default(),
            latency: latencies(),
            service_latency: latencies(),
        }
    }
}

/// What became of the requests that were *due* in one second of the run.
#[derive(Clone, Debug, Serialize)]
pub struct SecondRecord {
    /// How these requests ended, whenever that was.
    #[serde(flatten)]
    pub counts: Counts,
    /// From when a request was due to its complete answer. Completed requests only.
    pub latency: Latencies,
}

impl SecondRecord {
    fn new() -> Self {
        Self {
            counts: Counts::default(),
            latency: Latencies::new(Precision::Seconds),
        }
    }
}

/// One kind of failure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailureRecord {
    /// Which kind.
    #[serde(serialize_with = "as_text")]
    pub kind: FailureKind,
    /// How many requests failed this way.
    pub count: u64,
    /// When the first of them was due, in seconds after the start.
    pub first_at_seconds: f64,
    /// What the first of them got.
    pub sample: String,
}

fn as_text<S: serde::Serializer>(kind: &FailureKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(kind)
}

/// How one request went. Times are offsets from the start of the run.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) call: usize,
    pub(crate) due: Duration,
    pub(crate) sent: Duration,
    pub(crate) finished: Duration,
    pub(crate) status: Option<StatusCode>,
    pub(crate) result: Result<(), Refusal>,
}

/// Everything that was recorded.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) tools: Vec<ToolRecord>,
    pub(crate) seconds: Vec<SecondRecord>,
    pub(crate) failures: BTreeMap<FailureKind, FailureRecord>,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// How much later than due requests were sent.
    pub(crate) lag: Latencies,
    /// What happened since the last call of [`Collector::take_recent`].
    recent: SecondRecord,
}

/// Takes records from all requests at once.
#[derive(Debug)]
pub(crate) struct Collector {
    records: Mutex<Records>,
}

impl Collector {
    /// `tools` names the tool of every call of the mix.
    pub(crate) fn new<'a>(tools: impl Iterator<Item = &'a str>) -> Self {
        let records = Records {
            tools: tools.map(ToolRecord::new).collect(),
            seconds: Vec::new(),
            failures: BTreeMap::new(),
            statuses: BTreeMap::new(),
            lag: Latencies::new(Precision::Totals),
            recent: SecondRecord::new(),
        };
        Self {
            records: Mutex::new(records),
        }
    }

    /// A request is due.
    pub(crate) fn offered(&self, call: usize, due: Duration) {
        self.count(
            call,
            due,
            Counts {
                offered: 1,
                ..Counts::default()
            },
        );
    }

    /// A request that was due is not sent.
    pub(crate) fn unsent(&self, call: usize, due: Duration) {
        self.count(
            call,
            due,
            Counts {
                unsent: 1,
                ..Counts::default()
            },
        );
    }

    fn count(&self, call: usize, due: Duration, counts: Counts) {
        self.with(|records| records.count(call, due, counts));
    }

    /// A request has ended.
    pub(crate) fn ended(&self, ended: Ended) {
        self.with(|records| records.ended(ended));
    }

    /// What was recorded since the last call, and the counts of the run so far.
    pub(crate) fn take_recent(&self) -> (SecondRecord, Counts) {
        self.with(|records| {
            (
                std::mem::replace(&mut records.recent, SecondRecord::new()),
                records.totals(),
            )
        })
    }

    /// Everything recorded so far; the collector starts anew.
    pub(crate) fn finish(&self) -> Records {
        let empty = Self::new(std::iter::empty())
            .records
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        self.with(|records| std::mem::replace(records, empty))
    }

    fn with<T>(&self, action: impl FnOnce(&mut Records) -> T) -> T {
        action(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Records {
    pub(crate) fn totals(&self) -> Counts {
        let mut totals = Counts::default();
        self.tools.iter().for_each(|tool| totals.add(tool.counts));
        totals
    }

    fn count(&mut self, call: usize, due: Duration, counts: Counts) {
        if let Some(tool) = self.tools.get_mut(call) {
            tool.counts.add(counts);
        }
        self.recent.counts.add(counts);
        self.second(due).counts.add(counts);
    }

    fn ended(&mut self, ended: Ended) {
        self.lag.record(ended.sent.saturating_sub(ended.due));
        if let Some(status) = ended.status {
            *self.statuses.entry(status.as_u16()).or_default() += 1;
        }
        match ended.result {
            Ok(()) => {
                self.count(
                    ended.call,
                    ended.due,
                    Counts {
                        completed: 1,
                        ..Counts::default()
                    },
                );
                let latency = ended.finished.saturating_sub(ended.due);
                self.recent.latency.record(latency);
                self.second(ended.due).latency.record(latency);
                if let Some(tool) = self.tools.get_mut(ended.call) {
                    tool.latency.record(latency);
                    tool.service_latency.record(ended.finished.saturating_sub(ended.sent));
                }
            }
            Err(Refusal::Shed { .. }) => {
                self.count(
                    ended.call,
                    ended.due,
                    Counts {
                        shed: 1,
                        ..Counts::default()
                    },
                );
            }
            Err(Refusal::Failed { kind, message }) => self.failed(ended.call, ended.due, kind, message),
            Err(Refusal::SessionLost { message }) => {
                self.failed(
                    ended.call,
                    ended.due,
                    FailureKind::HttpStatus(StatusCode::NOT_FOUND.as_u16()),
                    message,
                );
            }
        }
    }

    fn failed(&mut self, call: usize, due: Duration, kind: FailureKind, sample: String) {
        self.count(
            call,
            due,
            Counts {
                failed: 1,
                ..Counts::default()
            },
        );
        self.failures
            .entry(kind)
            .and_modify(|failure| failure.count += 1)
            .or_insert_with(|| FailureRecord {
                kind,
                count: 1,
                first_at_seconds: due.as_secs_f64(),
                sample,
            });
    }

    fn second(&mut self, due: Duration) -> &mut SecondRecord {
        // Plans are hours long at most, so the number of a second fits anywhere.
        let second = usize::try_from(due.as_secs()).unwrap_or(usize::MAX);
        while self.seconds.len() <= second {
            self.seconds.push(SecondRecord::new());
        }
        &mut self.seconds[second]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(due: u64, result: Result<(), Refusal>) -> Ended {
        let due = Duration::from_millis(due);
        let sent = due + Duration::from_millis(5);
        Ended {
            call: 0,
            due,
            sent,
            finished: due + Duration::from_millis(45),
            status: None,
            result,
        }
    }

    /// If requests could end uncounted, a server could lose them and the report would not say so.
    #[test]
    fn every_offered_request_is_in_exactly_one_count() {
        let collector = Collector::new(["echo"].into_iter());
        let shed = Refusal::Shed {
            status: 503,
            message: String::new(),
        };
        let failed = Refusal::failed(FailureKind::Timeout, "first");
        let lost = Refusal::SessionLost { message: String::new() };
        for (due, result) in [
            (0, Ok(())),
            (900, Err(shed)),
            (1000, Err(failed.clone())),
            (1100, Err(failed)),
            (2500, Err(lost)),
        ] {
            collector.offered(0, Duration::from_millis(due));
            collector.ended(ended(due, result));
        }
        collector.offered(0, Duration::from_millis(2600));
        collector.unsent(0, Duration::from_millis(2600));

        let (recent, totals) = collector.take_recent();
        let expected = Counts {
            offered: 6,
            completed: 1,
            shed: 1,
            failed: 3,
            unsent: 1,
        };
        assert_eq!(totals, expected);
        assert_eq!(recent.counts, expected);
        assert_eq!(
            collector.take_recent().0.counts,
            Counts::default(),
            "recent counts start anew"
        );

        let records = collector.finish();
        let mut over_seconds = Counts::default();
        records
            .seconds
            .iter()
            .for_each(|second| over_seconds.add(second.counts));
        assert_eq!(over_seconds, expected);
        assert_eq!(
            records.seconds[1].counts,
            Counts {
                offered: 2,
                failed: 2,
                ..Counts::default()
            }
        );
        let timeouts = &records.failures[&FailureKind::Timeout];
        assert_eq!((timeouts.count, timeouts.sample.as_str()), (2, "first"));
    }

    #[test]
    fn latency_counts_from_when_the_request_was_due() {
        let collector = Collector::new(["echo"].into_iter());
        collector.ended(ended(100, Ok(())));
        let records = collector.finish();
        let near = |latencies: &Latencies, expected: f64| {
            let measured = latencies.quantile(0.5).unwrap().as_secs_f64() * 1000.0;
            assert!(
                (measured / expected - 1.0).abs() < 0.01,
                "{measured} ms for {expected} ms"
            );
        };
        near(&records.tools[0].latency, 45.0);
        near(&records.tools[0].service_latency, 40.0);
        near(&records.lag, 5.0);
    }
}
