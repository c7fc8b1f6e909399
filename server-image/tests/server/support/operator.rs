//! Requests that only the operator may make.

use std::time::{SystemTime, UNIX_EPOCH};

use mcp_server::tuning::control::Authority;
use mcp_server::tuning::signature::{Purpose, SIGNATURE_HEADER, TIME_HEADER, sign};
use reqwest::RequestBuilder;
use serde_json::Value;
use tempfile::TempDir;

/// The operator's key.
pub const KEY: &str = "a key that only the operator has";
/// UID of the pod that a server believes to run in.
pub const POD: &str = "11111111-2222-4333-8444-555555555555";

/// What lets a server believe the operator; the key goes with the folder.
pub fn authority() -> (Authority, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    let authority = Authority {
        key_file: Some(file),
        pod_uid: Some(POD.to_owned()),
    };
    (authority, folder)
}

/// The time in milliseconds since 1970.
pub fn now() -> u64 {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    u64::try_from(millis).unwrap()
}

/// Sends `body`, signed with `key` at `time` for the pod `pod`; gives status and answer.
pub async fn send(
    request: RequestBuilder,
    purpose: Purpose,
    (key, pod): (&str, &str),
    body: &str,
    time: u64,
) -> (u16, Value) {
    let time = time.to_string();
    let signature = sign(purpose, key.as_bytes(), pod, &time, body.as_bytes()).unwrap();
    let request = request
        .header(SIGNATURE_HEADER, signature)
        .header(TIME_HEADER, time)
        .body(body.to_owned());
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}
