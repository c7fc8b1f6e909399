"""The operations of shared context, asked by clients of 2025-06-18, the same for every server."""

import http.client
import json
import threading
import time
from contextlib import ExitStack
from functools import partial
from itertools import count

import servers
from client import Client, connected
from figures import at_least, below, medians, say
from measure import usage
from postgres import commits, postgres
from servers import API_KEY, PUBLISHED

# Agents may have 50 sessions in use at once.
SESSIONS_OF_AN_AGENT = 40
MESSAGES_OF_A_SESSION = 5_000
KEYS_OF_AN_AGENT = 500
# The kernel of a shared machine takes a core for tens of milliseconds now and then; a round lasts long enough that such
# a moment is few of its calls.
ROUND_SECONDS = 2
AGENTS = 20
# What no server on this Postgres and disk can be faster than: a row of one number, committed.
COMMIT, BARE_POSTGRES = "one row", "Postgres by itself"
# Operations per second with many agents, as a multiple of the published server's.
AGENTS_TARGET = 20
WORDS = (
    "agent session message error timeout cache database performance index query search fuzzy score analysis complete "
    "deployment pipeline review results"
).split()

# Operation, and the 95th percentile that its documentation promises, in milliseconds.
TARGETS_MS = {
    "create_session": 10,
    "add_message": 20,
    "get_messages(50)": 30,
    "search_context": 100,
    "set_memory": 10,
    "get_memory": 10,
    "token check": 5,
}


def rounds(options):
    """A result for each operation, round and server, and for Postgres by itself."""
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        started = {
            "mcpscale, SQLite": servers.ours(options.binary, with_key=True),
            "mcpscale, Postgres": servers.ours(options.binary, database, with_key=True),
            PUBLISHED: servers.published(),
        }
        workloads = []
        for name, server in started.items():
            say(f"{name}: preparing {options.messages} messages")
            workloads.append(Workload(stack.enter_context(server), name, options.messages))
        for number in range(options.rounds):
            # Each goes first in turn.
            turn = number % len(workloads)
            bare = round_of(COMMIT, commits(database, ROUND_SECONDS))
            say(f"round {number + 1}: {BARE_POSTGRES} {COMMIT} p95 {bare['p95_ms']:.2f} ms")
            yield {"server": BARE_POSTGRES, "round": number} | bare
            for operation in TARGETS_MS:
                for workload in workloads[turn:] + workloads[:turn]:
                    result = workload.round_of(operation, options.repetitions, options.warm_up)
                    say(f"round {number + 1}: {workload.name} {operation} p95 {result['p95_ms']:.2f} ms")
                    yield result | {"round": number}
            for workload in workloads[turn:] + workloads[:turn]:
                result = workload.round_of_agents(options.seconds)
                say(f"round {number + 1}: {workload.name} {result['operation']} {result['per_second']:.0f}/s")
                yield result | {"round": number}


def report(results: list) -> list:
    """Prints the medians; returns the goals."""
    keys = ("operation", "server")
    p50, p95 = medians(results, keys, "p50_ms"), medians(results, keys, "p95_ms")
    print(f"\n{'operation':17} {'server':22} {'p50 ms':>8} {'p95 ms':>8}  the published server's p95 is")
    goals = []
    for (operation, server), high in p95.items():
        line = f"{operation:17} {server:22} {p50[operation, server]:>8.2f} {high:>8.2f}"
        if server not in (PUBLISHED, BARE_POSTGRES):
            line += f"  {p95[operation, PUBLISHED] / high:.1f}×"
            goals.append(below(f"{server}: p95 of {operation}", high, TARGETS_MS[operation] / 5, "ms"))
        print(line)
    rate, failures = medians(results, keys, "per_second"), medians(results, keys, "failures")
    cpu, rss = medians(results, keys, "cpu_us_per_operation"), medians(results, keys, "rss_bytes")
    print(f"\n{'together':17} {'server':22} {'per s':>8} {'CPU µs':>8} {'RSS MB':>7} {'failed':>7}  times the published server's")
    for key, per_second in rate.items():
        operation, server = key
        line = f"{operation:17} {server:22} {per_second:>8.0f} {cpu[key]:>8.0f} {rss[key] / 1e6:>7.1f} {failures[key]:>7.0f}"
        if server != PUBLISHED:
            ratio = per_second / max(rate[operation, PUBLISHED], 1e-9)
            line += f"  {ratio:.1f}×"
            what = f"{server}: operations per second with {operation}, times the published server's"
            goals.append(at_least(what, ratio, AGENTS_TARGET))
            goals.append(below(f"{server}: failures with {operation}", failures[key], 1, "calls"))
        print(line)
    return goals


