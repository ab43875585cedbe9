"""Live driver: the pieces of a run as Ray actors, on the wall clock. The only importer of Ray.

Ray starts, places and supervises the processes; what they say to each other goes over gRPC. An actor here only holds
what `cluster.serving` built.
"""

from __future__ import annotations

import os
import sys
import time  # noqa: TID251 -- the live clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray
import ray.exceptions
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from cluster import serving
from cluster.spec import RunSpec, RunStatus
from ps.errors import BadInput, DistbeliefError, PeerLost, RunFailed
from ps.ledger import Ending
from ps.messages import AVERAGER, LEDGER, Address, Message, Read, ReadDone, Role, Stop, WorkerLost
from ps.wire.client import Loop, Peer
from ps.wire.process import settle
from workers.evaluation import Evaluation

START_SECONDS = 120.0
CALL_SECONDS = 20.0
STOP_SECONDS = 20.0
OBJECT_STORE_BYTES = 100 << 20

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def connected(address: str, temporary: Path | None) -> Iterator[None]:
    """A Ray to run on: the cluster at this address, or for "local" one that is started here and ended afterwards.

    Args:
        address: As in ClusterSettings.
        temporary: Where a local Ray keeps its files, from `cluster.local.private_ray`.

    Raises:
        BadInput: No Ray answers at the address.
        RunFailed: A local Ray does not come up.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if address == "local":
        quiet |= {
            "num_cpus": len(os.sched_getaffinity(0)),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(temporary),
            "_node_ip_address": "127.0.0.1",
        }
    try:
        # Ray puts the directory that it is started in, and that of the program, before everything else on its workers'
        # import path, where a user's own folders named "workers" or "cluster" would take the place of ours.
        with chdir(temporary or "/"), _nameless():
            ray.init(address=address, **quiet)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        if address == "local":
            raise RunFailed(f"Ray did not start on this machine: {first}") from error
        raise BadInput(
            f"cluster.address: got {address!r}, expected a Ray cluster there ({first}); "
            "start one with ray up, or use local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _nameless() -> Iterator[None]:
    """Without the name of the program that runs."""
    program, sys.argv[0] = sys.argv[0], ""
    try:
        yield
    finally:
        sys.argv[0] = program


def tasks(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """A function of many items on a Ray that `connected` gave, a core each. Results in the order in which they come.

    Args:
        function: At the top of a module. What is computed on a node that is lost is computed again on another.

    Raises:
        DistbeliefError: What the function raised, if it is one.
        RunFailed: It raised something else, or its processes are lost again and again.
    """
    remote = ray.remote(num_cpus=1)(function)
    waiting = [remote.remote(item) for item in items]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        try:
            result: R = ray.get(done[0])
        except ray.exceptions.RayError as error:
            raise _failure("a task could not go on", error) from error
        yield result


class _Server:
    """Actor: one state machine behind gRPC."""

    def __init__(self, spec: RunSpec, actor: Address, weights_N: npt.NDArray[np.float32] | None = None) -> None:
        match actor.role:
            case Role.SHARD:
                assert weights_N is not None
                self._server = serving.serve_shard(spec, actor.index, _tensor(weights_N))
            case Role.LEDGER:
                self._server = serving.serve_ledger(spec)
            case _:
                self._server = serving.serve_averager(spec)
        settle()

    def start(self, host: str) -> str:
        return self._server.start(host or ray.util.get_node_ip_address())

    def connect(self, targets: dict[Address, str]) -> None:
        self._server.connect(targets)

    def stop(self) -> None:
        self._server.stop()


class _Host:
    """Actor: one worker host."""

    def __init__(self, spec: RunSpec, host: int, workers: range, turns: int) -> None:
        self._arguments = (spec, host, workers, turns)

    def open(self, targets: dict[Address, str]) -> None:
        self._host = serving.worker_host(*self._arguments, targets)
        settle()

    def run(self) -> None:
        self._host.run()

    def alive(self) -> int:
        return self._host.alive

    def stop(self) -> None:
        self._host.stop()


class _Evaluator:
    """Actor: evaluates the average beside the run."""

    def __init__(self, spec: RunSpec) -> None:
        from workers.evaluation import Evaluator

        torch.set_num_threads(1)
        self._evaluator = Evaluator(spec.model, spec.data, spec.layout)

    def evaluate(self, weights_N: npt.NDArray[np.float32]) -> Evaluation:
        return self._evaluator.evaluate(_tensor(weights_N))


class LiveRun:
    """One run on a Ray that `connected` gave. Create, `start`, watch `poll`, then `close`.

    Args:
        spec: The run.
        weights_N: Initial weights, float32, shape (N,).

    Attributes:
        targets: Where the run's actors are, once it has started.
        joiners: Ids for workers that join later; each is used once.
    """

    def __init__(self, spec: RunSpec, weights_N: Tensor) -> None:
        self._spec = spec
        self._weights_N = weights_N
        self._loop = Loop("distbelief-driver")
        self._servers: dict[Address, Any] = {}
        self._peers: dict[Address, Peer] = {}
        self._hosts: dict[Any, tuple[Any, range]] = {}  # running call -> (actor, its workers)
        self._evaluator: Any = None
        self._evaluation: Any = None
        self._reads = 0
        self.targets: dict[Address, str] = {}
        self.joiners = count(spec.cluster.workers)

    @property
    def address(self) -> str:
        """Of this machine, as the run's other machines reach it."""
        return "127.0.0.1" if self._spec.cluster.address == "local" else str(ray.util.get_node_ip_address())

    def start(self) -> None:
        """Bring everything up and set the workers going. Raises RunFailed if it does not come up."""
        spec = self._spec
        local = spec.cluster.address == "local"
        serve = ray.remote(_Server)
        addresses = [Address(Role.SHARD, shard) for shard in range(spec.layout.shards)] + [LEDGER, AVERAGER]
        try:
            hosts = [(self._host(*plan), plan[2]) for plan in self._placement()]
            for address in addresses:
                part_N = self._weights_N[spec.bounds[address.index]].numpy() if address.role is Role.SHARD else None
                options = self._options(str(address))
                self._servers[address] = serve.options(**options).remote(spec, address, part_N)
            bind = "127.0.0.1" if local else ""
            started = [self._servers[address].start.remote(bind) for address in addresses]
            self.targets = dict(zip(addresses, ray.get(started, timeout=START_SECONDS), strict=True))
            ray.get(
                [server.connect.remote(self._known_to(address)) for address, server in self._servers.items()]
                + [actor.open.remote(self.targets) for actor, _ in hosts],
                timeout=START_SECONDS,
            )
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            raise _failure("the run did not come up", error) from error
        self._peers = self._loop.call(
            lambda: {
                address: Peer(target, spec.token, identity=spec.identity) for address, target in self.targets.items()
            }
        )
        self._hosts = {actor.run.remote(): (actor, workers) for actor, workers in hosts}

    def _options(self, name: str) -> dict[str, Any]:
        return {"num_cpus": 0, "name": f"distbelief-{self._spec.run}-{name}", "max_concurrency": 4}

    def _known_to(self, address: Address) -> dict[Address, str]:
        """The actors that this one sends messages to."""
        if address == LEDGER:
            return {to: target for to, target in self.targets.items() if to.role is Role.SHARD}
        return {AVERAGER: self.targets[AVERAGER]} if address.role is Role.SHARD else {}

    def _placement(self) -> list[tuple[str, int, range, int]]:
        """Worker hosts as (node, host, workers, turns): one process per compute turn, all nodes alike per core,
        workers shared out evenly.
        """
        spec = self._spec
        seats: list[tuple[str, int]] = []
        for node in ray.nodes():
            if node["Alive"]:
                cores = int(node["Resources"].get("CPU", 0))
                turns = spec.cluster.turns or cores // spec.cluster.threads
                seats += [(node["NodeID"], 1)] * turns
        if not seats:
            raise RunFailed(f"no node of the cluster has the {spec.cluster.threads} cores that one gradient takes")
        seats = seats[: spec.cluster.workers]
        cuts = [spec.cluster.workers * i // len(seats) for i in range(len(seats) + 1)]
        return [(node, i, range(cuts[i], cuts[i + 1]), turns) for i, (node, turns) in enumerate(seats)]

    def _host(self, node: str, host: int, workers: range, turns: int) -> Any:
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        options = self._options(f"host-{host}") | {"scheduling_strategy": where}
        return ray.remote(_Host).options(**options).remote(self._spec, host, workers, turns)

    # --- while it runs -----------------------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Look after the worker hosts; return whether any still runs.

        Raises:
            RunFailed: A worker could not go on, or all hosts were lost.
        """
        done, _ = ray.wait(list(self._hosts), num_returns=len(self._hosts), timeout=0) if self._hosts else ([], [])
        lost = 0
        for call in done:
            _, workers = self._hosts.pop(call)
            try:
                ray.get(call)
            except ray.exceptions.RayActorError:
                lost += 1
                for worker in workers:
                    self._tell(LEDGER, WorkerLost(worker))
            except ray.exceptions.RayTaskError as error:
                raise _failure("a worker could not go on", error) from error
        if lost and not self._hosts:
            raise RunFailed("all worker hosts were lost: their processes were killed (out of memory?)")
        return bool(self._hosts)

    def status(self) -> RunStatus:
        """Ask every piece. Raises RunFailed if one is gone."""
        statuses: dict[Address, Any] = {}
        for address, peer in self._peers.items():
            try:
                statuses[address] = self._loop.run(peer.status(CALL_SECONDS))
            except PeerLost as error:
                raise RunFailed(f"{address} was lost: its process is gone ({error})") from error
        shards = tuple(statuses[Address(Role.SHARD, shard)] for shard in range(self._spec.layout.shards))
        return RunStatus(statuses[LEDGER], shards, statuses[AVERAGER], self._alive())

    def _alive(self) -> int:
        calls = [actor.alive.remote() for actor, _ in self._hosts.values()]
        try:
            return sum(ray.get(calls, timeout=CALL_SECONDS))
        except ray.exceptions.RayError:
            return 0  # a host is ending or lost: poll tells which

    def stop(self, ending: Ending) -> None:
        """Grant no more leases and end the workers after what they are doing now."""
        self._tell(LEDGER, Stop(ending.value))
        for actor, _ in self._hosts.values():
            actor.stop.remote()

    def _tell(self, address: Address, message: Message) -> None:
        self._loop.run(self._peers[address].ask(message, CALL_SECONDS))

    def read(self, average: bool, out_N: Tensor) -> int:
        """Copy the newest weights, or their average, into `out_N`; return how many it averages (0: none yet)."""
        counts = []
        for shard, bound in enumerate(self._spec.bounds):
            self._reads += 1
            target = AVERAGER if average else Address(Role.SHARD, shard)
            message = Read(Address(Role.WORKER, -1), self._reads, shard, out_N[bound])
            answer = self._loop.run(self._peers[target].exchange(message, CALL_SECONDS))
            assert isinstance(answer, ReadDone)
            counts.append(answer.samples)
        return min(counts)

    def settle(self, seconds: float) -> None:
        """Wait until the averager has what the shards copied for it, but no longer than this."""
        deadline = time.monotonic() + seconds
        while any(shard.waiting_samples for shard in self.status().shards) and time.monotonic() < deadline:
            time.sleep(0.05)

    def evaluate(self, weights_N: Tensor) -> None:
        """Begin to evaluate these weights beside the run; `evaluation` has the result when it is there."""
        if self._evaluator is None:
            self._evaluator = ray.remote(_Evaluator).options(**self._options("evaluator")).remote(self._spec)
        self._evaluation = self._evaluator.evaluate.remote(weights_N.numpy())

    def evaluation(self) -> Evaluation | None:
        """The result of the last `evaluate`, once; None while there is none."""
        if self._evaluation is None or not ray.wait([self._evaluation], timeout=0)[0]:
            return None
        call, self._evaluation = self._evaluation, None
        try:
            evaluation: Evaluation = ray.get(call)
            return evaluation
        except ray.exceptions.RayActorError:
            self._evaluator = None  # lost: the next evaluation starts another
            return None
        except ray.exceptions.RayTaskError as error:
            raise _failure("the average could not be evaluated", error) from error

    # --- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every actor; journals are closed first. Never raises: it also ends what failed."""
        for actor, _ in self._hosts.values():
            actor.stop.remote()
        with suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            ray.wait(
                list(self._hosts), num_returns=max(1, len(self._hosts)), timeout=STOP_SECONDS
            ) if self._hosts else None
        for server in self._servers.values():
            with suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                ray.get(server.stop.remote(), timeout=STOP_SECONDS)
        for peer in self._peers.values():
            self._loop.run(peer.close())
        self._loop.close()
        for actor in [*self._servers.values(), *(actor for actor, _ in self._hosts.values()), self._evaluator]:
            if actor is not None:
                ray.kill(actor)


def _tensor(vector_N: npt.NDArray[np.float32]) -> Tensor:
    """A copy that may be written to, at an address that torch chose: what Ray unpacks is neither."""
    copy_N = torch.empty(len(vector_N))
    copy_N.numpy()[:] = vector_N
    return copy_N


def _failure(what: str, error: Exception) -> DistbeliefError:
    """One line for a person out of what Ray raised."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, DistbeliefError):
        return cause
    if isinstance(cause, MemoryError):
        return RunFailed(f"{what}: out of memory; use fewer workers or a smaller batch")
    text = repr(cause) if cause is not None else str(error).strip().splitlines()[-1]
    return RunFailed(f"{what}: {text}")
