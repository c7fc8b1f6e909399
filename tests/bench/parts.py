#!/usr/bin/env python3
"""Prints what criterion measured beside real alternatives, as ratios; `make bench-parts` runs it.

RapidFuzz is measured here, on the cases that the bench of the search has written. The other alternatives are measured
by the benches themselves.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

from rapidfuzz import fuzz, process

# What a name in criterion's folder is compared with.
ALTERNATIVES = {
    "cache/hit/ours": ("cache/hit/moka", "moka"),
    "cache/miss/ours": ("cache/miss/moka", "moka"),
    "cache/eviction/ours": ("cache/eviction/moka", "moka"),
    "token/verified before": ("token/jsonwebtoken", "jsonwebtoken"),
    "token/new (ES256)": ("token/jsonwebtoken", "jsonwebtoken"),
}
RAPIDFUZZ_RUNS = 15


def criterion_results(folder: Path) -> dict:
    """Median time of each bench, in nanoseconds, by its name."""
    results = {}
    for file in sorted(folder.glob("**/new/benchmark.json")):
        estimates = json.loads(file.with_name("estimates.json").read_text())
        results[json.loads(file.read_text())["full_id"]] = estimates["median"]["point_estimate"]
    return results


def rapidfuzz_results(cases: Path) -> dict:
    """Median time of RapidFuzz for each case, in nanoseconds, by the name of our bench."""
    results = {}
    for line in cases.read_text().splitlines():
        case = json.loads(line)
        times = []
        for _ in range(RAPIDFUZZ_RUNS):
            started = time.perf_counter_ns()
            # One call from Python for all messages: nearly all of the time is spent in C++.
            process.cdist([case["query"]], case["messages"], scorer=fuzz.partial_ratio, score_cutoff=case["cutoff"])
            times.append(time.perf_counter_ns() - started)
        results[f"search/{case['id']}"] = median(times)
    return results


def shown(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:.2f} µs" if nanoseconds < 1e6 else f"{nanoseconds / 1e6:.2f} ms"


def main() -> None:
    ours, cases = criterion_results(Path(sys.argv[1])), Path(sys.argv[2])
    beside = {name: (time, "RapidFuzz") for name, time in rapidfuzz_results(cases).items()}
    beside |= {name: (ours[other], label) for name, (other, label) in ALTERNATIVES.items()}
    others = {other for other, _ in ALTERNATIVES.values()}
    print(f"\n{'part':38} {'ours':>10} {'other':>10}  other, ours = 1")
    for name, taken in ours.items():
        if name in others:
            continue
        line = f"{name:38} {shown(taken):>10}"
        if name in beside:
            other, label = beside[name]
            line += f" {shown(other):>10}  {label} {other / taken:.2f}"
        print(line)


if __name__ == "__main__":
    main()
