//! `/health` and `/health/detailed`: how this replica is, for people and for monitors that know no metrics.
//!
//! Each part of the server that can be in trouble adds a check. Nothing here names a host, a user or a password.

mod checks;
mod http;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};

pub use checks::{database, drain, memory, pool, redis};
pub use http::{answer, router};

/// How something is. The worst sorts last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It works.
    Healthy,
    /// It works, but slower, or soon not any more.
    Degraded,
    /// It does not work.
    Unhealthy,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// How it is.
    pub status: Status,
    /// What that means, in a few words.
    pub message: String,
    /// The figures it rests on.
    #[serde(flatten)]
    pub figures: Map<String, Value>,
}

impl Check {
    /// A check that found `status`.
    #[must_use]
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            figures: Map::new(),
        }
    }

    /// Adds a figure.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }
}

/// The short answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The worst of all checks.
    pub status: Status,
    /// This program's version.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_seconds: u64,
}

/// The long answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Details {
    /// The short answer.
    #[serde(flatten)]
    pub summary: Summary,
    /// Each check by its name.
    pub checks: Map<String, Value>,
}

type Run = dyn Fn() -> Check + Send + Sync;

/// All checks of a server. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    started: Instant,
    checks: Vec<(&'static str, Arc<Run>)>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            checks: Vec::new(),
        }
    }
}

impl Health {
    /// Adds a check; it runs at each question, so it must not wait for anything.
    #[must_use]
    pub fn with(mut self, name: &'static str, check: impl Fn() -> Check + Send + Sync + 'static) -> Self {
        self.checks.push((name, Arc::new(check)));
        self
    }

    /// The short answer.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary_of(self.checks.iter().map(|(_, check)| check().status))
    }

    /// The long answer.
    #[must_use]
    pub fn details(&self) -> Details {
        let checks: Vec<(&str, Check)> = self.checks.iter().map(|(name, check)| (*name, check())).collect();
        Details {
            summary: self.summary_of(checks.iter().map(|(_, check)| check.status)),
            checks: checks
                .into_iter()
                .map(|(name, check)| (name.to_owned(), json(&check)))
                .collect(),
        }
    }

    fn summary_of(&self, statuses: impl Iterator<Item = Status>) -> Summary {
        Summary {
            status: statuses.max().unwrap_or(Status::Healthy),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.started.elapsed().as_secs(),
        }
    }
}

fn json(check: &Check) -> Value {
    serde_json::to_value(check).unwrap_or_default()
}

impl fmt::Debug for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.checks.iter().map(|(name, _)| name);
        formatter.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One part in trouble must show, however well the others are.
    #[test]
    fn the_worst_check_decides() {
        for (name, statuses, expected) in [
            ("no checks", &[][..], Status::Healthy),
            ("all well", &[Status::Healthy, Status::Healthy], Status::Healthy),
            ("one degraded", &[Status::Degraded, Status::Healthy], Status::Degraded),
            (
                "one unhealthy",
                &[Status::Degraded, Status::Unhealthy, Status::Healthy],
                Status::Unhealthy,
            ),
        ] {
            let health = statuses.iter().fold(Health::default(), |health, status| {
                let status = *status;
                health.with("part", move || Check::new(status, ""))
            });
            assert_eq!(health.summary().status, expected, "{name}");
            assert_eq!(health.details().summary.status, expected, "{name}");
        }
    }

    /// Monitors read these fields.
    #[test]
    fn the_long_answer_names_every_check() {
        let health = Health::default().with("pool", || Check::new(Status::Degraded, "busy").with("used", 3));
        let details = serde_json::to_value(health.details()).unwrap();
        assert_eq!(
            details,
            serde_json::json!({
                "status": "degraded", "version": env!("CARGO_PKG_VERSION"), "uptime_seconds": 0,
                "checks": {"pool": {"status": "degraded", "message": "busy", "used": 3}}
            })
        );
    }
}
