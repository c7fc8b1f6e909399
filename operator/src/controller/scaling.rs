//! The scaler's loop: every tick it senses once for all servers, decides for each, and starts a reconcile where the
//! outcome differs from what was known. It writes nothing: the decision is one more input of the plan.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use mcpscale_autoscaler::{
    Decision, Reporter, SignalState, Signals, Snapshot, State, TargetReport, decide, evaluate_targets,
};
use mcpscale_crds::v1alpha1::McpServer;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    apply::terminating,
    caches::GuardedServer,
    context::{Context, ServerKey},
    plan::rolled_out,
    policy::policy,
};
use crate::{
    resources::{Component, component_name},
    signals::{ClusterSignals, LivePod, PrometheusSource, SignalError},
};

/// What the scaler says of one server.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// The decision of the last tick.
    pub decision: Decision,
    /// The declared targets with what is worth saying of them.
    pub targets: Vec<TargetReport>,
    /// Whether there are metrics.
    pub metrics: MetricsState,
}

/// Whether there are metrics of a server, as a condition says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsState {
    /// Whether decisions are made on fresh values.
    pub available: bool,
    /// Stable word.
    pub reason: String,
    /// What it means and what to do.
    pub message: String,
}

/// What the loop remembers of one server between ticks.
#[derive(Default)]
struct Memory {
    state: State,
    reporter: Reporter,
    judged: Vec<TargetReport>,
}

/// Senses and decides every `tick` until `stop`.
pub async fn run(
    source: PrometheusSource,
    tick: Duration,
    context: Arc<Context>,
    servers: Store<GuardedServer>,
    changed: mpsc::UnboundedSender<ObjectRef<GuardedServer>>,
    stop: CancellationToken,
) {
    let mut memories: HashMap<ServerKey, Memory> = HashMap::new();
    // A failure is logged when it begins and when it ends, not with every tick.
    let mut told = None;
    let mut interval = tokio::time::interval(tick);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = seconds(Timestamp::now());
        let sensed = source.sense(now).await;
        let failing = sensed.as_ref().err().map(SignalError::reason);
        if failing != told {
            if let Err(error) = &sensed {
                tracing::warn!(reason = error.reason(), %error, "metrics are not available");
            } else {
                tracing::info!("metrics are available again");
            }
            told = failing;
        }
        context.metrics.sensed(failing);
        let live: Vec<_> = servers
            .state()
            .iter()
            .filter_map(|guarded| guarded.0.as_ref().ok().cloned())
            .collect();
        let keys: HashSet<ServerKey> = live.iter().map(key_of).collect();
        for (gone, _) in memories.extract_if(|key, _| !keys.contains(key)) {
            context.metrics.forget(&gone);
        }
        context.outlooks.lock().retain(|key, _| keys.contains(key));
        for server in &live {
            let key = key_of(server);
            let memory = memories.entry(key.clone()).or_default();
            if let Some(outlook) = look(&context, server, &sensed, now, memory) {
                context
                    .metrics
                    .decided(&key, outlook.decision.from, outlook.decision.to);
                let previous = context.outlooks.lock().insert(key, outlook.clone());
                if is_news(previous.as_ref(), &outlook) {
                    // The receiver is gone only when the controller has ended.
                    let _ = changed
                        .send(ObjectRef::new(&server.name_any()).within(&server.namespace().unwrap_or_default()));
                }
            }
        }
    }
}

/// Namespace and name.
#[must_use]
pub fn key_of(server: &McpServer) -> ServerKey {
    (server.namespace().unwrap_or_default(), server.name_any())
}

/// Decides for one server. `None` for one that does not validate or has no Deployment yet.
fn look(
    context: &Context,
    server: &McpServer,
    sensed: &Result<ClusterSignals, SignalError>,
    now: f64,
    memory: &mut Memory,
) -> Option<Outlook> {
    let policy = policy(server, &context.installation).ok()?;
    let (namespace, name) = key_of(server);
    let deployment = context
        .caches
        .deployments
        .get(&ObjectRef::new(&component_name(&name, Component::Server)).within(&namespace))?;
    let pods = context.caches.pods_of(&namespace, &name, Component::Server.as_str());
    let ready: Vec<_> = pods
        .iter()
        .filter(|pod| !terminating(pod.as_ref()) && is_ready(pod))
        .collect();
    let live: Vec<LivePod<'_>> = ready
        .iter()
        .filter_map(|pod| {
            Some(LivePod {
                name: pod.metadata.name.as_deref()?,
                started_at: started_at(pod)?,
            })
        })
        .collect();
    let ready_count = u32::try_from(ready.len()).unwrap_or(u32::MAX);
    let signals = match sensed {
        Ok(cluster) => cluster.for_server(&namespace, &live),
        Err(_) => Signals::missing(ready_count),
    };
    let metrics = metrics_state(sensed.as_ref().err(), &signals, has_metrics_port(&deployment));
    let snapshot = Snapshot {
        time: now,
        replicas: deployment
            .spec
            .as_ref()?
            .replicas
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        ready: ready_count,
        rollout: !rolled_out(&deployment) || pods.iter().any(|pod| is_crashing(pod)),
        signals,
    };
    let (decision, state) = decide(&snapshot, &memory.state, &policy);
    memory.state = state;
    memory.judged = evaluate_targets(&snapshot, &memory.state, &policy, &memory.judged);
    memory.reporter.update(now, memory.judged.clone());
    Some(Outlook {
        decision,
        targets: memory.reporter.written().to_vec(),
        metrics,
    })
}

