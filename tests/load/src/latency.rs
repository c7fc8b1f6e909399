//! Latency histograms.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Upper bound of a recorded latency; longer ones count as this. Far above any time limit of a request.
const LONGEST: Duration = Duration::from_hours(1);

/// Latencies in microseconds, kept in an HDR histogram.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u32>,
}

/// How exactly a histogram keeps its values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Precision {
    /// Within 0.1 %: for totals.
    Totals,
    /// Within 1 %, an order of magnitude smaller: one of these is kept per second of a run.
    Seconds,
}

impl Latencies {
    #[expect(
        clippy::expect_used,
        reason = "the only error is a number of digits above 5, and these are constants"
    )]
    pub(crate) fn new(precision: Precision) -> Self {
        let digits = match precision {
            Precision::Totals => 3,
            Precision::Seconds => 2,
        };
        Self {
            histogram: Histogram::new(digits).expect("2 and 3 are valid numbers of significant digits"),
        }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let microseconds = u64::try_from(latency.min(LONGEST).as_micros()).unwrap_or(u64::MAX);
        // The histogram grows as needed; `LONGEST` bounds how far, so the error (no room to grow) cannot occur.
        let _ = self.histogram.record(microseconds);
    }

    /// Adds what `other` holds.
    pub(crate) fn merge(&mut self, other: &Self) {
        // As for `record`: it grows, and the error cannot occur.
        let _ = self.histogram.add(&other.histogram);
    }

    /// How many latencies were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency that the share `quantile` (0 to 1) of requests did not exceed; `None` when nothing was recorded.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        (self.count() > 0).then(|| Duration::from_micros(self.histogram.value_at_quantile(quantile)))
    }

    /// The longest latency; `None` when nothing was recorded.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        self.quantile(1.0)
    }

    /// The usual figures, in milliseconds.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        let at = |quantile| self.quantile(quantile).map(milliseconds);
        LatencySummary {
            count: self.count(),
            mean_ms: (self.count() > 0).then(|| self.histogram.mean() / 1000.0),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        }
    }
}

/// The usual figures of a set of latencies, in milliseconds; `None` where there were no samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each name says which figure it is and in which unit")]
pub struct LatencySummary {
    pub count: u64,
    pub mean_ms: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p90_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p999_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_the_promised_precision() {
        for (precision, tolerance) in [(Precision::Totals, 0.001), (Precision::Seconds, 0.01)] {
            let mut latencies = Latencies::new(precision);
            assert_eq!(latencies.quantile(0.5), None, "nothing recorded, nothing claimed");
            for value in 1..=10_000 {
                latencies.record(Duration::from_micros(value * 17));
            }
            for (quantile, exact) in [(0.5, 0.085), (0.95, 0.1615), (0.99, 0.1683), (1.0, 0.17)] {
                let measured = latencies.quantile(quantile).unwrap().as_secs_f64();
                assert!(
                    (measured / exact - 1.0).abs() <= tolerance,
                    "{precision:?} p{quantile}: {measured} for {exact}"
                );
            }
        }
    }

    #[test]
    fn merging_adds_every_sample() {
        let mut total = Latencies::new(Precision::Seconds);
        for offset in 0..3 {
            let mut second = Latencies::new(Precision::Seconds);
            for value in 1..=100 {
                second.record(Duration::from_millis(value + 100 * offset));
            }
            total.merge(&second);
        }
        assert_eq!(total.count(), 300);
        let median = total.quantile(0.5).unwrap().as_secs_f64();
        assert!((median / 0.150 - 1.0).abs() < 0.011, "{median}");
    }

    #[test]
    fn an_endless_latency_is_kept_as_the_longest() {
        let mut latencies = Latencies::new(Precision::Totals);
        latencies.record(Duration::MAX);
        assert!(latencies.max().unwrap() >= LONGEST);
    }
}
