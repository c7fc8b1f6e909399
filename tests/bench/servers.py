"""The servers that are compared: how each is built, started and asked."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

from client import open_session
from measure import SERVER_CORE, Request

HERE = Path(__file__).parent
API_KEY = "a key for the bench of more than 32 characters"
READY_SECONDS = 60

FASTMCP, TYPESCRIPT, PUBLISHED = "FastMCP", "TypeScript SDK", "shared-context 1.1.10"
# Calls that they fail, or take more than 10 s for, are shown, and make no figure less true.
PEERS = (FASTMCP, TYPESCRIPT, PUBLISHED)

MODERN, LEGACY = "2026-07-28", "2025-11-25"


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def prepared(script: str, what: str) -> str:
    """What a script of tests/clients prints: where it has installed what a list in this folder names."""
    command = [HERE.parent / "clients" / script, f"../bench/{what}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def python_with(requirements: str) -> str:
    """A Python interpreter with the packages of a list in this folder."""
    return prepared("venv.sh", requirements)


def typescript_server() -> Path:
    """The TypeScript server, beside its packages: Node looks for them there."""
    return Path(shutil.copy(HERE / "typescript/server.mjs", prepared("node.sh", "typescript")))


class Server:
    """A running server, on one core."""

    def __init__(self, name: str, command: list, port: int, environment: dict, folder: str, ready_url: str | None):
        self.name, self.port = name, port
        self.url = f"http://127.0.0.1:{port}/mcp"
        started = time.monotonic()
        self.log = Path(folder) / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", SERVER_CORE, *map(str, command)],
                cwd=folder,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_until_ready(ready_url)
        self.seconds_to_ready = time.monotonic() - started

    @property
    def pid(self) -> int:
        """Its process, whose children count, too."""
        return self.process.pid

    def wait_until_ready(self, ready_url: str | None) -> None:
        """Waits until it says that it is ready; one that cannot say so must answer a request, whatever the answer."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                urllib.request.urlopen(ready_url or self.url, timeout=5)
                return
            except urllib.error.HTTPError:
                if not ready_url:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.002)

    def stop(self) -> None:
        """Ends it and what it started."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, sign)
                self.process.wait(timeout=5)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


@contextmanager
def running(name: str, command: list, port: int, environment: dict | None = None, ready_url: str | None = None):
    """Runs a server in an empty folder until the block ends."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        fill = {key: str(value).replace("{folder}", folder) for key, value in (environment or {}).items()}
        command = [str(part).replace("{folder}", folder) for part in command]
        server = Server(name, command, port, fill, folder, ready_url)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def ours(binary: Path, database: str = "sqlite:{folder}/mcp.db", with_key: bool = False, flags: Sequence[str] = ()):
    """The project's server, with its metrics on."""
    port, metrics = free_port(), f"127.0.0.1:{free_port()}"
    command = [binary, "serve", "--listen", f"127.0.0.1:{port}", "--database-url", database, "--fixtures", "load"]
    command += ["--metrics-listen", metrics, "--admin-listen", f"127.0.0.1:{free_port()}", *flags]
    # As many at once as the load has connections, and none refused because the others make it slow: what is measured is
    # the work, not the refusals.
    command += ["--concurrency", "1000", "--queue-max", "2000", "--adaptive-latency-ms", "60000"]
    # The limiter counts every request, but lets all of them pass.
    command += ["--rate-limits", "all=1000000/s,auth=1000000/s,messages=1000000/s,search=1000000/s,memory=1000000/s"]
    key = {"MCP_API_KEY": API_KEY} if with_key else {}
    with running("mcpscale", command, port, key, f"http://{metrics}/readyz") as server:
        server.metrics_url = f"http://{metrics}/metrics"
        yield server


def metric(server: Server, series: str) -> float:
    """What our server says of itself now; the series is its name, with labels if it has some."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{series} ")))


def fastmcp(answers: str):
    """FastMCP, answering with JSON or with event streams."""
    port = free_port()
    return running(FASTMCP, [python_with("fastmcp.txt"), HERE / "fastmcp_server.py", port, answers], port)


def typescript(answers: str):
    """The TypeScript SDK, answering with JSON or with event streams."""
    port = free_port()
    return running(TYPESCRIPT, ["node", typescript_server(), port, answers], port)


# What a call of echo is answered with, whoever asks and whatever for.
CONSTANT = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events { worker_connections 2048; }
http {
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {
        listen 127.0.0.1:{port};
        location / {
            default_type application/json;
            return 200 '{"jsonrpc":"2.0","id":1,"result":{"structuredContent":{"text":"hello"}}}';
        }
    }
}
"""


@contextmanager
def constant():
    """nginx with one answer to everything: the least that a server of HTTP takes for a call."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(CONSTANT.replace("{folder}", folder).replace("{port}", str(port)))
        with running("nginx, constant", ["nginx", "-c", configuration], port) as server:
            yield server


def published():
    """The published shared-context server, on a SQLite file."""
    port = free_port()
    program = Path(python_with("shared-context.txt")).with_name("shared-context-server")
    environment = {
        "API_KEY": API_KEY,
        "JWT_SECRET_KEY": sha256(b"bench").hexdigest(),
        "JWT_ENCRYPTION_KEY": urlsafe_b64encode(sha256(b"bench").digest()).decode(),
        "DATABASE_URL": "sqlite:///{folder}/chat.db",
        "WEBSOCKET_PORT": free_port(),
        "LOG_LEVEL": "ERROR",
    }
    command = [program, "--transport", "http", "--host", "127.0.0.1", "--port", port, "--log-level", "ERROR"]
    return running(PUBLISHED, command, port, environment)


def post(request: Request) -> tuple:
    """Sends one request; returns status, headers and text of the answer."""
    answer = urllib.request.Request(request.url, request.body.encode(), request.headers, method="POST")
    with urllib.request.urlopen(answer, timeout=10) as response:
        return response.status, response.headers, response.read().decode()


def echo(server: Server, answers: str, in_session: bool = False) -> Request:
    """A call of echo, checked once: the right answer, in the right form.

    JSON is what clients of 2026-07-28 get from all of these servers. Event streams are what clients before it get; from
    ours those of 2026-07-28 do, too, that give them the greater weight. The others hold no sessions, so ours needs none;
    it can be asked in one, too.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    is_modern = answers == "json" or (server.name == "mcpscale" and not in_session)
    if is_modern and answers == "sse":
        headers["Accept"] = "application/json;q=0.5, text/event-stream"
    params = {"name": "echo", "arguments": {"text": "hello"}}
    if is_modern:
        headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "echo"}
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        }
    else:
        headers["MCP-Protocol-Version"] = LEGACY
    if in_session:
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
            headers["Mcp-Session-Id"] = open_session(connection, LEGACY)["Mcp-Session-Id"]
    call = {"jsonrpc": "2.0", "method": "tools/call", "params": params}
    request = Request(server.url, headers, json.dumps(call | {"id": 1}))
    status, found, text = post(request)
    expected = {"json": "application/json", "sse": "text/event-stream"}[answers]
    if status != 200 or not found["Content-Type"].startswith(expected) or '"text":"hello"' not in text:
        raise RuntimeError(f"{server.name} does not answer echo with {expected}: {status} {found} {text}")
    return request
