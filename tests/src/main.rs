//! Starts, stops and looks at the cluster of the end-to-end tests.
fn main() {}
