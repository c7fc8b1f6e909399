//! Raw samples of one pod's counters, and the rates they give.

use super::query::{Spans, metric};
use mcpscale_autoscaler::Work;
use prometheus_http_query::response::{RangeVector, Sample};

/// Seconds by which a process's own start time may be off: it is derived from the boot time in whole seconds.
const START_TIME_ERROR: f64 = 2.0;

/// The samples of one metric of one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    samples: Vec<Sample>,
    /// Two series at once: two scrape jobs, or two labels. Adding or choosing would both be a guess.
    duplicate: bool,
}

impl Track {
    /// Takes one more series. A pod that got a new address has two, one after the other; overlapping ones contradict.
    fn add(&mut self, mut samples: Vec<Sample>) {
        samples.retain(|sample| sample.timestamp().is_finite());
        samples.sort_by(|a, b| a.timestamp().total_cmp(&b.timestamp()));
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
            return;
        };
        if let (Some(known_first), Some(known_last)) = (self.samples.first(), self.samples.last()) {
            let apart = last.timestamp() < known_first.timestamp() || first.timestamp() > known_last.timestamp();
            self.duplicate |= !apart;
        }
        self.samples.append(&mut samples);
        self.samples.sort_by(|a, b| a.timestamp().total_cmp(&b.timestamp()));
    }

    fn since(&self, start: f64) -> &[Sample] {
        let first = self.samples.partition_point(|sample| sample.timestamp() < start);
        &self.samples[first..]
    }

    fn valid(&self) -> bool {
        !self.duplicate
            && self
                .samples
                .iter()
                .all(|sample| sample.value().is_finite() && sample.value() >= 0.0)
    }
}

/// The counters of one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct PodCounters {
    offered: Track,
    shed: Track,
    busy_seconds: Track,
    cpu_seconds: Track,
    start_time: Track,
}

/// What the counters of one pod say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PodDemand {
    /// Rates over both spans.
    Fresh(PodRates),
    /// The newest sample is too old.
    Stale {
        /// Its age in seconds.
        age: f64,
    },
    /// No series, or a single sample that says nothing about a rate.
    Missing,
    /// Values that no counter can have, or two series of one name.
    Invalid,
}

/// Rates of one pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PodRates {
    pub age: f64,
    pub window: Work,
    pub recent: Work,
    pub window_covered: bool,
}

impl PodCounters {
    /// Takes one series of the raw query; others than the known metrics are not asked for and do not count.
    pub fn add(&mut self, name: &str, series: RangeVector) {
        let track = match name {
            metric::OFFERED => &mut self.offered,
            metric::SHED => &mut self.shed,
            metric::BUSY_SECONDS => &mut self.busy_seconds,
            metric::CPU_SECONDS => &mut self.cpu_seconds,
            metric::START_TIME => &mut self.start_time,
            _ => return,
        };
        track.add(series.into_inner().1);
    }

    /// Judges the samples of a pod that started at `pod_start`; older ones belong to an earlier pod of the same name.
    pub fn demand(&self, now: f64, spans: Spans, pod_start: f64) -> PodDemand {
        let required = [&self.offered, &self.shed, &self.busy_seconds];
        if required
            .iter()
            .chain(&[&self.cpu_seconds, &self.start_time])
            .any(|track| !track.valid())
        {
            return PodDemand::Invalid;
        }
        let newest = |track: &&Track| track.since(pod_start).last().map(Sample::timestamp);
        let Some(newest) = required
            .iter()
            .map(newest)
            .try_fold(f64::INFINITY, |least, at| at.map(|at| least.min(at)))
        else {
            return PodDemand::Missing;
        };
        let age = (now - newest).max(0.0);
        if age > spans.stale {
            return PodDemand::Stale { age };
        }
        let process_start = self.start_time.since(pod_start).last().map_or(pod_start, Sample::value);
        let work = |span| {
            self.work(Reading {
                newest,
                span,
                scrape: spans.scrape,
                pod_start,
                process_start,
            })
        };
        let (Some((window, window_covered)), Some((recent, _))) = (work(spans.window), work(spans.recent)) else {
            return PodDemand::Missing;
        };
        PodDemand::Fresh(PodRates {
            age,
            window,
            recent,
            window_covered,
        })
    }

    /// Mean work over the span that `reading` names, and whether the samples cover it.
    fn work(&self, reading: Reading) -> Option<(Work, bool)> {
        let offered = reading.rate(&self.offered)?;
        let shed = reading.rate(&self.shed)?;
        let busy = reading.rate(&self.busy_seconds)?;
        let work = Work {
            seconds: offered.seconds,
            offered_per_second: offered.per_second,
            admitted_per_second: (offered.per_second - shed.per_second).max(0.0),
            busy_slots: busy.per_second,
            cpu_cores: reading.rate(&self.cpu_seconds).map(|cpu| cpu.per_second),
        };
        Some((work, offered.covered && shed.covered && busy.covered))
    }
}

/// How to read a rate from samples.
#[derive(Clone, Copy)]
struct Reading {
    newest: f64,
    span: f64,
    scrape: f64,
    pod_start: f64,
    process_start: f64,
}

struct Rate {
    per_second: f64,
    seconds: f64,
    covered: bool,
}

impl Reading {
    /// The mean rate of a counter over the span. A process that started within the span counts from zero at the span's
    /// beginning: it did nothing before, and its first increments are not lost.
    fn rate(self, track: &Track) -> Option<Rate> {
        let samples = track.since(self.pod_start);
        let begin = self.newest - self.span;
        let base = samples.partition_point(|sample| sample.timestamp() <= begin + self.scrape / 2.0);
        let used = &samples[base.saturating_sub(1)..];
        let (first, last) = (used.first()?, used.last()?);
        let increments: f64 = used.windows(2).map(|pair| self.increment(pair[0], pair[1])).sum();
        if base > 0 && last.timestamp() > first.timestamp() {
            let seconds = last.timestamp() - first.timestamp();
            return Some(Rate {
                per_second: increments / seconds,
                seconds,
                covered: true,
            });
        }
        if self.process_start >= begin - START_TIME_ERROR {
            let per_second = (first.value() + increments) / self.span;
            return Some(Rate {
                per_second,
                seconds: self.span,
                covered: true,
            });
        }
        let seconds = last.timestamp() - first.timestamp();
        (seconds > 0.0).then(|| Rate {
            per_second: increments / seconds,
            seconds,
            covered: false,
        })
    }

    /// What a counter gained between two samples. After a restart it gained at least what it shows now; a drop without
    /// a restart is a race inside the server and gains nothing.
    fn increment(self, before: Sample, after: Sample) -> f64 {
        if after.value() >= before.value() {
            after.value() - before.value()
        } else if self.process_start >= before.timestamp() - START_TIME_ERROR {
            after.value()
        } else {
            0.0
        }
    }
}
