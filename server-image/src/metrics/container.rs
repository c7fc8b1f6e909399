//! What the container may use of CPU, from its control group (version 2). Its memory is [`crate::memory`].

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use prometheus_client::registry::Registry;

use super::at_scrape;
use crate::cgroup;

/// Registers `mcp_cpu_limit_cores` and `mcp_cpu_throttled_seconds_total`.
pub fn register(registry: &mut Registry) {
    at_scrape::gauge(
        registry,
        "mcp_cpu_limit_cores",
        "Cores that this server may use: the container's limit, else the machine's",
        cpu_limit,
    );
    at_scrape::counter(
        registry,
        "mcp_cpu_throttled_seconds",
        "Time the container was made to wait because it had used up its CPU limit",
        || throttled_seconds(cgroup::folders("cpu").first()?),
    );
}

/// Cores that this process may use.
fn cpu_limit() -> Option<f64> {
    let groups = cgroup::folders("cpu");
    let limited = groups
        .first()
        .and_then(|group| quota(&fs::read_to_string(group.join("cpu.max")).ok()?));
    let cores = u32::try_from(available_parallelism().ok()?.get()).ok().map(f64::from)?;
    Some(limited.map_or(cores, |limit| limit.min(cores)))
}

fn throttled_seconds(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let microseconds = text.lines().find_map(|line| line.strip_prefix("throttled_usec "))?;
    Some(microseconds.trim().parse::<f64>().ok()? / 1e6)
}

/// `quota period` in microseconds, or `max period`.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit read wrongly would call a server idle that is at its end.
    #[test]
    fn limits_are_read() {
        for (text, expected) in [
            ("25000 100000\n", Some(0.25)),
            ("150000 100000\n", Some(1.5)),
            ("max 100000\n", None),
            ("", None),
        ] {
            assert_eq!(quota(text), expected, "{text:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cpu.stat"), "usage_usec 5\nthrottled_usec 1500000\n").unwrap();
        assert_eq!(throttled_seconds(folder.path()), Some(1.5));
        assert!(cpu_limit().unwrap() > 0.0);
    }
}
