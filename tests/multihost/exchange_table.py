"""Exchanges between hosts, in round trips per second of all workers together, for 1 to 4 shards and 1 to 4 worker
hosts, each on a host of its own: python -m tests.multihost.exchange_table [PARAMETERS] [ROUNDS] [WORKER_HOSTS]

With WORKER_HOSTS only that row. All hosts share this machine's cores, and every byte is copied by them: see the last
line.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from distbelief.bench.exchange import floor
from distbelief.bench.exchanging import SECONDS, Load, serve, work
from tests.multihost.hosts import Hosts, hosts, missing

GOOGLENET = 13_378_280
ROUNDS = 7
MOST = 4


class Pipe:
    """Standard input and output, one JSON value per line."""

    def send(self, told: Any, /) -> None:
        print(json.dumps(told), flush=True)

    def recv(self) -> Any:
        if not (line := sys.stdin.readline()):
            raise EOFError
        return json.loads(line)


@contextmanager
def process(made: Hosts, number: int, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A shard or a worker host, in the network of one of the hosts."""
    command = [sys.executable, "-m", "tests.multihost.exchange_table", json.dumps(arguments)]
    started = subprocess.Popen(made.within(number, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        assert started.stdin is not None
        started.stdin.close()
        started.wait()


def ask(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def measure(made: Hosts, elements: int, shards: int, workers: int, rounds: int) -> list[float]:
    """Round trips per second, once per round; worker hosts come after the shards' hosts."""
    token = secrets.token_hex(16)
    load = (elements, workers, shards, workers, "float32")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        serving = [
            stack.enter_context(process(made, 1 + i, "serve", load, i, token, folder, made.address(1 + i)))
            for i in range(shards)
        ]
        targets = [ask(shard) for shard in serving]
        working = [
            stack.enter_context(process(made, 1 + MOST + i, "work", load, i, token, targets)) for i in range(workers)
        ]
        for host in working:
            ask(host)
        found = []
        for _ in range(rounds):
            for host in working:
                assert host.stdin is not None
                print(json.dumps(SECONDS), file=host.stdin, flush=True)
            found.append(sum(ask(host) for host in working))
        return found


def main(elements: int, rounds: int, row: int) -> None:
    if reason := missing():
        raise SystemExit(reason)
    alone = floor(elements)
    with hosts(2 * MOST, boot=False) as made:
        print(f"{elements:,} float32, round trips/s: median of {rounds} (ratio to the one-thread floor)")
        print("worker hosts  " + "".join(f"{shards} shards".rjust(16) for shards in range(1, MOST + 1)))
        for workers in [row] if row else range(1, MOST + 1):
            cells = []
            for shards in range(1, MOST + 1):
                base = alone()
                rate = statistics.median(measure(made, elements, shards, workers, rounds))
                cells.append(f"{rate:.2f} ({rate / base:.3f})".rjust(16))
            print(f"{workers:12d}  " + "".join(cells), flush=True)
    print(f"bound: {len(os.sched_getaffinity(0))} cores for all hosts; every byte is sent, received and added by them")


def run(arguments: Sequence[str]) -> None:
    match arguments:
        case [told] if told.startswith("["):
            match json.loads(told):
                case ["serve", load, index, token, folder, host]:
                    serve(Pipe(), Load(*load), index, token, folder, host)
                case ["work", load, worker, token, targets]:
                    work(Pipe(), Load(*load), range(worker, worker + 1), token, targets)
        case _:
            elements, rounds, row = [*map(int, arguments), *(GOOGLENET, ROUNDS, 0)[len(arguments) :]]
            main(elements, rounds, row)


if __name__ == "__main__":
    run(sys.argv[1:])
