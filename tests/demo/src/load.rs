//! The load of the demo: what it is, and how it is watched.

use std::{ops::Range, time::Duration};

use mcp_load::{CancellationToken, Mix, Phase, Plan, Progress, Report};
use mcpscale_crds::v1alpha1::DecisionRecord;
use tokio::sync::watch;

use crate::{
    Result,
    narrator::Narrator,
    server::{Server, decisions_after, pods},
    summary::{Facts, Sample, Shed},
    table::{HEADER, Rows},
};

/// How long the tool waits, as a tool does that asks a database. No CPU: two cores carry cluster, server and load.
const WORK: Duration = Duration::from_millis(50);
/// The seconds in which p95 must be met: the last twenty of the peak, when replicas have had time to follow.
const JUDGED: Range<usize> = 90..110;

/// Few calls, a rise, ten times as many, few again for long enough that replicas fall.
pub(crate) fn phases() -> [Phase; 4] {
    [
        Phase::constant(20.0, Duration::from_secs(20)),
        Phase::ramp(20.0, 200.0, Duration::from_secs(30)),
        Phase::constant(200.0, Duration::from_mins(1)),
        Phase::constant(15.0, Duration::from_secs(80)),
    ]
}

/// The same load by hand.
pub(crate) fn command(url: &str) -> String {
    let phases: Vec<String> = phases().map(|phase| format!("--phase {phase}")).to_vec();
    let arguments = format!("{{\"io_ms\":{},\"cpu_ms\":0}}", WORK.as_millis());
    format!(
        "mcp-load run --url {url} --tool simulate_work --arguments '{arguments}' {}",
        phases.join(" ")
    )
}

/// Sends the load to `url` while it prints how `server` takes it.
pub(crate) async fn send(url: &str, server: &Server, narrator: &Narrator) -> Result<Facts> {
    let milliseconds = u64::try_from(WORK.as_millis())?;
    let plan = Plan::new(url, Mix::simulate_work(milliseconds, 0), phases());
    let (sender, receiver) = watch::channel(Progress::default());
    let load = async { Ok(mcp_load::run(plan, Some(sender), CancellationToken::new()).await?) };
    let (report, samples) = tokio::try_join!(load, follow(receiver, server, narrator))?;
    let decisions = decisions_after(&server.status().await?, None)
        .into_iter()
        .cloned()
        .collect();
    Ok(facts(&report, samples, decisions, server))
}

/// Prints the table until the load is over; returns the replicas of each second.
async fn follow(mut progress: watch::Receiver<Progress>, server: &Server, narrator: &Narrator) -> Result<Vec<Sample>> {
    println!("\n{}", narrator.paint.bold(HEADER));
    let (mut samples, mut rows) = (Vec::new(), Rows::default());
    let mut told: Option<DecisionRecord> = None;
    while progress.changed().await.is_ok() {
        let now = progress.borrow_and_update().clone();
        let status = server.status().await?;
        let (ready, wanted) = pods(&status);
        samples.push(Sample {
            second: now.elapsed_seconds,
            ready,
        });
        for decision in decisions_after(&status, told.as_ref()) {
            println!("        ↳ {}", narrator.paint.bold(&decision.message));
            told = Some(decision.clone());
        }
        if let Some(row) = rows.add(&now) {
            println!("{}", row.line(server.p95, (ready, wanted), narrator.paint));
        }
    }
    Ok(samples)
}

fn facts(report: &Report, samples: Vec<Sample>, decisions: Vec<DecisionRecord>, server: &Server) -> Facts {
    let busy_slots = |requests: u64| f64::from(u32::try_from(requests).unwrap_or(u32::MAX)) * WORK.as_secs_f64();
    let seconds = report.time_series.iter().enumerate();
    let shed = seconds
        .filter(|(_, record)| record.counts.shed > 0)
        .map(|(second, record)| Shed {
            second: f64::from(u32::try_from(second).unwrap_or(u32::MAX)),
            requests: record.counts.shed,
            busy_slots: busy_slots(record.counts.offered),
        });
    let failures = report.failures.iter().map(|failure| {
        format!(
            "{} × {} from second {:.0}: {}",
            failure.count, failure.kind, failure.first_at_seconds, failure.sample
        )
    });
    Facts {
        offered: report.total.offered,
        answered: report.total.completed,
        shed: shed.collect(),
        failed: report.failed(),
        failures: failures.collect(),
        unsure: report.invalid.clone(),
        p95: report.quantile(0.95),
        p95_at_peak: report.window(JUDGED.start, JUDGED.end).quantile(0.95),
        target: server.p95,
        slots: server.concurrency,
        samples,
        decisions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The p95 that is judged must be that of the peak, not of the fall, where any number of replicas would do.
    #[test]
    fn the_judged_seconds_are_the_end_of_the_peak() {
        let [before, rise, peak, _] = phases().map(|phase| usize::try_from(phase.duration().as_secs()).unwrap());
        assert_eq!(JUDGED.end, before + rise + peak);
        assert!(JUDGED.start > before + rise, "replicas need time to follow");
    }

    /// The printed command is what a user copies.
    #[test]
    fn the_command_names_every_phase() {
        assert_eq!(
            command("http://10.0.0.1/mcp"),
            "mcp-load run --url http://10.0.0.1/mcp --tool simulate_work --arguments '{\"io_ms\":50,\"cpu_ms\":0}' \
             --phase constant:20:20s --phase ramp:20..200:30s --phase constant:200:60s --phase constant:15:80s"
        );
    }
}
