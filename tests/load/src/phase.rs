//! Rate profiles: what a phase is, how it is written, and the rate it prescribes over time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::PlanError;

/// One part of a load profile. Phases follow one another without a gap.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The same rate all the time. Written `constant:50:60s`.
    Constant {
        /// Arrivals per second; 0 is a pause.
        rate: f64,
        /// How long.
        duration: Duration,
    },
    /// One rate after the other. Written `step:10,20,40:30s`.
    Step {
        /// Arrivals per second of each step.
        rates: Vec<f64>,
        /// How long *each* step lasts.
        each: Duration,
    },
    /// A rate that changes linearly. Written `ramp:10..100:60s`.
    Ramp {
        /// Arrivals per second at the start.
        from: f64,
        /// Arrivals per second at the end.
        to: f64,
        /// How long.
        duration: Duration,
    },
}

/// A stretch of time over which the rate is linear. Every phase is a list of these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Segment {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) seconds: f64,
}

impl Segment {
    /// How many arrivals the segment holds: the area under its rate.
    pub(crate) fn arrivals(&self) -> f64 {
        f64::midpoint(self.from, self.to) * self.seconds
    }

    /// The rate `seconds` after the segment's start.
    fn rate_at(&self, seconds: f64) -> f64 {
        self.from + (self.to - self.from) * (seconds / self.seconds)
    }

    /// Seconds into the segment at which the area under the rate reaches `arrivals`.
    ///
    /// Solves `from·t + slope·t²/2 = arrivals` in the form that loses no digits when the slope is near zero.
    pub(crate) fn time_of(&self, arrivals: f64) -> f64 {
        let slope = (self.to - self.from) / self.seconds;
        let rate_then = (self.from * self.from + 2.0 * slope * arrivals).max(0.0).sqrt();
        let denominator = self.from + rate_then;
        if denominator <= 0.0 {
            return 0.0;
        }
        (2.0 * arrivals / denominator).clamp(0.0, self.seconds)
    }
}

impl Phase {
    /// A constant rate, in arrivals per second.
    #[must_use]
    pub fn constant(rate: f64, duration: Duration) -> Self {
        Self::Constant { rate, duration }
    }

    /// A list of rates in arrivals per second, `each` long.
    #[must_use]
    pub fn step(rates: impl Into<Vec<f64>>, each: Duration) -> Self {
        Self::Step {
            rates: rates.into(),
            each,
        }
    }

    /// A linear change of rate, in arrivals per second.
    #[must_use]
    pub fn ramp(from: f64, to: f64, duration: Duration) -> Self {
        Self::Ramp { from, to, duration }
    }

    /// How long the phase lasts.
    #[must_use]
    pub fn duration(&self) -> Duration {
        match self {
            Self::Constant { duration, .. } | Self::Ramp { duration, .. } => *duration,
            Self::Step { rates, each } => each.saturating_mul(u32::try_from(rates.len()).unwrap_or(u32::MAX)),
        }
    }

    pub(crate) fn segments(&self) -> Vec<Segment> {
        let flat = |rate: f64, duration: Duration| Segment {
            from: rate,
            to: rate,
            seconds: duration.as_secs_f64(),
        };
        match self {
            Self::Constant { rate, duration } => vec![flat(*rate, *duration)],
            Self::Step { rates, each } => rates.iter().map(|rate| flat(*rate, *each)).collect(),
            Self::Ramp { from, to, duration } => {
                vec![Segment {
                    from: *from,
                    to: *to,
                    seconds: duration.as_secs_f64(),
                }]
            }
        }
    }

    /// Refuses rates that are negative or not numbers, and phases that last no time.
    pub(crate) fn validate(&self) -> Result<(), PlanError> {
        self.fault()
            .map_or(Ok(()), |why| Err(PlanError::phase(self.to_string(), why)))
    }

    fn fault(&self) -> Option<&'static str> {
        let segments = self.segments();
        let mut rates = segments.iter().flat_map(|segment| [segment.from, segment.to]);
        if segments.is_empty() || !rates.all(|rate| rate.is_finite() && rate >= 0.0) {
            return Some("its rates must be numbers of at least 0 per second");
        }
        segments
            .iter()
            .any(|segment| segment.seconds <= 0.0)
            .then_some("it must last longer than 0 s")
    }
}

/// The rate that `phases` prescribe at `at` after the start; `None` once they are over.
pub(crate) fn rate_at(phases: &[Phase], at: Duration) -> Option<f64> {
    let mut left = at.as_secs_f64();
    for segment in phases.iter().flat_map(Phase::segments) {
        if left < segment.seconds {
            return Some(segment.rate_at(left));
        }
        left -= segment.seconds;
    }
    None
}

