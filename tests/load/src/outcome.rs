//! How a request ended, and what a server's answer means for that.

use std::fmt;

use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// How much of an answer is quoted in a sample message, in characters.
const SAMPLE_LENGTH: usize = 300;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// No connection could be made.
    Connect,
    /// The connection broke before the answer was complete.
    ConnectionLost,
    /// No complete answer within the plan's timeout.
    Timeout,
    /// An HTTP status other than success, and not shed.
    HttpStatus(u16),
    /// A JSON-RPC error with this code, under HTTP 200.
    JsonRpc(i64),
    /// A tool's result with `isError: true`.
    ToolError,
    /// An answer that is no answer: not JSON-RPC, for another request, or cut short.
    InvalidAnswer,
    /// A proper answer without the value that was written before.
    WrongAnswer,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => formatter.write_str("connect"),
            Self::ConnectionLost => formatter.write_str("connection lost"),
            Self::Timeout => formatter.write_str("timeout"),
            Self::HttpStatus(status) => write!(formatter, "HTTP {status}"),
            Self::JsonRpc(code) => write!(formatter, "JSON-RPC {code}"),
            Self::ToolError => formatter.write_str("tool error (isError)"),
            Self::InvalidAnswer => formatter.write_str("invalid answer"),
            Self::WrongAnswer => formatter.write_str("wrong answer"),
        }
    }
}

/// A request that did not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The server said that it has too much to do: 503 with `Retry-After`, or 429.
    Shed { status: u16, message: String },
    /// Anything else.
    Failed { kind: FailureKind, message: String },
    /// 404 to a request within a session: the server does not know the session (any more).
    SessionLost { message: String },
}

impl Refusal {
    pub(crate) fn failed(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::Failed {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::Shed { status, message } => format!("shed with HTTP {status}: {message}"),
            Self::Failed { kind, message } => format!("{kind}: {message}"),
            Self::SessionLost { message } => format!("session lost: {message}"),
        }
    }
}

/// What an HTTP status other than success means. `in_session`: whether the request named a session.
pub(crate) fn judge_status(status: StatusCode, has_retry_after: bool, in_session: bool, body: &[u8]) -> Refusal {
    let message = sample(body);
    match status {
        StatusCode::SERVICE_UNAVAILABLE if has_retry_after => Refusal::Shed {
            status: status.as_u16(),
            message,
        },
        StatusCode::TOO_MANY_REQUESTS => Refusal::Shed {
            status: status.as_u16(),
            message,
        },
        StatusCode::NOT_FOUND if in_session => Refusal::SessionLost { message },
        _ => Refusal::Failed {
            kind: FailureKind::HttpStatus(status.as_u16()),
            message,
        },
    }
}

#[derive(Deserialize)]
struct Message {
    id: Option<Value>,
    method: Option<IgnoredAny>,
    result: Option<ResultHead>,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct ResultHead {
    #[serde(default, rename = "isError")]
    is_error: bool,
    #[serde(rename = "resultType")]
    result_type: Option<String>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    #[serde(default)]
    message: String,
}

/// What a JSON-RPC message from the server means for the request with this `id`.
/// `None`: it is a request or notification of the server's own, so the answer is still to come.
pub(crate) fn judge_message(id: u64, body: &[u8]) -> Option<Result<(), Refusal>> {
    let invalid = |why: String| Some(Err(Refusal::failed(FailureKind::InvalidAnswer, why)));
    let message: Message = match serde_json::from_slice(body) {
        Ok(message) => message,
        Err(error) => return invalid(format!("not a JSON-RPC message ({error}): {}", sample(body))),
    };
    if message.method.is_some() {
        return None;
    }
    if let Some(error) = message.error {
        let text = format!("{} {}", error.code, error.message);
        return Some(Err(Refusal::failed(FailureKind::JsonRpc(error.code), text)));
    }
    if message.id.as_ref().and_then(Value::as_u64) != Some(id) {
        return invalid(format!("the answer is not for request {id}: {}", sample(body)));
    }
    match message.result {
        None => invalid(format!("neither result nor error: {}", sample(body))),
        Some(result) if result.is_error => Some(Err(Refusal::failed(FailureKind::ToolError, sample(body)))),
        Some(ResultHead {
            result_type: Some(kind),
            ..
        }) if kind != "complete" => invalid(format!("the result is `{kind}`, which a load test cannot go on from")),
        Some(_) => Some(Ok(())),
    }
}

/// The beginning of an answer, for people.
pub(crate) fn sample(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() {
        return "(empty body)".to_owned();
    }
    match text.char_indices().nth(SAMPLE_LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A load test that takes an error for an answer makes a broken server look fast.
    #[test]
    fn only_a_result_without_an_error_is_an_answer() {
        let failed = |body: &str| match judge_message(7, body.as_bytes()) {
            Some(Err(Refusal::Failed { kind, .. })) => Some(kind),
            _ => None,
        };
        let cases = [
            (
                "JSON-RPC error",
                r#"{"id":7,"error":{"code":-32603,"message":"db"}}"#,
                FailureKind::JsonRpc(-32603),
            ),
            (
                "error without an id",
                r#"{"id":null,"error":{"code":-32700}}"#,
                FailureKind::JsonRpc(-32700),
            ),
            (
                "tool error",
                r#"{"id":7,"result":{"isError":true,"content":[]}}"#,
                FailureKind::ToolError,
            ),
            (
                "for another request",
                r#"{"id":8,"result":{}}"#,
                FailureKind::InvalidAnswer,
            ),
            (
                "id of another type",
                r#"{"id":"7","result":{}}"#,
                FailureKind::InvalidAnswer,
            ),
            ("no result", r#"{"id":7}"#, FailureKind::InvalidAnswer),
            (
                "asks for input",
                r#"{"id":7,"result":{"resultType":"input_required"}}"#,
                FailureKind::InvalidAnswer,
            ),
            ("no JSON", "<html>", FailureKind::InvalidAnswer),
            ("cut short", r#"{"id":7,"result":{"#, FailureKind::InvalidAnswer),
        ];
        for (name, body, kind) in cases {
            assert_eq!(failed(body), Some(kind), "{name}");
        }
        let modern = r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[],"isError":false}}"#;
        assert_eq!(judge_message(7, modern.as_bytes()), Some(Ok(())));
        assert_eq!(judge_message(7, br#"{"id":7,"result":{"content":[]}}"#), Some(Ok(())));
        assert_eq!(
            judge_message(7, br#"{"method":"notifications/message","params":{}}"#),
            None
        );
        assert_eq!(judge_message(7, br#"{"id":1,"method":"ping"}"#), None);
    }

    #[test]
    fn shed_is_told_from_broken() {
        let cases = [
            ("503 with Retry-After", 503, true, false, "shed with HTTP 503"),
            ("429", 429, false, false, "shed with HTTP 429"),
            ("503 of a proxy without a server", 503, false, false, "HTTP 503"),
            ("502", 502, true, false, "HTTP 502"),
            ("404 without a session", 404, false, false, "HTTP 404"),
            ("404 within a session", 404, false, true, "session lost"),
        ];
        for (name, status, retry_after, in_session, expected) in cases {
            let refusal = judge_status(StatusCode::from_u16(status).unwrap(), retry_after, in_session, b"busy");
            assert!(refusal.message().starts_with(expected), "{name}: {}", refusal.message());
        }
    }

    #[test]
    fn a_sample_is_short_and_never_cuts_a_character() {
        assert_eq!(sample("é".repeat(1000).as_bytes()).chars().count(), SAMPLE_LENGTH + 1);
        assert_eq!(sample(b""), "(empty body)");
    }
}
