"""Standby: the process of a shard's standby, and how it takes the shard's place. Ray-free, as cluster.serving."""

from __future__ import annotations

import time  # noqa: TID251 -- the live clock
from pathlib import Path

import torch
from torch import Tensor

from cluster.injection import Injection, injection
from cluster.machines import build_shard
from cluster.spec import RunSpec
from ps.errors import RunFailed
from ps.messages import Address, Role
from ps.standby import HANDLED, Replica
from ps.wire.files import SUFFIX, JournalWriter, take_over
from ps.wire.replicas import ReplicaServer
from ps.wire.server import Gate
from workers.arithmetic import arithmetic


def serve_standby(spec: RunSpec, index: int, weights_N: Tensor) -> ReplicaServer:
    """The standby of a shard, not seeded and not listening yet. `weights_N`: as the shard's; owned from here on."""
    torch.set_num_threads(1)
    replica = Replica(build_shard(spec, index, weights_N), leads=False)
    gate = Gate(spec.token, {index: spec.elements[index]}, spec.identity)
    return ReplicaServer(replica, gate, None, time.time, _injection(spec, str(Address(Role.STANDBY, index))))


def _injection(spec: RunSpec, actor: str) -> Injection | None:
    """What is planned for a standby; that it fired is all that its own journal says."""
    if not spec.faults.strikes(Role.STANDBY.value):
        return None
    path = spec.journal / f"{actor}{SUFFIX}"
    return injection(spec.faults, actor, path, JournalWriter(path, spec.run, actor, again=True).write)


def succeed(spec: RunSpec, index: int, server: ReplicaServer) -> None:
    """Let a standby go on in the place of its shard, with the shard's journal and what is planned to go wrong there.

    Raises:
        RunFailed: It cannot: it was not in step, the ledger let the shard go on without it, or the journal is not here.
    """
    actor = str(Address(Role.SHARD, index))
    path = journal_of(spec, index)
    try:
        server.claim()
        end, recorded = take_over(path, HANDLED)
        journal = JournalWriter(path, spec.run, actor, again=True, end=end)
        faults = injection(spec.faults, actor, path, journal.write)
        server.succeed(journal, recorded, arithmetic(time.time(), 1), faults, spec.cut)
    except (OSError, ValueError) as error:
        raise RunFailed(f"standby-{index} cannot go on for {actor}: {error}") from error


def journal_of(spec: RunSpec, index: int) -> Path:
    """A shard's journal, whoever writes it."""
    return spec.journal / f"{Address(Role.SHARD, index)}{SUFFIX}"
