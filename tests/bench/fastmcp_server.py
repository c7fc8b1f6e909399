"""A FastMCP server with one tool, as fast as it can be set up: no sessions, uvloop, httptools, no logs."""

import sys

import uvicorn
from fastmcp import FastMCP

mcp = FastMCP("bench")


@mcp.tool
async def echo(text: str) -> str:
    """Returns the text."""
    return text


if __name__ == "__main__":
    port, answers = int(sys.argv[1]), sys.argv[2]
    app = mcp.http_app(path="/mcp", stateless_http=True, json_response=answers == "json")
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", log_level="error", access_log=False)
