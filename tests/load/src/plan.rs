//! What a run is to do, and the bounds every run keeps.

use std::fmt;
use std::time::Duration;

use crate::error::PlanError;
use crate::mix::Mix;
use crate::phase::{Phase, Segment};
use crate::schedule::Arrivals;

/// The longest a run may be planned for. Also bounds the memory of the time series (about 10 KB per second).
pub const MAX_DURATION: Duration = Duration::from_hours(4);
/// The most requests a run may hold.
pub const MAX_ARRIVALS: f64 = 100_000_000.0;

/// Which generation of the protocol the virtual clients speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Era {
    /// Revision 2026-07-28: no handshake, no session, every request stands alone.
    #[default]
    Modern,
    /// Revision 2025-11-25: `initialize`, then requests within a session.
    Legacy,
    /// Half of the requests each, in turn.
    Mixed,
}

impl Era {
    pub(crate) fn has_sessions(self) -> bool {
        self != Self::Modern
    }
}

impl fmt::Display for Era {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Modern => "modern",
            Self::Legacy => "legacy",
            Self::Mixed => "mixed",
        })
    }
}

/// Everything a run needs to know. [`Plan::new`] fills in the defaults; change fields as needed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the MCP endpoint is: `http://HOST:PORT/PATH`.
    pub url: String,
    /// The load profile, phase after phase.
    pub phases: Vec<Phase>,
    /// Which tools are called, and how often in relation to one another.
    pub mix: Mix,
    /// Which protocol era the clients speak.
    pub era: Era,
    /// How arrivals are spread around the rate.
    pub arrivals: Arrivals,
    /// Seed of every random choice (Poisson gaps, tools): the same seed sends the same calls.
    pub seed: u64,
    /// After how long a request counts as failed, from when it was sent. Above 0.
    pub timeout: Duration,
    /// How many requests may be unanswered at once. One that is due above that is counted as unsent and makes the run
    /// invalid. Above 0. Each takes a connection, hence a file descriptor.
    pub max_in_flight: usize,
    /// How many legacy sessions the requests share. Above 0.
    pub sessions: usize,
    /// Requests take turns over this many connection pools, so that at least as many connections carry the load and a
    /// balancer that works per connection (kube-proxy) has something to balance. Above 0.
    pub connections: usize,
    /// The run is invalid when 1 % of requests were sent later than this.
    pub max_lag: Duration,
    /// Allow targets whose address is neither loopback nor private.
    pub allow_any_host: bool,
}

impl Plan {
    /// A plan with the default settings: modern era, even arrivals, 10 s time limit, 2000 requests in flight,
    /// 50 sessions, 8 connections, 50 ms of lag.
    #[must_use]
    pub fn new(url: impl Into<String>, mix: Mix, phases: impl Into<Vec<Phase>>) -> Self {
        Self {
            url: url.into(),
            phases: phases.into(),
            mix,
            era: Era::Modern,
            arrivals: Arrivals::Constant,
            seed: 1,
            timeout: Duration::from_secs(10),
            max_in_flight: 2000,
            sessions: 50,
            connections: 8,
            max_lag: Duration::from_millis(50),
            allow_any_host: false,
        }
    }

    /// How long requests are sent for. Waiting for the last answers takes up to [`Plan::timeout`] more.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.phases
            .iter()
            .map(Phase::duration)
            .fold(Duration::ZERO, Duration::saturating_add)
    }

    /// How many requests the phases hold; under Poisson arrivals the mean.
    #[must_use]
    pub fn expected_arrivals(&self) -> f64 {
        self.phases
            .iter()
            .flat_map(Phase::segments)
            .map(|segment: Segment| segment.arrivals())
            .sum()
    }

    /// Says whether the plan can be run.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to do about it.
    pub fn validate(&self) -> Result<(), PlanError> {
        if self.phases.is_empty() {
            return Err(PlanError::NoPhase);
        }
        self.phases.iter().try_for_each(Phase::validate)?;
        self.mix.validate()?;
        if self.duration() > MAX_DURATION {
            return Err(PlanError::TooLong {
                duration: self.duration(),
                limit: MAX_DURATION,
            });
        }
        if self.expected_arrivals() > MAX_ARRIVALS {
            return Err(PlanError::TooMany {
                arrivals: self.expected_arrivals(),
                limit: MAX_ARRIVALS,
            });
        }
        if self.timeout.is_zero() {
            let value = format!("{:?}", self.timeout);
            return Err(PlanError::Setting {
                setting: "timeout",
                value,
                what_to_do: "give requests some time to be answered",
            });
        }
        let counts = [
            ("max-in-flight", self.max_in_flight),
            ("sessions", self.sessions),
            ("connections", self.connections),
        ];
        match counts.into_iter().find(|(_, value)| *value == 0) {
            Some((setting, _)) => Err(PlanError::Setting {
                setting,
                value: "0".to_owned(),
                what_to_do: "it must be at least 1",
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new(
            "http://127.0.0.1:1/mcp",
            Mix::simulate_work(1, 0),
            [Phase::constant(1.0, Duration::from_secs(1))],
        )
    }

    #[test]
    fn a_plan_that_cannot_run_says_why() {
        type Change = fn(&mut Plan);
        let day = Duration::from_hours(24);
        assert!(plan().validate().is_ok());
        let cases: [(&str, Change, &str); 6] = [
            ("no phase", |plan| plan.phases.clear(), "no phase"),
            ("no tool", |plan| plan.mix = Mix::default(), "no tool"),
            ("no time", |plan| plan.timeout = Duration::ZERO, "timeout"),
            ("nothing in flight", |plan| plan.max_in_flight = 0, "max-in-flight"),
            ("no session", |plan| plan.sessions = 0, "sessions"),
            (
                "too many",
                |plan| plan.phases = vec![Phase::constant(1e6, Duration::from_hours(1))],
                "lower the rates",
            ),
        ];
        for (name, change, reason) in cases {
            let mut changed = plan();
            change(&mut changed);
            let message = changed.validate().unwrap_err().to_string();
            assert!(message.contains(reason), "{name}: {message}");
        }
        let mut endless = plan();
        endless.phases = vec![Phase::constant(1.0, day)];
        assert!(endless.validate().unwrap_err().to_string().contains("split the run"));
    }
}
