//! The MCP server that mcpscale runs by default.
