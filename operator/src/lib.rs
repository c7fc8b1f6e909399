//! The operator of mcpscale.

pub mod cli;
pub mod commands;
pub mod controller;
pub mod http;
pub mod metrics;
pub mod resources;
pub mod signals;
pub mod telemetry;
