"""What a server takes for its work, read from the kernel, and load on a core of its own."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import polling

SERVER_CORE, LOAD_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
SCRIPT = Path(__file__).with_name("call.lua")


@dataclass
class Usage:
    """Processor time so far in seconds, and memory now in bytes, of a process and all its children."""

    cpu_seconds: float
    rss_bytes: int


def usage(pid: int) -> Usage:
    """Sums up a process and its descendants; a child that has ended counts through its parent."""
    cpu_ticks, rss_pages, parents = {}, {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It has ended since it was listed.
        one = int(entry.name)
        parents[one] = int(fields[1])
        cpu_ticks[one] = sum(int(ticks) for ticks in fields[11:15])
        rss_pages[one] = int(fields[21])
    family = {pid}
    while True:
        more = {one for one, parent in parents.items() if parent in family} | family
        if more == family:
            break
        family = more
    if pid not in parents:
        raise RuntimeError(f"the server (process {pid}) has ended")
    page = os.sysconf("SC_PAGE_SIZE")
    return Usage(sum(cpu_ticks[one] for one in family) / TICKS, sum(rss_pages[one] for one in family) * page)


@dataclass
class Request:
    """One request, for the load and for a check beforehand."""

    url: str
    headers: dict
    body: str


def by_wrk(request: Request, connections: int, seconds: int) -> dict:
    """Sends the request over and over from `connections` connections; each waits for its answer."""
    environment = os.environ | {
        "BENCH_BODY": request.body,
        "BENCH_HEADERS": "\n".join(f"{name}: {value}" for name, value in request.headers.items()),
    }
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(SCRIPT), request.url]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"wrk failed: {run.stderr or run.stdout}")
    return json.loads(run.stdout.splitlines()[-1])


def measured_load(pid: int, request: Request, connections: int, seconds: int, polls: bool = False) -> dict:
    """A load, by wrk or, on one connection, by a client that polls; and what the server took for it."""
    before = usage(pid)
    result = polling.load(request, seconds) if polls else by_wrk(request, connections, seconds)
    after = usage(pid)
    cpu = after.cpu_seconds - before.cpu_seconds
    requests = max(result["requests"], 1)
    return result | {
        "per_second": result["requests"] / result["seconds"],
        "cpu_seconds": cpu,
        "cpu_us_per_request": cpu / requests * 1e6,
        "rss_bytes": after.rss_bytes,
    }
