//! The error envelope: what went wrong, in a form that a language model can act on.

use rmcp::ErrorData;
use serde::Serialize;
use serde_json::{Value, json};

use crate::database::DatabaseError;

/// Code of every mistake in arguments.
pub(crate) const INVALID: &str = "INVALID_INPUT_FORMAT";

/// How bad an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The caller can correct the call.
    Warning,
    /// The call cannot succeed as it is.
    Error,
    /// The server is in trouble.
    Critical,
}

/// An error as callers see it:
/// `{success:false, error, code, severity, recoverable, suggestions[], context, related_resources[]}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolError(Box<Envelope>);

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Envelope {
    success: bool,
    error: String,
    code: &'static str,
    severity: Severity,
    /// Whether the same agent may get on by itself; what it is not allowed to do, somebody else must allow.
    recoverable: bool,
    suggestions: Vec<String>,
    context: Value,
    related_resources: Vec<String>,
}

impl ToolError {
    /// An error the caller can do something about.
    #[must_use]
    pub fn new(code: &'static str, error: impl Into<String>, suggestions: &[&str]) -> Self {
        Self(Box::new(Envelope {
            success: false,
            error: error.into(),
            code,
            severity: Severity::Warning,
            recoverable: true,
            suggestions: suggestions.iter().map(|text| (*text).to_owned()).collect(),
            context: json!({}),
            related_resources: Vec::new(),
        }))
    }

    fn with_severity(mut self, severity: Severity) -> Self {
        self.0.severity = severity;
        self
    }

    /// Adds facts about the failed call.
    #[must_use]
    pub fn with_context(mut self, context: Value) -> Self {
        self.0.context = context;
        self
    }

    /// Adds tools or resources that help.
    #[must_use]
    pub fn with_related(mut self, resources: &[&str]) -> Self {
        self.0.related_resources = resources.iter().map(|text| (*text).to_owned()).collect();
        self
    }

    /// An argument is missing, unknown, of the wrong type or out of range.
    #[must_use]
    pub fn invalid(error: impl Into<String>, field: &str) -> Self {
        Self::new(
            INVALID,
            error,
            &["Correct the argument and call again", "tools/list shows the schema"],
        )
        .with_context(json!({"field": field}))
    }

    pub(super) fn arguments(error: &serde_json::Error) -> Self {
        let suggestions = ["Compare the arguments with the tool's schema in tools/list"];
        Self::new(INVALID, format!("invalid arguments: {error}"), &suggestions)
    }

    /// The caller may not do this.
    #[must_use]
    pub fn permission_denied(error: impl Into<String>, suggestion: &str) -> Self {
        let mut denied = Self::refused("PERMISSION_DENIED", error, suggestion);
        denied.0.recoverable = false;
        denied
    }

    /// The caller did not prove who it is.
    #[must_use]
    pub fn refused(code: &'static str, error: impl Into<String>, suggestion: &str) -> Self {
        Self::new(code, error, &[suggestion]).with_severity(Severity::Error)
    }

    /// The server failed in a way that is not the caller's fault.
    #[must_use]
    pub fn internal(error: &dyn std::error::Error) -> Self {
        Self::server_failure("SYSTEM_UNAVAILABLE", error)
    }

    fn server_failure(code: &'static str, error: &dyn std::error::Error) -> Self {
        Self::new(code, error.to_string(), &["Try again in a few seconds"]).with_severity(Severity::Critical)
    }

    /// Whether the server itself is to blame; such errors count against its error rate.
    #[must_use]
    pub fn is_server_failure(&self) -> bool {
        self.0.severity == Severity::Critical
    }

    /// The error's code, such as `SESSION_NOT_FOUND`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// The error as the answer to a request that has no other form for errors, such as `resources/read`; the envelope
    /// is its data.
    #[must_use]
    pub fn into_protocol(self) -> ErrorData {
        let message = self.0.error.clone();
        let (is_missing, is_failure) = (self.0.code.ends_with("NOT_FOUND"), self.is_server_failure());
        let envelope = Some(self.into_envelope());
        if is_failure {
            ErrorData::internal_error(message, envelope)
        } else if is_missing {
            ErrorData::resource_not_found(message, envelope)
        } else {
            ErrorData::invalid_params(message, envelope)
        }
    }

    /// The envelope.
    #[must_use]
    pub fn into_envelope(self) -> Value {
        json!(*self.0)
    }
}

/// A database that failed, as callers hear of it.
#[derive(Debug, thiserror::Error)]
#[error("the database cannot be used now")]
struct Unavailable;

impl From<DatabaseError> for ToolError {
    fn from(error: DatabaseError) -> Self {
        tracing::warn!(%error, "a tool call failed");
        match error {
            DatabaseError::NotReady => Self::server_failure("POOL_NOT_INITIALIZED", &error),
            DatabaseError::PoolTimeout { .. } | DatabaseError::NoAnswer(_) => Self::internal(&error),
            // The words of others are for the log: they may name users, tables, and values of other callers.
            _ => Self::internal(&Unavailable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers parse this shape: a field that goes missing breaks their recovery.
    #[test]
    fn the_envelope_has_every_documented_field() {
        let envelope = ToolError::from(DatabaseError::NotReady).into_envelope();
        let fields: Vec<&str> = envelope.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            fields,
            [
                "success",
                "error",
                "code",
                "severity",
                "recoverable",
                "suggestions",
                "context",
                "related_resources"
            ]
        );
        assert_eq!(
            (&envelope["success"], &envelope["code"]),
            (&json!(false), &json!("POOL_NOT_INITIALIZED"))
        );
        assert_eq!(envelope["severity"], "critical");
    }

    /// Agents decide by these two whether to go on, to try again, or to give up.
    #[test]
    fn only_what_is_not_allowed_cannot_be_recovered() {
        let denied = ToolError::permission_denied("no", "ask");
        let refused = ToolError::refused("INVALID_API_KEY", "no", "send it");
        for (error, severity, recoverable) in [
            (ToolError::invalid("no", "key"), "warning", true),
            (denied, "error", false),
            (refused, "error", true),
            (ToolError::from(DatabaseError::NotReady), "critical", true),
        ] {
            let envelope = error.into_envelope();
            assert_eq!(
                (&envelope["severity"], &envelope["recoverable"]),
                (&json!(severity), &json!(recoverable)),
                "{envelope}"
            );
        }
    }
}
