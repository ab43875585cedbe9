"""Hosts: the worker hosts of a run, each an actor. One that is lost is replaced by one with new workers; more are
started, and workers are told to leave, as a person asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from queue import SimpleQueue
from typing import Any

import ray
import ray.exceptions

from cluster import placement, serving
from cluster.actors import HostActor
from cluster.live.connection import alive, failure
from cluster.live.servers import Servers
from cluster.live.site import CALL_SECONDS, STOP_SECONDS, Site
from cluster.placement import Node
from cluster.spec import MOST_WORKERS
from ps.errors import BadInput
from ps.messages import LEDGER, Address, WorkerLost


@dataclass(frozen=True, slots=True)
class _Host:
    """One worker host. `node`: id of its machine."""

    actor: Any
    workers: range
    node: str


class Hosts:
    """Create, `begin`, `open`, `run`, then `look` now and then.

    Args:
        site: Of the run.
        servers: What the workers talk to.
        again: The run goes on: its workers' ids are ones that nobody had.

    Attributes:
        joiners: Ids for workers that join later; each is used once.
        stopping: No lost worker is replaced any more.
    """

    def __init__(self, site: Site, servers: Servers, again: bool) -> None:
        self._site = site
        self._servers = servers
        self._again = again
        self._hosts: dict[Any, _Host] = {}  # by running call
        self._opening: list[_Host] = []
        self._idle: _Host | None = None  # one whose workers ended
        self._leaving: set[int] = set()  # workers that were told to end
        self._resizes: SimpleQueue[tuple[int, Future[int]]] = SimpleQueue()
        self.joiners = count(serving.next_worker(site.spec) if again else site.spec.cluster.workers)
        self.stopping = False

    def __len__(self) -> int:
        return len(self._hosts)

    # --- starting ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start all processes, and wait for none."""
        self._opening = [_Host(self._actor(node, id, ids), ids, node) for node, id, ids in self._placement()]

    def open(self, targets: dict[Address, str]) -> list[Any]:
        """Have them read their data and build their models; returns the calls under way."""
        return [host.actor.open.remote(targets) for host in self._opening]

    def run(self) -> None:
        """Set the workers going."""
        self._hosts = {host.actor.run.remote(): host for host in self._opening}

    def _placement(self) -> list[tuple[str, int, range]]:
        """Worker hosts as (node, host, workers); see cluster.placement."""
        cluster = self._site.spec.cluster
        seats = placement.seats(alive(), cluster.workers, cluster)
        if not self._again:
            return [(seat.node.id, seat.host, seat.workers) for seat in seats]
        ids = [self._new_workers(len(seat.workers)) for seat in seats]
        return [(seat.node.id, some.start, some) for some, seat in zip(ids, seats, strict=True)]

    def _new_workers(self, size: int) -> range:
        """Ids that nobody has had; the first one numbers their host too."""
        first = next(self.joiners)
        for _ in range(size - 1):
            next(self.joiners)
        return range(first, first + size)

    def _actor(self, node: str, host: int, workers: range) -> Any:
        options = self._site.options(f"host-{host}", node, self._site.spec.cluster.gpus_per_worker)
        return ray.remote(HostActor).options(**options).remote(self._site.spec_on(node), host, workers)

    def _start(self, node: str, workers: int) -> None:
        ids = self._new_workers(workers)
        actor = self._actor(node, ids.start, ids)
        self._hosts[actor.work.remote(self._servers.targets)] = _Host(actor, ids, node)

    def _roomiest(self) -> Node:
        """The machine with most cores for each host that is there."""
        hosts = Counter(host.node for host in self._hosts.values())
        return max(alive(), key=lambda node: node.cores / (1 + hosts[node.id]))

    # --- while they run ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Replace those that are lost. Raises RunFailed if a worker could not go on, or is lost again and again."""
        self._resize()
        done, _ = ray.wait(list(self._hosts), num_returns=len(self._hosts), timeout=0) if self._hosts else ([], [])
        for call in done:
            host = self._hosts.pop(call)
            try:
                ray.get(call)
            except ray.exceptions.RayActorError:
                self._site.lost(f"workers {host.workers.start} to {host.workers.stop - 1}", 1 + len(self._hosts))
                self._replace(host)
            except ray.exceptions.RayTaskError as error:
                raise failure("a worker could not go on", error) from error
            else:
                if not self._leaving.issuperset(host.workers):
                    self._idle = host

    def revive(self) -> None:
        """Let others do what is left, if all workers have ended and the run has not: a shard lost something later."""
        if not self._hosts and self._idle and not self.stopping and not self._servers.status(LEDGER).ending:
            self._replace(self._idle)

    def _replace(self, host: _Host) -> None:
        """Let others do these workers' work."""
        for worker in host.workers:
            self._servers.tell(LEDGER, WorkerLost(worker))
        staying = [worker for worker in host.workers if worker not in self._leaving]
        if staying and not self.stopping:
            lives = host.node in {each.id for each in alive()}  # else the machine is lost with them
            self._start(host.node if lives else self._roomiest().id, len(staying))

    def connect(self, targets: dict[Address, str]) -> None:
        """These actors are elsewhere by now."""
        for host in self._hosts.values():
            host.actor.connect.remote(targets)

    def alive(self) -> int:
        """How many workers run."""
        calls = [host.actor.alive.remote() for host in self._hosts.values()]
        try:
            return sum(ray.get(calls, timeout=CALL_SECONDS))
        except ray.exceptions.RayError:
            return 0  # a host is ending or lost: `look` tells which

    # --- more or fewer -----------------------------------------------------------------------------------------------

    def resize(self, add: int) -> Future[int]:
        """Have so many more workers, or fewer, from the next `look` on; gives how many there are then, or BadInput.

        Safe from any thread.
        """
        resized: Future[int] = Future()
        self._resizes.put((add, resized))
        return resized

    def _resize(self) -> None:
        while not self._resizes.empty():
            add, resized = self._resizes.get()
            ids = [id for host in self._hosts.values() for id in host.workers if id not in self._leaving]
            if self.stopping or not 1 <= len(ids) + add <= MOST_WORKERS:
                limits = f"a run that goes on, with 1 to {MOST_WORKERS:,} workers afterwards"
                resized.set_exception(BadInput(f"workers: got {add:+} for {len(ids)}, expected {limits}"))
                continue
            if add > 0:
                self._start(self._roomiest().id, add)
                self._site.notes.append(f"{add} workers join: {len(ids) + add} in all")
            else:
                self._remove(sorted(ids)[len(ids) + add :])
                self._site.notes.append(f"{-add} workers leave: {len(ids) + add} in all")
            resized.set_result(len(ids) + add)

    def _remove(self, workers: Sequence[int]) -> None:
        self._leaving |= set(workers)
        for host in self._hosts.values():
            if leaving := tuple(id for id in host.workers if id in self._leaving):
                host.actor.leave.remote(leaving)

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the workers after what they are doing now."""
        self.stopping = True
        for host in self._hosts.values():
            host.actor.stop.remote()

    def wait(self) -> None:
        """Until all have ended, but not for long. Never raises."""
        if self._hosts:
            with suppress(ray.exceptions.RayError):
                ray.wait(list(self._hosts), num_returns=len(self._hosts), timeout=STOP_SECONDS)

    def kill(self) -> None:
        """End their processes."""
        for host in self._hosts.values():
            ray.kill(host.actor)
