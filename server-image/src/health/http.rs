//! The answers over HTTP: 200 while the server works, 503 when it does not.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;

use super::{Health, Status};

/// `/health` and `/health/detailed`.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/health", get(answer))
        .route("/health/detailed", get(details))
        .with_state(health)
}

/// The answer of `/health`, which says no more than a stranger may know.
pub async fn answer(State(health): State<Health>) -> Response {
    let summary = health.summary();
    (code(summary.status), Json(summary)).into_response()
}

async fn details(State(health): State<Health>) -> Response {
    let details = health.details();
    (code(details.summary.status), Json(details)).into_response()
}

const fn code(status: Status) -> StatusCode {
    match status {
        Status::Healthy | Status::Degraded => StatusCode::OK,
        Status::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    }
}
