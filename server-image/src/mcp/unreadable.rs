//! The answer to a body that is no JSON-RPC message: 400 with an error of JSON-RPC 2.0, section 5.1.

use std::convert::Infallible;

use axum::body::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use rmcp::model::ErrorCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// What is wrong with a body.
#[derive(Debug, PartialEq)]
struct Fault {
    code: ErrorCode,
    message: &'static str,
    /// Id of the request, so that its client can tell which one failed; null where there is none to find.
    id: Value,
}

/// The answer to `body`, which is no message.
pub(super) fn answer(body: &[u8]) -> Response<BoxBody<Bytes, Infallible>> {
    let Fault { code, message, id } = fault(body);
    let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": code.0, "message": message}});
    let mut response = Response::new(Full::from(error.to_string()).boxed());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whether `body` is JSON: as RFC 8259 has it, text in UTF-8 of the right grammar, however deep and whatever it means.
fn is_json(body: &[u8]) -> bool {
    // What serde_json only skips, it does not check to be UTF-8.
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn fault(body: &[u8]) -> Fault {
    if !is_json(body) {
        return Fault {
            code: ErrorCode::PARSE_ERROR,
            message: "Parse error: the body is not JSON",
            id: Value::Null,
        };
    }
    let is_batch = body.trim_ascii_start().starts_with(b"[");
    Fault {
        code: ErrorCode::INVALID_REQUEST,
        message: if is_batch {
            "Invalid request: send one message at a time, not a list of them"
        } else {
            "Invalid request: the body is JSON, but not one JSON-RPC 2.0 message without doubt"
        },
        id: id(body),
    }
}

/// The id of what would be a request, if it has one that a request may have.
fn id(body: &[u8]) -> Value {
    #[derive(Deserialize)]
    struct Identified {
        id: Value,
    }
    let found = serde_json::from_slice::<Identified>(body).map(|message| message.id);
    found
        .ok()
        .filter(|id| id.is_string() || id.is_i64())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's author sees by the code whether the program that writes messages is wrong, or what it writes.
    #[test]
    fn what_is_not_json_differs_from_what_is_no_message() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let (parse, invalid) = (ErrorCode::PARSE_ERROR, ErrorCode::INVALID_REQUEST);
        for (name, body, code, id) in [
            ("nothing", b"".as_slice(), parse, json!(null)),
            ("cut off", br#"{"jsonrpc":"2.0","id":7"#, parse, json!(null)),
            ("two values", br#"{"id":7}{"id":7}"#, parse, json!(null)),
            ("not UTF-8", b"{\"id\":7,\"method\":\"\xff\"}", parse, json!(null)),
            ("a byte order mark", b"\xef\xbb\xbf{\"id\":7}", parse, json!(null)),
            ("a text", br#""tools/list""#, invalid, json!(null)),
            (
                "a list",
                br#" [{"jsonrpc":"2.0","id":7,"method":"ping"}]"#,
                invalid,
                json!(null),
            ),
            ("deep", deep.as_bytes(), invalid, json!(null)),
            ("no version", br#"{"id":7,"method":"ping"}"#, invalid, json!(7)),
            (
                "an odd id",
                br#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
                invalid,
                json!(null),
            ),
            (
                "an odd method",
                br#"{"jsonrpc":"2.0","id":"a","method":7}"#,
                invalid,
                json!("a"),
            ),
        ] {
            let found = fault(body);
            assert_eq!((found.code, found.id), (code, id), "{name}");
        }
    }
}
