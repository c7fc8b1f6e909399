//! Open-loop load tester for MCP servers.
