//! The load tester binary.

fn main() {}
