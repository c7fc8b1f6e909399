//! When each request is due. The times are fixed before the run, whatever the server does.

use std::time::Duration;

use crate::phase::{Phase, Segment};
use crate::random::Random;

/// How arrivals are spread around the prescribed rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly spaced: the count is exact. Good for comparing runs.
    #[default]
    Constant,
    /// A Poisson process, as independent users make: the gaps are exponential, so queues form below capacity too.
    Poisson,
}

/// The due times of a list of phases, as offsets from the start, never decreasing.
///
/// With Λ(t) the area under the rate up to t, the k-th even arrival is where Λ reaches k + ½ (so a whole-numbered area
/// gives exactly that many arrivals, safe from rounding), and the k-th Poisson arrival is where Λ reaches the sum of k
/// exponential gaps of mean 1 (time rescaling of a Poisson process of rate 1).
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    segments: std::vec::IntoIter<Segment>,
    current: Option<Segment>,
    segment_start: f64,
    area_before: f64,
    next_area: f64,
    gaps: Option<Random>,
}

impl Schedule {
    pub(crate) fn new(phases: &[Phase], arrivals: Arrivals, seed: u64) -> Self {
        let mut segments = phases.iter().flat_map(Phase::segments).collect::<Vec<_>>().into_iter();
        let mut gaps = match arrivals {
            Arrivals::Constant => None,
            Arrivals::Poisson => Some(Random::new(seed)),
        };
        let next_area = gaps.as_mut().map_or(0.5, Random::exponential);
        Self {
            current: segments.next(),
            segments,
            segment_start: 0.0,
            area_before: 0.0,
            next_area,
            gaps,
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        loop {
            let segment = self.current?;
            let into_segment = self.next_area - self.area_before;
            if into_segment < segment.arrivals() {
                let due = self.segment_start + segment.time_of(into_segment);
                self.next_area += self.gaps.as_mut().map_or(1.0, Random::exponential);
                return Some(Duration::from_secs_f64(due));
            }
            self.area_before += segment.arrivals();
            self.segment_start += segment.seconds;
            self.current = self.segments.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn due_times(phases: &[Phase], arrivals: Arrivals) -> Vec<Duration> {
        Schedule::new(phases, arrivals, 7).collect()
    }

    fn area(phases: &[Phase]) -> f64 {
        phases
            .iter()
            .flat_map(Phase::segments)
            .map(|segment| segment.arrivals())
            .sum()
    }

    #[test]
    fn a_whole_area_gives_exactly_that_many_arrivals() {
        let second = Duration::from_secs(1);
        let cases = [
            ("constant", vec![Phase::constant(50.0, 60 * second)], 3000),
            (
                "tenths, which binary cannot hold",
                vec![Phase::constant(0.1, 100 * second)],
                10,
            ),
            ("step", vec![Phase::step([10.0, 20.0, 40.0], 30 * second)], 2100),
            ("ramp", vec![Phase::ramp(10.0, 100.0, 60 * second)], 3300),
            (
                "ramp from and to nothing",
                vec![Phase::ramp(0.0, 8.0, second), Phase::ramp(8.0, 0.0, second)],
                8,
            ),
            (
                "a pause between",
                vec![
                    Phase::constant(5.0, second),
                    Phase::constant(0.0, 9 * second),
                    Phase::constant(5.0, second),
                ],
                10,
            ),
            (
                "halves that add up over phases",
                vec![Phase::constant(0.5, second), Phase::constant(0.5, second)],
                1,
            ),
            ("nothing at all", vec![Phase::constant(0.0, second)], 0),
        ];
        for (name, phases, expected) in cases {
            assert_eq!(due_times(&phases, Arrivals::Constant).len(), expected, "{name}");
        }
    }

    #[test]
    fn even_arrivals_keep_the_prescribed_gap() {
        let times = due_times(&[Phase::constant(100.0, Duration::from_secs(10))], Arrivals::Constant);
        for pair in times.windows(2) {
            let gap = pair[1].abs_diff(pair[0]).as_secs_f64();
            assert!((gap - 0.01).abs() < 1e-6, "gap of {gap} s instead of 10 ms");
        }
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let times = due_times(&[Phase::constant(1000.0, Duration::from_secs(100))], Arrivals::Poisson);
        let gaps: Vec<f64> = times
            .windows(2)
            .map(|pair| pair[1].abs_diff(pair[0]).as_secs_f64() * 1000.0)
            .collect();
        let count = f64::from(u32::try_from(gaps.len()).unwrap());
        let mean = gaps.iter().sum::<f64>() / count;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count).sqrt();
        assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
        assert!((deviation - 1.0).abs() < 0.03, "standard deviation {deviation}");
    }

    fn any_phase() -> impl Strategy<Value = Phase> {
        let rate = 0.0..300.0_f64;
        let length = (1_u64..5_000).prop_map(Duration::from_millis);
        prop_oneof![
            (rate.clone(), length.clone()).prop_map(|(rate, length)| Phase::constant(rate, length)),
            (proptest::collection::vec(rate.clone(), 1..4), length.clone())
                .prop_map(|(rates, length)| Phase::step(rates, length)),
            (rate.clone(), rate, length).prop_map(|(from, to, length)| Phase::ramp(from, to, length)),
        ]
    }

    proptest! {
        /// Whatever the profile: the count is the area under the rate, times never go back, none is past the end.
        #[test]
        fn even_arrivals_fill_the_area(phases in proptest::collection::vec(any_phase(), 1..5)) {
            let times = due_times(&phases, Arrivals::Constant);
            let count = f64::from(u32::try_from(times.len()).unwrap());
            prop_assert!((count - area(&phases)).abs() <= 0.5 + 1e-6, "{count} arrivals for an area of {}", area(&phases));
            prop_assert!(times.is_sorted());
            let end: Duration = phases.iter().map(Phase::duration).sum();
            prop_assert!(times.last().is_none_or(|last| *last <= end + Duration::from_nanos(10)));
        }

        /// Up to every arrival, the area under the rate is what the rule says: no part of a profile runs fast or slow.
        #[test]
        fn every_even_arrival_is_where_its_area_is(from in 0.0..200.0_f64, to in 0.0..200.0_f64, seconds in 1_u64..20) {
            let times = due_times(&[Phase::ramp(from, to, Duration::from_secs(seconds))], Arrivals::Constant);
            let slope = (to - from) / Duration::from_secs(seconds).as_secs_f64();
            let mut expected = 0.5;
            for time in times.iter().map(Duration::as_secs_f64) {
                let area = from * time + slope * time * time / 2.0;
                prop_assert!((area - expected).abs() < 1e-3, "area {area}, expected {expected}");
                expected += 1.0;
            }
        }

        /// A Poisson count stays within six standard deviations of the area, and times never go back.
        #[test]
        fn poisson_arrivals_match_the_area(phases in proptest::collection::vec(any_phase(), 1..5), seed in any::<u64>()) {
            let times: Vec<Duration> = Schedule::new(&phases, Arrivals::Poisson, seed).collect();
            let count = f64::from(u32::try_from(times.len()).unwrap());
            prop_assert!((count - area(&phases)).abs() <= 6.0 * area(&phases).sqrt() + 8.0);
            prop_assert!(times.is_sorted());
        }
    }
}
