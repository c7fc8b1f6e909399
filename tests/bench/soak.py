"""Mixed load for minutes: does memory still grow when all that is bounded is full?"""

import json
import subprocess
import time
from itertools import pairwise
from math import sqrt
from statistics import mean

import servers
from figures import at_least, below, say
from measure import LOAD_CORE, usage

RATE = 1000
# The server keeps its own figures of five minutes, and all else that is bounded is full before them; but the pages that
# its allocator needs for as many bytes settle only after that.
WARM_UP_SECONDS = 600
# Small enough to be full long before the part that is judged.
CACHE_BYTES = 4 * 1024 * 1024
# Samples that follow each other are far from independent; the means of so many blocks of them are less so, and how much
# is taken into account.
BLOCKS = 20
# Of Student's t with BLOCKS - 2 degrees of freedom: 95 % lie between minus and plus this.
T_95 = 2.101
# Growth in MB per hour that nobody would notice in the life of a pod.
SLOPE_BELOW = 0.5
# A run whose slope may be off by more MB per hour says nothing.
OFF_BELOW = 3
# What mcp-load ends with when all calls were answered or shed, and when some failed; with all else its report is not to
# be trusted.
ANSWERED, SOME_FAILED = 0, 3
# Share of the cache that must be in use before memory is judged.
FULL = 0.9


def rounds(options):
    """One soak: memory of each second, and what became of the calls."""
    if not options.soak_minutes:
        return
    seconds = WARM_UP_SECONDS + round(options.soak_minutes * 60)
    with servers.ours(options.binary, flags=["--cache-l1-bytes", str(CACHE_BYTES)]) as server:
        report = server.log.with_name("load.json")
        command = ["taskset", "-c", LOAD_CORE, options.load, "run", "--url", server.url, "--era", "mixed"]
        command += ["--mix", "shared-context", "--phase", f"constant:{RATE}:{seconds}s", "--json", report]
        say(f"soak: {RATE} calls per second for {seconds} s")
        log = server.log.with_name("load.log")
        with log.open("wb") as output:
            load = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output)
        samples, cached = [], 0.0
        cpu, started = usage(server.pid).cpu_seconds, time.monotonic()
        try:
            while load.poll() is None:
                now = usage(server.pid)
                samples.append([round(time.monotonic() - started, 2), now.rss_bytes])
                if len(samples) == WARM_UP_SECONDS:
                    cached = servers.metric(server, 'mcp_cache_bytes{tier="l1"}')
                time.sleep(max(0.0, len(samples) - (time.monotonic() - started)))
        finally:
            load.terminate()
            load.wait()
        if load.returncode not in (ANSWERED, SOME_FAILED) or not report.exists():
            raise RuntimeError(f"mcp-load ended with {load.returncode}:\n{log.read_text()[-3000:]}")
        cpu = usage(server.pid).cpu_seconds - cpu
        calls = json.loads(report.read_text())
        what = {"seconds": seconds, "rate": RATE, "cpu_seconds": cpu, "cache_bytes": cached}
        # A server that refuses its work needs no memory for it.
        what |= {"failures": calls["total"]["failed"], "shed": calls["total"]["shed"]}
        yield what | {"rss": samples, "load": calls}


def slope(samples: list) -> tuple:
    """Growth in bytes per second over samples of (second, bytes), and by how much it may be off, by 95 % confidence.

    A straight line by least squares through the means of blocks. A block is like the one before it, so they tell less
    than as many independent ones: as much as (1 - r) / (1 + r) of them, r being the correlation of neighbours.
    """
    size = len(samples) // BLOCKS
    blocks = [samples[place * size : (place + 1) * size] for place in range(BLOCKS)]
    points = [(mean(second for second, _ in block), mean(value for _, value in block)) for block in blocks]
    middle, level = mean(x for x, _ in points), mean(y for _, y in points)
    spread = sum((x - middle) ** 2 for x, _ in points)
    gradient = sum((x - middle) * (y - level) for x, y in points) / spread
    rests = [y - level - gradient * (x - middle) for x, y in points]
    rest = sum(one * one for one in rests)
    alike = max(0.0, sum(one * next_one for one, next_one in pairwise(rests)) / rest) if rest else 0.0
    return gradient, T_95 * sqrt(rest / (BLOCKS - 2) / spread * (1 + alike) / (1 - alike))


def report(results: list) -> list:
    """Prints the memory of each tenth and the slope; returns the goals."""
    goals = []
    for result in results:
        samples = result["rss"]
        judged = [sample for sample in samples if sample[0] >= WARM_UP_SECONDS]
        if len(judged) < 2 * BLOCKS:
            raise RuntimeError("a soak is judged from a minute on")
        tenths = [samples[place * (len(samples) - 1) // 10][1] / 1e6 for place in range(11)]
        print(f"\nsoak of {result['seconds']} s at {result['rate']} calls per second: RSS MB by tenths of the time")
        print("  " + " ".join(f"{megabytes:.1f}" for megabytes in tenths))
        gradient, off = (value * 3600 / 1e6 for value in slope(judged))
        print(f"  after {WARM_UP_SECONDS} s: {gradient:+.2f} ± {off:.2f} MB per hour (95 % confidence)")
        print(f"  {result['failures']} calls failed, {result['shed']} were shed")
        # No slope upward: not even at the lower end of what the growth may be. A run that knows too little would always
        # meet that, so it must know enough, too.
        what = "soak, when all is full: growth of RSS that is sure, per hour"
        goals.append(below(what, gradient - off, SLOPE_BELOW, "MB"))
        goals.append(below("soak: by how much that growth may be off", off, OFF_BELOW, "MB"))
        full = result["cache_bytes"] / CACHE_BYTES
        goals.append(at_least("soak: share of the cache in use when memory begins to be judged", full, FULL, ""))
        goals.append(below("soak: calls that were shed", result["shed"], 1, "calls"))
    return goals
