//! The API types of `mcpscale.dev`: what an administrator declares and what the operator answers.
//!
//! Types, schema and admission rules only: no client, no runtime. The YAML made from these types is committed in
//! `crds/` and a test fails when the two drift.

#![expect(
    clippy::doc_markdown,
    reason = "`kubectl explain` prints these texts as they are, without Markdown"
)]

mod crd;
pub mod labels;
mod schema;
pub mod v1alpha1;
mod values;

pub use crd::custom_resource_definition;
pub use values::{GatewayDuration, Percent, Quantity, ValueError};
