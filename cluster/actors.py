"""Actors: what runs in the processes of a live run, each holding what `cluster.serving` built.

Ray makes them and calls them (see cluster.live); nothing here imports it. Several calls run at once, on threads.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time  # noqa: TID251 -- what a process has computed
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cluster import serving, standby
from cluster.logs import adopt
from cluster.spec import RunSpec
from ps.errors import BadInput
from ps.messages import Address, Role
from ps.snapshot import decode, encode
from ps.standby import Seed
from ps.states import ShardState
from ps.wire.process import settle
from ps.wire.replicas import ReplicaServer
from ps.wire.snapshots import write_state
from workers.evaluation import Evaluation, Evaluator

if TYPE_CHECKING:
    from cluster.host import WorkerHost

log = logging.getLogger("distbelief.live")


class ServerActor:
    """One state machine behind gRPC.

    Args:
        again: It served before: it takes up what was written down.
        alone: Of the ledger: all workers of that time are gone.
    """

    def __init__(
        self,
        spec: RunSpec,
        actor: Address,
        weights_N: npt.NDArray[np.float32] | None = None,
        again: bool = False,
        alone: bool = False,
    ) -> None:
        adopt(spec.folder, str(actor))
        self._spec, self._actor = spec, actor
        match actor.role:
            case Role.STANDBY:
                assert weights_N is not None
                served = serving.Served(standby.serve_standby(spec, actor.index, _tensor(weights_N)))
            case Role.SHARD:
                assert weights_N is not None
                served = serving.serve_shard(spec, actor.index, _tensor(weights_N), again)
            case Role.LEDGER:
                served = serving.serve_ledger(spec, again, alone)
            case _:
                served = serving.serve_averager(spec, again)
        self._server, self._notes = served.server, served.notes
        of = Address(Role.SHARD, actor.index) if actor.role is Role.STANDBY else actor
        self._write = partial(write_state, spec.snapshots, actor=str(of))
        self._ended = threading.Event()
        settle()

    def start(self, host: str) -> tuple[str, tuple[str, ...]]:
        """Listen at this machine's address `host`; return "host:port", and what a person should know."""
        target = self._server.start(host)
        log.info("listening at %s, process %d", target, os.getpid())
        return target, self._notes

    def connect(self, targets: dict[Address, str]) -> None:
        self._server.connect(targets)

    def serve(self) -> None:
        """Return when it was stopped; whoever waits for that hears if the process is lost."""
        self._ended.wait()

    def save(self, number: int) -> str:
        """Write its state as part of this snapshot; return its SHA-256."""
        return self._server.save(number, lambda state: self._write(number=number, state=state))

    def stop(self) -> None:
        self._server.stop()
        self._ended.set()
        log.info("stopped")


class ReplicaActor(ServerActor):
    """A shard that has a standby, or a standby."""

    _server: ReplicaServer

    def seed(self, target: str) -> tuple[int, int, npt.NDArray[np.uint8]]:
        """Begin to forward to a standby at "host:port"; return what it begins with."""
        seed = self._server.seed(target)
        return seed.number, seed.written, np.concatenate([np.asarray(piece, np.uint8) for piece in encode(seed.state)])

    def follow(self, seed: tuple[int, int, npt.NDArray[np.uint8]]) -> None:
        """Begin with what `seed` returned."""
        number, written, data = seed
        state = decode(data.tobytes(), "seed")
        assert isinstance(state, ShardState)
        self._server.follow(Seed(number, written, state))
        log.info("holds what the shard holds, from version %d on", state.version)

    def part(self) -> None:
        """The standby is gone."""
        self._server.part()

    def standing(self) -> str:
        """How it and its standby stand."""
        return self._server.standing().value

    def succeed(self, targets: dict[Address, str]) -> None:
        """The shard is gone: go on in its place. Raises RunFailed if that cannot be."""
        self._server.connect(targets)
        standby.succeed(self._spec, self._actor.index, self._server)
        log.info("goes on in the place of shard-%d", self._actor.index)

    def digest(self) -> tuple[int, str]:
        """Version, and SHA-256 of all that it remembers."""
        return self._server.digest()


class HostActor:
    """One worker host, with one compute turn."""

    def __init__(self, spec: RunSpec, host: int, workers: range) -> None:
        adopt(spec.folder, f"host-{host}")
        self._arguments = (spec, host, workers, 1)
        self._lock = threading.Lock()
        self._host: WorkerHost | None = None
        self._moved: dict[Address, str] = {}  # while it was not open yet, as is the next
        self._leaving: set[int] = set()
        self._stopped = False

    def open(self, targets: dict[Address, str]) -> None:
        """Raises BadInput if this machine lacks what the driver's has: the data, above all."""
        try:
            host = serving.worker_host(*self._arguments, targets)
        except BadInput as error:
            raise BadInput(f"on the machine {platform.node()}: {error}") from error
        with self._lock:
            self._host = host
            host.connect(self._moved)
            host.leave(self._leaving)
            if self._stopped:
                host.stop()
        settle()

    def run(self) -> None:
        assert self._host is not None, "open comes first"
        log.info("workers %d to %d begin, process %d", self._arguments[2][0], self._arguments[2][-1], os.getpid())
        try:
            self._host.run()
        except Exception:
            log.exception("a worker could not go on")
            raise
        log.info("all workers have ended")

    def work(self, targets: dict[Address, str]) -> None:
        """Open and run."""
        self.open(targets)
        self.run()

    def connect(self, targets: dict[Address, str]) -> None:
        """These actors are elsewhere by now."""
        with self._lock:
            if self._host is None:
                self._moved |= targets
            else:
                self._host.connect(targets)

    def alive(self) -> int:
        return 0 if self._host is None else self._host.alive

    def leave(self, workers: tuple[int, ...]) -> None:
        """Let these of its workers end after the lease in hand."""
        with self._lock:
            self._leaving |= set(workers)
            if self._host is not None:
                self._host.leave(workers)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._host is not None:
                self._host.stop()


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What evaluating beside a run came to.

    Attributes:
        evaluation: None if the evaluator was lost.
        core_seconds: That its process has computed since it last answered, or since it began.
    """

    evaluation: Evaluation | None
    core_seconds: float


class EvaluatorActor:
    """Evaluates the average beside the run."""

    def __init__(self, spec: RunSpec) -> None:
        adopt(spec.folder, "evaluator")
        torch.set_num_threads(1)
        self._evaluator = Evaluator(spec.model, spec.data, spec.layout)
        self._accounted = 0.0

    def evaluate(self, weights_N: npt.NDArray[np.float32]) -> Evaluated:
        evaluation = self._evaluator.evaluate(_tensor(weights_N))
        before, self._accounted = self._accounted, time.process_time()
        return Evaluated(evaluation, self._accounted - before)


def _tensor(vector_N: npt.NDArray[np.float32]) -> Tensor:
    """A copy that may be written to, at an address that torch chose: what Ray unpacks is neither."""
    copy_N = torch.empty(len(vector_N))
    copy_N.numpy()[:] = vector_N
    return copy_N
