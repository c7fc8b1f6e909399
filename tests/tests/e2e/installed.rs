//! The installation itself. No other test runs at the same time: some stop the operator, or its Prometheus.

use mcpscale_tests::{TestResult, installation::NAMESPACE, run_in_cluster};

use super::support::install;

/// What a user loses without it: after an installation, one command that says whether it works.
#[test]
fn helm_test_says_that_the_installation_works() -> TestResult {
    run_in_cluster(async |cluster| {
        install(&cluster).await?;
        let said = cluster
            .helm(&["test", "mcpscale", "--namespace", NAMESPACE, "--timeout", "90s"])
            .await?;
        let phase = said.lines().find_map(|line| line.strip_prefix("Phase:"));
        assert_eq!(phase.map(str::trim), Some("Succeeded"), "{said}");
        Ok(())
    })
}
