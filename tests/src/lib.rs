//! Cluster harness, API tests and end-to-end tests of mcpscale.
