//! Step 5: from what was observed to the status. No client; the time enters as an argument and is used only where a
//! condition flips or a decision is made, so that an unchanged server has an unchanged status.

mod conditions;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use mcpscale_autoscaler::TargetReport;
use mcpscale_crds::v1alpha1::{
    Address, DecisionRecord, KnobStatus, McpServer, McpServerStatus, ScalingStatus, TargetStatus,
};

use super::{
    apply::{Applied, ApplyError},
    dereference::Observed,
    plan::Plan,
    scaling::Outlook,
    validate::{Installation, Replicas, ValidateError, ValidatedServer},
};
use crate::resources::{Component, selector_labels};

/// How many decisions the status keeps.
const DECISIONS: usize = 10;

/// What the status is made from.
pub struct Facts<'a> {
    /// The resource, with the status it has.
    pub resource: &'a McpServer,
    /// What was observed before this reconcile wrote anything.
    pub observed: &'a Observed,
    /// What was made of it.
    pub outcome: Result<(&'a ValidatedServer, &'a Plan), &'a ValidateError>,
    /// What came of applying it; `None` when nothing was tried: the resource is paused, or not valid.
    pub applied: Option<Result<Applied, &'a ApplyError>>,
    /// What the scaler said, if it runs and knows the server.
    pub outlook: Option<&'a Outlook>,
    /// Whether a metrics source is configured at all.
    pub has_metrics_source: bool,
    /// Facts of the installation.
    pub installation: &'a Installation,
    /// The time for what changes.
    pub now: Timestamp,
}

/// The status as it should be.
#[must_use]
pub fn status(facts: &Facts<'_>) -> McpServerStatus {
    let name = facts.resource.name_any();
    let old = facts.resource.status.clone().unwrap_or_default();
    let deployment = facts.observed.server.as_deref().and_then(|d| d.status.as_ref());
    let selector = selector_labels(&name, Component::Server);
    McpServerStatus {
        observed_generation: facts.resource.metadata.generation,
        replicas: deployment.and_then(|d| d.replicas).unwrap_or(0),
        ready_replicas: deployment.and_then(|d| d.ready_replicas).unwrap_or(0),
        selector: Some(
            selector
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(","),
        ),
        address: Some(Address {
            url: format!(
                "http://{name}.{}.svc.{}{}",
                facts.resource.namespace().unwrap_or_default(),
                facts.installation.cluster_domain,
                facts.resource.spec.server.path
            ),
        }),
        conditions: conditions::conditions(facts, &old),
        targets: targets(facts, &old),
        scaling: scaling(facts, &old),
    }
}

/// The API server keeps whole seconds; a fraction would make an unchanged status look changed.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn targets(facts: &Facts<'_>, old: &McpServerStatus) -> Vec<TargetStatus> {
    match facts.outlook {
        Some(outlook) => outlook.targets.iter().map(target).collect(),
        None if facts.has_metrics_source && facts.resource.spec.performance_targets.is_some() => old.targets.clone(),
        None => Vec::new(),
    }
}

fn target(report: &TargetReport) -> TargetStatus {
    let written = |value: f64| match report.name.as_str() {
        name if name.starts_with("latency.") => format!("{}ms", significant(value * 1000.0)),
        "errorRate" => format!("{}%", significant(value * 100.0)),
        _ => significant(value),
    };
    TargetStatus {
        name: report.name.clone(),
        target: written(report.target),
        observed: report.observed.map(written),
        state: report.state.as_str().into(),
        met: match report.met {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
        .into(),
    }
}

/// A number as people write it: at most four decimals, no trailing zeros.
fn significant(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Replicas knob and decisions. A decision is recorded when it was carried out, or would be if it were more than a
/// recommendation, and asks for another number than the status says.
fn scaling(facts: &Facts<'_>, old: &McpServerStatus) -> Option<ScalingStatus> {
    let old = old.scaling.clone().unwrap_or_default();
    let Ok((validated, plan)) = facts.outcome else {
        return Some(old).filter(|old| old.replicas.is_some());
    };
    let scaled = match validated.replicas {
        Replicas::Fixed(_) => return None,
        Replicas::Recommended(_) => false,
        Replicas::Scaled { .. } => true,
    };
    let is_applied = matches!(facts.applied, Some(Ok(_)));
    let set = (scaled && is_applied).then_some(plan.replicas);
    let current = set.or(facts.observed.replicas()).unwrap_or(plan.replicas);
    let known = old.replicas.as_ref().map(|knob| knob.desired);
    let mut decisions = old.decisions;
    let Some(outlook) = facts.outlook.filter(|_| is_applied) else {
        let knob = KnobStatus {
            current,
            desired: set.or(known).unwrap_or(plan.replicas),
            limited_by: None,
        };
        return Some(ScalingStatus {
            replicas: Some(knob),
            decisions,
        });
    };
    let decision = &outlook.decision;
    let desired = i32::try_from(decision.to).unwrap_or(i32::MAX);
    if known.is_some_and(|known| known != desired) || (known.is_none() && decision.changes()) {
        let record = DecisionRecord {
            time: Time(whole_second(facts.now)),
            from: known.unwrap_or_else(|| i32::try_from(decision.from).unwrap_or(i32::MAX)),
            to: desired,
            reason: decision.reason.as_str().into(),
            message: decision.message.clone(),
        };
        decisions.insert(0, record);
        decisions.truncate(DECISIONS);
    }
    let knob = KnobStatus {
        current,
        desired,
        limited_by: decision.limited_by.map(|limit| limit.as_str().to_owned()),
    };
    Some(ScalingStatus {
        replicas: Some(knob),
        decisions,
    })
}
