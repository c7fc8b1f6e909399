//! The checks of the server's own parts.

use super::{Check, Status};
use crate::database::PoolStatus;
use crate::memory::Usage;
use crate::readiness::{NotReady, Readiness};
use crate::report::thresholds::{MEMORY_UTILIZATION, POOL_UTILIZATION};

/// Whether the database answers.
#[must_use]
pub fn database(readiness: &Readiness) -> Check {
    if readiness.database_answers() {
        Check::new(Status::Healthy, "answers")
    } else {
        Check::new(Status::Unhealthy, NotReady::DatabaseUnreachable.to_string())
    }
}

/// Whether the server is about to end.
#[must_use]
pub fn drain(begun: bool) -> Check {
    if begun {
        Check::new(Status::Unhealthy, NotReady::Draining.to_string())
    } else {
        Check::new(Status::Healthy, "takes new requests")
    }
}

/// Whether the cache that replicas share is there; without it the server is slower, and right all the same.
#[must_use]
pub fn redis(answers: Option<bool>) -> Check {
    match answers {
        None => Check::new(Status::Healthy, "off"),
        Some(true) => Check::new(Status::Healthy, "up"),
        Some(false) => Check::new(Status::Degraded, "down"),
    }
}

/// Whether connections are short; requests that wait for one are still served, so it never counts as unhealthy.
#[must_use]
pub fn pool(status: Option<PoolStatus>) -> Check {
    let Some(PoolStatus { max, open, idle }) = status else {
        return Check::new(Status::Healthy, "SQLite needs no pool");
    };
    let used = open.saturating_sub(idle);
    let utilization = ratio(used, max);
    let check = if utilization >= POOL_UTILIZATION.critical {
        Check::new(Status::Degraded, "nearly all connections are in use")
    } else {
        Check::new(Status::Healthy, "has free connections")
    };
    check
        .with("max", max)
        .with("open", open)
        .with("used", used)
        .with("utilization", utilization)
}

/// Whether memory is short. Beyond the limit the kernel ends the server without a word. `resident` is this process's
/// part of it, in bytes.
#[must_use]
pub fn memory(resident: Option<f64>, usage: Option<Usage>) -> Check {
    let check = match usage {
        Some(usage) if usage.ratio() >= MEMORY_UTILIZATION.warning => {
            Check::new(Status::Degraded, "the container's memory is nearly used up")
        }
        Some(_) => Check::new(Status::Healthy, "below the container's limit"),
        None => Check::new(Status::Healthy, "the container has no limit"),
    };
    let check = match usage {
        Some(Usage { limit, used }) => check.with("used_bytes", used).with("limit_bytes", limit),
        None => check,
    };
    match resident {
        Some(resident) => check.with("resident_bytes", resident),
        None => check,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of connections are far below 2^52")]
fn ratio(used: usize, max: usize) -> f64 {
    used as f64 / max.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that hears "unhealthy" may restart the replica: only what a restart could help is.
    #[test]
    fn shortage_degrades_and_only_death_is_unhealthy() {
        let connections = |used: usize| {
            Some(PoolStatus {
                max: 20,
                open: 20,
                idle: 20 - used,
            })
        };
        let used = |used| Some(Usage { limit: 100, used });
        for (name, check, expected) in [
            ("no pool", pool(None), Status::Healthy),
            ("free connections", pool(connections(18)), Status::Healthy),
            ("all connections in use", pool(connections(20)), Status::Degraded),
            ("memory", memory(Some(90.0), used(79)), Status::Healthy),
            ("short memory", memory(Some(70.0), used(80)), Status::Degraded),
            ("no limit", memory(Some(80.0), None), Status::Healthy),
            ("no Redis", redis(None), Status::Healthy),
            ("Redis", redis(Some(true)), Status::Healthy),
            ("Redis away", redis(Some(false)), Status::Degraded),
            ("running", drain(false), Status::Healthy),
            ("ending", drain(true), Status::Unhealthy),
        ] {
            assert_eq!(check.status, expected, "{name}");
        }
        assert_eq!(pool(connections(10)).figures["utilization"], 0.5);
    }
}