/// Whether a reconcile would do or say something else. The sentence of a decision that changes nothing is no news.
fn is_news(previous: Option<&Outlook>, current: &Outlook) -> bool {
    let Some(previous) = previous else { return true };
    current.decision.changes()
        || previous.decision.to != current.decision.to
        || previous.decision.limited_by != current.decision.limited_by
        || previous.decision.unreachable != current.decision.unreachable
        || previous.targets != current.targets
        || previous.metrics != current.metrics
}

fn metrics_state(error: Option<&SignalError>, signals: &Signals, has_port: bool) -> MetricsState {
    let (available, reason, message) = match (error, has_port, signals.demand.state) {
        (Some(error), _, _) => (false, error.reason(), format!("Prometheus cannot be asked; replicas are not lowered: {error}")),
        (None, false, _) => (
            false,
            "NotInstrumented",
            "the server's image is not of the repository of the operator's default image, so it is not scraped, and replicas are not scaled; use the default image, or set images.server of the operator's chart to the repository of this one".into(),
        ),
        (None, true, SignalState::Fresh) => (true, "Fresh", "fresh metrics of the server pods are there".into()),
        (None, true, SignalState::Stale) => (
            false,
            "Stale",
            "the newest samples of the server pods are older than three scrapes; replicas are not lowered; look at the targets page of Prometheus".into(),
        ),
        (None, true, SignalState::Missing) => (
            false,
            "Missing",
            "Prometheus has no samples of most ready server pods; replicas are not lowered; look at the targets page of Prometheus".into(),
        ),
        (None, true, SignalState::Invalid) => (
            false,
            "Invalid",
            "samples of the server pods contradict themselves; replicas are not lowered; look for pods that are scraped twice".into(),
        ),
    };
    MetricsState {
        available,
        reason: reason.into(),
        message,
    }
}

fn has_metrics_port(deployment: &Deployment) -> bool {
    let containers = deployment
        .spec
        .iter()
        .filter_map(|spec| spec.template.spec.as_ref())
        .flat_map(|pod| &pod.containers);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .any(|port| port.name.as_deref() == Some("metrics"))
}

/// Whether a pod takes traffic.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a container of the pod keeps ending: fewer pods serve then than were bought, whatever is measured.
fn is_crashing(pod: &Pod) -> bool {
    let containers = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let mut states = containers.filter_map(|container| container.state.as_ref());
    !terminating(pod)
        && states.any(|state| {
            let waits_for = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
            state.terminated.is_some() || waits_for == Some("CrashLoopBackOff")
        })
}

fn started_at(pod: &Pod) -> Option<f64> {
    Some(seconds(pod.status.as_ref()?.start_time.as_ref()?.0))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 fit a double exactly for 285,000 years"
)]
fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(metadata: &Value, status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
    }

    fn with_container(state: &Value) -> Value {
        json!({"containerStatuses": [{
            "name": "mcp", "image": "", "imageID": "", "ready": false, "restartCount": 3, "state": state,
        }]})
    }

    /// What a user loses without it: pods are taken away from a server while others of it crash, because those that are
    /// left look idle for want of clients.
    #[test]
    fn pods_that_crash_are_seen() {
        let ended = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        for (name, metadata, status, expected) in [
            ("no status yet", json!({}), json!({}), false),
            ("runs", json!({}), with_container(&json!({"running": {}})), false),
            (
                "starts",
                json!({}),
                with_container(&json!({"waiting": {"reason": "ContainerCreating"}})),
                false,
            ),
            (
                "waits to be started again",
                json!({}),
                with_container(&json!({"waiting": {"reason": "CrashLoopBackOff"}})),
                true,
            ),
            ("has just ended", json!({}), with_container(&ended), true),
            ("ends because it shall", leaving, with_container(&ended), false),
        ] {
            assert_eq!(is_crashing(&pod(&metadata, &status)), expected, "{name}");
        }
    }

    #[test]
    fn only_pods_that_take_traffic_are_ready() {
        let says = |kind: &str, status: &str| json!({"conditions": [{"type": kind, "status": status}]});
        for (name, status, expected) in [
            ("nothing known", json!({}), false),
            ("ready", says("Ready", "True"), true),
            ("not ready", says("Ready", "False"), false),
            ("only its containers", says("ContainersReady", "True"), false),
        ] {
            assert_eq!(is_ready(&pod(&json!({}), &status)), expected, "{name}");
        }
    }

    #[test]
    fn the_start_of_a_pod_is_in_seconds() {
        let started = pod(&json!({}), &json!({"startTime": "1970-01-01T00:01:30Z"}));
        assert_eq!(started_at(&started), Some(90.0));
        assert_eq!(started_at(&pod(&json!({}), &json!({}))), None);
    }
}
