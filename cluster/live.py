"""Live driver: the pieces of a run as Ray actors, on the wall clock. The only importer of Ray.

Ray starts, places and supervises the processes (cluster.actors); what they say to each other goes over gRPC.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time  # noqa: TID251 -- the live clock
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from cluster import placement, serving
from cluster.actors import EvaluatorActor, HostActor, ServerActor
from cluster.placement import Node
from cluster.shipping import Consignment, Depot
from cluster.spec import MOST_WORKERS, RunSpec, RunStatus
from ps.errors import BadInput, DistbeliefError, PeerLost, RunFailed
from ps.ledger import Ending
from ps.messages import AVERAGER, LEDGER, Address, Message, Read, ReadDone, Role, Stop, WorkerLost
from ps.wire.client import Loop, Peer
from ps.wire.snapshots import Manifest, next_number, publish, withdraw
from workers.evaluation import Evaluation

log = logging.getLogger("distbelief.live")

START_SECONDS = 120.0
CALL_SECONDS = 20.0
STOP_SECONDS = 20.0
MEND_SECONDS = 0.1  # between two looks at what was lost
LOSSES_SECONDS, MOST_LOSSES = 60.0, 8  # a run whose processes are lost more often than that is given up
SHIP_SECONDS = 1.0
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
            _init(address, quiet)
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


def _init(address: str, settings: dict[str, Any]) -> None:
    """Ray's own, but a local one may try twice: it waits 30 s for its processes, too short on a busy machine."""
    try:
        ray.init(address=address, **settings)
    except Exception:
        if address != "local":
            raise
        ray.shutdown()
        ray.init(address=address, **settings)


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


def alive() -> list[Node]:
    """The living machines of the cluster that this process is connected to."""
    here = ray.get_runtime_context().get_node_id()
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            int(node["Resources"].get("CPU", 0)),
            int(node["Resources"].get("GPU", 0)),
            placement.SHARDS in node["Resources"],
            node["NodeID"] == here,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def living(address: str) -> list[Node]:
    """The living machines of the cluster at this address. Raises BadInput if there is none."""
    with connected(address, None):
        return alive()


@dataclass(slots=True)
class _Saving:
    """A snapshot that is being written: first all shards, then the averager, which then has all that they sent before.

    Attributes:
        calls: Under way, with whom.
        sha256: Per actor that is done.
    """

    number: int
    calls: dict[Any, Address]
    sha256: dict[str, str] = field(default_factory=dict)


class _Shipping:
    """Brings here what is written on machines that do not share the run directory (see cluster.shipping).

    Args:
        folder: The run directory.
        options: How an actor is placed: (name, id of the node) -> options.
    """

    def __init__(self, folder: Path, options: Callable[[str, str], dict[str, Any]]) -> None:
        self._folder = folder
        self._options = options
        self._depots: dict[Any, Consignment] = {}
        self._asked: dict[Any, Any] = {}  # running call -> depot
        self._next = 0.0

    def open(self, nodes: Sequence[Node]) -> dict[str, Path]:
        """Where each machine's processes are to write, by the machine's id."""
        depot: Any = ray.remote(Depot)
        with tempfile.NamedTemporaryFile(prefix=".", dir=self._folder) as mark:
            actors = [
                depot.options(**self._options(f"depot-{node.address}", node.id)).remote(
                    self._folder, Path(mark.name).name
                )
                for node in nodes
            ]
            folders: list[Path] = ray.get([actor.folder.remote() for actor in actors], timeout=START_SECONDS)
        for actor, folder in zip(actors, folders, strict=True):
            if folder == self._folder:
                ray.kill(actor)
            else:
                self._depots[actor] = Consignment(self._folder)
        return dict(zip((node.id for node in nodes), folders, strict=True))

    def collect(self) -> None:
        """Ask for what is new, now and then, and take what has come. Never waits."""
        done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        for call in done:
            depot = self._asked.pop(call)
            with suppress(ray.exceptions.RayError):  # its machine is lost
                self._depots[depot].receive(ray.get(call))
        if time.monotonic() >= self._next and not self._asked:
            self._next = time.monotonic() + SHIP_SECONDS
            self._asked = {depot.since.remote(here.known): depot for depot, here in self._depots.items()}

    def finish(self) -> None:
        """Take all there is, and end."""
        for depot, here in self._depots.items():
            with suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                while pieces := ray.get(depot.since.remote(here.known), timeout=STOP_SECONDS):
                    here.receive(pieces)
                ray.get(depot.close.remote(), timeout=STOP_SECONDS)
            ray.kill(depot)


