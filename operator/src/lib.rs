//! The operator of mcpscale.
