"""Run: one live run, from its first process to its last. Create, `start`, watch `poll`, then `close`.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

import time  # noqa: TID251 -- the live clock
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any

import ray
import ray.exceptions
from torch import Tensor

from cluster import placement
from cluster.actors import Evaluated, EvaluatorActor
from cluster.head import Head
from cluster.live.connection import alive, await_machines, failure
from cluster.live.depots import Depots
from cluster.live.hosts import Hosts
from cluster.live.servers import Servers
from cluster.live.site import CALL_SECONDS, START_SECONDS, Site
from cluster.live.snapshots import Snapshots
from cluster.spec import RunSpec, RunStatus
from ps.errors import BadInput
from ps.ledger import Ending
from ps.messages import AVERAGER, LEDGER, Address, Message, Read, ReadDone, Role, Stop
from ps.wire.client import Peer

MACHINES_SECONDS = 90.0  # that a run which is taken up waits for the machines it had


class LiveRun:
    """One run on a Ray that `connected` gave.

    An actor whose process is lost is brought back, from what it wrote down; a worker host is replaced by one with new
    workers. Both happen in `poll`, and wherever an actor does not answer.

    Args:
        spec: The run.
        weights_N: Initial weights, float32, shape (N,).
        again: It ran before, and is taken up where its run directory says it was.
        machines: How many to wait for before it starts, within reason.

    Attributes:
        targets: Where the run's actors are, once it has started.
        joiners: Ids for workers that join later; each is used once.
        moved: Told of the targets whenever an actor came back elsewhere.
    """

    def __init__(self, spec: RunSpec, weights_N: Tensor, again: bool = False, machines: int = 1) -> None:
        self._spec = spec
        self._machines = machines
        self._again = again
        self._site = Site(spec)
        self._servers = Servers(self._site, weights_N, again)
        self._hosts = Hosts(self._site, self._servers, again)
        self._snapshots = Snapshots(self._site, self._servers)
        self._depots = Depots(self._site)
        self._evaluator: Any = None
        self._evaluation: Any = None
        self._reads = 0
        self._gauges: dict[str, Any] = {}
        self._servers.moved.append(self._moved)
        self.targets = self._servers.targets
        self.joiners = self._hosts.joiners
        self.moved: list[Callable[[dict[Address, str]], None]] = []

    @property
    def address(self) -> str:
        """Of this machine, as the run's other machines reach it."""
        return "127.0.0.1" if self._site.local else str(ray.util.get_node_ip_address())

    def start(self) -> None:
        """Bring everything up and set the workers going. Raises RunFailed if it does not come up."""
        try:
            if not self._site.local:
                await_machines(self._machines, MACHINES_SECONDS)
                self._site.head = Head(ray.get_runtime_context().gcs_address, len(alive()))
                self._depots.open(alive())
                self._mind_folders()
            self._hosts.begin()
            self._servers.begin()
            self._servers.listen()
            ray.get(self._servers.acquaint() + self._hosts.open(self.targets), timeout=START_SECONDS)
            self._servers.standbys.settle(START_SECONDS)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            raise failure("the run did not come up", error) from error
        self._servers.connect()
        self._hosts.run()

    def _mind_folders(self) -> None:
        """What follows if some machine does not share the run directory."""
        if self._site.apart and self._again:
            raise BadInput(f"run: got {self._spec.folder}, which some machine does not see; expected a shared one")
        if self._site.apart and self._spec.cluster.replicas:
            raise BadInput(
                f"cluster.replicas: got 1 and {self._spec.folder}, which some machine does not see; expected a shared "
                "run directory (a standby goes on in its shard's journal), or 0"
            )
        if self._site.apart:
            self._site.notes.append("the machines do not share the run directory, so there are no snapshots")

    # --- while it runs -----------------------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Look after all processes; return whether the run goes on.

        Raises:
            RunFailed: A worker could not go on, or processes are lost again and again.
            HeadLost: The cluster is gone.
        """
        self._site.consult(Head.look)
        self._servers.mend()
        self._servers.standbys.look()
        self._depots.collect()
        self._hosts.look()
        self._snapshots.look()
        self._hosts.revive()
        return len(self._hosts) > 0

    def _moved(self, address: Address) -> None:
        self._hosts.connect({address: self.targets[address]})
        for tell in self.moved:
            tell(self.targets)

    def resize(self, add: int) -> Future[int]:
        """Have so many more workers, or fewer, from the next `poll` on; gives how many there are then, or BadInput.

        Safe from any thread.
        """
        return self._hosts.resize(add)

    def notes(self) -> list[str]:
        """What a person should know and was not told yet, a line each."""
        notes, self._site.notes = self._site.notes, []
        return notes

    def status(self) -> RunStatus:
        """Ask every piece. Raises RunFailed if one is gone for good."""
        ask = self._servers.status
        shards = tuple(ask(Address(Role.SHARD, shard)) for shard in range(self._spec.layout.shards))
        return RunStatus(ask(LEDGER), shards, ask(AVERAGER), self._hosts.alive())

    def publish(self, values: Mapping[str, float]) -> None:
        """Offer these numbers to Prometheus, through the agent of the cluster that the run is on: as
        ray_distbelief_NAME{run="..."}. A Ray of the run's own has no such agent.
        """
        if self._site.local:
            return
        from ray.util.metrics import Gauge

        for name, value in values.items():
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = self._gauges[name] = Gauge(f"distbelief_{name}", tag_keys=("run",))
                gauge.set_default_tags({"run": self._spec.run})
            gauge.set(value)

    # --- weights -----------------------------------------------------------------------------------------------------

    def read(self, average: bool, out_N: Tensor) -> int:
        """Copy the newest weights, or their average, into `out_N`; return how many it averages (0: none yet)."""
        counts = []
        for shard, bound in enumerate(self._spec.bounds):
            self._reads += 1
            target = AVERAGER if average else Address(Role.SHARD, shard)
            message = Read(Address(Role.WORKER, -1), self._reads, shard, out_N[bound])
            answer = self._servers.ask(target, _exchange(message))
            assert isinstance(answer, ReadDone)
            counts.append(answer.samples)
        return min(counts)

    def settle(self, seconds: float) -> None:
        """Wait until the averager has what the shards copied for it, but no longer than this."""
        deadline = time.monotonic() + seconds
        while any(shard.waiting_samples for shard in self.status().shards) and time.monotonic() < deadline:
            time.sleep(0.05)

    def standbys(self) -> dict[int, bool]:
        """By shard, whether its standby holds the same to the last bit; when no worker runs any more."""
        return self._servers.standbys.alike()

    def save(self) -> None:
        """Begin to write a snapshot, unless one is being written, or the machines share no directory to keep it in."""
        self._snapshots.begin()

    def save_now(self, seconds: float) -> None:
        """Write one to its end, unless that takes longer."""
        self._snapshots.now(seconds)

    def evaluate(self, weights_N: Tensor) -> None:
        """Begin to evaluate these weights beside the run; `evaluated` has the result when it is there."""
        if self._evaluator is None:
            options = self._site.options("evaluator", placement.for_driver(alive()).id)
            self._evaluator = ray.remote(EvaluatorActor).options(**options).remote(self._spec)
        self._evaluation = self._evaluator.evaluate.remote(weights_N.numpy())

    def evaluated(self) -> Evaluated | None:
        """What the last `evaluate` came to, once; None while it goes on."""
        if self._evaluation is None or not ray.wait([self._evaluation], timeout=0)[0]:
            return None
        call, self._evaluation = self._evaluation, None
        try:
            evaluated: Evaluated = ray.get(call)
            return evaluated
        except ray.exceptions.RayActorError:
            self._evaluator = None  # the next evaluation starts another
            return Evaluated(None, 0.0)
        except ray.exceptions.RayTaskError as error:
            raise failure("the average could not be evaluated", error) from error

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self, ending: Ending) -> None:
        """Grant no more leases and end the workers after what they are doing now."""
        self._hosts.stopping = True
        self._servers.tell(LEDGER, Stop(ending.value))
        self._hosts.stop()

    def close(self) -> None:
        """End every actor; journals are closed first. Never raises: it also ends what failed."""
        self._hosts.stop()
        self._hosts.wait()
        self._servers.stop()
        self._depots.finish()
        self._servers.kill()
        self._hosts.kill()
        if self._evaluator is not None:
            ray.kill(self._evaluator)


def _exchange(message: Read) -> Callable[[Peer], Coroutine[Any, Any, Message]]:
    return lambda peer: peer.exchange(message, CALL_SECONDS)
