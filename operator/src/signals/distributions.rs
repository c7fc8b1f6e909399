//! Histograms and outcomes of one pod, as Prometheus added them up.

use super::query::signal;
use mcpscale_autoscaler::{Bucket, Histogram, Outcomes};
use prometheus_http_query::response::InstantVector;
use std::collections::{BTreeMap, HashMap};

/// One distribution of one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct CumulativeHistogram {
    /// Count at or below each bound. The key is the bound's bit pattern, which sorts like the bound as none is
    /// negative.
    counts: BTreeMap<u64, f64>,
    invalid: bool,
}

impl CumulativeHistogram {
    fn add(&mut self, bound: Option<f64>, count: f64) {
        match bound.filter(|bound| *bound >= 0.0) {
            Some(bound) if count.is_finite() && count >= 0.0 => {
                self.invalid |= self.counts.insert(bound.to_bits(), count).is_some();
            }
            _ => self.invalid = true,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty() && !self.invalid
    }

    /// Whether the samples form a histogram: every one a number, and the bucket for everything among them.
    pub fn valid(&self) -> bool {
        !self.invalid && (self.counts.is_empty() || self.counts.contains_key(&f64::INFINITY.to_bits()))
    }

    /// Adds this pod's calls to those of other pods, bucket by bucket, since pods of two versions may have two layouts.
    pub fn add_to(&self, sum: &mut BTreeMap<u64, f64>) {
        let mut below = 0.0;
        for (bound, count) in &self.counts {
            // Extrapolation can leave a bucket a trifle below the one before.
            *sum.entry(*bound).or_default() += (count - below).max(0.0);
            below = count.max(below);
        }
    }
}

/// A histogram from calls per bucket.
pub(super) fn histogram(mut sum: BTreeMap<u64, f64>) -> Histogram {
    let overflow = sum.remove(&f64::INFINITY.to_bits()).unwrap_or_default();
    let buckets = sum
        .into_iter()
        .map(|(bound, count)| Bucket {
            upper_seconds: f64::from_bits(bound),
            count,
        })
        .collect();
    Histogram { buckets, overflow }
}

/// The distributions of one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct PodDistributions {
    pub service: CumulativeHistogram,
    pub latency: CumulativeHistogram,
    pub latency_long: CumulativeHistogram,
    outcomes: Option<Outcomes>,
    outcomes_invalid: bool,
}

impl PodDistributions {
    /// Takes one series of the distribution query.
    pub fn add(&mut self, series: InstantVector) {
        let (labels, sample) = series.into_inner();
        let bound = labels.get("le").and_then(|bound| bound.parse().ok());
        match labels.get(signal::LABEL).map(String::as_str) {
            Some(signal::SERVICE) => self.service.add(bound, sample.value()),
            Some(signal::LATENCY) => self.latency.add(bound, sample.value()),
            Some(signal::LATENCY_LONG) => self.latency_long.add(bound, sample.value()),
            Some(signal::OUTCOME) => self.add_outcome(&labels, sample.value()),
            _ => {}
        }
    }

    fn add_outcome(&mut self, labels: &HashMap<String, String>, count: f64) {
        if !count.is_finite() || count < 0.0 {
            self.outcomes_invalid = true;
            return;
        }
        let outcomes = self.outcomes.get_or_insert_default();
        match labels.get("status").map(String::as_str) {
            Some("ok") => outcomes.ok += count,
            Some("shed") => outcomes.shed += count,
            // A status this version does not know is no success.
            _ => outcomes.error += count,
        }
    }

    /// How the calls of this pod ended (`None` when nothing is known), and whether every sample was a number.
    pub fn outcomes(&self) -> (Option<Outcomes>, bool) {
        (self.outcomes, !self.outcomes_invalid)
    }
}
