//! A report for people.

use std::fmt::{Display, Formatter, Result};

use super::Report;
use super::figures::{Figures, Times};
use super::finding::{Finding, Severity};

impl Display for Report {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let figures = &self.figures;
        let since = if figures.since_start { " since the start" } else { "" };
        writeln!(
            formatter,
            "{} requests in {:.0} s{since} ({:.1} a second)",
            figures.requests.count, figures.seconds, figures.requests.per_second
        )?;
        writeln!(formatter, "{}", self.diagnosis.summary)?;
        for finding in &self.diagnosis.findings {
            write!(formatter, "{}", Lines(finding))?;
        }
        writeln!(formatter, "\nFigures")?;
        rows(figures)
            .iter()
            .try_for_each(|(name, value)| writeln!(formatter, "  {name:<28} {value}"))
    }
}

struct Lines<'a>(&'a Finding);

impl Display for Lines<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let finding = self.0;
        let severity = match finding.severity {
            Severity::Critical => "CRITICAL",
            Severity::Warning => "warning",
        };
        writeln!(formatter, "\n{severity}, {}: {}", finding.area, finding.problem)?;
        writeln!(formatter, "  because  {}", finding.evidence)?;
        writeln!(formatter, "  do       {}", finding.recommendation)
    }
}

/// The figures that are known, in words.
fn rows(figures: &Figures) -> Vec<(String, String)> {
    let (wait, hold) = if figures.database.is_file {
        ("wait for the SQLite file", "SQLite file busy for")
    } else {
        ("wait for a connection", "connection borrowed for")
    };
    let single = [
        ("failed", percent(figures.requests.error_ratio)),
        ("refused, no slot", percent(figures.requests.shed_ratio)),
        ("refused, rate limit", percent(figures.requests.limited_ratio)),
        ("arrival to answer", times(figures.latency)),
        ("  of it wait for a slot", times(figures.queue)),
        ("  of it with a slot", times(figures.service)),
        ("slots busy", percent(figures.slots.utilization)),
        ("CPU used", percent(figures.cpu.utilization)),
        ("CPU of a request", figures.cpu.per_request.map(milliseconds)),
        ("CPU throttled", percent(figures.cpu.throttled)),
        ("pool in use", percent(figures.pool.utilization)),
        (wait, times(figures.pool.wait)),
        (hold, times(figures.database.hold)),
        ("database connections taken", percent(figures.database.connections_used)),
        ("cache hits", percent(figures.cache.hit_ratio)),
        ("cache misses, evicted", percent(figures.cache.evicted_ratio)),
        ("Redis answers in", times(figures.redis.answer)),
        ("verifying a credential", times(figures.authentication)),
        ("memory used", percent(figures.memory.utilization)),
        (
            "resident memory",
            figures
                .memory
                .resident
                .map(|bytes| format!("{:.1} MiB", bytes / 1_048_576.0)),
        ),
    ];
    let single = single
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let tools = figures.tools.iter().filter_map(|tool| {
        let times = times(tool.service)?;
        let share = tool.share * 100.0;
        Some((
            tool.tool.clone(),
            format!("{} calls, {share:.0} % of slot time, {times}", tool.calls),
        ))
    });
    single.chain(tools).collect()
}

fn percent(ratio: Option<f64>) -> Option<String> {
    ratio.map(|ratio| format!("{:.1} %", ratio * 100.0))
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1000.0)
}

fn times(times: Times) -> Option<String> {
    let quantiles = [("p50", times.p50), ("p95", times.p95), ("p99", times.p99)];
    let quantiles = quantiles
        .iter()
        .filter_map(|(name, value)| Some(format!(", {name} {}", milliseconds((*value)?))));
    Some(format!(
        "mean {}{}",
        milliseconds(times.mean?),
        quantiles.collect::<String>()
    ))
}
