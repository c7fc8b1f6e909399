//! What the server measures about itself, in the `OpenMetrics` text format that Prometheus scrapes.
//!
//! Each part of the server registers its own metrics; here are only the shapes they share, and those of a request.

pub mod agents;
pub mod at_scrape;
pub mod container;
pub mod exposition;
pub mod process;
pub mod requests;
pub mod sessions;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets_range};

/// Shortest duration told apart, in seconds.
const SHORTEST: f64 = 0.0005;
/// Longest duration told apart, in seconds.
const LONGEST: f64 = 60.0;
/// 54 bounds from 0.5 ms to 60 s are a factor of 1.247 apart, so that a quantile read from them is within 25 %.
const BOUNDS: u16 = 54;

/// A histogram of seconds with the bounds that all durations of this server use.
#[must_use]
pub fn duration_histogram() -> Histogram {
    Histogram::new(duration_bounds())
}

/// Those bounds.
pub fn duration_bounds() -> impl Iterator<Item = f64> {
    exponential_buckets_range(SHORTEST, LONGEST, BOUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A latency target between two bounds is judged by interpolation: wide buckets would misjudge it.
    #[test]
    fn neighbouring_bounds_are_at_most_a_quarter_apart() {
        let bounds: Vec<f64> = exponential_buckets_range(SHORTEST, LONGEST, BOUNDS).collect();
        assert!(bounds.windows(2).all(|pair| pair[1] / pair[0] <= 1.25), "{bounds:?}");
        assert!((bounds[0] - SHORTEST).abs() < 1e-9);
        assert!((bounds[bounds.len() - 1] - LONGEST).abs() < 1e-3);
    }
}
