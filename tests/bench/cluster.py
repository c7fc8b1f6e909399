"""What only a cluster shows: the image that its nodes pull, and what a second replica is worth."""

import json
import os
import subprocess
from pathlib import Path
from statistics import median

from figures import at_least, below, say

REPOSITORY = Path(__file__).parents[2]
IMAGE_BELOW_MB = 60
REPLICAS_TARGET = 1.8
# What the bench of the replicas prints after its last round, before it judges.
JUDGED = "(goal: "


def image_rounds(options):
    """The size of the image as `docker save` writes it, built if its sources are new."""
    for line in made("images").splitlines():
        archive, *names = line.split(" ")
        for name in names:
            if "/mcp-server:" in name:
                yield {"image": name, "bytes": Path(archive).stat().st_size}


def replica_rounds(options):
    """Answers per second of one replica and of two, which have their turns one after the other, in each round."""
    for line in made("bench-replicas").splitlines():
        if line.startswith("{"):
            result = json.loads(line)
            rates = [f"{name} {value:.0f}" for name, value in result.items() if name.endswith("_per_second")]
            say(f"replicas round {result['round']}: {', '.join(rates)}")
            yield result


def made(target: str) -> str:
    """What a target of the Makefile prints. It may use all cores, while this process and its other children keep to one."""
    all_cores = f"0-{(os.cpu_count() or 1) - 1}"
    say(f"make {target}")
    command = ["taskset", "-c", all_cores, "make", "--no-print-directory", target]
    run = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    # A test that fails by its figures has printed all of them.
    if run.returncode and JUDGED not in run.stdout:
        raise RuntimeError(f"make {target} failed:\n{run.stdout[-3000:]}")
    return run.stdout


def report_image(results: list) -> list:
    """Prints the size; returns the goal."""
    [result] = results
    megabytes = result["bytes"] / 1e6
    print(f"\nimage {result['image']}: {megabytes:.1f} MB")
    return [below("size of the image", megabytes, IMAGE_BELOW_MB, "MB")]


def report_replicas(results: list) -> list:
    """Prints the medians; returns the goal."""
    one, two = (median(result[f"{count}_per_second"] for result in results) for count in ("one", "two"))
    print(f"\nreplicas of 250m behind nginx: one {one:.0f} calls per second, two {two:.0f}, {two / one:.2f}×")
    return [at_least("two replicas of 250m: calls per second, times those of one", two / one, REPLICAS_TARGET)]
