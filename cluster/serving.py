"""Serving: builds the pieces of a run inside the process they live in. Ray-free: live actors, tests and outside
processes share it.
"""

from __future__ import annotations

import os
import time  # noqa: TID251 -- the live clock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from cluster import placement
from cluster.host import Connections, WorkerHost, Write, host_journal
from cluster.injection import Injection, injection
from cluster.machines import build_averager, build_batches, build_computation, build_ledger, build_program, build_shard
from cluster.model import ClusterModel
from cluster.spec import RunSpec
from ps.errors import RunFailed
from ps.journal import Record, ShardOpened, WorkerExchanged
from ps.messages import AVERAGER, JOURNAL, LEDGER, Address, Role, Wire
from ps.shard import Outbox
from ps.standby import Replica, records_handled
from ps.states import AveragerState, ShardState
from ps.wire.files import SUFFIX, JournalWriter, journals, read_journal
from ps.wire.replicas import ReplicaServer
from ps.wire.server import Gate, MachineServer
from ps.wire.snapshots import Found, newest
from workers.arithmetic import arithmetic

TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Served:
    """A machine's server, not listening yet. `notes`: what a person should know of how it came back, a line each."""

    server: MachineServer
    notes: tuple[str, ...] = ()


def serve_shard(spec: RunSpec, index: int, weights_N: Tensor, again: bool = False) -> Served:
    """One shard, with these initial weights (which it owns from here on).

    Args:
        again: It served before: it takes up its newest state, or begins once more if there is none.
    """
    torch.set_num_threads(1)
    shard, found = build_shard(spec, index, weights_N), Found(0, None, ())
    address = Address(Role.SHARD, index)
    says: Outbox = []
    if again:
        openings = [
            record.version
            for record in _written(spec, address)
            if isinstance(record, ShardOpened) and record.cut == spec.cut
        ]
        found = _newest(spec, address)
        state = found.state or shard.state()
        assert isinstance(state, ShardState)
        shard.recall(state, (*openings, state.version))
        says = shard.rejoin()
    journal = _journal(spec, address, again)
    now = time.time()
    journal.write([arithmetic(now, 1), shard.opened(now, found.number, spec.cut)])
    gate = Gate(spec.token, {index: spec.elements[index]}, spec.identity)
    interference = _injection(spec, str(address), journal.write)
    if spec.cluster.replicas:
        replica = Replica(shard, written=records_handled(_written(spec, address)))
        server: MachineServer = ReplicaServer(replica, gate, journal, time.time, interference, says)
    else:
        server = MachineServer(shard, gate, journal, time.time, interference=interference, says=says)
    return Served(server, found.damaged)


def serve_ledger(spec: RunSpec, again: bool = False, alone: bool = False) -> Served:
    """The ledger.

    Args:
        again: It served before: it reads its journal.
        alone: The run was over, and all workers of that time are gone.
    """
    ledger, now = build_ledger(spec), time.time()
    says: Outbox = []
    if again:
        ledger.recall(_written(spec, LEDGER))
    journal = _journal(spec, LEDGER, again)
    journal.write([replace(ledger.opened(now), resumed=again and alone, cut=spec.cut)])
    if again:
        says = ledger.resume(now) if alone else ledger.rejoin(now)
        journal.write([item for to, item in says if to == JOURNAL])  # type: ignore[misc]  # they are records
    gate = Gate(spec.token, {}, spec.identity)
    interference = _injection(spec, str(LEDGER), journal.write)
    return Served(MachineServer(ledger, gate, journal, time.time, TICK_SECONDS, interference, says))


def next_worker(spec: RunSpec) -> int:
    """The least id that no worker of this run has had, nor any host as its number."""
    ledger = build_ledger(spec)
    ledger.recall(_written(spec, LEDGER))
    known = ledger.status().next_worker
    for path in journals(spec.journal):
        name, _, number = path.stem.partition("-")
        if name == "host":  # not all of its workers may have come to ask for a lease
            asked = (record.worker for record in read_journal(path) if isinstance(record, WorkerExchanged))
            known = max(known, 1 + max((int(number), *asked)))
    return known


