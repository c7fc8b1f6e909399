//! Checks of arguments, and what callers are told when the storage says no.

use serde_json::{Map, Value, json};

use super::limits;
use super::storage::StorageError;
use crate::tools::ToolError;

/// Text must have 1 to `max` characters, not all of them blank, and no NUL, which Postgres cannot store.
pub(super) fn text(field: &str, text: &str, max: usize) -> Result<(), ToolError> {
    let length = text.chars().count();
    if length > max {
        return Err(too_large(
            field,
            format!("{field} has {length} characters; at most {max} are allowed"),
            max,
        ));
    }
    if text.trim().is_empty() {
        return Err(ToolError::invalid(format!("{field} must not be empty"), field));
    }
    if text.contains('\0') {
        return Err(ToolError::invalid(
            format!("{field} must not contain the NUL character"),
            field,
        ));
    }
    Ok(())
}

/// An agent's id must have 1 to 100 characters, none of them a control character.
pub(super) fn agent_id(agent_id: &str) -> Result<(), ToolError> {
    name("agent_id", agent_id, limits::AGENT_ID_MAX)
}

/// A name must have 1 to `max` characters, none of them a control character.
pub(super) fn name(field: &str, name: &str, max: usize) -> Result<(), ToolError> {
    let length = name.chars().count();
    if length == 0 || length > max || name.chars().any(char::is_control) {
        return Err(ToolError::invalid(
            format!("{field} must have 1 to {max} characters and no control characters"),
            field,
        ));
    }
    Ok(())
}

/// Metadata must be an object of at most `max` bytes.
pub(super) fn metadata(metadata: Option<Map<String, Value>>, max: usize) -> Result<Option<Value>, ToolError> {
    let Some(metadata) = metadata.map(Value::Object) else {
        return Ok(None);
    };
    let size = metadata.to_string().len();
    if size > max {
        return Err(too_large(
            "metadata",
            format!("metadata has {size} bytes; at most {max} are allowed"),
            max,
        ));
    }
    Ok(Some(metadata))
}

/// A session id must look like one, so that a typing error is told apart from a session that is gone.
pub(super) fn session_id(id: String) -> Result<String, ToolError> {
    let digits = id.strip_prefix("session_").unwrap_or_default();
    if digits.len() == 16
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    {
        return Ok(id);
    }
    Err(ToolError::invalid(
        "session_id must be session_ and 16 hexadecimal digits, as create_session returns it",
        "session_id",
    ))
}

/// A number must be within bounds.
pub(super) fn range(field: &str, value: i64, min: i64, max: i64) -> Result<(), ToolError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ToolError::invalid(
        format!("{field} must be from {min} to {max}, not {value}"),
        field,
    ))
}

fn too_large(field: &str, error: String, max: usize) -> ToolError {
    ToolError::new(
        "CONTENT_TOO_LARGE",
        error,
        &["Shorten it, or split it into several calls"],
    )
    .with_context(json!({"field": field, "max": max}))
}

/// The storage's refusal, for the caller.
pub(super) fn explain(error: StorageError) -> ToolError {
    match error {
        StorageError::SessionNotFound => ToolError::new(
            "SESSION_NOT_FOUND",
            "there is no such session",
            &["Check the session_id", "Create one with create_session"],
        )
        .with_related(&["create_session"]),
        StorageError::SessionClosed => ToolError::new(
            "SESSION_CLOSED",
            "the session is closed",
            &["Create a new one with create_session"],
        ),
        StorageError::SessionFull { max } => ToolError::new(
            "MESSAGE_LIMIT_EXCEEDED",
            format!("the session has {max} messages, as many as it may"),
            &["Go on in a new session"],
        ),
        StorageError::ParentNotFound => ToolError::invalid(
            "parent_message_id names no message of this session that you may read",
            "parent_message_id",
        ),
        StorageError::TooManySessions { max, timeout } => ToolError::new(
            "SESSION_LIMIT_EXCEEDED",
            format!("this agent has {max} sessions in use, as many as it may"),
            &[
                "Use an existing session",
                &format!("A session not used for {} s no longer counts", timeout.as_secs()),
            ],
        ),
        StorageError::MemoryFull { entries, bytes } => ToolError::new(
            "MEMORY_LIMIT_EXCEEDED",
            format!(
                "this agent's memory is full: at most {entries} entries and {} MiB",
                bytes / (1024 * 1024)
            ),
            &["Overwrite entries you no longer need", "Give entries an expiry"],
        ),
        StorageError::KeyExists => ToolError::new(
            "KEY_EXISTS",
            "there is a live entry with this key",
            &["Call again with overwrite: true", "Use another key"],
        ),
        StorageError::Database(error) => error.into(),
    }
}
