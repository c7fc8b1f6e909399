//! The operator of mcpscale.

pub mod signals;
