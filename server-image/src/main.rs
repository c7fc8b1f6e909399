//! The MCP server binary.

fn main() {}
