"""A Postgres for the bench: on the server's core, with every commit on this machine's disk before it counts."""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from measure import SERVER_CORE
from servers import free_port

READY_SECONDS = 30


def program(name: str) -> str:
    """A program of Debian's Postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise RuntimeError(f"{name} is missing: install it with `apt-get install -y postgresql`")
    return str(found[-1])


@contextmanager
def postgres():
    """Runs one until the block ends; gives its URL."""
    # Postgres refuses to run as root.
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
    folder, port = tempfile.mkdtemp(prefix="bench-postgres-"), free_port()
    if user:
        shutil.chown(folder, "postgres")
    data = f"{folder}/data"
    subprocess.run(
        [*user, program("initdb"), "--auth=trust", "--username=mcp", f"--pgdata={data}"],
        check=True, stdout=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "synchronous_commit=on", "fsync=on"]
    flags = [part for setting in settings for part in ("-c", setting)]
    with Path(folder, "log").open("wb") as log:
        command = ["taskset", "-c", SERVER_CORE, *user, program("postgres"), "-D", data, "-p", str(port), *flags]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while subprocess.run([program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Postgres does not start:\n{Path(folder, 'log').read_text()}")
            time.sleep(0.05)
        yield f"postgres://mcp@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def commits(url: str, seconds: int) -> list:
    """How long commits of a row take on one connection, one after the other, in milliseconds: what its disk allows."""
    with tempfile.TemporaryDirectory(prefix="bench-commits-") as folder:
        script = Path(folder, "script.sql")
        script.write_text("INSERT INTO bare_commits VALUES (1);")
        subprocess.run(
            [program("psql"), "--quiet", "--command=CREATE TABLE IF NOT EXISTS bare_commits (number int)", url],
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        # Its log has a line for each, with the microseconds in the third place.
        command = [program("pgbench"), "--no-vacuum", "--client=1", f"--time={seconds}", "--log", f"--file={script}", url]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        [log] = Path(folder).glob("pgbench_log.*")
        return [int(line.split()[2]) / 1000 for line in log.read_text().splitlines()]
