"""A tool that returns its argument, asked as often as possible: what a call costs, in each form of answer.

The ratios are those of processor time, which the kernel counts, not of calls per second, which the load takes part in.
"""

from contextlib import ExitStack

import servers
from figures import at_least, medians, say
from measure import measured_load, usage
from servers import FASTMCP, TYPESCRIPT

OURS, IN_SESSION = "mcpscale", "mcpscale, session"
# The slowest of the servers answers more calls a second. A load is so long that each connection has its turn.
SLOWEST_PER_SECOND = 40
POLLING, WRK = "polls", "wrk"
TARGETS = {("json", FASTMCP): 40, ("json", TYPESCRIPT): 16, ("sse", FASTMCP): 30}


def rounds(options):
    """A result for each answer form, number of connections, round and server."""
    for answers in ("json", "sse"):
        with ExitStack() as stack:
            started = [
                stack.enter_context(one)
                for one in (servers.ours(options.binary), servers.fastmcp(answers), servers.typescript(answers))
            ]
            asked = [(server.name, server, servers.echo(server, answers)) for server in started]
            if answers == "json":
                # The floor: what the kernel and HTTP take by themselves.
                floor = stack.enter_context(servers.constant())
                asked.append((floor.name, floor, servers.echo(floor, answers)))
            else:
                # What clients up to 2025-11-25 get: answers that are kept for those whose connection breaks.
                older = stack.enter_context(servers.ours(options.binary))
                asked.append((IN_SESSION, older, servers.echo(older, answers, in_session=True)))
            for name, server, _ in asked:
                idle = usage(server.pid).rss_bytes
                yield {"server": name, "answers": answers, "idle_rss_bytes": idle}
            for connections, client in loads(options.connections):
                polls = client == POLLING
                seconds = max(options.seconds, connections // SLOWEST_PER_SECOND)
                for number in range(options.rounds):
                    # Each goes first in turn.
                    turn = number % len(asked)
                    for name, server, request in asked[turn:] + asked[:turn]:
                        measured_load(server.pid, request, connections, options.warm_up, polls)
                        result = measured_load(server.pid, request, connections, seconds, polls)
                        who = {"server": name, "answers": answers, "connections": connections, "client": client}
                        say(f"{answers} c={connections} {client} round {number + 1}: {name} {result['per_second']:.0f}/s")
                        yield who | {"round": number} | result


def loads(connections: list) -> list:
    """Numbers of connections, each with its client."""
    return [(number, client) for number in connections for client in (POLLING, WRK) if number == 1 or client == WRK]


def report(results: list) -> list:
    """Prints the medians; returns the goals."""
    keys = ("answers", "connections", "client", "server")
    rate, cpu = medians(results, keys, "per_second"), medians(results, keys, "cpu_us_per_request")
    calls = medians(results, keys, "requests")
    p50, p99 = medians(results, keys, "p50_us"), medians(results, keys, "p99_us")
    failed = medians(results, keys, "failures")
    rss, idle = medians(results, keys, "rss_bytes"), medians(results, ("answers", "server"), "idle_rss_bytes")
    head = f"{'echo':5} {'c':>5} {'client':6} {'server':17} {'per s':>7} {'p50 ms':>7} {'p99 ms':>8} {'CPU µs':>8} {'per CPU s':>9}"
    print(f"\n{head} {'RSS MB':>6} {'idle MB':>7} {'failed':>6}  ours, per CPU second")
    goals = []
    for key in rate:
        answers, connections, client, server = key
        ratio = cpu[key] / cpu[answers, connections, client, OURS]
        if calls[key] < connections:
            # Most of the time went into connections: no figure that counts, and no goal that is met.
            ratio = float("nan")
        line = f"{answers:5} {connections:>5} {client:6} {server:17} {rate[key]:>7.0f} {p50[key] / 1000:>7.2f}"
        line += f" {p99[key] / 1000:>8.2f} {cpu[key]:>8.1f} {1e6 / cpu[key]:>9.0f} {rss[key] / 1e6:>6.1f}"
        line += f" {idle[answers, server] / 1e6:>7.1f} {failed[key]:>6.0f}"
        print(line if server == OURS else f"{line}  {ratio:.1f}×")
        # On one connection wrk sleeps, and the server is charged with waking it: shown, but not judged.
        is_judged = client == POLLING or connections > 1
        if is_judged and (answers, server) in TARGETS:
            what = f"echo as {answers}, c={connections}: calls per CPU second, times those of {server}"
            goals.append(at_least(what, ratio, TARGETS[answers, server]))
    return goals
