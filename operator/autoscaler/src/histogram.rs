//! What can be read from a histogram.

use crate::{Bucket, Histogram};

impl Histogram {
    /// Calls in all buckets.
    #[must_use]
    pub fn count(&self) -> f64 {
        self.buckets.iter().map(|bucket| bucket.count).sum::<f64>() + self.overflow
    }

    /// The duration in seconds that the share `rank` (0 to 1) of the calls does not exceed, interpolated within its
    /// bucket. Calls above the last bound count as that bound. `None` when the histogram is empty.
    #[must_use]
    pub fn quantile(&self, rank: f64) -> Option<f64> {
        let count = self.count();
        let last = self.buckets.last()?;
        if count <= 0.0 {
            return None;
        }
        let wanted = rank.clamp(0.0, 1.0) * count;
        let mut below = 0.0;
        for (lower, bucket) in self.with_lower_bounds() {
            if bucket.count > 0.0 && below + bucket.count >= wanted {
                let part = ((wanted - below) / bucket.count).clamp(0.0, 1.0);
                return Some(lower + part * (bucket.upper_seconds - lower));
            }
            below += bucket.count;
        }
        Some(last.upper_seconds)
    }

    /// Every bucket with the bound below it.
    pub(crate) fn with_lower_bounds(&self) -> impl Iterator<Item = (f64, Bucket)> + '_ {
        let lower = std::iter::once(0.0).chain(self.buckets.iter().map(|bucket| bucket.upper_seconds));
        lower.zip(self.buckets.iter().copied())
    }

    /// The same distribution with a count of one in all; `None` when it is empty.
    pub(crate) fn as_shares(&self) -> Option<Self> {
        let count = self.count();
        (count > 0.0 && count.is_finite()).then(|| self.map(|calls| calls / count))
    }

    /// A mix of two distributions with `share` of `newest`. Layouts that differ (a new version) do not mix: the newest
    /// one is taken.
    pub(crate) fn mixed_with(&self, newest: &Self, share: f64) -> Self {
        let bounds = |histogram: &Self| {
            histogram
                .buckets
                .iter()
                .map(|bucket| bucket.upper_seconds)
                .collect::<Vec<_>>()
        };
        if bounds(self) != bounds(newest) {
            return newest.clone();
        }
        let mix = |old: f64, new: f64| old + share * (new - old);
        let buckets = self.buckets.iter().zip(&newest.buckets);
        Self {
            buckets: buckets
                .map(|(old, new)| Bucket {
                    count: mix(old.count, new.count),
                    ..*new
                })
                .collect(),
            overflow: mix(self.overflow, newest.overflow),
        }
    }

    fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        let buckets = self.buckets.iter().map(|bucket| Bucket {
            count: change(bucket.count),
            ..*bucket
        });
        Self {
            buckets: buckets.collect(),
            overflow: change(self.overflow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[(f64, f64)], overflow: f64) -> Histogram {
        let bucket = |(upper_seconds, count): &(f64, f64)| Bucket {
            upper_seconds: *upper_seconds,
            count: *count,
        };
        Histogram {
            buckets: counts.iter().map(bucket).collect(),
            overflow,
        }
    }

    /// Off by one bucket, and status shows a latency nobody had.
    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let calls = histogram(&[(0.1, 50.0), (0.2, 40.0), (0.4, 10.0)], 0.0);
        let cases = [
            ("p50 at a bound", 0.5, 0.1),
            ("p70", 0.7, 0.15),
            ("p95", 0.95, 0.3),
            ("p100", 1.0, 0.4),
        ];
        for (name, rank, expected) in cases {
            let found = calls.quantile(rank).expect("not empty");
            assert!((found - expected).abs() < 1e-9, "{name}: {found}");
        }
    }

    #[test]
    fn calls_above_the_last_bound_count_as_that_bound() {
        assert_eq!(histogram(&[(0.1, 1.0)], 99.0).quantile(0.95), Some(0.1));
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(histogram(&[(0.1, 0.0)], 0.0).quantile(0.5), None);
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(histogram(&[(0.1, 0.0)], 0.0).as_shares(), None);
    }

    /// A rollout of a version with other buckets must not mix numbers that mean different durations.
    #[test]
    fn other_bucket_layouts_replace_instead_of_mixing() {
        let (old, new) = (histogram(&[(0.1, 1.0)], 0.0), histogram(&[(0.2, 1.0)], 0.0));
        assert_eq!(old.mixed_with(&new, 0.1), new);
        let mixed = histogram(&[(0.1, 1.0)], 0.0).mixed_with(&histogram(&[(0.1, 0.0)], 1.0), 0.25);
        assert_eq!(mixed, histogram(&[(0.1, 0.75)], 0.25));
    }
}
