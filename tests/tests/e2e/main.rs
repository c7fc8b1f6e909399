//! The whole loop on a cluster with real pods: installed with Helm, used by real clients, under real load.
//!
//! The tests run one at a time (`make test-e2e`): they share one machine's cores.

mod lifecycle;
mod scaling;
mod serving;
mod support;
