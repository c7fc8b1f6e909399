"""Uses an MCP server as an agent would, through the official Python client, and checks every value that comes back.

Several clients at once, in both protocol eras: modern (2026-07-28, found by server/discover) and legacy (initialize, then
a session). Each creates a session, writes messages and memory and reads them back; then each reads what the others wrote,
those of the other era included. Behind a load balancer, writing and reading so go through different replicas.

Prints a JSON summary. Exit status: 0 all is as it should be, 1 something is not, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, AsyncIterator

from mcp import Client
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

TOOLS = {"create_session", "get_session", "add_message", "get_messages", "set_memory", "get_memory"}
# How the client connects, and the protocol versions it has to end up with. "auto" tries server/discover first and falls
# back to initialize, so ending up with another version means that the server does not speak the modern era.
ERAS = {"modern": ("auto", ("2026-07-28",)), "legacy": ("legacy", HANDSHAKE_PROTOCOL_VERSIONS)}


@dataclass
class Written:
    """What one client wrote, for others to read."""

    session_id: str
    purpose: str
    messages: list[str]
    memory: dict[str, Any]


@dataclass
class Tally:
    """What was done and what was wrong, in one era."""

    protocol_versions: set[str] = field(default_factory=set)
    calls: int = 0
    checks: int = 0
    mismatches: list[str] = field(default_factory=list)


class Agent:
    """One client: calls tools and compares what comes back with what should."""

    def __init__(self, name: str, client: Client, tally: Tally) -> None:
        self.name = name
        self.client = client
        self.tally = tally

    def expect(self, what: str, actual: Any, expected: Any) -> None:
        self.tally.checks += 1
        if actual != expected:
            self.tally.mismatches.append(f"{self.name}: {what}: expected {expected!r}, got {actual!r}")

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Calls a tool that has to succeed, and returns its structured content."""
        self.tally.calls += 1
        result = await self.client.call_tool(tool, arguments)
        self.expect(f"{tool} is an error", result.is_error, False)
        self.expect_same_in_text(tool, result)
        return result.structured_content or {}

    def expect_same_in_text(self, tool: str, result: Any) -> None:
        """Clients that know no structured content read the text: it has to say the same."""
        text = result.content[0].text if result.content else ""
        try:
            self.expect(f"text of {tool}", json.loads(text), result.structured_content)
        except json.JSONDecodeError:
            self.expect(f"text of {tool} is JSON", text, result.structured_content)

    async def check_tools(self) -> None:
        names: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self.client.list_tools(cursor=cursor)
            self.tally.calls += 1
            names |= {tool.name for tool in page.tools}
            cursor = page.next_cursor
            if cursor is None:
                break
        self.expect("tools that are missing", TOOLS - names, set())

    async def write(self, rounds: int) -> Written:
        purpose = f"checks by {self.name} – ünïcödé"
        created = await self.call("create_session", purpose=purpose)
        session_id = str(created.get("session_id"))
        self.expect("form of a session id", bool(re.fullmatch(r"session_[0-9a-f]{16}", session_id)), True)
        written = Written(session_id, purpose, [], {})
        for number in range(rounds):
            content = f"message {number} of {self.name}: \"quotes\", \\ and\na new line {uuid.uuid4()}"
            await self.call("add_message", session_id=session_id, content=content)
            written.messages.append(content)
            key = f"{session_id}/{number}"
            value = {"number": number, "list": [1.5, None, True], "text": "日本語", "id": str(uuid.uuid4())}
            await self.call("set_memory", key=key, value={"to be": "overwritten"})
            await self.call("set_memory", key=key, value=value)
            written.memory[key] = value
        return written

    async def read(self, written: Written) -> None:
        session = (await self.call("get_session", session_id=written.session_id)).get("session", {})
        self.expect("purpose of a session", session.get("purpose"), written.purpose)
        page = await self.call("get_messages", session_id=written.session_id, limit=1000)
        contents = [message["content"] for message in page.get("messages", [])]
        self.expect("messages of a session", contents, written.messages)
        self.expect("number of messages", page.get("total_count"), len(written.messages))
        for key, value in written.memory.items():
            self.expect(f"memory {key}", (await self.call("get_memory", key=key)).get("value"), value)

    async def check_errors(self) -> None:
        """A mistake has to come back as an error that an agent can act on, not as a broken connection."""
        self.tally.calls += 1
        result = await self.client.call_tool("get_session", {"session_id": "session_0000000000000000"})
        self.expect("an unknown session is an error", result.is_error, True)
        code = (result.structured_content or {}).get("code")
        self.expect("code of an unknown session", code, "SESSION_NOT_FOUND")


