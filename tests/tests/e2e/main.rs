//! The whole loop on a cluster with real pods: installed with Helm, used by real clients, under real load.
//!
//! `make test-e2e` runs some at the same time, and those in `alone` one after the other.

mod alone;
mod connections;
mod lifecycle;
mod load;
mod serving;
mod steady;
mod support;
