//! Logs for a client up to 2025-11-25, on the stream of the call that they are about.
#![expect(
    deprecated,
    reason = "logging is deprecated in the protocol, and older clients may still use it"
)]

use std::sync::Arc;

use rmcp::model::{LoggingLevel, ServerJsonRpcMessage, ServerNotification};
use tokio::sync::mpsc::Sender;

use super::store::SessionRecords;

/// Writes to the log of the client that made a call; travels with the HTTP request of the call.
#[derive(Debug, Clone)]
pub struct ClientLog {
    pub(super) session: Arc<str>,
    pub(super) records: SessionRecords,
    pub(super) stream: Sender<ServerJsonRpcMessage>,
}

impl ClientLog {
    /// Sends `message` if the client wants logs of this severity; a client that has gone misses it.
    pub async fn write(&self, level: LoggingLevel, message: ServerNotification) {
        let wanted = match self.records.log_level(&self.session).await {
            Ok(wanted) => wanted.and_then(|name| level_of(&name)),
            Err(error) => {
                tracing::debug!(%error, "cannot read which logs a client wants");
                return;
            }
        };
        if wanted.is_none_or(|wanted| severity(level) >= severity(wanted)) {
            // The stream ends before the call only when the session does.
            let _ = self.stream.send(ServerJsonRpcMessage::notification(message)).await;
        }
    }
}

/// Order of levels, from the least severe.
pub(crate) const fn severity(level: LoggingLevel) -> u8 {
    match level {
        LoggingLevel::Debug => 0,
        LoggingLevel::Info => 1,
        LoggingLevel::Notice => 2,
        LoggingLevel::Warning => 3,
        LoggingLevel::Error => 4,
        LoggingLevel::Critical => 5,
        LoggingLevel::Alert => 6,
        LoggingLevel::Emergency => 7,
    }
}

fn level_of(name: &str) -> Option<LoggingLevel> {
    serde_json::from_value(name.into()).ok()
}
