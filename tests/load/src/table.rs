//! A report for people.

use std::fmt::Write;
use std::time::Duration;

use crate::latency::Latencies;
use crate::report::Report;

/// The report as text: how requests ended, latencies by tool, failures by kind, and what the load tester did itself.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = write_all(&mut text, report);
    text
}

fn write_all(text: &mut String, report: &Report) -> std::fmt::Result {
    write_outcomes(text, report)?;
    write_latencies(text, report)?;
    write_failures(text, report)?;
    write_own_conduct(text, report)
}

fn write_outcomes(text: &mut String, report: &Report) -> std::fmt::Result {
    let total = report.total;
    let partial = if report.cancelled {
        " (cancelled: the run is partial)"
    } else {
        ""
    };
    writeln!(
        text,
        "{} clients, {:.1} s at {}{partial}",
        report.era, report.seconds, report.url
    )?;
    writeln!(text, "phases     {}", report.phases.join(" "))?;
    writeln!(
        text,
        "requests   {} offered = {} completed + {} shed + {} failed + {} unsent",
        total.offered, total.completed, total.shed, total.failed, total.unsent
    )?;
    let statuses: Vec<String> = report
        .http_statuses
        .iter()
        .map(|(code, count)| format!("{code} × {count}"))
        .collect();
    writeln!(
        text,
        "HTTP       {}",
        if statuses.is_empty() {
            "no answers".to_owned()
        } else {
            statuses.join(", ")
        }
    )?;
    if let Some(sessions) = report.sessions {
        writeln!(
            text,
            "sessions   {} opened, {} lost by the server",
            sessions.opened, sessions.lost
        )?;
    }
    Ok(())
}

fn write_latencies(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        text,
        "\n{:<28}{:>9}{:>7}{:>7} |{:^40}| {:^15}",
        "tool", "completed", "shed", "failed", "latency since due, ms", "since sent, ms"
    )?;
    writeln!(
        text,
        "{:<51} |{:>8}{:>8}{:>8}{:>8}{:>8}|{:>8}{:>8}",
        "", "p50", "p90", "p95", "p99", "max", "p50", "p99"
    )?;
    let mut row = |name: &str, counts: crate::Counts, latency: &Latencies, service: &Latencies| {
        writeln!(
            text,
            "{name:<28}{:>9}{:>7}{:>7} |{}{}{}{}{}|{}{}",
            counts.completed,
            counts.shed,
            counts.failed,
            cell(latency.quantile(0.5)),
            cell(latency.quantile(0.9)),
            cell(latency.quantile(0.95)),
            cell(latency.quantile(0.99)),
            cell(latency.max()),
            cell(service.quantile(0.5)),
            cell(service.quantile(0.99)),
        )
    };
    for tool in &report.tools {
        row(&tool.tool, tool.counts, &tool.latency, &tool.service_latency)?;
    }
    if report.tools.len() > 1 {
        row("all", report.total, &report.latency, &report.service_latency)?;
    }
    Ok(())
}

fn write_failures(text: &mut String, report: &Report) -> std::fmt::Result {
    if report.failures.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\n{:<24}{:>9}  {:>9}  first answer",
        "failure", "count", "first at"
    )?;
    for failure in &report.failures {
        let kind = failure.kind.to_string();
        writeln!(
            text,
            "{kind:<24}{:>9}  {:>7.1} s  {}",
            failure.count, failure.first_at_seconds, failure.sample
        )?;
    }
    Ok(())
}

fn write_own_conduct(text: &mut String, report: &Report) -> std::fmt::Result {
    let (typical, late) = (cell(report.lag.quantile(0.5)), cell(report.lag.quantile(0.99)));
    writeln!(
        text,
        "\nown lag    {} ms p50, {} ms p99, {} ms max (how late requests were sent)",
        typical.trim(),
        late.trim(),
        cell(report.lag.max()).trim()
    )?;
    for reason in &report.invalid {
        writeln!(text, "INVALID    {reason}")?;
    }
    Ok(())
}

/// Milliseconds in eight columns, with as many digits as matter.
fn cell(latency: Option<Duration>) -> String {
    let Some(latency) = latency else {
        return format!("{:>8}", "-");
    };
    let milliseconds = latency.as_secs_f64() * 1000.0;
    let digits = if milliseconds < 10.0 {
        2
    } else {
        usize::from(milliseconds < 1000.0)
    };
    format!("{milliseconds:>8.digits$}")
}
