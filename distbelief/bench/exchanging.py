"""Exchanging: a parameter server under full load in processes of its own, for benches. No Ray, no computing.

What it serves and who asks are the run's own pieces: shards behind gRPC, worker hosts' connections. Each worker pushes
a gradient, has it applied and pulls all weights, as one exchange with all shards at once, again and again.

Shape suffix: N = parameters of the model, or of one shard.
"""

from __future__ import annotations

import multiprocessing
import secrets
import tempfile
import threading
import time  # noqa: TID251 -- measuring is what this is for
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch

from cluster.asking import Asking
from distbelief.bench.harness import Side
from ps.errors import RunFailed
from ps.layout import Layout, TensorSpec
from ps.messages import Address, Exchange, Exchanged, Message, Push, Reading, Role, Wire
from ps.rules import Momentum
from ps.schedule import ScheduleSettings
from ps.shard import Shard
from ps.streams import torch_stream
from ps.wire.client import Loop, Peer
from ps.wire.files import SUFFIX, JournalWriter
from ps.wire.mailbox import SharedVectors
from ps.wire.process import settle
from ps.wire.server import Gate, MachineServer

RATE, MOMENTUM = 1e-4, 0.9
GRADIENT = 1e-6
SECONDS = 2.0  # that each side is measured for in each round
PATIENCE_SECONDS = 60.0


class End(Protocol):
    """The bench's end of a process, as that process sees it."""

    def send(self, told: Any, /) -> None: ...
    def recv(self) -> Any:
        """What the bench says. Raises EOFError when it is over."""


Ask = Callable[[Sequence[tuple[Address, Message]]], tuple[Message, ...]]


@dataclass(frozen=True, slots=True)
class Load:
    """Who exchanges what.

    Attributes:
        elements: N.
        workers: Logical workers, shared out over `hosts` processes.
        wire: How vectors travel over TCP on loopback; "" for through shared memory.
    """

    elements: int
    workers: int
    shards: int
    hosts: int
    wire: str = ""

    @property
    def layout(self) -> Layout:
        """One tensor that is all there is."""
        return Layout((TensorSpec("all", (self.elements, 1)),), self.shards)


@contextmanager
def exchanging(load: Load) -> Iterator[Side]:
    """Round trips per second of all workers together, while the context lasts; each call runs for SECONDS."""
    spawn = multiprocessing.get_context("spawn")
    ends: list[tuple[Any, Connection]] = []

    def start(target: Any, *arguments: object) -> Connection:
        here, there = spawn.Pipe()
        process = spawn.Process(target=target, args=(there, load, *arguments), daemon=True)
        process.start()
        there.close()
        ends.append((process, here))
        return here

    token = secrets.token_hex(16)
    try:
        with tempfile.TemporaryDirectory() as folder:
            shards = [start(serve, index, token, folder) for index in range(load.shards)]
            targets = [_told(shard) for shard in shards]
            cuts = [load.workers * host // load.hosts for host in range(load.hosts + 1)]
            hosts = [start(work, range(*cuts[host : host + 2]), token, targets) for host in range(load.hosts)]
            for host in hosts:
                _told(host)

            def measure() -> float:
                for host in hosts:
                    host.send(SECONDS)
                return float(sum(_told(host) for host in hosts))

            yield measure
    finally:
        for process, here in reversed(ends):  # those who ask first: a shard that stops then has no call to break off
            here.close()
            process.join(PATIENCE_SECONDS)
            process.terminate()


def _told(end: Connection) -> Any:
    if not end.poll(PATIENCE_SECONDS):
        raise RunFailed(f"bench: a process did not answer within {PATIENCE_SECONDS:g} s")
    return end.recv()


# --- a shard's process ------------------------------------------------------------------------------------------------


def serve(end: End, load: Load, index: int, token: str, folder: str, host: str = "127.0.0.1") -> None:
    """Be one shard, listening at this address, which is told; until something more is received, or the end of it."""
    torch.set_num_threads(1)
    segments = load.layout.segments(index)
    elements = segments[-1].stop
    weights_N = torch.randn(elements, generator=torch_stream(0, f"bench/{index}"))
    schedule = ScheduleSettings(rate=RATE).build(1, 1)
    shard = Shard(index, load.shards, weights_N, segments, Momentum(MOMENTUM), 0.0, schedule, 0)
    journal = JournalWriter(Path(folder) / f"shard-{index}{SUFFIX}", "bench", f"shard-{index}")
    server = MachineServer(shard, Gate(token, {index: elements}), journal, time.time)
    settle()
    end.send(server.start(host))
    with suppress(EOFError):
        end.recv()  # until the bench is over
    server.stop()


# --- a worker host's process ------------------------------------------------------------------------------------------


def work(end: End, load: Load, workers: range, token: str, targets: list[str]) -> None:
    """Be one host of these workers; for each number of seconds that is received, tell their round trips per second."""
    loop, vectors = Loop("bench-host"), SharedVectors()
    shared = None if load.wire else vectors
    peers = loop.call(
        lambda: {
            Address(Role.SHARD, shard): Peer(target, token, shared, Wire(load.wire or "float32"))
            for shard, target in enumerate(targets)
        }
    )
    asking = Asking(peers, vectors, threading.Event())
    made = [_Worker(worker, load, vectors, lambda requests: loop.run(asking.all(requests))) for worker in workers]
    settle()
    end.send(None)
    with suppress(EOFError), ThreadPoolExecutor(len(made)) as pool:
        while True:
            seconds = [end.recv()] * len(made)
            end.send(sum(pool.map(_Worker.round_trips, made, seconds)))
    for peer in peers.values():
        loop.run(peer.close())
    loop.close()


class _Worker:
    """One logical worker that computes nothing."""

    def __init__(self, worker: int, load: Load, vectors: SharedVectors, ask: Ask) -> None:
        self._worker = worker
        self._ask = ask
        self._step = load.workers
        self._lease = worker - load.workers
        self._weights_N, self._gradient_N = vectors.vector(load.elements), vectors.vector(load.elements)
        self._gradient_N.fill_(GRADIENT)
        self._bounds = [load.layout.bounds(shard) for shard in range(load.shards)]
        self._read: tuple[Reading, ...] = ()
        self._number = 0
        self._exchange()

    def round_trips(self, seconds: float) -> float:
        """Per second, for about so many seconds."""
        began, times = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds:
            self._exchange()
            times += 1
        return times / spent

    def _exchange(self) -> None:
        """Push, unless nothing was pulled yet, and pull."""
        self._number += 1
        self._lease += self._step if self._read else 0
        requests = []
        for shard, bound in enumerate(self._bounds):
            push = Push(self._lease, 0, 1, self._read, self._gradient_N[bound]) if self._read else None
            message = Exchange(self._worker, self._number, shard, push, self._weights_N[bound])
            requests.append((Address(Role.SHARD, shard), message))
        answers = [answer for answer in self._ask(requests) if isinstance(answer, Exchanged)]
        if len(answers) < len(requests):
            raise RunFailed("bench: a shard refused an exchange")
        self._read = tuple(answer.reading for answer in answers)
