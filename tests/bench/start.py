"""How long the server takes from its start to ready, with an empty database."""

import servers
from figures import below, say

STARTS = 10
BELOW_MS = 300


def rounds(options):
    """A result for each start."""
    for number in range(STARTS):
        with servers.ours(options.binary) as server:
            milliseconds = server.seconds_to_ready * 1000
        say(f"start {number + 1}: ready after {milliseconds:.0f} ms")
        yield {"milliseconds": milliseconds}


def report(results: list) -> list:
    """Prints the times in order; returns the goal, which is of the slowest."""
    times = sorted(result["milliseconds"] for result in results)
    print(f"\nstart to ready: {' '.join(f'{time:.0f}' for time in times)} ms")
    return [below(f"slowest of {len(times)} starts: time to ready", times[-1], BELOW_MS, "ms")]
