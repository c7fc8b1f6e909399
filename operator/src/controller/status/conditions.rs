//! The conditions: what is true of a server, each with its reason and what to do.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use mcpscale_crds::v1alpha1::{DataTierMode, LoadBalancerMode, McpServerStatus};

use super::{Facts, whole_second};
use crate::controller::{
    apply::ApplyError,
    plan::rolling,
    validate::{Replicas, ValidateError, ValidatedServer},
};

/// A verdict before it becomes a condition.
struct Verdict {
    status: &'static str,
    reason: String,
    message: String,
}

impl Verdict {
    fn new(status: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: if status { "True" } else { "False" },
            reason: reason.into(),
            message: message.into(),
        }
    }

    fn unknown(reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: "Unknown",
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// All conditions of a server; `old` tells which of them flip now.
pub(super) fn conditions(facts: &Facts<'_>, old: &McpServerStatus) -> Vec<Condition> {
    let ready = ready(facts);
    let reconciling = reconciling(facts, ready.status == "True");
    let mut verdicts = vec![
        ("Ready", ready),
        ("Accepted", accepted(facts)),
        ("Reconciling", reconciling),
        ("Stalled", stalled(facts)),
        ("MetricsAvailable", metrics_available(facts)),
    ];
    if let Some(verdict) = data_tier_ready(facts) {
        verdicts.push(("DataTierReady", verdict));
    }
    if let Some(verdict) = targets_met(facts) {
        verdicts.push(("TargetsMet", verdict));
    }
    if let Some(verdict) = scaling_limited(facts) {
        verdicts.push(("ScalingLimited", verdict));
    }
    if let Ok((validated, _)) = facts.outcome {
        verdicts.push(("UpdateAvailable", update_available(validated)));
    }
    let generation = facts.resource.metadata.generation;
    let not_measured = facts.has_metrics_source && facts.outlook.is_none();
    verdicts
        .into_iter()
        .map(|(kind, verdict)| match kept(kind, old).filter(|_| not_measured) {
            Some(kept) => Condition {
                observed_generation: generation,
                ..kept
            },
            None => condition(kind, verdict, old, generation, facts.now),
        })
        .collect()
}

/// What only the scaler can say stays as it was until it has spoken: a restart of the operator is no news.
fn kept(kind: &str, old: &McpServerStatus) -> Option<Condition> {
    let measured = ["MetricsAvailable", "TargetsMet", "ScalingLimited"].contains(&kind);
    old.conditions
        .iter()
        .find(|condition| measured && condition.type_ == kind)
        .cloned()
}

/// A condition keeps the time of its last flip.
fn condition(
    kind: &str,
    verdict: Verdict,
    old: &McpServerStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let flipped_at = old
        .conditions
        .iter()
        .find(|c| c.type_ == kind && c.status == verdict.status);
    Condition {
        type_: kind.into(),
        status: verdict.status.into(),
        reason: verdict.reason,
        message: verdict.message,
        observed_generation: generation,
        last_transition_time: flipped_at.map_or_else(|| Time(whole_second(now)), |c| c.last_transition_time.clone()),
    }
}

fn accepted(facts: &Facts<'_>) -> Verdict {
    match facts.outcome {
        Ok(_) if facts.resource.spec.paused => Verdict::new(
            true,
            "Paused",
            "the resource is valid; spec.paused is set, so nothing is changed",
        ),
        Err(error) => Verdict::new(false, error.reason(), error.to_string()),
        Ok(_) => match refused(facts) {
            Some(error) => Verdict::new(false, error.reason(), error.to_string()),
            None => Verdict::new(true, "Valid", "the resource is valid"),
        },
    }
}

/// Only a change by a person helps.
fn stalled(facts: &Facts<'_>) -> Verdict {
    match (facts.outcome, refused(facts)) {
        (Err(error), _) => Verdict::new(true, error.reason(), error.to_string()),
        (Ok(_), Some(error)) => Verdict::new(true, error.reason(), error.to_string()),
        (Ok(_), None) => Verdict::new(false, "Progressing", "nothing needs a change by hand"),
    }
}

/// The error when the API server will not have what the resource asks for.
fn refused<'a>(facts: &Facts<'a>) -> Option<&'a ApplyError> {
    let error = facts.applied?.err()?;
    error.is_refusal().then_some(error)
}

