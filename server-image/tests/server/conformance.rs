//! The official conformance suite, with both of its requirement sets.

use std::time::Duration;

use mcp_server::server::{Fixtures, Settings};
use tokio::time::timeout;

use crate::support::nginx::Nginx;
use crate::support::node::{package, package_script, said};
use crate::support::postgres::SHARED;
use crate::support::server::{TestServer, settings};

/// The package of the suite.
const SUITE: &str = "@modelcontextprotocol/conformance";
/// Requirement sets, and how many scenarios of each are scored.
const SETS: [(&str, usize); 2] = [("2026-07-28", 37), ("2025-11-25", 30)];
/// Longest run of one set on a busy machine; alone it takes seconds.
const RUN_MAX: Duration = Duration::from_mins(4);

fn with_fixtures(database_url: &str) -> Settings {
    let mut settings = settings(database_url);
    settings.operation.fixtures = Fixtures::Conformance;
    settings
}

/// Lets the suite judge the endpoint at `url`; every scored scenario must pass, with at least one check.
async fn judge(url: &str) {
    for (set, scored) in SETS {
        let folder = tempfile::tempdir().unwrap();
        let mut suite = package_script(&format!("{SUITE}/dist/index.js"));
        suite
            .args(["server", "--url", url, "--requirements", set, "-o"])
            .arg(folder.path());
        let output = timeout(RUN_MAX, suite.output()).await.expect("the suite ends").unwrap();
        let report = said(&output);
        let scenarios = scenarios(set);
        assert_eq!(scenarios.len(), scored, "scored scenarios of {set}");
        let failed: Vec<&String> = scenarios.iter().filter(|name| !passed(&report, name)).collect();
        assert!(failed.is_empty(), "{set}: {failed:?} did not pass:\n{report}");
        assert!(output.status.success(), "{set}: {report}");
    }
}

/// Whether the summary says that a scenario passed.
fn passed(report: &str, scenario: &str) -> bool {
    let line = report
        .lines()
        .find_map(|line| line.strip_prefix(&format!("✓ {scenario}: ")));
    line.is_some_and(|line| line.ends_with(" passed, 0 failed") && !line.starts_with("0 "))
}

/// Scenarios of a set that count for a server, from the suite's own list.
fn scenarios(set: &str) -> Vec<String> {
    let list = std::fs::read_to_string(package(&format!("{SUITE}/requirements/{set}.yaml"))).unwrap();
    let of_servers = list.lines().skip_while(|line| *line != "server:").skip(1);
    let items = of_servers.map_while(|line| line.strip_prefix("  - "));
    items.map(str::to_owned).collect()
}

/// What the protocol demands of a server, as its authors check it.
#[tokio::test(flavor = "multi_thread")]
async fn one_replica_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let server = TestServer::start(with_fixtures(&url)).await;
    judge(&format!("http://{}/mcp", server.server.mcp)).await;
}

/// The same through the operator's load balancer, which gives each request to either of two replicas.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_behind_the_load_balancer_conform() {
    let url = SHARED.database().await;
    let (a, b) = tokio::join!(
        TestServer::start(with_fixtures(&url)),
        TestServer::start(with_fixtures(&url))
    );
    let replicas = [a.server.mcp, b.server.mcp];
    let nginx = Nginx::start(&replicas).await;
    judge(&format!("http://{}/mcp", nginx.address)).await;
    for replica in replicas {
        let share = nginx.requests_of(replica);
        assert!(share > 50, "only {share} requests went to {replica}");
    }
}
