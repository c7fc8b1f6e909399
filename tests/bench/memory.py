"""What clients that do nothing cost in memory: open connections of 2026-07-28, sessions of 2025-11-25."""

import http.client
import resource
import socket
import time
from contextlib import ExitStack

import servers
from client import open_session
from figures import below, medians, say
from measure import usage

CONNECTIONS_BELOW_MB, SESSIONS_BELOW_MB = 100, 60
# A source address has ports for some 28,000 connections to one destination, less those that others use.
CONNECTIONS_PER_ADDRESS = 5000
# Files that a process needs besides its connections.
OTHER_FILES = 200
# Sessions leave memory when they were idle for so long; twice that is waited.
SESSION_IDLE_SECONDS = 15


def connection_rounds(options):
    """Many connections, each after one call, all open at once."""
    allow_files(options.keep_alive + OTHER_FILES)
    for number in range(options.rounds):
        with servers.ours(options.binary) as server, ExitStack() as stack:
            request = servers.echo(server, "json")
            memory = {"before_bytes": settled(server)}
            opened = []
            for place in range(options.keep_alive):
                opened.append(stack.enter_context(connect(server.port, place)))
                exchange(opened[-1], request)
            memory["during_bytes"] = settled(server)
            # Whoever was thrown out, or is not served any more, fails here.
            for connection in opened[::100]:
                exchange(connection, request)
            stack.pop_all().close()
            memory["after_bytes"] = settled(server)
            say(f"connections round {number + 1}: {memory}")
            yield {"connections": len(opened), "round": number} | memory


def session_rounds(options):
    """Many sessions, opened by clients that then do nothing."""
    for number in range(options.rounds):
        idle = ["--session-idle-seconds", str(SESSION_IDLE_SECONDS)]
        with servers.ours(options.binary, flags=idle) as server:
            memory = {"before_bytes": settled(server)}
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            for _ in range(options.idle_sessions):
                open_session(connection, servers.LEGACY)
            held = active_sessions(server)
            memory["opened_bytes"] = usage(server.pid).rss_bytes
            deadline = time.monotonic() + 4 * SESSION_IDLE_SECONDS
            while (left := active_sessions(server)) > 0 and time.monotonic() < deadline:
                time.sleep(0.5)
            memory["idle_bytes"] = settled(server)
            say(f"sessions round {number + 1}: {held:.0f} in memory, then {left:.0f}: {memory}")
            if held < options.idle_sessions or left:
                raise RuntimeError(f"{held:.0f} sessions are in memory when opened, {left:.0f} when idle")
            yield {"sessions": options.idle_sessions, "round": number} | memory


def report_connections(results: list) -> list:
    """Prints the medians; returns the goal."""
    return report(results, "connections", "during_bytes", CONNECTIONS_BELOW_MB)


def report_sessions(results: list) -> list:
    """Prints the medians; returns the goal."""
    return report(results, "sessions", "idle_bytes", SESSIONS_BELOW_MB)


def report(results: list, what: str, judged: str, most_mb: float) -> list:
    print()
    goals = []
    for (many,), _ in medians(results, (what,), judged).items():
        names = [name for name in results[0] if name.endswith("_bytes")]
        stages = {name: medians(results, (what,), name)[many,] / 1e6 for name in names}
        shown = ", ".join(f"{stage.removesuffix('_bytes')} {megabytes:.1f}" for stage, megabytes in stages.items())
        each = (max(stages.values()) - stages["before_bytes"]) * 1000 / many
        print(f"{many} {what}: RSS MB {shown}; {each:.1f} KB each at most")
        goals.append(below(f"{many} idle {what}: RSS", stages[judged], most_mb, "MB"))
    return goals


def allow_files(files: int) -> None:
    """Lets this process, and the servers that it starts, open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < files:
        # Only root may raise the hard limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, max(files, hard)))


def connect(port: int, place: int) -> socket.socket:
    """A connection from one of the addresses of this machine's loopback."""
    source = f"127.0.0.{2 + place // CONNECTIONS_PER_ADDRESS}"
    return socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))


def exchange(connection: socket.socket, request) -> None:
    """One call, answered with success, after which the connection stays open."""
    body = request.body.encode()
    headers = request.headers | {"Host": "127.0.0.1", "Content-Length": len(body)}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
    answer = http.client.HTTPResponse(connection, method="POST")
    answer.begin()
    text = answer.read()
    if answer.status != 200 or answer.will_close or b'"text":"hello"' not in text:
        raise RuntimeError(f"a call is answered with {answer.status} {text[:200]}")


def active_sessions(server) -> float:
    """Sessions in the server's memory, as it says itself."""
    return servers.metric(server, "mcp_active_sessions")


def settled(server) -> int:
    """Memory in bytes, as soon as it has not changed for a second."""
    last, since = usage(server.pid).rss_bytes, time.monotonic()
    deadline = since + 30
    while time.monotonic() - since < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
        now = usage(server.pid).rss_bytes
        if now != last:
            last, since = now, time.monotonic()
    return last
