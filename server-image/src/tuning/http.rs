//! `GET|PUT /tuning` and `POST /cache/invalidate` on the admin port.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::InForce;
use super::control::{ChangeError, Tuner};
use super::invalidation::Invalidator;

/// Largest body, in bytes; a change has a few figures.
const BODY_MAX: usize = 16 * 1024;

/// `GET /tuning`: what is in force. `PUT /tuning`: changes it, see [`super::signature`]; the answer is what is in force
/// then, or `{"error": …}` with status 400 (the change is wrong), 401 (it is not believed), 403 (no key), 409 (a later
/// one was accepted) or 500 (the key cannot be read).
///
/// `POST /cache/invalidate`: makes the caches of all replicas forget an [`super::invalidation::Invalidation`]; signed
/// and refused likewise, and with 503 when the database does not answer. The answer is what was forgotten.
pub fn router(tuner: Arc<Tuner>, invalidator: Arc<Invalidator>) -> Router {
    Router::new()
        .route("/tuning", get(show).put(change).with_state(tuner))
        .route("/cache/invalidate", post(invalidate).with_state(invalidator))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

async fn show(State(tuner): State<Arc<Tuner>>) -> Json<InForce> {
    Json(tuner.in_force())
}

async fn change(State(tuner): State<Arc<Tuner>>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let changed = tuner.change(&headers, &body);
    changed
        .map(Json)
        .inspect_err(|error| tracing::warn!(%error, "a change of the tuning was refused"))
}

async fn invalidate(State(invalidator): State<Arc<Invalidator>>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let forgotten = invalidator.forget(&headers, &body).await;
    forgotten
        .map(Json)
        .inspect_err(|error| tracing::warn!(%error, "an invalidation was refused"))
}

impl IntoResponse for ChangeError {
    fn into_response(self) -> Response {
        (status(&self), Json(json!({"error": self.to_string()}))).into_response()
    }
}

const fn status(error: &ChangeError) -> StatusCode {
    use super::signature::Refused;
    match error {
        ChangeError::NoKey => StatusCode::FORBIDDEN,
        ChangeError::Key(_) => StatusCode::INTERNAL_SERVER_ERROR,
        ChangeError::Refused(Refused::Repeated) => StatusCode::CONFLICT,
        ChangeError::Refused(_) => StatusCode::UNAUTHORIZED,
        ChangeError::Database(_) => StatusCode::SERVICE_UNAVAILABLE,
        ChangeError::Body(_)
        | ChangeError::Range { .. }
        | ChangeError::TooManyBytes { .. }
        | ChangeError::Meaningless(_) => StatusCode::BAD_REQUEST,
    }
}
