//! Events: what changed, for people who read `kubectl describe`. Made from the difference of two statuses, so that a
//! server that does not change has none.

use kube::{
    Resource,
    runtime::events::{Event, EventType, Recorder},
};
use mcpscale_crds::v1alpha1::{McpServer, McpServerStatus};

use super::apply::namespace_is_ending;

/// Longest note that the API takes, in bytes.
const NOTE_LIMIT: usize = 1000;

/// Conditions that tell of trouble when they are not `True`; for the others it is the other way round.
const GOOD_WHEN_TRUE: [&str; 4] = ["Ready", "Accepted", "DataTierReady", "MetricsAvailable"];
/// Conditions whose every flip is worth an Event. `Reconciling` and `Stalled` repeat what these say.
const TOLD: [&str; 6] = [
    "Ready",
    "Accepted",
    "DataTierReady",
    "MetricsAvailable",
    "TargetsMet",
    "ScalingLimited",
];

/// Events for the way from one status to the next.
#[must_use]
pub fn events(old: Option<&McpServerStatus>, new: &McpServerStatus) -> Vec<Event> {
    let mut all = Vec::new();
    for condition in new.conditions.iter().filter(|c| TOLD.contains(&c.type_.as_str())) {
        let before = old.and_then(|old| old.conditions.iter().find(|c| c.type_ == condition.type_));
        let flipped = before.is_some_and(|b| b.status != condition.status || b.reason != condition.reason);
        let starts_bad = before.is_none() && condition.type_ == "Accepted" && condition.status == "False";
        if !(flipped || starts_bad) {
            continue;
        }
        let good = GOOD_WHEN_TRUE.contains(&condition.type_.as_str()) || condition.type_ == "TargetsMet";
        let is_trouble = (good && condition.status == "False") || (!good && condition.status == "True");
        let kind = if is_trouble && condition.type_ != "ScalingLimited" {
            EventType::Warning
        } else {
            EventType::Normal
        };
        all.push(event(kind, &condition.reason, &condition.type_, &condition.message));
    }
    let newest = |status: &McpServerStatus| status.scaling.as_ref().and_then(|s| s.decisions.first().cloned());
    if let Some(decision) = newest(new)
        && old.and_then(newest).as_ref() != Some(&decision)
    {
        let note = format!("{} -> {} replicas: {}", decision.from, decision.to, decision.message);
        all.push(event(EventType::Normal, &decision.reason, "Scale", &note));
    }
    all
}

/// An Event for an error of a reconcile.
#[must_use]
pub fn failure(reason: &str, message: &str) -> Event {
    event(EventType::Warning, reason, "Reconcile", message)
}

fn event(kind: EventType, reason: &str, action: &str, note: &str) -> Event {
    let mut note = note.to_owned();
    while note.len() > NOTE_LIMIT {
        note.pop();
    }
    Event {
        type_: kind,
        reason: reason.into(),
        note: Some(note),
        action: action.into(),
        secondary: None,
    }
}

/// Publishes Events. One that cannot be published is logged: it must not stop a reconcile. In a namespace that is being
/// deleted there can be none.
pub async fn publish(recorder: &Recorder, server: &McpServer, events: &[Event]) {
    for event in events {
        match recorder.publish(event, &server.object_ref(&())).await {
            Ok(()) => {}
            Err(error) if namespace_is_ending(&error) => return,
            Err(error) => tracing::warn!(reason = %event.reason, %error, "an Event could not be published"),
        }
    }
}
