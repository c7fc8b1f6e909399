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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(conditions: &[(&str, &str, &str)], decisions: &Value) -> McpServerStatus {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status, reason)| {
                json!({
                    "type": kind, "status": status, "reason": reason, "message": "because",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                })
            })
            .collect();
        serde_json::from_value(json!({"conditions": conditions, "scaling": {"decisions": decisions}})).unwrap()
    }

    fn told(old: Option<&McpServerStatus>, new: &McpServerStatus) -> Vec<(bool, String, String)> {
        let told = events(old, new);
        told.into_iter()
            .map(|event| (event.type_ == EventType::Warning, event.action, event.reason))
            .collect()
    }

    /// What people who read `kubectl describe` lose without it: what went wrong and when it was over; and an Event for
    /// everything would hide it.
    #[test]
    fn what_flips_is_told() {
        let none = json!([]);
        let ready = |status: &'static str, reason: &'static str| [("Ready", status, reason)];
        for (name, old, new, expected) in [
            (
                "nothing changed",
                ready("True", "Serving"),
                ready("True", "Serving"),
                None,
            ),
            (
                "went down",
                ready("True", "Serving"),
                ready("False", "WaitingForServer"),
                Some((true, "Ready", "WaitingForServer")),
            ),
            (
                "down for another reason",
                ready("False", "WaitingForPostgres"),
                ready("False", "WaitingForServer"),
                Some((true, "Ready", "WaitingForServer")),
            ),
            (
                "is back",
                ready("False", "WaitingForServer"),
                ready("True", "Serving"),
                Some((false, "Ready", "Serving")),
            ),
            (
                "a target is missed",
                [("TargetsMet", "True", "AllMet")],
                [("TargetsMet", "False", "TargetsMissed")],
                Some((true, "TargetsMet", "TargetsMissed")),
            ),
            (
                "a limit is no trouble",
                [("ScalingLimited", "False", "NotLimited")],
                [("ScalingLimited", "True", "MaxReplicas")],
                Some((false, "ScalingLimited", "MaxReplicas")),
            ),
            (
                "what repeats others",
                [("Reconciling", "False", "Reconciled")],
                [("Reconciling", "True", "RollingOut")],
                None,
            ),
        ] {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(is_trouble, action, reason)| (is_trouble, action.to_owned(), reason.to_owned()))
                .collect();
            assert_eq!(
                told(Some(&status(&old, &none)), &status(&new, &none)),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn a_new_server_is_told_of_only_when_it_is_wrong() {
        let good = status(
            &[("Accepted", "True", "Valid"), ("Ready", "False", "WaitingForServer")],
            &json!([]),
        );
        let bad = status(&[("Accepted", "False", "OrphanedDataFound")], &json!([]));
        assert_eq!(told(None, &good), []);
        assert_eq!(
            told(None, &bad),
            [(true, "Accepted".into(), "OrphanedDataFound".into())]
        );
    }

    #[test]
    fn each_decision_is_told_once() {
        let decision =
            json!({"time": "2026-01-01T00:00:00Z", "from": 2, "to": 6, "reason": "DemandRose", "message": "because"});
        let (before, after) = (status(&[], &json!([])), status(&[], &json!([decision])));
        assert_eq!(
            told(Some(&before), &after),
            [(false, "Scale".into(), "DemandRose".into())]
        );
        assert_eq!(told(Some(&after), &after), []);
    }

    /// The API refuses an Event with a longer note, and then nothing is told at all.
    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = failure("ApplyFailed", &"ä".repeat(NOTE_LIMIT)).note.unwrap();
        assert_eq!(note.len(), NOTE_LIMIT);
    }
}