impl FromStr for Phase {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let refuse = |why: &str| PlanError::phase(text, why);
        let number = |digits: &str| {
            digits
                .trim()
                .parse::<f64>()
                .map_err(|_| refuse(&format!("`{digits}` is not a rate in requests per second")))
        };
        let [shape, rates, duration] = text
            .splitn(3, ':')
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|_| refuse("it needs three parts, KIND:RATE:DURATION"))?;
        let duration = parse_duration(duration).map_err(|why| refuse(&why))?;
        let phase = match shape {
            "constant" => Self::constant(number(rates)?, duration),
            "step" => Self::step(rates.split(',').map(number).collect::<Result<Vec<_>, _>>()?, duration),
            "ramp" => {
                let (from, to) = rates
                    .split_once("..")
                    .ok_or_else(|| refuse("the rates of a ramp are FROM..TO"))?;
                Self::ramp(number(from)?, number(to)?, duration)
            }
            other => return Err(refuse(&format!("`{other}` is no kind of phase"))),
        };
        // The message quotes the text as it was given, which is easier to find than our own way of writing it.
        phase.fault().map_or(Ok(phase), |why| Err(refuse(why)))
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant { rate, duration } => write!(formatter, "constant:{rate}:{duration:?}"),
            Self::Step { rates, each } => {
                let rates: Vec<String> = rates.iter().map(f64::to_string).collect();
                write!(formatter, "step:{}:{each:?}", rates.join(","))
            }
            Self::Ramp { from, to, duration } => write!(formatter, "ramp:{from}..{to}:{duration:?}"),
        }
    }
}

/// Reads a length of time such as `500ms`, `60s`, `2m` or `1h 30m`.
///
/// # Errors
/// A sentence that says what was expected, for text that is no length of time or a negative one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    text.trim()
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|signed| Duration::try_from(signed).ok())
        .ok_or_else(|| format!("`{text}` is not a length of time; write for example 500ms, 60s or 2m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_phase_reads_as_it_is_documented() {
        let cases = [
            ("constant", "constant:50:60s", Phase::constant(50.0, MINUTE)),
            ("fractional rate", "constant:0.5:1m", Phase::constant(0.5, MINUTE)),
            (
                "step",
                "step:10,20,40:30s",
                Phase::step([10.0, 20.0, 40.0], Duration::from_secs(30)),
            ),
            ("ramp up", "ramp:10..100:60s", Phase::ramp(10.0, 100.0, MINUTE)),
            (
                "ramp down to nothing",
                "ramp:100..0:500ms",
                Phase::ramp(100.0, 0.0, Duration::from_millis(500)),
            ),
        ];
        for (name, text, expected) in cases {
            assert_eq!(text.parse::<Phase>().unwrap(), expected, "{name}");
            assert_eq!(
                expected.to_string().parse::<Phase>().unwrap(),
                expected,
                "{name}: written and read again"
            );
        }
    }

    #[test]
    fn a_wrong_phase_is_refused_with_the_reason() {
        let cases = [
            ("no duration", "constant:50", "three parts"),
            ("unknown kind", "burst:50:60s", "no kind of phase"),
            ("no number", "constant:fast:60s", "not a rate"),
            ("negative rate", "constant:-5:60s", "at least 0"),
            ("not a number", "constant:NaN:60s", "at least 0"),
            ("no unit", "constant:5:60", "not a length of time"),
            ("no time", "constant:5:0s", "longer than 0 s"),
            ("ramp without an end", "ramp:10:60s", "FROM..TO"),
            ("empty step", "step::60s", "not a rate"),
        ];
        for (name, text, reason) in cases {
            let message = text.parse::<Phase>().unwrap_err().to_string();
            assert!(message.contains(reason), "{name}: {message}");
            assert!(message.contains(text), "{name}: the message names the phase: {message}");
        }
    }

    #[test]
    fn the_rate_follows_the_phases() {
        let phases = [Phase::constant(5.0, MINUTE), Phase::ramp(0.0, 100.0, MINUTE)];
        let rate = |seconds| rate_at(&phases, Duration::from_secs(seconds));
        assert_eq!(rate(0), Some(5.0));
        assert_eq!(rate(60), Some(0.0));
        assert_eq!(rate(90), Some(50.0));
        assert_eq!(rate(120), None);
    }
}
