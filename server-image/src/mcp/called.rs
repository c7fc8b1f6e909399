//! What a tool's end means for the protocol.

use rmcp::ErrorData;
use rmcp::model::{CallToolResponse, CallToolResult};

use crate::metrics::requests::Outcome;
use crate::tools::Called;

/// How a call is counted.
pub(super) fn outcome(called: &Called) -> Outcome {
    match called {
        Called::Value(_) => Outcome::Ok,
        Called::Failed(error) if error.is_server_failure() => Outcome::ServerFailure,
        Called::Failed(_) => Outcome::ToolError,
        Called::Whole(response) => match response.as_ref() {
            CallToolResponse::Complete(result) if result.is_error == Some(true) => Outcome::ToolError,
            _ => Outcome::Ok,
        },
        Called::Refused(error) => Outcome::RpcError(error.code.0),
    }
}

/// What its client is answered.
pub(super) fn answer(called: Called) -> Result<CallToolResponse, ErrorData> {
    match called {
        Called::Value(value) => Ok(CallToolResult::structured(value).into()),
        Called::Failed(error) => Ok(CallToolResult::structured_error(error.into_envelope()).into()),
        Called::Whole(response) => Ok(*response),
        Called::Refused(error) => Err(error),
    }
}

/// What a client is told whose request made its handler panic.
pub(super) fn crashed() -> ErrorData {
    ErrorData::internal_error("the server crashed on this request; this is a bug of the server", None)
}