class LiveRun:
    """One run on a Ray that `connected` gave. Create, `start`, watch `poll`, then `close`.

    An actor whose process is lost is brought back, from what it wrote down; a worker host is replaced by one with new
    workers. Both happen in `poll`, and wherever an actor does not answer.

    Args:
        spec: The run.
        weights_N: Initial weights, float32, shape (N,).
        again: It ran before, and is taken up where its run directory says it was.

    Attributes:
        targets: Where the run's actors are, once it has started.
        joiners: Ids for workers that join later; each is used once.
        moved: Told of the targets whenever an actor came back elsewhere.
    """

    def __init__(self, spec: RunSpec, weights_N: Tensor, again: bool = False) -> None:
        self._spec = spec
        self._weights_N = weights_N
        self._again = again
        self._loop = Loop("distbelief-driver")
        self._servers: dict[Address, Any] = {}
        self._serving: dict[Any, Address] = {}  # running call -> whose
        self._homes: dict[Address, Node] = {}  # where each actor is
        self._peers: dict[Address, Peer] = {}
        self._hosts: dict[Any, tuple[Any, range, str]] = {}  # running call -> (actor, workers, node)
        self._losses: list[tuple[float, str]] = []
        self._notes: list[str] = []
        self._saving: _Saving | None = None
        self._stopping = False
        self._idle: tuple[range, str] | None = None  # workers that ended, and their node
        self._evaluator: Any = None
        self._evaluation: Any = None
        self._reads = 0
        self._names = count()
        self._leaving: set[int] = set()  # workers that were told to end
        self._resizes: SimpleQueue[tuple[int, Future[int]]] = SimpleQueue()
        self._shipping = _Shipping(spec.folder, self._options)
        self._folders: dict[str, Path] = {}  # by machine
        self._gauges: dict[str, Any] = {}
        self.targets: dict[Address, str] = {}
        self.moved: list[Callable[[dict[Address, str]], None]] = []
        self.joiners = count(serving.next_worker(spec) if again else spec.cluster.workers)

    @property
    def address(self) -> str:
        """Of this machine, as the run's other machines reach it."""
        return "127.0.0.1" if self._local else str(ray.util.get_node_ip_address())

    @property
    def _local(self) -> bool:
        return self._spec.cluster.address == "local"

    @property
    def _apart(self) -> bool:
        """Whether some machine writes into a folder of its own, which is brought here as long as it only grows."""
        return any(folder != self._spec.folder for folder in self._folders.values())

    def start(self) -> None:
        """Bring everything up and set the workers going. Raises RunFailed if it does not come up."""
        addresses = [Address(Role.SHARD, shard) for shard in range(self._spec.layout.shards)] + [LEDGER, AVERAGER]
        try:
            if not self._local:
                self._folders = self._shipping.open(alive())
                if self._apart and self._again:
                    raise BadInput(
                        f"run: got {self._spec.folder}, which some machine does not see; expected a shared one"
                    )
                if self._apart:
                    self._notes.append("the machines do not share the run directory, so there are no snapshots")
            hosts = [(self._host(*plan), *plan) for plan in self._placement()]
            for address in addresses:
                self._serve(address, self._again, alone=True)
            started = ray.get([self._started(address) for address in addresses], timeout=START_SECONDS)
            for address, (target, notes) in zip(addresses, started, strict=True):
                self.targets[address] = target
                self._notes += notes
            ray.get(
                [server.connect.remote(self._known_to(address)) for address, server in self._servers.items()]
                + [actor.open.remote(self.targets) for actor, *_ in hosts],
                timeout=START_SECONDS,
            )
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            raise _failure("the run did not come up", error) from error
        self._loop.call(lambda: self._peers.update({to: self._peer(target) for to, target in self.targets.items()}))
        self._hosts = {actor.run.remote(): (actor, workers, node) for actor, node, _, workers in hosts}

    def _serve(self, address: Address, again: bool, alone: bool = False) -> None:
        part_N = self._weights_N[self._spec.bounds[address.index]].numpy() if address.role is Role.SHARD else None
        nodes = alive()
        shard = address.role is Role.SHARD
        node = placement.for_shard(nodes, address.index) if shard else placement.for_driver(nodes)
        if (home := self._homes.get(address)) and self._spec_on(home.id).folder != self._spec_on(node.id).folder:
            raise RunFailed(
                f"{address} was lost with its machine, and its journal too: the run directory is not shared"
            )
        kind = ray.remote(ServerActor).options(**self._options(str(address), node.id))
        server: Any = kind.remote(self._spec_on(node.id), address, part_N, again, alone)
        self._servers[address] = server
        self._homes[address] = node
        self._serving[server.serve.remote()] = address

    def _started(self, address: Address) -> Any:
        return self._servers[address].start.remote("127.0.0.1" if self._local else self._homes[address].address)

    def _peer(self, target: str) -> Peer:
        return Peer(target, self._spec.token, identity=self._spec.identity)

    def _options(self, name: str, node: str) -> dict[str, Any]:
        number = next(self._names)  # a name is free again some time after its actor is gone
        token = self._spec.token[:8]
        return {
            "num_cpus": 0,
            "name": f"distbelief-{self._spec.run}-{token}-{number}-{name}",
            "max_concurrency": 4,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }

    def _known_to(self, address: Address) -> dict[Address, str]:
        """The actors that this one sends messages to."""
        if address == LEDGER:
            return {to: target for to, target in self.targets.items() if to.role is Role.SHARD}
        return {to: self.targets[to] for to in (AVERAGER, LEDGER)} if address.role is Role.SHARD else {}

    def _placement(self) -> list[tuple[str, int, range]]:
        """Worker hosts as (node, host, workers); see cluster.placement."""
        cluster = self._spec.cluster
        seats = placement.seats(alive(), cluster.workers, cluster.threads, cluster.turns)
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

    def _host(self, node: str, host: int, workers: range) -> Any:
        options = self._options(f"host-{host}", node)
        return ray.remote(HostActor).options(**options).remote(self._spec_on(node), host, workers)

    def _spec_on(self, node: str) -> RunSpec:
        """The run as processes on this machine see it."""
        return replace(self._spec, folder=self._folders.get(node, self._spec.folder))

    # --- while it runs -----------------------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Look after all processes; return whether the run goes on.

        Raises:
            RunFailed: A worker could not go on, or processes are lost again and again.
        """
        self._mend()
        self._resize()
        self._shipping.collect()
        done, _ = ray.wait(list(self._hosts), num_returns=len(self._hosts), timeout=0) if self._hosts else ([], [])
        for call in done:
            _, workers, node = self._hosts.pop(call)
            try:
                ray.get(call)
            except ray.exceptions.RayActorError:
                self._lost(f"workers {workers.start} to {workers.stop - 1}", 1 + len(self._hosts))
                self._replace(workers, node)
            except ray.exceptions.RayTaskError as error:
                raise _failure("a worker could not go on", error) from error
            else:
                if not self._leaving.issuperset(workers):
                    self._idle = (workers, node)
        self._keep_saving()
        if not self._hosts and self._idle and not self._stopping and not self._status_of(LEDGER).ending:
            self._replace(*self._idle)  # a shard lost something after the last worker had ended
        return bool(self._hosts)

    def _replace(self, workers: range, node: str) -> None:
        """Let others do these workers' work."""
        for worker in workers:
            self._tell(LEDGER, WorkerLost(worker))
        staying = [worker for worker in workers if worker not in self._leaving]
        if staying and not self._stopping:
            if node not in {each.id for each in alive()}:
                node = self._roomiest().id  # the machine is lost with them
            self._start_host(node, len(staying))

    def resize(self, add: int) -> Future[int]:
        """Have so many more workers, or fewer, from the next `poll` on; gives how many there are then, or BadInput.

        Safe from any thread.
        """
        resized: Future[int] = Future()
        self._resizes.put((add, resized))
        return resized

    def _resize(self) -> None:
        while not self._resizes.empty():
            add, resized = self._resizes.get()
            ids = [id for _, workers, *_ in self._hosts.values() for id in workers if id not in self._leaving]
            if self._stopping or not 1 <= len(ids) + add <= MOST_WORKERS:
                limits = f"a run that goes on, with 1 to {MOST_WORKERS:,} workers afterwards"
                resized.set_exception(BadInput(f"workers: got {add:+} for {len(ids)}, expected {limits}"))
                continue
            if add > 0:
                self._add(add)
                self._notes.append(f"{add} workers join: {len(ids) + add} in all")
            else:
                self._remove(sorted(ids)[len(ids) + add :])
                self._notes.append(f"{-add} workers leave: {len(ids) + add} in all")
            resized.set_result(len(ids) + add)

    def _add(self, workers: int) -> None:
        """Another host, where there are most cores for each host that is there."""
        self._start_host(self._roomiest().id, workers)

    def _roomiest(self) -> Node:
        hosts = Counter(node for _, _, node in self._hosts.values())
        return max(alive(), key=lambda node: node.cores / (1 + hosts[node.id]))

    def _start_host(self, node: str, workers: int) -> None:
        ids = self._new_workers(workers)
        actor = self._host(node, ids.start, ids)
        self._hosts[actor.work.remote(self.targets)] = actor, ids, node

    def _remove(self, workers: Sequence[int]) -> None:
        self._leaving |= set(workers)
        for actor, ids, *_ in self._hosts.values():
            if leaving := tuple(id for id in ids if id in self._leaving):
                actor.leave.remote(leaving)

    def _mend(self) -> None:
        """Bring back whatever actor is lost. Raises RunFailed if one cannot be."""
        done, _ = ray.wait(list(self._serving), num_returns=len(self._serving), timeout=0)
        for call in done:
            address = self._serving.pop(call)
            self._lost(str(address))
            ray.kill(self._servers[address])
            self._serve(address, again=True)
            try:
                self.targets[address], notes = ray.get(self._started(address), timeout=START_SECONDS)
                ray.get(self._servers[address].connect.remote(self._known_to(address)), timeout=CALL_SECONDS)
            except ray.exceptions.RayActorError as error:
                if _cause(error) is not None:
                    raise _failure(f"{address} could not come back", error) from error
                continue  # lost again: the next look finds that
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
                raise _failure(f"{address} could not come back", error) from error
            self._notes += notes
            self._introduce(address)

    def _introduce(self, address: Address) -> None:
        """Tell everybody where an actor is by now."""
        here = {address: self.targets[address]}
        for to, server in self._servers.items():
            if address in self._known_to(to):
                server.connect.remote(here)
        for actor, *_ in self._hosts.values():
            actor.connect.remote(here)
        for tell in self.moved:
            tell(self.targets)

        async def renew() -> None:
            await self._peers[address].close()
            self._peers[address] = self._peer(self.targets[address])

        self._loop.run(renew())

    def _lost(self, what: str, many: int = 1) -> None:
        """A process is gone, one of so many of its kind. Raises RunFailed if that happened too often."""
        now, kind = time.monotonic(), what.split()[0]
        self._losses = [(at, of) for at, of in self._losses if now - at < LOSSES_SECONDS] + [(now, kind)]
        if (losses := sum(of == kind for _, of in self._losses)) > MOST_LOSSES * many:
            raise RunFailed(
                f"{what}: lost {losses} times within {LOSSES_SECONDS:.0f} s: their processes were killed "
                "(out of memory?)"
            )
        log.warning("%s lost: brought back", what)
        self._notes.append(f"{what} lost: brought back")

    def notes(self) -> list[str]:
        """What a person should know and was not told yet, a line each."""
        notes, self._notes = self._notes, []
        return notes

    def _ask(self, address: Address, call: Callable[[Peer], Coroutine[Any, Any, T]]) -> T:
        """What an actor answers; if it is lost, once it is back."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._loop.run(call(self._peers[address]))
            except PeerLost as error:
                if time.monotonic() > deadline:
                    raise RunFailed(f"{address} was lost: its process does not answer ({error})") from error
                self._mend()
                time.sleep(MEND_SECONDS)

    def _status_of(self, address: Address) -> Any:
        return self._ask(address, lambda peer: peer.status(CALL_SECONDS))

    def status(self) -> RunStatus:
        """Ask every piece. Raises RunFailed if one is gone for good."""
        shards = tuple(self._status_of(Address(Role.SHARD, shard)) for shard in range(self._spec.layout.shards))
        return RunStatus(self._status_of(LEDGER), shards, self._status_of(AVERAGER), self._alive())

    def publish(self, values: Mapping[str, float]) -> None:
        """Offer these numbers to Prometheus, through the agent of the cluster that the run is on: as
        ray_distbelief_NAME{run="..."}. A Ray of the run's own has no such agent.
        """
        if self._spec.cluster.address == "local":
            return
        from ray.util.metrics import Gauge

        for name, value in values.items():
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = self._gauges[name] = Gauge(f"distbelief_{name}", tag_keys=("run",))
                gauge.set_default_tags({"run": self._spec.run})
            gauge.set(value)

    def _alive(self) -> int:
        calls = [actor.alive.remote() for actor, *_ in self._hosts.values()]
        try:
            return sum(ray.get(calls, timeout=CALL_SECONDS))
        except ray.exceptions.RayError:
            return 0  # a host is ending or lost: poll tells which

    def stop(self, ending: Ending) -> None:
        """Grant no more leases and end the workers after what they are doing now."""
        self._stopping = True
        self._tell(LEDGER, Stop(ending.value))
        for actor, *_ in self._hosts.values():
            actor.stop.remote()

    def _tell(self, address: Address, message: Message) -> None:
        self._ask(address, lambda peer: peer.ask(message, CALL_SECONDS))

    def read(self, average: bool, out_N: Tensor) -> int:
        """Copy the newest weights, or their average, into `out_N`; return how many it averages (0: none yet)."""
        counts = []
        for shard, bound in enumerate(self._spec.bounds):
            self._reads += 1
            target = AVERAGER if average else Address(Role.SHARD, shard)
            message = Read(Address(Role.WORKER, -1), self._reads, shard, out_N[bound])
            answer = self._ask(target, _exchange(message))
            assert isinstance(answer, ReadDone)
            counts.append(answer.samples)
        return min(counts)

    def settle(self, seconds: float) -> None:
        """Wait until the averager has what the shards copied for it, but no longer than this."""
        deadline = time.monotonic() + seconds
        while any(shard.waiting_samples for shard in self.status().shards) and time.monotonic() < deadline:
            time.sleep(0.05)

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Begin to write a snapshot, unless one is being written, or the machines share no directory to keep it in."""
        if self._saving is None and not self._apart:
            number = next_number(self._spec.snapshots)
            shards = [address for address in self._servers if address.role is Role.SHARD]
            self._saving = _Saving(number, {self._servers[each].save.remote(number): each for each in shards})

    def save_now(self, seconds: float) -> None:
        """Write one to its end, unless that takes longer."""
        deadline = time.monotonic() + seconds
        self._saved_by(deadline)  # one that is being written is older than now
        self.save()
        self._saved_by(deadline)

    def _saved_by(self, deadline: float) -> None:
        while self._saving is not None and time.monotonic() < deadline:
            self._keep_saving()
            time.sleep(MEND_SECONDS)

    def _keep_saving(self) -> None:
        """Go on with the snapshot that is being written. One that fails is given up, and the run goes on without."""
        if (saving := self._saving) is None:
            return
        done, _ = ray.wait(list(saving.calls), num_returns=len(saving.calls), timeout=0)
        try:
            for call in done:
                address = saving.calls.pop(call)
                saving.sha256[str(address)] = ray.get(call)
            if saving.calls:
                return
            if str(AVERAGER) not in saving.sha256:
                saving.calls[self._servers[AVERAGER].save.remote(saving.number)] = AVERAGER
                return
            manifest = Manifest(saving.number, self._spec.layout.fingerprint(), saving.sha256)
            publish(self._spec.snapshots, manifest, self._spec.snapshot.keep)
        except ray.exceptions.RayActorError:
            withdraw(self._spec.snapshots, saving.number)  # the next one will do
        except (ray.exceptions.RayError, OSError) as error:
            withdraw(self._spec.snapshots, saving.number)
            why = getattr(error, "cause", None) or error
            self._notes.append(f"snapshot {saving.number} could not be written ({why}); the run goes on without")
        self._saving = None

    # --- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, weights_N: Tensor) -> None:
        """Begin to evaluate these weights beside the run; `evaluation` has the result when it is there."""
        if self._evaluator is None:
            options = self._options("evaluator", placement.for_driver(alive()).id)
            self._evaluator = ray.remote(EvaluatorActor).options(**options).remote(self._spec)
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
        for actor, *_ in self._hosts.values():
            actor.stop.remote()
        if self._hosts:
            with suppress(ray.exceptions.RayError):
                ray.wait(list(self._hosts), num_returns=len(self._hosts), timeout=STOP_SECONDS)
        for server in self._servers.values():
            with suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                ray.get(server.stop.remote(), timeout=STOP_SECONDS)
        self._shipping.finish()
        for peer in self._peers.values():
            self._loop.run(peer.close())
        self._loop.close()
        for actor in [*self._servers.values(), *(actor for actor, *_ in self._hosts.values()), self._evaluator]:
            if actor is not None:
                ray.kill(actor)


def _exchange(message: Read) -> Callable[[Peer], Coroutine[Any, Any, Message]]:
    return lambda peer: peer.exchange(message, CALL_SECONDS)


def _cause(error: Exception) -> Any:
    """What an actor raised, if this is how Ray tells of it."""
    return getattr(error, "cause", None)


def _failure(what: str, error: Exception) -> DistbeliefError:
    """One line for a person out of what Ray raised."""
    cause = _cause(error)
    if isinstance(cause, DistbeliefError):
        return cause
    if isinstance(cause, MemoryError):
        return RunFailed(f"{what}: out of memory; use fewer workers or a smaller batch")
    text = repr(cause) if cause is not None else str(error).strip().splitlines()[-1]
    return RunFailed(f"{what}: {text}")
