"""Serving: builds the pieces of a run inside the process they live in. Ray-free: live actors, tests and outside
processes share it.
"""

from __future__ import annotations

import os
import time  # noqa: TID251 -- the live clock
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cluster.host import Connections, WorkerHost, Write, host_journal
from cluster.injection import Injection, injection
from cluster.machines import build_averager, build_batches, build_computation, build_ledger, build_program, build_shard
from cluster.spec import RunSpec
from ps.messages import AVERAGER, LEDGER, Address, Role, Wire
from ps.wire.files import SUFFIX, JournalWriter
from ps.wire.server import Gate, MachineServer
from workers.arithmetic import arithmetic

TICK_SECONDS = 1.0


def serve_shard(spec: RunSpec, index: int, weights_N: Tensor) -> MachineServer:
    """One shard, with these initial weights (which it owns from here on), not listening yet."""
    torch.set_num_threads(1)
    shard = build_shard(spec, index, weights_N)
    journal = _journal(spec, Address(Role.SHARD, index))
    now = time.time()
    journal.write([arithmetic(now, 1), shard.opened(now)])
    gate = Gate(spec.token, {index: spec.elements[index]}, spec.identity)
    return MachineServer(
        shard, gate, journal, time.time, interference=_injection(spec, f"shard-{index}", journal.write)
    )


def serve_ledger(spec: RunSpec) -> MachineServer:
    """The ledger, not listening yet."""
    ledger, journal = build_ledger(spec), _journal(spec, LEDGER)
    journal.write([ledger.opened(time.time())])
    gate = Gate(spec.token, {}, spec.identity)
    return MachineServer(ledger, gate, journal, time.time, TICK_SECONDS, _injection(spec, str(LEDGER), journal.write))


def serve_averager(spec: RunSpec) -> MachineServer:
    """The averager, not listening yet."""
    torch.set_num_threads(1)
    gate = Gate(spec.token, dict(enumerate(spec.elements)), spec.identity)
    journal = _journal(spec, AVERAGER)
    return MachineServer(
        build_averager(spec), gate, journal, time.time, interference=_injection(spec, str(AVERAGER), journal.write)
    )


def worker_host(
    spec: RunSpec, host: int, workers: Sequence[int], turns: int, targets: Mapping[Address, str]
) -> WorkerHost:
    """A worker host with its data set opened and one model per compute turn."""
    from workers.allocator import keep_freed_memory
    from workers.datasets import load
    from workers.readahead import ReadAhead
    from workers.unreadable import UnreadableList

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
        [build_computation(spec, dataset, reading.batch) for _ in range(turns)],
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
    )


def default_turns(spec: RunSpec) -> int:
    """Gradients computed at once on this machine."""
    return spec.cluster.turns or max(1, len(os.sched_getaffinity(0)) // spec.cluster.threads)


def _journal(spec: RunSpec, actor: Address) -> JournalWriter:
    return JournalWriter(spec.journal / f"{actor}{SUFFIX}", spec.run, str(actor))


def _injection(spec: RunSpec, actor: str, write: Write) -> Injection | None:
    return injection(spec.faults, actor, spec.journal / f"{actor}{SUFFIX}", write)
