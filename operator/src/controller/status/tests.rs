//! The status of servers in every stage of their life.

use std::sync::Arc;

use mcpscale_autoscaler::{Decision, Limit, Reason, TargetState};
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::{
        plan::plan,
        scaling::MetricsState,
        test_support::{installation, server},
        validate::validate,
    },
    resources::ChildKind,
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
    status_after(&Ok(Applied::default()), resource, observed, outlook, second)
}

fn status_after(
    applied: &Result<Applied, ApplyError>,
    resource: &McpServer,
    observed: &Observed,
    outlook: Option<&Outlook>,
    second: i64,
) -> McpServerStatus {
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
        applied: (planned.is_ok() && !resource.spec.paused).then(|| applied.as_ref().copied()),
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

/// What `flux wait` and people lose without it: a change that is called done before its pods have followed.
#[test]
fn a_change_is_not_done_before_its_pods_have_followed() {
    let restarting =
        json!({"observedGeneration": 1, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"});
    let changed = Ok(Applied {
        changed_workloads: true,
    });
    for (name, applied, postgres, expected) in [
        (
            "nothing changed",
            &Ok(Applied::default()),
            up(),
            says("False", "Reconciled"),
        ),
        (
            "a workload was written just now",
            &changed,
            up(),
            says("True", "RollingOut"),
        ),
        (
            "Postgres restarts",
            &Ok(Applied::default()),
            restarting,
            says("True", "RollingOut"),
        ),
    ] {
        let observed = observed(&up(), &up(), &up(), &postgres);
        let status = status_after(applied, &server("{}"), &observed, None, 1);
        assert_eq!(said(&status, "Reconciling"), expected, "{name}");
        assert_eq!(said(&status, "Ready").0, "True", "{name}");
    }
}

fn failed(code: u16, message: &str) -> ApplyError {
    let answer = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": code, "message": message});
    ApplyError::Apply {
        kind: ChildKind::Deployment,
        name: "context".into(),
        source: kube::Error::Api(serde_json::from_value(answer).unwrap()),
    }
}

/// What a person loses without it: the API server refuses what was declared, and the status calls it valid and done.
#[test]
fn what_cannot_be_applied_is_told() {
    let everything = observed(&up(), &up(), &up(), &up());
    for (name, error, accepted, stalled, reconciling) in [
        (
            "refused",
            failed(422, "must be less than or equal to memory limit"),
            says("False", "ApplyFailed"),
            says("True", "ApplyFailed"),
            says("False", "NotReconciling"),
        ),
        (
            "no answer for now",
            failed(503, "try again"),
            says("True", "Valid"),
            says("False", "Progressing"),
            says("True", "ApplyFailed"),
        ),
    ] {
        let status = status_after(&Err(error), &server("{}"), &everything, None, 1);
        assert_eq!(said(&status, "Accepted"), accepted, "{name}");
        assert_eq!(said(&status, "Stalled"), stalled, "{name}");
        assert_eq!(said(&status, "Reconciling"), reconciling, "{name}");
        assert_eq!(said(&status, "Ready").0, "True", "{name}: what ran before goes on");
    }
    let refused = Err(failed(422, "must be less than or equal to memory limit"));
    let status = status_after(&refused, &server("{}"), &Observed::default(), None, 1);
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(
        ready.message,
        "could not apply Deployment context: must be less than or equal to memory limit"
    );
}

/// What a person loses without it: a history of scaling that never took place.
#[test]
fn only_what_was_done_is_told_of_scaling() {
    let everything = observed(&up(), &up(), &up(), &up());
    let spec = |paused: bool| {
        server(&format!(
            "{{paused: {paused}, autoscaling: {{minReplicas: 1, maxReplicas: 9}}}}"
        ))
    };
    let refused = Err(failed(422, "no"));
    for (name, applied, paused, current, desired, decisions) in [
        ("done", &Ok(Applied::default()), false, 6, 6, 1),
        ("paused", &Ok(Applied::default()), true, 2, 2, 0),
        ("refused", &refused, false, 2, 2, 0),
    ] {
        let mut resource = spec(paused);
        let before = status_of(&spec(false), &everything, Some(&outlook(2, 2)), 1);
        resource.status = Some(before);
        let status = status_after(applied, &resource, &everything, Some(&outlook(2, 6)), 2);
        let scaling = status.scaling.unwrap();
        let replicas = scaling.replicas.unwrap();
        assert_eq!((replicas.current, replicas.desired), (current, desired), "{name}");
        assert_eq!(scaling.decisions.len(), decisions, "{name}");
    }
}

/// What a person loses without it: a server that does not scale is said to be limited in it.
#[test]
fn a_server_that_does_not_scale_is_not_limited() {
    let everything = observed(&up(), &up(), &up(), &up());
    let mut outlook = outlook(2, 2);
    outlook.decision.limited_by = Some(Limit::MinReplicas);
    for (mode, is_told) in [("Auto", true), ("Recommend", true), ("Off", false)] {
        let replicas = if mode == "Auto" { "" } else { "replicas: 2, " };
        let spec = format!("{{{replicas}autoscaling: {{maxReplicas: 4, replicas: {{mode: {mode}}}}}}}");
        let status = status_of(&server(&spec), &everything, Some(&outlook), 1);
        let told = status.conditions.iter().any(|c| c.type_ == "ScalingLimited");
        assert_eq!(told, is_told, "{mode}");
        assert_eq!(status.scaling.is_some(), is_told, "{mode}");
    }
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