@contextlib.asynccontextmanager
async def connected(options: argparse.Namespace, era: str, name: str, tally: Tally) -> AsyncIterator[Agent]:
    mode, versions = ERAS[era]
    async with Client(options.url, mode=mode, read_timeout_seconds=options.timeout) as client:
        agent = Agent(name, client, tally)
        tally.protocol_versions.add(client.protocol_version)
        agent.expect("protocol version is of the era", client.protocol_version in versions, True)
        yield agent


async def write_as(options: argparse.Namespace, era: str, number: int, tally: Tally) -> Written:
    async with connected(options, era, f"{era} client {number}", tally) as agent:
        await agent.check_tools()
        written = await agent.write(options.rounds)
        await agent.read(written)
        await agent.check_errors()
        return written


async def read_as(options: argparse.Namespace, era: str, number: int, tally: Tally, all_written: list[Written]) -> None:
    async with connected(options, era, f"{era} reader {number}", tally) as agent:
        for written in all_written:
            await agent.read(written)


async def check(options: argparse.Namespace) -> dict[str, Tally]:
    tallies = {era: Tally() for era in options.eras}
    numbered = [(era, number) for era in options.eras for number in range(options.clients)]

    async def guarded(era: str, work: Any) -> Any:
        try:
            return await asyncio.wait_for(work, options.timeout * 10)
        except Exception as error:  # Whatever it is, it is what a user of the server would have got.
            tallies[era].mismatches.append("; ".join(described(error)))
            return None

    results = await asyncio.gather(*(guarded(era, write_as(options, era, n, tallies[era])) for era, n in numbered))
    all_written = [written for written in results if written is not None]
    await asyncio.gather(*(guarded(era, read_as(options, era, n, tallies[era], all_written)) for era, n in numbered))
    return tallies


def described(error: BaseException) -> list[str]:
    """The errors inside nested groups, each in one line."""
    nested = getattr(error, "exceptions", None)
    if nested is not None:
        return [line for inner in nested for line in described(inner)]
    return [f"{type(error).__name__}: {error}"]


def summary(options: argparse.Namespace, tallies: dict[str, Tally], seconds: float) -> dict[str, Any]:
    eras = {
        era: {
            "protocol_versions": sorted(tally.protocol_versions),
            "clients": options.clients,
            "calls": tally.calls,
            "checks": tally.checks,
            "mismatches": tally.mismatches,
        }
        for era, tally in tallies.items()
    }
    is_right = all(tally.checks > 0 and not tally.mismatches for tally in tallies.values())
    return {"url": options.url, "ok": is_right, "seconds": round(seconds, 3), "eras": eras}


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="the MCP endpoint, http://HOST:PORT/mcp")
    parser.add_argument("--eras", nargs="+", choices=list(ERAS), default=list(ERAS), help="protocol eras to check")
    parser.add_argument("--clients", type=positive, default=5, help="clients at once, in each era (default 5)")
    parser.add_argument("--rounds", type=positive, default=5, help="messages and memory entries of each (default 5)")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds a call may take (default 20)")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    # The server is on this machine or in its cluster; a proxy of the surroundings cannot reach it.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    start = time.monotonic()
    tallies = asyncio.run(check(options))
    result = summary(options, tallies, time.monotonic() - start)
    print(json.dumps(result, indent=2, ensure_ascii=False))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