/// Ready means serving. Missed targets and missing metrics are conditions of their own.
fn ready(facts: &Facts<'_>) -> Verdict {
    let observed = facts.observed;
    let server_ready = ready_replicas(observed.server.as_deref()) > 0;
    let balanced = facts.resource.spec.load_balancer.mode == LoadBalancerMode::None
        || ready_replicas(observed.nginx.as_deref()) > 0;
    if server_ready && balanced {
        return Verdict::new(true, "Serving", "clients are served");
    }
    if let Err(error) = facts.outcome {
        return Verdict::new(false, error.reason(), error.to_string());
    }
    if let Some(error) = refused(facts) {
        return Verdict::new(false, error.reason(), error.to_string());
    }
    if let Ok((validated, _)) = facts.outcome
        && validated.replicas.most() == 0
    {
        return Verdict::new(false, "ScaledToZero", "spec.replicas is 0: nothing runs");
    }
    if let Some(verdict) = data_tier_ready(facts).filter(|verdict| verdict.status != "True") {
        return Verdict::new(false, &verdict.reason, verdict.message);
    }
    if !server_ready {
        let trouble = trouble(&observed.pods)
            .map(|trouble| format!(": {trouble}"))
            .unwrap_or_default();
        return Verdict::new(
            false,
            "WaitingForServer",
            format!("no server pod is ready yet{trouble}"),
        );
    }
    Verdict::new(false, "WaitingForLoadBalancer", "no nginx pod is ready yet")
}

/// What keeps pods from starting, in the words of the kubelet.
fn trouble(pods: &[std::sync::Arc<Pod>]) -> Option<String> {
    let mut found: Vec<String> = pods
        .iter()
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| {
            status
                .init_container_statuses
                .iter()
                .chain(&status.container_statuses)
                .flatten()
        })
        .filter_map(|container| {
            let reason = container.state.as_ref()?.waiting.as_ref()?.reason.as_ref()?;
            (reason != "PodInitializing" && reason != "ContainerCreating")
                .then(|| format!("container {}: {reason}", container.name))
        })
        .collect();
    found.extend(
        pods.iter()
            .filter_map(|pod| pod.status.as_ref())
            .flat_map(|status| status.conditions.iter().flatten())
            .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
            .filter_map(|condition| condition.message.clone()),
    );
    found.sort();
    found.dedup();
    (!found.is_empty()).then(|| found.join("; "))
}

fn data_tier_ready(facts: &Facts<'_>) -> Option<Verdict> {
    let spec = &facts.resource.spec;
    let postgres = spec.postgres.mode == DataTierMode::Embedded;
    let redis = spec.redis.mode == DataTierMode::Embedded;
    if !postgres && !redis {
        return None;
    }
    if let Err(error) = facts.outcome
        && matches!(
            error,
            ValidateError::OrphanedData { .. } | ValidateError::DataVersion { .. }
        )
    {
        return Some(Verdict::new(false, error.reason(), error.to_string()));
    }
    if postgres && stateful_set_ready(facts.observed.postgres.as_deref()) == 0 {
        return Some(Verdict::new(false, "WaitingForPostgres", "Postgres is not ready yet"));
    }
    if redis && ready_replicas(facts.observed.redis.as_deref()) == 0 {
        return Some(Verdict::new(false, "WaitingForRedis", "Redis is not ready yet"));
    }
    Some(Verdict::new(true, "Ready", "every data tier is ready"))
}

fn ready_replicas(deployment: Option<&Deployment>) -> i32 {
    deployment
        .and_then(|d| d.status.as_ref())
        .and_then(|status| status.ready_replicas)
        .unwrap_or(0)
}

fn stateful_set_ready(set: Option<&StatefulSet>) -> i32 {
    set.and_then(|s| s.status.as_ref())
        .and_then(|status| status.ready_replicas)
        .unwrap_or(0)
}