def serve_averager(spec: RunSpec, again: bool = False) -> Served:
    """The averager. `again`: it served before: it takes up its newest state, or begins once more."""
    torch.set_num_threads(1)
    averager, found = build_averager(spec), Found(0, None, ())
    if again:
        found = _newest(spec, AVERAGER)
        if isinstance(found.state, AveragerState):
            averager.recall(found.state)
    journal = _journal(spec, AVERAGER, again)
    journal.write([averager.opened(time.time(), found.number, spec.cut)])
    gate = Gate(spec.token, dict(enumerate(spec.elements)), spec.identity)
    interference = _injection(spec, str(AVERAGER), journal.write)
    return Served(MachineServer(averager, gate, journal, time.time, interference=interference), found.damaged)


def worker_host(
    spec: RunSpec, host: int, workers: Sequence[int], turns: int, targets: Mapping[Address, str]
) -> WorkerHost:
    """A worker host with its data set opened and one model per compute turn.

    Raises:
        BadInput: It is to compute on a GPU, and there is none.
    """
    from workers.allocator import keep_freed_memory
    from workers.datasets import load
    from workers.device import CPU, device_for, pin
    from workers.readahead import ReadAhead
    from workers.unreadable import UnreadableList

    device = device_for(spec.cluster.gpus_per_worker)
    keep_freed_memory()
    torch.set_num_threads(spec.cluster.threads)
    dataset = load(spec.data, "train")
    reading = ReadAhead(
        spec.plan.by_batch, build_batches(spec, dataset, UnreadableList(spec.unreadable).add).batch, turns
    )
    journal = host_journal(spec.journal, spec.run, host)
    journal.write([arithmetic(time.time(), spec.cluster.threads, dataset)])
    return WorkerHost(
        workers,
        build_program(spec, spec.bounds),
        spec.layout.size,
        spec.program.pulls,
        [build_computation(spec, dataset, reading.batch, device) for _ in range(turns)],
        reading,
        Connections(
            targets,
            spec.token,
            Wire(spec.cluster.wire),
            spec.plan.seed,
            spec.identity,
            memory=spec.cluster.path == "auto",
        ),
        journal,
        lambda note: _injection(spec, f"host-{host}", note),
        None if spec.pace is None else ClusterModel(spec.pace, spec.plan.seed).compute_times,
        None if device == CPU else pin,
    )


def default_turns(spec: RunSpec) -> int:
    """Gradients computed at once on this machine."""
    here = placement.Node("", "", len(os.sched_getaffinity(0)), torch.cuda.device_count())
    return max(1, placement.rounds(here, spec.cluster))


def _path(spec: RunSpec, actor: Address) -> Path:
    return spec.journal / f"{actor}{SUFFIX}"


def _journal(spec: RunSpec, actor: Address, again: bool = False) -> JournalWriter:
    return JournalWriter(_path(spec, actor), spec.run, str(actor), again=again)


def _newest(spec: RunSpec, actor: Address) -> Found:
    """The newest whole state of this actor. Raises RunFailed if there is none and it cannot begin without."""
    found = newest(spec.snapshots, str(actor), spec.cutting)
    if spec.cut and found.state is None:
        why = "; ".join(found.damaged) or "it is gone"
        raise RunFailed(
            f"{actor}: got no whole snapshot since the parameters were cut anew, expected one in {spec.snapshots} "
            f"({why}); what was learned before is in latest.safetensors: distbelief launch --init-from"
        )
    return found


def _written(spec: RunSpec, actor: Address) -> Iterator[Record]:
    """What an actor wrote down so far."""
    path = _path(spec, actor)
    return read_journal(path) if path.exists() else iter(())


def _injection(spec: RunSpec, actor: str, write: Write) -> Injection | None:
    return injection(spec.faults, actor, spec.journal / f"{actor}{SUFFIX}", write)
