//! Tests against a real kube-apiserver: what it accepts and refuses, and what the operator writes to it.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows a test by its attribute, not the helpers that it calls"
)]

mod convergence;
mod data;
mod examples;
mod leadership;
mod refused;
mod rights;
mod schema;
mod support;
mod trouble;
mod views;
