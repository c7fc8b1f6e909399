//! The port `metrics`, for Prometheus and the kubelet. The port `admin`, for the operator, is [`crate::tuning::http`].

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use prometheus_client::registry::Registry;

use crate::cache::Cache;
use crate::metrics::exposition;
use crate::readiness::Readiness;

/// `/metrics`, `/healthz` (the process runs) and `/readyz` (it should get traffic).
pub fn metrics_router(registry: Arc<Registry>, readiness: Readiness, cache: Cache) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready).with_state((readiness, cache)))
}

async fn metrics(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    match exposition::negotiated(&registry, &headers) {
        Ok((content_type, text)) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A server that works, but not as it should, says on further lines why.
async fn ready(State((readiness, cache)): State<(Readiness, Cache)>) -> Response {
    match readiness.check() {
        Ok(()) => [vec!["ready"], cache.remarks()].concat().join("\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason.to_string()).into_response(),
    }
}
