"""Run specification: everything the pieces of a run need to know, as one value that travels to every process.

Composed from the components' own settings; nothing here is computed twice in two places.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cluster.faults import FaultPlan
from cluster.model import SimulateSettings
from ps.averager import AveragerStatus, AverageSettings
from ps.consistency import ConsistencySettings
from ps.correction_settings import CorrectionSettings
from ps.errors import require
from ps.layout import Layout
from ps.leases import LeasePlan
from ps.ledger import LedgerSettings, LedgerStatus
from ps.messages import Wire
from ps.rules import RuleSettings
from ps.schedule import ScheduleSettings
from ps.shard import ShardStatus
from ps.wire.tls import Identity
from workers.datasets import DataSettings
from workers.models import ModelSettings
from workers.program_settings import ProgramSettings

MOST_WORKERS = 100_000


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How many of what, and where.

    Attributes:
        workers: Logical workers, each with one gradient in flight.
        shards: Parameter-server shards.
        replicas: 1 for a standby of each shard, on another machine if there is one: nothing is lost with a shard, and
            the run goes on at once (see ps.standby). It takes the shard's memory and its updates' time once more.
        address: "local" for a Ray of the run's own on this machine, "auto" or an address to join one.
        turns: Gradients computed at once on a machine; 0 for as many as its cores allow.
        threads: Threads per gradient. Part of the arithmetic: another number gives other bits.
        gpus_per_worker: Share of a GPU that a worker takes while it computes: with 0.25 four gradients are computed at
            once on each; 0 to compute on cores. Gradients of a GPU do not come out again bit for bit.
        wire: Type that vectors have on their way between hosts: "float32", "bfloat16" or "float16".
        path: How vectors travel: "auto" through memory between processes of one host, else over the network;
            "network" always, to try on one machine what a wire type does.
        tls: Encrypt what goes between the actors, with a certificate made for the run.
        certificate, key: PEM files, for a certificate of one's own instead; both or neither.
        paced: A live worker takes as long for a gradient as [simulate] says (longer if it cannot be helped), as if it
            had a machine of its own: to try an uneven cluster on one machine.
        faults: File that plans what goes wrong (see cluster.faults); empty for nothing.
        join: "HOST:PORT" where processes outside the cluster may join, always over TLS; empty for this machine's own
            address (one that only this machine reaches, if address is "local") and any free port.
    """

    workers: int = 8
    shards: int = 2
    replicas: int = 0
    address: str = "local"
    turns: int = 0
    threads: int = 1
    gpus_per_worker: float = 0.0
    wire: str = "float32"
    path: str = "auto"
    tls: bool = False
    certificate: str = ""
    key: str = ""
    paced: bool = False
    faults: str = ""
    join: str = ""

    def __post_init__(self) -> None:
        require(1 <= self.workers <= MOST_WORKERS, "cluster.workers", self.workers, f"1 to {MOST_WORKERS:,}")
        require(1 <= self.shards <= 1024, "cluster.shards", self.shards, "1 to 1,024")
        replicas = "0, or 1 for a standby of each shard"
        require(0 <= self.replicas <= 1, "cluster.replicas", self.replicas, replicas)
        require(bool(self.address), "cluster.address", self.address, '"local", "auto" or the address of a Ray cluster')
        require(self.turns >= 0, "cluster.turns", self.turns, "0 (as many as the cores allow) or more")
        require(self.threads >= 1, "cluster.threads", self.threads, "at least 1")
        share = self.gpus_per_worker
        expected = "0 (none), a share below 1, or a whole number"
        require(0 <= share < 1 or (share < 1 << 10 and share == int(share)), "cluster.gpus_per_worker", share, expected)
        wires = [wire.value for wire in Wire]
        require(self.wire in wires, "cluster.wire", self.wire, f"one of {', '.join(wires)}")
        require(self.path in ("auto", "network"), "cluster.path", self.path, '"auto" or "network"')
        port = self.join.rpartition(":")[2]
        expected = 'HOST:PORT such as "0.0.0.0:7000", or nothing'
        require(not self.join or (port.isdecimal() and int(port) < 1 << 16), "cluster.join", self.join, expected)
        both = bool(self.certificate) == bool(self.key)
        require(both, "cluster.key", self.key, "a file if there is a cluster.certificate, and none else")


@dataclass(frozen=True, slots=True)
class SnapshotSettings:
    """When a live run writes down what its shards and its averager remember.

    Attributes:
        every_seconds: Between two sets; 0 for never.
        every_updates: Likewise in updates of a shard; 0 for never. Whichever comes first.
        keep: Sets that are kept.
    """

    every_seconds: float = 30.0
    every_updates: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        require(self.every_seconds >= 0, "snapshot.every_seconds", self.every_seconds, "0 (never) or seconds")
        require(self.every_updates >= 0, "snapshot.every_updates", self.every_updates, "0 (never) or updates")
        require(self.keep >= 1, "snapshot.keep", self.keep, "at least 1 set")


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One run.

    Attributes:
        run: The run's id; part of every actor's name.
        folder: The run directory.
        token: What every call must carry.
        identity: What the actors prove themselves with; None: they speak without TLS.
        faults: What is planned to go wrong.
        pace: How long gradients shall take on the live clock; None: as long as they take.
        cut: How often the parameters were cut anew, into another number of shards.
        resting: It only goes on until every shard has the same leases.
    """

    run: str
    folder: Path
    token: str
    plan: LeasePlan
    layout: Layout
    model: ModelSettings
    data: DataSettings
    rule: RuleSettings
    schedule: ScheduleSettings
    average: AverageSettings
    ledger: LedgerSettings
    cluster: ClusterSettings
    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    program: ProgramSettings = field(default_factory=ProgramSettings)
    snapshot: SnapshotSettings = field(default_factory=SnapshotSettings)
    identity: Identity | None = None
    faults: FaultPlan = field(default_factory=FaultPlan)
    pace: SimulateSettings | None = None
    cut: int = 0
    resting: bool = False

    @property
    def updates(self) -> int:
        """Updates that the whole run makes on each shard, about: what averages are reckoned from."""
        return -(-self.plan.leases // self.consistency.gradients(self.cluster.workers))

    @property
    def bounds(self) -> tuple[slice, ...]:
        """Each shard's slice of the flat vector."""
        return tuple(self.layout.bounds(shard) for shard in range(self.layout.shards))

    @property
    def elements(self) -> tuple[int, ...]:
        """Each shard's number of parameters."""
        return tuple(bound.stop - bound.start for bound in self.bounds)

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def snapshots(self) -> Path:
        return self.folder / "snapshots"

    @property
    def cutting(self) -> str:
        """What snapshots are of: a state of another layout, or of this one before others, is of no use."""
        fingerprint = self.layout.fingerprint()
        return f"{fingerprint}/{self.cut}" if self.cut else fingerprint

    @property
    def unreadable(self) -> Path:
        """File that names the examples that could not be read, if there are any."""
        return self.folder / "unreadable.txt"


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run at one moment. The pieces are asked one after the other: their numbers may be a few updates apart."""

    ledger: LedgerStatus
    shards: tuple[ShardStatus, ...]
    averager: AveragerStatus
    workers: int