/// On the way to what the spec says. Scaling is not: a server that scales under load is not in change for those who
/// wait for a rollout.
fn reconciling(facts: &Facts<'_>, ready: bool) -> Verdict {
    let applied = match facts.applied {
        None => return Verdict::new(false, "NotReconciling", "nothing is being changed"),
        Some(Err(error)) if error.is_refusal() => {
            return Verdict::new(false, "NotReconciling", "what is declared cannot be applied");
        }
        Some(Err(error)) => return Verdict::new(true, error.reason(), format!("{error}; it is tried again")),
        Some(Ok(applied)) => applied,
    };
    if !ready {
        Verdict::new(true, "Starting", "the server is not serving yet")
    } else if applied.changed_workloads || rolling(facts.observed) {
        Verdict::new(true, "RollingOut", "pods of a new generation are taking over")
    } else {
        Verdict::new(false, "Reconciled", "everything is as declared")
    }
}

fn metrics_available(facts: &Facts<'_>) -> Verdict {
    if !facts.has_metrics_source {
        return Verdict::new(
            false,
            "NoMetricsSource",
            "the operator has no Prometheus, so replicas are not scaled; set prometheus.url of its chart, or prometheus.install",
        );
    }
    match facts.outlook {
        Some(outlook) => Verdict::new(
            outlook.metrics.available,
            &outlook.metrics.reason,
            outlook.metrics.message.clone(),
        ),
        None => Verdict::unknown("NotMeasuredYet", "the server has not been measured yet"),
    }
}

fn targets_met(facts: &Facts<'_>) -> Option<Verdict> {
    facts.resource.spec.performance_targets.as_ref()?;
    let targets = facts
        .outlook
        .map(|outlook| outlook.targets.as_slice())
        .unwrap_or_default();
    let names = |met: Option<bool>| -> Vec<&str> {
        targets
            .iter()
            .filter(|target| target.met == met)
            .map(|target| target.name.as_str())
            .collect()
    };
    let (missed, unknown) = (names(Some(false)), names(None));
    Some(if !missed.is_empty() {
        Verdict::new(false, "TargetsMissed", format!("not met: {}", missed.join(", ")))
    } else if targets.is_empty() || !unknown.is_empty() {
        Verdict::unknown(
            "NotEnoughData",
            "not every target can be judged: too few requests, or no fresh metrics",
        )
    } else {
        Verdict::new(true, "AllMet", "every declared target is met")
    })
}

fn scaling_limited(facts: &Facts<'_>) -> Option<Verdict> {
    facts.resource.spec.autoscaling.as_ref()?;
    if let Ok((validated, _)) = facts.outcome
        && matches!(validated.replicas, Replicas::Fixed(_))
    {
        return None;
    }
    let Some(outlook) = facts.outlook else {
        return Some(Verdict::unknown(
            "NotMeasuredYet",
            "the server has not been measured yet",
        ));
    };
    let decision = &outlook.decision;
    Some(if !decision.unreachable.is_empty() {
        let quantiles: Vec<_> = decision.unreachable.iter().map(|quantile| quantile.as_str()).collect();
        Verdict::new(
            true,
            "TargetUnreachable",
            format!(
                "no number of pods can meet latency {}: the calls themselves take longer; raise the bound or make the tools faster",
                quantiles.join(", ")
            ),
        )
    } else if let Some(limit) = decision.limited_by {
        Verdict::new(
            true,
            limit.as_str(),
            format!("the number of pods is held by {}", limit.as_str()),
        )
    } else {
        Verdict::new(false, "NotLimited", "the number of pods follows the demand")
    })
}

fn update_available(validated: &ValidatedServer) -> Verdict {
    if validated.updates.is_empty() {
        Verdict::new(
            false,
            "UpToDate",
            "the images are those of this operator, or set by spec.image",
        )
    } else {
        Verdict::new(
            true,
            "NewerDefaultImage",
            format!(
                "this operator has other default images; running pods keep theirs: {}",
                validated.updates.join(", ")
            ),
        )
    }
}
