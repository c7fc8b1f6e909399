//! The decision core of mcpscale: no Kubernetes, no I/O, no clock.
