//! Tests against a real kube-apiserver: what it accepts and refuses, and what the operator writes to it.

mod convergence;
mod data;
mod schema;
mod support;
