//! `GET /profile` on the admin port, for servers that were started with `--profile`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{SECONDS_DEFAULT, SECONDS_MAX, SECONDS_MIN, take};
use crate::cache::Cache;

/// Profiles taken at once.
const AT_ONCE: usize = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// How long to measure.
    seconds: Option<u64>,
}

#[derive(Clone)]
struct Profiler {
    cache: Cache,
    turn: Arc<Semaphore>,
}

/// `GET /profile?seconds=N`: a [`super::Profile`] of the next N seconds, or `{"error": …}` with status 400 (N is out of
/// range), 409 (one is being taken) or 500 (the kernel does not tell).
pub fn router(cache: Cache) -> Router {
    let turn = Arc::new(Semaphore::new(AT_ONCE));
    Router::new()
        .route("/profile", get(profile))
        .with_state(Profiler { cache, turn })
}

async fn profile(State(profiler): State<Profiler>, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    let seconds = match wanted {
        Ok(Query(wanted)) => wanted.seconds.unwrap_or(SECONDS_DEFAULT),
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&seconds) {
        let error = format!("seconds must be {SECONDS_MIN} to {SECONDS_MAX}, not {seconds}");
        return refused(StatusCode::BAD_REQUEST, &error);
    }
    let Ok(_turn) = profiler.turn.try_acquire() else {
        return refused(StatusCode::CONFLICT, "a profile is being taken already");
    };
    match take(Duration::from_secs(seconds), &profiler.cache).await {
        Ok(profile) => Json(profile).into_response(),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refused(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"error": error}))).into_response()
}
