//! The API types of mcpscale.dev/v1alpha1.
