//! The API server's audit log: who wrote what, so that a test can count writes.

use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use crate::{HarnessError, files::read_text};

/// Logs every write once, when it is answered; reads are not logged.
pub(crate) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    verbs: [create, update, patch, delete, deletecollection]
  - level: None
";

/// One write at the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// When the request arrived, by the clock of this machine.
    pub time: Timestamp,
    /// Who wrote, for example `system:serviceaccount:mcpscale-system:mcpscale`.
    pub user: String,
    /// `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// The API group, empty for the core group.
    pub group: String,
    /// The resource in the plural, for example `deployments`.
    pub resource: String,
    /// The subresource, for example `status`; empty for the object itself.
    pub subresource: String,
    /// The namespace, empty for what has none.
    pub namespace: String,
    /// The object's name, empty where the API server chose it.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
}

/// The writes by `user` in the audit log `log` that arrived at `since` or later, oldest first.
///
/// # Errors
/// When the log cannot be read or a line of it is not an audit event.
pub(crate) fn writes(log: &Path, user: &str, since: Timestamp) -> Result<Vec<AuditEvent>, HarnessError> {
    let text = read_text(log)?;
    // The API server may be writing the last line right now.
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let mut events = Vec::new();
    for line in complete.lines() {
        let event: LoggedEvent = serde_json::from_str(line)
            .map_err(|error| HarnessError::Unusable(format!("{} holds no audit event: {error}", log.display())))?;
        if event.user.username == user && event.request_received_timestamp >= since {
            events.push(event.into());
        }
    }
    events.sort_by_key(|event: &AuditEvent| event.time);
    Ok(events)
}

/// An event as `audit.k8s.io/v1` writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoggedEvent {
    request_received_timestamp: Timestamp,
    user: LoggedUser,
    verb: String,
    #[serde(default)]
    object_ref: LoggedObject,
    #[serde(default)]
    response_status: LoggedStatus,
}

#[derive(Deserialize)]
struct LoggedUser {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LoggedObject {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
struct LoggedStatus {
    #[serde(default)]
    code: u16,
}

impl From<LoggedEvent> for AuditEvent {
    fn from(event: LoggedEvent) -> Self {
        let object = event.object_ref;
        Self {
            time: event.request_received_timestamp,
            user: event.user.username,
            verb: event.verb,
            group: object.api_group,
            resource: object.resource,
            subresource: object.subresource,
            namespace: object.namespace,
            name: object.name,
            code: event.response_status.code,
        }
    }
}
