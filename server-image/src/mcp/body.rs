//! The bodies of requests: read as far as they may be long, for as long as they may take.

use std::error::Error;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use rmcp::model::ErrorCode;
use serde_json::Value;
use tokio::time::timeout;

use crate::auth::refusal::{refused, refused_for, refused_with};
use crate::transport::{OutOfMemory, RETRY_SECONDS};

/// Largest request body, in bytes.
pub(super) const BODY_MAX: usize = 4 * 1024 * 1024;
/// Longest time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the body of a request is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread {
    /// It is longer than [`BODY_MAX`].
    #[error("the request body is larger than 4 MiB")]
    TooLong,
    /// It took longer than [`BODY_TIMEOUT`].
    #[error("the request body did not arrive within 30 s")]
    TooSlow,
    /// It broke off.
    #[error("the request body could not be read")]
    Broken,
    /// There is no memory for it.
    #[error(transparent)]
    OutOfMemory(OutOfMemory),
}

impl Unread {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::TooLong | Self::OutOfMemory(OutOfMemory::TooManyValues) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::OutOfMemory(OutOfMemory::TooManyBodies) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer to a client of MCP. What its id would have been, nobody knows.
    pub(super) fn answer(self) -> Response {
        let (message, id) = (self.to_string(), Value::Null);
        let reason = match self {
            Self::TooLong => "body_too_long",
            Self::TooSlow => "body_too_slow",
            Self::OutOfMemory(OutOfMemory::TooManyValues) => "too_many_values",
            Self::OutOfMemory(OutOfMemory::TooManyBodies) => {
                let seconds = u64::from(RETRY_SECONDS);
                return refused_for(seconds, self.status(), "bodies_too_large", &message, &id);
            }
            Self::Broken => {
                // Like every body that ends before its message does.
                let code = ErrorCode::PARSE_ERROR.0;
                return refused_with(code, self.status(), "body_unreadable", &message, &id);
            }
        };
        refused(self.status(), reason, &message, &id)
    }
}

/// Reads a body of bounded size in bounded time.
pub(super) async fn read(body: Body) -> Result<Bytes, Unread> {
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unread::TooLong),
        Ok(Err(error)) => Err(out_of_memory(&*error).map_or(Unread::Broken, Unread::OutOfMemory)),
        Err(_) => Err(Unread::TooSlow),
    }
}

/// Whether that is why a body was not read to its end; axum's error is around it.
fn out_of_memory(error: &(dyn Error + 'static)) -> Option<OutOfMemory> {
    error.downcast_ref().copied().or_else(|| out_of_memory(error.source()?))
}
