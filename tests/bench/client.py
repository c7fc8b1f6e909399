"""A client as they are up to 2025-11-25: it opens a session with a handshake, then calls tools in it."""

import http.client
import json
import time
from itertools import count

# Of the clients that call the tools of shared context: every server knows it.
REVISION = "2025-06-18"


def post(connection: http.client.HTTPConnection, headers: dict, message: dict) -> tuple:
    """Sends a message; returns headers and text of the answer. Anything but success is an error."""
    connection.request("POST", "/mcp", json.dumps(message), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status not in (200, 202):
        raise RuntimeError(f"{message['method']}: HTTP {answer.status}: {text[:300]}")
    return answer.headers, text


def open_session(connection: http.client.HTTPConnection, revision: str, more_headers: dict | None = None) -> dict:
    """The handshake; returns the headers of all that follows in the session."""
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": revision,
    } | (more_headers or {})
    hello = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    opened, text = post(connection, headers, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello})
    if not opened["Mcp-Session-Id"]:
        raise RuntimeError(f"initialize opens no session: {text[:300]}")
    headers["Mcp-Session-Id"] = opened["Mcp-Session-Id"]
    post(connection, headers, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    return headers


class Client:
    """One client with one connection, in one thread."""

    def __init__(self, port: int, key: str):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = open_session(self.connection, REVISION, {"X-API-Key": key})
        self.ids = count(1)
        self.token = None

    def call(self, tool: str, **arguments) -> dict:
        """Calls a tool and returns its result; anything but success is an error, and so is an empty result."""
        if self.token and tool != "authenticate_agent":
            arguments["auth_token"] = self.token
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": next(self.ids), "method": "tools/call", "params": params}
        _, text = post(self.connection, self.headers, message)
        if not text.startswith("{"):
            text = [line for line in text.splitlines() if line.startswith("data: {")][-1].removeprefix("data: ")
        answer = json.loads(text)
        result = answer.get("result") or {}
        value = result.get("structuredContent") or json.loads(result["content"][0]["text"]) if result else {}
        is_error = "error" in answer or result.get("isError") or value.get("success") is False or value.get("error")
        if is_error or not value:
            raise RuntimeError(f"{tool}: {text[:500]}")
        return value

    def become(self, agent: str) -> None:
        """Gets a token for an agent."""
        self.token = self.call("authenticate_agent", agent_id=agent, agent_type="claude")["token"]


def connected(port: int, key: str) -> Client:
    """A client as soon as the server takes it: its database may take longer than its port."""
    deadline = time.monotonic() + 30
    while True:
        try:
            client = Client(port, key)
            client.become("bench")
            return client
        except (RuntimeError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
