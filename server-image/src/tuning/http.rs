//! `GET|PUT /tuning` on the admin port.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::InForce;
use super::control::{ChangeError, Tuner};

/// Largest body, in bytes; a change has a few figures.
const BODY_MAX: usize = 16 * 1024;

/// `GET /tuning`: what is in force. `PUT /tuning`: changes it, see [`super::signature`]; the answer is what is in force
/// then, or `{"error": …}` with status 400 (the change is wrong), 401 (it is not believed), 403 (no key), 409 (a later
/// one was accepted) or 500 (the key cannot be read).
pub fn router(tuner: Arc<Tuner>) -> Router {
    Router::new()
        .route("/tuning", get(show).put(change))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(tuner)
}

async fn show(State(tuner): State<Arc<Tuner>>) -> Json<InForce> {
    Json(tuner.in_force())
}

async fn change(State(tuner): State<Arc<Tuner>>, headers: HeaderMap, body: Bytes) -> Response {
    match tuner.change(&headers, &body) {
        Ok(in_force) => Json(in_force).into_response(),
        Err(error) => {
            tracing::warn!(%error, "a change of the tuning was refused");
            (status(&error), Json(json!({"error": error.to_string()}))).into_response()
        }
    }
}

const fn status(error: &ChangeError) -> StatusCode {
    use super::signature::Refused;
    match error {
        ChangeError::NoKey => StatusCode::FORBIDDEN,
        ChangeError::Key(_) => StatusCode::INTERNAL_SERVER_ERROR,
        ChangeError::Refused(Refused::Repeated) => StatusCode::CONFLICT,
        ChangeError::Refused(_) => StatusCode::UNAUTHORIZED,
        ChangeError::Body(_)
        | ChangeError::Range { .. }
        | ChangeError::TooManyBytes { .. }
        | ChangeError::Meaningless(_) => StatusCode::BAD_REQUEST,
    }
}
