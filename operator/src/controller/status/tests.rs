//! The status of servers in every stage of their life.

use std::sync::Arc;

use mcpscale_autoscaler::{Decision, Limit, Reason, TargetState};
use serde_json::{Value, json};

use super::*;
use crate::controller::{
    plan::plan,
    scaling::MetricsState,
    test_support::{installation, server},
    validate::validate,
};

fn workload<T: serde::de::DeserializeOwned>(status: &Value) -> Arc<T> {
    let spec = json!({"replicas": 2, "selector": {}, "template": {}});
    Arc::new(serde_json::from_value(json!({"metadata": {"generation": 1}, "spec": spec, "status": status})).unwrap())
}

fn up() -> Value {
    json!({"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2})
}

fn down() -> Value {
    json!({"observedGeneration": 1, "replicas": 2, "readyReplicas": 0, "updatedReplicas": 2})
}

fn observed(server: &Value, nginx: &Value, redis: &Value, postgres: &Value) -> Observed {
    Observed {
        server: Some(workload(server)),
        nginx: Some(workload(nginx)),
        redis: Some(workload(redis)),
        postgres: Some(workload(postgres)),
        ..Observed::default()
    }
}

fn outlook(from: u32, to: u32) -> Outlook {
    Outlook {
        decision: Decision {
            from,
            to,
            reason: if from == to { Reason::Steady } else { Reason::DemandRose },
            limited_by: None,
            binding: None,
            unreachable: vec![],
            message: "because".into(),
        },
        targets: vec![],
        metrics: MetricsState {
            available: true,
            reason: "Fresh".into(),
            message: "fresh".into(),
        },
    }
}

fn status_of(resource: &McpServer, observed: &Observed, outlook: Option<&Outlook>, second: i64) -> McpServerStatus {
    let installation = installation();
    let validated = validate(resource, observed, &installation);
    let planned = validated.as_ref().map(|v| {
        let desired = outlook.and_then(|o| i32::try_from(o.decision.to).ok());
        (v, plan(v, observed, desired))
    });
    status(&Facts {
        resource,
        observed,
        outcome: planned.as_ref().map(|(v, p)| (*v, p)).map_err(|e| *e),
        outlook,
        has_metrics_source: true,
        installation: &installation,
        now: Timestamp::from_second(second).unwrap(),
    })
}

fn said(status: &McpServerStatus, kind: &str) -> (String, String) {
    let condition = status
        .conditions
        .iter()
        .find(|c| c.type_ == kind)
        .unwrap_or_else(|| panic!("no condition {kind}"));
    (condition.status.clone(), condition.reason.clone())
}

fn says(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

/// What Flux, Helm and people lose without it: whether the server serves, and if not, which part is missing.
#[test]
fn ready_tells_which_part_is_missing() {
    let cases = [
        (
            "everything is up",
            observed(&up(), &up(), &up(), &up()),
            says("True", "Serving"),
            says("False", "Reconciled"),
        ),
        (
            "nothing is there",
            Observed::default(),
            says("False", "WaitingForPostgres"),
            says("True", "Starting"),
        ),
        (
            "Postgres is not up",
            observed(&down(), &down(), &up(), &down()),
            says("False", "WaitingForPostgres"),
            says("True", "Starting"),
        ),
        (
            "Redis is not up",
            observed(&down(), &down(), &down(), &up()),
            says("False", "WaitingForRedis"),
            says("True", "Starting"),
        ),
        (
            "no server pod",
            observed(&down(), &up(), &up(), &up()),
            says("False", "WaitingForServer"),
            says("True", "Starting"),
        ),
        (
            "no nginx pod",
            observed(&up(), &down(), &up(), &up()),
            says("False", "WaitingForLoadBalancer"),
            says("True", "Starting"),
        ),
        (
            "Redis went down, and clients are still served",
            observed(&up(), &up(), &down(), &up()),
            says("True", "Serving"),
            says("False", "Reconciled"),
        ),
    ];
    for (name, observed, ready, reconciling) in cases {
        let status = status_of(&server("{}"), &observed, None, 1);
        assert_eq!(said(&status, "Ready"), ready, "{name}");
        assert_eq!(said(&status, "Reconciling"), reconciling, "{name}");
        assert_eq!(said(&status, "Stalled").0, "False", "{name}");
        assert_eq!(status.observed_generation, Some(3), "{name}");
    }
}

/// What users of `flux wait` and `helm --wait` lose without it: a server that scales under load would look unfinished.
#[test]
fn scaling_is_not_reconciling_and_a_rollout_is() {
    let scaling = json!({"observedGeneration": 1, "replicas": 5, "readyReplicas": 2, "updatedReplicas": 5});
    let rolling = json!({"observedGeneration": 1, "replicas": 3, "readyReplicas": 2, "updatedReplicas": 1});
    let status = status_of(&server("{}"), &observed(&scaling, &up(), &up(), &up()), None, 1);
    assert_eq!(said(&status, "Reconciling").0, "False");
    let status = status_of(&server("{}"), &observed(&rolling, &up(), &up(), &up()), None, 1);
    assert_eq!(said(&status, "Reconciling"), says("True", "RollingOut"));
    assert_eq!(said(&status, "Ready").0, "True");
}

/// What the API server loses without it: an idle operator that writes for ever.
#[test]
fn an_unchanged_server_has_an_unchanged_status() {
    let everything = observed(&up(), &up(), &up(), &up());
    let mut resource =
        server("{autoscaling: {minReplicas: 1, maxReplicas: 4}, performanceTargets: {requestsPerSecond: 5}}");
    let mut outlook = outlook(2, 2);
    outlook.targets = vec![TargetReport {
        name: "requestsPerSecond".into(),
        target: 5.0,
        observed: Some(40.0),
        state: TargetState::Known,
        met: Some(true),
        plausible: None,
    }];
    let first = status_of(&resource, &everything, Some(&outlook), 1);
    resource.status = Some(first.clone());
    let later = status_of(&resource, &everything, Some(&outlook), 1000);
    assert_eq!(first, later);
    let restarted = status_of(&resource, &everything, None, 2000);
    assert_eq!(first, restarted, "an operator that has just started knows nothing new");
}

/// What a person loses without it: why there are as many pods as there are.
#[test]
fn decisions_are_kept_newest_first_and_ten_of_them() {
    let everything = observed(&up(), &up(), &up(), &up());
    let mut resource = server("{autoscaling: {minReplicas: 1, maxReplicas: 40}}");
    resource.status = Some(status_of(&resource, &everything, Some(&outlook(2, 2)), 1));
    for to in 3..=15 {
        let status = status_of(&resource, &everything, Some(&outlook(2, to)), i64::from(to));
        resource.status = Some(status);
    }
    let scaling = resource.status.unwrap().scaling.unwrap();
    assert_eq!(scaling.decisions.len(), 10);
    assert_eq!((scaling.decisions[0].from, scaling.decisions[0].to), (14, 15));
    assert_eq!(scaling.replicas.unwrap().desired, 15);
}

#[test]
fn recommend_says_what_it_would_do_and_what_is() {
    let resource = server("{replicas: 2, autoscaling: {maxReplicas: 9, replicas: {mode: Recommend}}}");
    let status = status_of(
        &resource,
        &observed(&up(), &up(), &up(), &up()),
        Some(&outlook(2, 6)),
        1,
    );
    let scaling = status.scaling.unwrap();
    assert_eq!(
        scaling.replicas,
        Some(KnobStatus {
            current: 2,
            desired: 6,
            limited_by: None
        })
    );
    assert_eq!(scaling.decisions[0].to, 6);
}

#[test]
fn limits_and_missed_targets_are_conditions_of_their_own() {
    let resource = server("{autoscaling: {maxReplicas: 4}, performanceTargets: {latency: {p95: 100ms}}}");
    let mut outlook = outlook(4, 4);
    outlook.decision.limited_by = Some(Limit::MaxReplicas);
    let report = |met| TargetReport {
        name: "latency.p95".into(),
        target: 0.1,
        observed: Some(0.25),
        state: TargetState::Known,
        met,
        plausible: None,
    };
    outlook.targets = vec![report(Some(false))];
    let status = status_of(&resource, &observed(&up(), &up(), &up(), &up()), Some(&outlook), 1);
    assert_eq!(said(&status, "TargetsMet"), says("False", "TargetsMissed"));
    assert_eq!(said(&status, "ScalingLimited"), says("True", "MaxReplicas"));
    assert_eq!(said(&status, "Ready").0, "True");
    assert_eq!(
        (status.targets[0].target.as_str(), status.targets[0].observed.as_deref()),
        ("100ms", Some("250ms"))
    );
    outlook.targets = vec![report(None)];
    let status = status_of(&resource, &observed(&up(), &up(), &up(), &up()), Some(&outlook), 1);
    assert_eq!(said(&status, "TargetsMet").0, "Unknown");
}

/// What a person loses without it: a refused change that leaves no trace, or a serving server that is called down.
#[test]
fn an_invalid_change_is_told_while_the_old_keeps_serving() {
    let resource = server("{autoscaling: {maxReplicas: 100}, postgres: {maxConnections: 50}}");
    let status = status_of(&resource, &observed(&up(), &up(), &up(), &up()), None, 1);
    assert_eq!(said(&status, "Accepted"), says("False", "ConnectionBudgetTooSmall"));
    assert_eq!(said(&status, "Stalled").0, "True");
    assert_eq!(said(&status, "Ready").0, "True");
    let status = status_of(&resource, &Observed::default(), None, 1);
    assert_eq!(said(&status, "Ready"), says("False", "ConnectionBudgetTooSmall"));
}

#[test]
fn a_pod_that_cannot_start_is_told_in_the_words_of_the_kubelet() {
    let mut everything = observed(&down(), &up(), &up(), &up());
    let pod = json!({"status": {"containerStatuses": [{
        "name": "mcp", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "back-off 10s"}},
    }]}});
    everything.pods = vec![Arc::new(serde_json::from_value(pod).unwrap())];
    let status = status_of(&server("{}"), &everything, None, 1);
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(
        ready.message,
        "no server pod is ready yet: container mcp: ImagePullBackOff"
    );
}

#[test]
fn numbers_are_written_as_people_write_them() {
    let cases = [(0.1, "0.1"), (100.0, "100"), (0.012, "0.012"), (1.5, "1.5"), (0.0, "0")];
    for (value, expected) in cases {
        assert_eq!(significant(value), expected);
    }
}
