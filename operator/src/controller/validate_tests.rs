//! What validation refuses, and what it makes of what it takes.

use proptest::prelude::*;

use super::*;
use crate::controller::{
    dereference::RunningImages,
    test_support::{installation, server, validated},
};
use mcpscale_autoscaler::{Balancing, LatencyTarget, Quantile};

/// What a user loses without it: `too many clients`, at the worst moment of a rollout.
#[test]
fn connections_are_shared_over_all_pods_that_there_can_ever_be() {
    let cases = [
        (200, 1, Some(63)),
        (200, 20, Some(4)),
        (100, 6, Some(6)),
        (50, 17, Some(1)),
        (50, 18, None),
        (20, 100, None),
    ];
    for (max_connections, replicas, expected) in cases {
        let share = connections_per_pod(max_connections, replicas).ok();
        assert_eq!(share, expected, "{max_connections} connections, {replicas} replicas");
    }
}

proptest! {
    #[test]
    fn the_budget_holds_whatever_is_declared(max_connections in 20..5000_i32, replicas in 0..1000_i32) {
        match connections_per_pod(max_connections, replicas) {
            Ok(share) => {
                let surge = (replicas + 3) / 4;
                prop_assert!(share >= 1);
                prop_assert!(share * (2 * replicas + surge) <= max_connections - RESERVED_CONNECTIONS);
            }
            Err(ValidateError::ConnectionBudget { needed, affordable, .. }) => {
                prop_assert!(connections_per_pod(needed, replicas).is_ok(), "the advice does not help");
                prop_assert!(affordable == 0 || connections_per_pod(max_connections, affordable).is_ok());
                prop_assert!(connections_per_pod(max_connections, affordable + 1).is_err());
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn what_admission_would_refuse_is_refused_here_too() {
    let cases = [
        (
            "{performanceTargets: {latency: {p95: soon}}}",
            "performanceTargets.latency.p95",
        ),
        (
            "{performanceTargets: {errorRate: 200%}}",
            "performanceTargets.errorRate",
        ),
        (
            "{autoscaling: {minReplicas: 3, maxReplicas: 2}}",
            "exceeds autoscaling.maxReplicas",
        ),
        (
            "{server: {resources: {limits: {cpu: much}}}}",
            "server.resources.limits",
        ),
        ("{postgres: {storage: {size: big}}}", "postgres.storage.size"),
    ];
    for (spec, expected) in cases {
        let error = validate(&server(spec), &Observed::default(), &installation()).unwrap_err();
        assert!(error.to_string().contains(expected), "{spec}: {error}");
        assert_eq!(error.reason(), "InvalidSpec", "{spec}");
    }
}

fn claim(owner: Option<&str>, major: &str) -> Observed {
    let data_claim = DataClaim {
        name: "context-postgres".into(),
        owner_uid: owner.map(Into::into),
        postgres_major: Some(major.into()),
        pgdata: Some(postgres::PGDATA.into()),
    };
    Observed {
        data_claim: Some(data_claim),
        ..Observed::default()
    }
}

/// What a user loses without it: another's data, or a database that a wrong Postgres starts on.
#[test]
fn data_of_others_is_never_taken() {
    let cases = [
        ("our own", claim(Some("u-1"), postgres::MAJOR), None),
        (
            "another's",
            claim(Some("u-0"), postgres::MAJOR),
            Some("OrphanedDataFound"),
        ),
        ("nobody's", claim(None, postgres::MAJOR), Some("OrphanedDataFound")),
        (
            "of an older Postgres",
            claim(Some("u-1"), "17"),
            Some("DataVersionMismatch"),
        ),
    ];
    for (name, observed, expected) in cases {
        let reason = validate(&server("{}"), &observed, &installation())
            .err()
            .map(|error| error.reason());
        assert_eq!(reason, expected, "{name}");
    }
}

/// What a user loses without it: an upgrade of the operator rolls every pod of every server.
#[test]
fn a_running_image_stays_until_another_is_set() {
    let running = RunningImages {
        server: Some("mcpscale/mcp-server:0.0.9".into()),
        ..RunningImages::default()
    };
    let observed = Observed {
        images: running,
        ..Observed::default()
    };
    let kept = validate(&server("{}"), &observed, &installation()).unwrap();
    assert_eq!(kept.images.server, "mcpscale/mcp-server:0.0.9");
    assert_eq!(kept.updates, ["server: mcpscale/mcp-server:0.1.0"]);
    assert!(kept.implements_tuning_contract, "another version of the default image");
    let set = validate(&server("{image: \"registry:5000/own:1\"}"), &observed, &installation()).unwrap();
    assert_eq!(set.images.server, "registry:5000/own:1");
    assert!(set.updates.is_empty());
    assert!(!set.implements_tuning_contract);
}

#[test]
fn replicas_come_from_whom_the_resource_names() {
    let cases = [
        ("{}", Replicas::Fixed(1)),
        ("{replicas: 0}", Replicas::Fixed(0)),
        ("{replicas: 3}", Replicas::Fixed(3)),
        (
            "{autoscaling: {minReplicas: 2, maxReplicas: 5}}",
            Replicas::Scaled { minimum: 2, maximum: 5 },
        ),
        (
            "{autoscaling: {minReplicas: 2, maxReplicas: 5, replicas: {mode: Recommend}}}",
            Replicas::Recommended(2),
        ),
        (
            "{replicas: 4, autoscaling: {maxReplicas: 5, replicas: {mode: Off}}}",
            Replicas::Fixed(4),
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(validated(spec).replicas, expected, "{spec}");
    }
}

#[test]
fn the_policy_carries_the_declared_units_over() {
    let spec = "{performanceTargets: {latency: {p95: 100ms}, errorRate: 0.1%, requestsPerSecond: 50}, \
                server: {concurrency: 8, resources: {limits: {cpu: 500m}}}, loadBalancer: {replicas: 1}, \
                autoscaling: {maxReplicas: 4, behavior: {scaleDown: {stabilizationWindowSeconds: 30}}}}"
        .replace("\\\n", "");
    let policy = policy(&server(&spec), &installation()).unwrap();
    assert_eq!(
        policy.targets.latency,
        [LatencyTarget {
            quantile: Quantile::P95,
            bound_seconds: 0.1
        }]
    );
    assert_eq!(
        (policy.targets.error_rate, policy.targets.requests_per_second),
        (Some(0.001), Some(50.0))
    );
    assert_eq!((policy.concurrency, policy.cpu_limit_cores), (8, Some(0.5)));
    assert_eq!((policy.min_replicas, policy.max_replicas), (1, 4));
    assert_eq!(policy.balancing, Balancing::LeastConnections);
    assert_eq!(
        policy.behavior.scale_down.unwrap().stabilization_window_seconds,
        Some(30)
    );
}

#[test]
fn an_image_is_told_from_its_tag() {
    let cases = [
        ("a/b:1", "a/b"),
        ("r:5000/a/b", "r:5000/a/b"),
        ("r:5000/a/b:1@sha256:00", "r:5000/a/b"),
        ("a", "a"),
    ];
    for (image, expected) in cases {
        assert_eq!(repository(image), expected, "{image}");
    }
}
