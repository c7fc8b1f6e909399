#!/usr/bin/env python3
"""Measures the MCP server side by side with others, and judges it by its goals.

Each server runs on one core and the load on another, in rounds in which each server has its turn. Results are medians
of the rounds and ratios of them; everything measured is kept as JSON. Exit status: 0 if every goal is met, 1 if not,
2 if the figures must not be trusted.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import cluster
import context
import echo
import memory
import servers
import soak
import start
from figures import print_goals, say
from measure import LOAD_CORE

# What measures a part, and what judges it.
PARTS = {
    "start": (start.rounds, start.report),
    "echo": (echo.rounds, echo.report),
    "context": (context.rounds, context.report),
    "connections": (memory.connection_rounds, memory.report_connections),
    "sessions": (memory.session_rounds, memory.report_sessions),
    "soak": (soak.rounds, soak.report),
    "image": (cluster.image_rounds, cluster.report_image),
    "replicas": (cluster.replica_rounds, cluster.report_replicas),
}
ROUNDS_THAT_COUNT = 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="mcp-server, as released")
    parser.add_argument("--load", type=Path, required=True, help="mcp-load, as released")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts, instead of all")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, at least 3 for figures that count")
    parser.add_argument("--seconds", type=int, default=8, help="length of a load")
    parser.add_argument("--warm-up", type=int, default=2, help="length of the load before each load")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 50, 1000], help="of the loads of echo")
    parser.add_argument("--repetitions", type=int, default=200, help="calls of an operation in a round, at least")
    parser.add_argument("--messages", type=int, default=1000, help="messages of the session that is searched")
    parser.add_argument("--keep-alive", type=int, default=10_000, help="connections that stay open")
    parser.add_argument("--idle-sessions", type=int, default=1000, help="sessions that nobody uses")
    parser.add_argument("--soak-minutes", type=float, default=10, help="length of the part of the soak that is judged")
    parser.add_argument("--output", type=Path, required=True, help="file for all results")
    return parser.parse_args()


def commit() -> str:
    git = ["git", "-C", str(servers.HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    options = arguments()
    if (os.cpu_count() or 1) < 2:
        say("bench_server.py: server and load need a core each; this machine has one")
        return 2
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    kept = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load_average": os.getloadavg()},
        "commit": commit(),
        "options": {name: str(value) for name, value in vars(options).items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        for part in options.only:
            measure, _ = PARTS[part]
            kept[part] = []
            for result in measure(options):
                kept[part].append(result)
                options.output.write_text(json.dumps(kept, indent=1))
        goals = [goal for part in options.only for goal in PARTS[part][1](kept[part])]
    except (RuntimeError, OSError) as error:
        say(f"bench_server.py: {error}\nWhat was measured before: {options.output}")
        return 2
    kept["goals"] = [asdict(goal) | {"is_met": goal.is_met} for goal in goals]
    options.output.write_text(json.dumps(kept, indent=1))
    print_goals(goals)
    if options.rounds < ROUNDS_THAT_COUNT:
        print(f"These are figures of {options.rounds} rounds; only {ROUNDS_THAT_COUNT} or more count.")
    print(f"All results: {options.output}")
    ours = (result for part in options.only for result in kept[part] if result.get("server") not in servers.PEERS)
    failures = sum(result.get("failures", 0) for result in ours)
    if failures:
        say(f"bench_server.py: {failures} requests failed; the figures must not be trusted")
        return 2
    return 0 if all(goal.is_met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
