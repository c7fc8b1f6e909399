//! Tests of the harness itself: what it promises to all other tests.

use std::time::{Duration, Instant};

use mcpscale_tests::{ApiCluster, tools};

/// Lost otherwise: tests that run side by side and a feedback of seconds.
#[tokio::test]
async fn two_api_clusters_are_ready_side_by_side_within_five_seconds_each() {
    tools::component("kube-apiserver").expect("the binary is built");
    let timed = async || {
        let start = Instant::now();
        let cluster = ApiCluster::start().await.expect("an API cluster");
        (cluster, start.elapsed())
    };
    let ((first, first_took), (second, second_took)) = tokio::join!(timed(), timed());
    assert_ne!(first.kubeconfig(), second.kubeconfig());
    eprintln!("{first_took:?} {second_took:?}");
    assert!(first_took < Duration::from_secs(5), "{first_took:?}");
    assert!(second_took < Duration::from_secs(5), "{second_took:?}");
}
