//! What is measured in time under load runs beside nothing but a steady server.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mcp_load::Phase;
use mcpscale_tests::{TestResult, run_in_cluster};

use super::{
    load::{Load, started, until_set},
    support::{DOWN_WINDOW_SECONDS, no_connection_was_refused, read},
};

/// The main job. What a user loses without it: everything the project is for.
#[test]
fn load_times_five_scales_up_and_down_without_a_failed_request() -> TestResult {
    run_in_cluster(async |cluster| {
        let (namespace, url, _endpoint) = started(&cluster, "loop", 1, 6).await?;
        let client = cluster.client();
        // The last phase ends with the test.
        let phases = [(30.0, 20), (150.0, 70), (20.0, 300)];
        let load_falls = Timestamp::now() + SignedDuration::from_secs(90);
        let load = Load::start_punctual(
            &url,
            phases
                .map(|(rate, seconds)| Phase::constant(rate, Duration::from_secs(seconds)))
                .into(),
        );
        let grown = until_set(&client, &namespace, 2.., Duration::from_secs(90)).await?;
        println!("grew to {grown}");
        until_set(&client, &namespace, 1..=1, Duration::from_secs(200)).await?;
        let report = load.stop().await?;
        let server = read(&client, &namespace, "loop").await?;
        let scaling = server
            .status
            .clone()
            .and_then(|status| status.scaling)
            .ok_or("no scaling status")?;
        for decision in &scaling.decisions {
            println!(
                "{} -> {}: {} {}",
                decision.from, decision.to, decision.reason, decision.message
            );
        }
        assert!(
            report.is_valid(),
            "the load tester could not keep its own schedule: {:?}",
            report.invalid
        );
        assert_eq!(report.failed(), 0, "{:?}", report.failures);
        // The first seconds of the step exceed what one pod can do; the last thirty of the hold must be served in full.
        let held = report.window(60, 89);
        assert_eq!(held.counts.shed, 0, "shed although there were pods enough");
        let p95 = held.quantile(0.95).ok_or("no latency")?;
        assert!(p95 < Duration::from_millis(150), "p95 of {p95:?} while holding");
        let light = [report.window(0, 19), report.window(90, usize::MAX)];
        let shed = light.map(|window| window.counts.shed);
        assert_eq!(shed, [0, 0], "shed under light load, before and after the step");
        assert!(scaling.decisions.iter().any(|d| d.to > d.from) && scaling.decisions.iter().any(|d| d.to < d.from));
        let too_early = load_falls + SignedDuration::from_secs(DOWN_WINDOW_SECONDS);
        assert!(
            scaling.decisions.iter().all(|d| d.to > 1 || d.time.0 > too_early),
            "pods were taken away before the load had been low for as long as the window"
        );
        assert!(
            scaling.decisions.iter().all(|d| d.message.len() > 20),
            "a decision without its sentence"
        );
        no_connection_was_refused(&client, &namespace, "loop").await
    })
}
