//! The two ports beside MCP: `metrics` for Prometheus and the kubelet, `admin` for the operator.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use prometheus_client::registry::Registry;

use crate::admission::Admission;
use crate::database::Database;
use crate::metrics::exposition;
use crate::readiness::Readiness;
use crate::tuning::{InForce, PoolInForce};

/// `/metrics`, `/healthz` (the process runs) and `/readyz` (it should get traffic).
pub fn metrics_router(registry: Arc<Registry>, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready).with_state(readiness))
}

async fn metrics(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    match exposition::negotiated(&registry, &headers) {
        Ok((content_type, text)) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    match readiness.check() {
        Ok(()) => "ready".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason.to_string()).into_response(),
    }
}

#[derive(Clone)]
struct Tunable {
    admission: Arc<Admission>,
    database: Database,
}

/// `GET /tuning`: what is in force.
pub fn admin_router(admission: Arc<Admission>, database: Database) -> Router {
    Router::new()
        .route("/tuning", get(tuning))
        .with_state(Tunable { admission, database })
}

async fn tuning(State(Tunable { admission, database }): State<Tunable>) -> Json<InForce> {
    Json(InForce {
        pool: database.pool().map(|pool| PoolInForce {
            max: pool.max,
            open: pool.open,
        }),
        concurrency: admission.concurrency(),
        queue_max: admission.queue_max(),
    })
}