def round_of(operation: str, milliseconds: list) -> dict:
    """The figures of an operation that took so long each time."""
    milliseconds = sorted(milliseconds)
    many = len(milliseconds)
    return {
        "operation": operation,
        "repetitions": many,
        "mean_ms": sum(milliseconds) / many,
        "p50_ms": milliseconds[many // 2],
        "p95_ms": milliseconds[min(many - 1, many * 95 // 100)],
        "max_ms": milliseconds[-1],
    }


def sentence(number: int) -> str:
    """A message of about 100 characters, another for each number."""
    words = [WORDS[(number * 7 + place * (number % 5 + 3)) % len(WORDS)] for place in range(13)]
    return f"{' '.join(words)} {number}"


def has_message_id(answer: dict) -> bool:
    """Whether a message has been stored."""
    return answer.get("message_id") is not None


class Workload:
    """The operations on one server, with what they need prepared: a session of many messages.

    What prepares an operation returns the call that is timed, and what says of its answer whether it is right.
    """

    def __init__(self, server, name: str, messages: int):
        self.server, self.name = server, name
        self.client = connected(server.port, API_KEY)
        self.session, self.messages = self.new_session(), [sentence(number) for number in range(messages)]
        for message in self.messages:
            self.client.call("add_message", session_id=self.session, content=message)
        self.busy = self.new_session()
        self.turn = count(1)
        self.created = self.added = 0

    def new_session(self) -> str:
        return self.client.call("create_session", purpose="bench")["session_id"]

    def create_session(self, number: int):
        self.created += 1
        if self.created % SESSIONS_OF_AN_AGENT == 0:
            self.client.become(f"bench-{self.created}")
        return partial(self.client.call, "create_session", purpose="bench"), lambda answer: answer.get("session_id")

    def add_message(self, number: int):
        self.added += 1
        if self.added % MESSAGES_OF_A_SESSION == 0:
            self.busy = self.new_session()
        call = partial(self.client.call, "add_message", session_id=self.busy, content=sentence(number))
        return call, has_message_id

    def get_messages(self, number: int):
        # No cache can answer: the offset differs until the last page, and then a new message makes all pages old.
        offset = number % max(len(self.messages) - 50, 1)
        if offset == 0:
            self.client.call("add_message", session_id=self.session, content=sentence(number))
        wanted = self.messages[offset : offset + 50]
        call = partial(self.client.call, "get_messages", session_id=self.session, limit=50, offset=offset)
        return call, lambda answer: [message.get("content") for message in answer.get("messages", [])] == wanted

    def search_context(self, number: int):
        # The start of a message, and a number, so that each query is another.
        words = self.messages[number % len(self.messages)][:20]
        call = partial(self.client.call, "search_context", session_id=self.session, query=f"{words} {number}")
        # What fits best may end with that number instead, but has the first word in any case.
        return call, lambda answer: words.split()[0] in json.dumps(answer.get("results"))

    def set_memory(self, number: int):
        key, value = f"key-{number % KEYS_OF_AN_AGENT}", {"number": number, "text": sentence(number)}
        return partial(self.client.call, "set_memory", key=key, value=value), lambda answer: answer.get("key") == key

    def get_memory(self, number: int):
        key, value = f"read-{number % 5}", {"number": number}
        self.client.call("set_memory", key=key, value=value)
        return partial(self.client.call, "get_memory", key=key), lambda answer: answer.get("value") == value

    def check_token(self, number: int):
        call = partial(self.client.call, "get_usage_guidance", guidance_type="operations")
        return call, lambda answer: answer.get("guidance")

    def operations(self) -> dict:
        """For each operation, what prepares it."""
        prepared = (
            self.create_session, self.add_message, self.get_messages, self.search_context,
            self.set_memory, self.get_memory, self.check_token,
        )  # fmt: skip
        return dict(zip(TARGETS_MS, prepared, strict=True))

    def round_of(self, operation: str, repetitions: int, warm_up: float) -> dict:
        """Times an operation, one after the other, so often and for so long at least; what it takes for the seconds
        before does not count."""
        prepare = self.operations()[operation]
        # A server may have closed what was idle since the last round; the next call connects anew.
        self.client.connection.close()
        milliseconds, begun = [], time.monotonic() + warm_up
        # What prepares a call is not to be counted, so the processor's time is not taken here.
        while len(milliseconds) < repetitions or time.monotonic() < begun + ROUND_SECONDS:
            call, is_right = prepare(next(self.turn))
            started = time.perf_counter()
            answer = call()
            if time.monotonic() > begun:
                milliseconds.append((time.perf_counter() - started) * 1000)
            # After the clock is read: who answers without content must not win.
            if not is_right(answer):
                raise RuntimeError(f"{self.name} answers {operation} with {str(answer)[:500]}")
        return {"server": self.name} | round_of(operation, milliseconds)

    def round_of_agents(self, seconds: float) -> dict:
        """20 agents add a message and read ten, as fast as they can.

        The time ends with the last answer: a server that breaks down has been as fast as it was until then.
        """
        end = [0.0]
        done, failures, last, together = [], [], [], threading.Barrier(AGENTS + 1)

        def agent(number: int) -> None:
            operations, failed, answered = 0, 0, 0.0
            try:
                client = Client(self.server.port, API_KEY)
                client.become(f"agent-{number}")
                session = client.call("create_session", purpose="bench")["session_id"]
            finally:
                together.wait()
            while time.monotonic() < end[0]:
                try:
                    added = client.call("add_message", session_id=session, content=sentence(operations))
                    read = client.call("get_messages", session_id=session, limit=10)
                    if not has_message_id(added) or not read.get("messages"):
                        raise RuntimeError("an answer is without content")
                    operations, answered = operations + 2, time.monotonic()
                except (RuntimeError, OSError, http.client.HTTPException) as error:
                    say(f"{self.name}: {error}")
                    failed += 1
                    # A call whose answer has not come blocks the connection for all that follow.
                    client.connection.close()
            done.append(operations)
            failures.append(failed)
            last.append(answered)

        threads = [threading.Thread(target=agent, args=(number,)) for number in range(AGENTS)]
        for thread in threads:
            thread.start()
        end[0] = float("inf")
        together.wait()
        before, started = usage(self.server.pid), time.monotonic()
        end[0] = started + seconds
        for thread in threads:
            thread.join()
        took, after = max(started + 0.001, *last) - started, usage(self.server.pid)
        operations = sum(done)
        return {
            "server": self.name,
            "operation": f"{AGENTS} agents",
            "operations": operations,
            "failures": sum(failures) + AGENTS - len(done),
            "seconds": took,
            "per_second": operations / took,
            "cpu_us_per_operation": (after.cpu_seconds - before.cpu_seconds) / max(operations, 1) * 1e6,
            "rss_bytes": after.rss_bytes,
        }
