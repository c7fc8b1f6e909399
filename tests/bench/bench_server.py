#!/usr/bin/env python3
"""Measures the MCP server side by side with others, in rounds in which each has its turn.

Each server runs on one core and the load on another, with the same payload. What is printed are medians of the rounds
and ratios of them; all results are kept as JSON. A shared machine is noisy: figures of different runs do not compare.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import context
import servers
from measure import LOAD_CORE, measured_load, usage
from postgres import postgres

ECHO_TARGETS = {("json", "FastMCP"): 40, ("json", "TypeScript SDK"): 16, ("sse", "FastMCP"): 30}
AGENTS_TARGET = 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="mcp-server, as released")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, at least 3 for figures that count")
    parser.add_argument("--seconds", type=int, default=8, help="length of a load")
    parser.add_argument("--warm-up", type=int, default=2, help="length of the load before each load")
    parser.add_argument("--repetitions", type=int, default=200, help="calls of an operation in a round")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 50, 1000])
    parser.add_argument("--messages", type=int, default=1000, help="messages of the session that is searched")
    parser.add_argument("--only", choices=("echo", "context"), help="one part only")
    parser.add_argument("--output", type=Path, required=True, help="file for all results")
    return parser.parse_args()


def echo_rounds(options: argparse.Namespace):
    """Loads of echo: a result for each answer form, number of connections, round and server."""
    for answers in ("json", "sse"):
        with ExitStack() as stack:
            started = [
                stack.enter_context(one)
                for one in (servers.ours(options.binary), servers.fastmcp(answers), servers.typescript(answers))
            ]
            requests = {server.name: servers.echo(server, answers) for server in started}
            for server in started:
                yield {"server": server.name, "answers": answers, "idle_rss_bytes": usage(server.pid).rss_bytes}
            for connections in options.connections:
                for number in range(options.rounds):
                    # Each goes first in turn.
                    turn = number % len(started)
                    for server in started[turn:] + started[:turn]:
                        request = requests[server.name]
                        measured_load(server.pid, request, connections, options.warm_up)
                        result = measured_load(server.pid, request, connections, options.seconds)
                        who = {"server": server.name, "answers": answers, "connections": connections, "round": number}
                        say(f"{answers} c={connections} round {number + 1}: {server.name} {result['per_second']:.0f}/s")
                        yield who | result


def context_rounds(options: argparse.Namespace):
    """The operations of shared context: a result for each operation, round and server."""
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        started = {
            "mcpscale, SQLite": servers.ours(options.binary, with_key=True),
            "mcpscale, Postgres": servers.ours(options.binary, database, with_key=True),
            "shared-context 1.1.10": servers.published(),
        }
        workloads = []
        for name, server in started.items():
            say(f"{name}: preparing {options.messages} messages")
            workloads.append(context.Workload(stack.enter_context(server), name, options.messages))
        for number in range(options.rounds):
            turn = number % len(workloads)
            for operation in context.TARGETS_MS:
                for workload in workloads[turn:] + workloads[:turn]:
                    result = workload.round_of(operation, options.repetitions)
                    say(f"round {number + 1}: {workload.name} {operation} p95 {result['p95_ms']:.2f} ms")
                    yield result | {"round": number}
            for workload in workloads[turn:] + workloads[:turn]:
                result = workload.round_of_agents(options.seconds)
                say(f"round {number + 1}: {workload.name} {result['operation']} {result['per_second']:.0f}/s")
                yield result | {"round": number}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def medians(results: list, keys: tuple, value: str) -> dict:
    """The median of a value over the rounds, by what the keys say."""
    values = {}
    for result in results:
        if value in result:
            values.setdefault(tuple(result[key] for key in keys), []).append(result[value])
    return {key: median(many) for key, many in values.items()}


def verdict(value: float, target: float, better_below: bool = False) -> str:
    met = value < target if better_below else value >= target
    return f"{'met' if met else 'MISSED'} ({'<' if better_below else '≥'} {target:g})"


def print_echo(results: list) -> None:
    keys = ("answers", "connections", "server")
    rate, cpu = medians(results, keys, "per_second"), medians(results, keys, "cpu_us_per_request")
    p50, p99 = medians(results, keys, "p50_us"), medians(results, keys, "p99_us")
    rss = medians(results, keys, "rss_bytes")
    head = f"{'echo':6} {'c':>5} {'server':16} {'per s':>9} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs':>8} {'RSS MB':>7}"
    print(f"\n{head}  ours, per CPU second")
    for key, per_second in rate.items():
        answers, connections, server = key
        own = (answers, connections, "mcpscale")
        ratio = cpu[key] / cpu[own] if cpu[own] else float("inf")
        line = f"{answers:6} {connections:>5} {server:16} {per_second:>9.0f} {p50[key] / 1000:>8.2f}"
        line += f" {p99[key] / 1000:>8.2f} {cpu[key]:>8.1f} {rss[key] / 1e6:>7.1f}"
        if server != "mcpscale":
            line += f"  {ratio:.1f}×"
            target = ECHO_TARGETS.get((answers, server))
            line += f" {verdict(ratio, target)}" if target else ""
        print(line)


def print_context(results: list) -> None:
    keys = ("operation", "server")
    p50, p95 = medians(results, keys, "p50_ms"), medians(results, keys, "p95_ms")
    head = f"{'operation':22} {'server':22} {'p50 ms':>8} {'p95 ms':>8}"
    print(f"\n{head}  how many times the published server's p95 is; a fifth of the target")
    for (operation, server), high in p95.items():
        line = f"{operation:22} {server:22} {p50[operation, server]:>8.2f} {high:>8.2f}"
        if server.startswith("mcpscale"):
            published = p95[operation, "shared-context 1.1.10"]
            line += f"  {published / high:.1f}× {verdict(high, context.TARGETS_MS[operation] / 5, better_below=True)}"
        print(line)
    rate, failures = medians(results, keys, "per_second"), medians(results, keys, "failures")
    for (operation, server), per_second in rate.items():
        line = f"{operation:22} {server:22} {per_second:>8.0f}/s, failures {failures[operation, server]:.0f}"
        if server.startswith("mcpscale"):
            ratio = per_second / max(rate[operation, "shared-context 1.1.10"], 1e-9)
            line += f"  {ratio:.1f}× {verdict(ratio, AGENTS_TARGET)}"
        print(line)


def commit() -> str:
    git = ["git", "-C", str(servers.HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    options = arguments()
    if (os.cpu_count() or 1) < 2:
        sys.exit("bench_server.py: server and load need a core each; this machine has one")
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    report = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load_average": os.getloadavg()},
        "commit": commit(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "echo": [],
        "context": [],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for part, rounds in (("echo", echo_rounds), ("context", context_rounds)):
        if options.only in (None, part):
            for result in rounds(options):
                report[part].append(result)
                options.output.write_text(json.dumps(report, indent=1))
    if report["echo"]:
        print_echo(report["echo"])
    if report["context"]:
        print_context(report["context"])
    print(f"\nAll results: {options.output}")
    failures = sum(result.get("failures", 0) for part in ("echo", "context") for result in report[part])
    if failures:
        sys.exit(f"bench_server.py: {failures} requests failed; the figures must not be trusted")


if __name__ == "__main__":
    main()
