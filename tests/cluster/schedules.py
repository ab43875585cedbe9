"""Random fault schedules: a small simulated run, everything that can go wrong in it drawn from one seed, and what must
hold of it whatever went wrong.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cluster.copies import Copies
from cluster.crashes import CrashingSimulation
from cluster.faults import Fault, FaultPlan
from cluster.machines import build_averager, build_shard
from cluster.model import ClusterModel, SimulateSettings
from cluster.pieces import Pieces, with_gradients
from cluster.recording import Recording
from cluster.replayed import Replay, ReplayPieces
from cluster.spec import RunSpec
from cluster.vectors import OwnVectors
from ps.consistency import ConsistencySettings
from ps.correction_settings import CorrectionSettings
from ps.journal import (
    AveragerOpened,
    AveragerSaved,
    FaultFired,
    LeaseFinished,
    LeaseGranted,
    LeaseReturned,
    LedgerStopped,
    PullHandled,
    PushHandled,
    RoundApplied,
    SampleAveraged,
    SampleSent,
    SampleSkipped,
    ShardOpened,
    ShardSaved,
)
from ps.ledger import LedgerSettings
from ps.messages import AVERAGER, LEDGER, Address, Outcome, Role
from ps.streams import numpy_stream
from tests.cluster.simulation import Quadratic, Records, specification
from workers.program_settings import ProgramSettings

Draws = Any  # numpy's generator, which only ps.streams may name
LIMIT_SECONDS = 3000.0  # of virtual time: a run takes tens to hundreds
WORKER = Address(Role.WORKER)
ELEMENTS = 48
INITIAL_N = torch.linspace(-1.0, 1.0, ELEMENTS)

MODES = (
    ConsistencySettings(),
    ConsistencySettings("bounded", bound=1),
    ConsistencySettings("softsync", split=2),
    ConsistencySettings("sync"),
    ConsistencySettings("backup", backups=1),
)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What one seed comes to."""

    spec: RunSpec
    model: SimulateSettings
    plan: FaultPlan
    call_seconds: float
    restart_seconds: float = 3.0
    snapshot_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that is over. `fired`: how often each kind of fault struck each kind of actor."""

    scheduled: Scheduled
    simulation: CrashingSimulation
    journals: dict[Address, Records]
    fired: Counter[tuple[str, str]]


def drawn(seed: int) -> Scheduled:
    """The schedule of this seed."""
    draws = numpy_stream(seed, "schedule")
    workers, shards = int(draws.integers(2, 7)), int(draws.integers(1, 4))
    spec = specification(
        int(draws.integers(20, 61)), workers, shards, ELEMENTS, seed, ledger=LedgerSettings(8.0, max_attempts=1000)
    )
    mode = MODES[int(draws.integers(len(MODES)))]
    model = SimulateSettings(
        compute="exponential",
        compute_seconds=1.0,
        turns=int(draws.integers(0, 3)),
        latency_seconds=0.01,
        service_seconds=float(draws.choice([0.0, 0.05])),
        detection_seconds=float(draws.uniform(0.1, 4.0)),
        rejoin_seconds=float(draws.uniform(0.1, 10.0)),
    )
    faults = [_fault(draws) for _ in range(int(draws.integers(1, 8)))]
    if draws.random() < 0.5:  # one alone: what two workers find not finite has diverged
        faults.append(Fault(str(draws.choice(["shard-0", "worker-0"])), "corrupt", event=int(draws.integers(1, 40))))
    call_seconds = float(draws.uniform(2.0, 30.0))
    restart_seconds, snapshot_seconds = float(draws.uniform(0.2, 8.0)), float(draws.uniform(1.0, 30.0))
    plan = FaultPlan(tuple(faults), seed)
    spec = replace(spec, consistency=mode)
    if not mode.in_rounds:  # from streams of their own, so that they leave the rest of a seed's schedule as it is
        prefetch = bool(numpy_stream(seed, "schedule/prefetch").random() > 0.6)
        compensated = numpy_stream(seed, "schedule/correction").random() > 0.75
        correction = CorrectionSettings("dc-asgd" if compensated else "none")
        spec = replace(spec, program=ProgramSettings(prefetch=prefetch), correction=correction)
    return Scheduled(spec, model, plan, call_seconds, restart_seconds, snapshot_seconds)


def _fault(draws: Draws) -> Fault:
    role = str(draws.choice(["shard", "worker", "ledger", "averager"]))
    do = str(draws.choice(["stop", "delay", "drop", "duplicate", "kill"]))
    return Fault(
        role,
        do,
        every=float(draws.uniform(3.0, 60.0)) * (4.0 if do in ("kill", "stop") else 1.0),
        times=10 if do == "stop" or (do == "kill" and role != "worker") else 0,  # without end, it may take all the time
        when=str(draws.choice(["before", "after"])) if do in ("kill", "drop") else "before",
        seconds=float(draws.uniform(0.01, 12.0)) if do in ("stop", "delay") else 0.0,
    )


def run(seed: int, kind: type[CrashingSimulation] = CrashingSimulation) -> Ran:
    """Let the schedule of this seed take place, to its end."""
    return carried_out(drawn(seed), kind)


def carried_out(chosen: Scheduled, kind: type[CrashingSimulation] = CrashingSimulation) -> Ran:
    """Let this schedule take place, to its end. `kind`: of simulation."""
    spec = chosen.spec
    seed = spec.plan.seed
    shards = [Address(Role.SHARD, shard) for shard in range(spec.layout.shards)]
    standbys = [Address(Role.STANDBY, shard.index) for shard in shards]
    journals = {address: Records() for address in [*shards, *standbys, LEDGER, AVERAGER, WORKER]}
    computation = Quadratic(noise=0.1, seed=seed)
    vectors = OwnVectors(spec.layout.size, computation, spec.program.pulls)

    def anew() -> Pieces:
        return with_gradients(spec, INITIAL_N, vectors, journals)

    pieces = anew()
    for shard in pieces.shards:
        journals[Address(Role.SHARD, shard.index)].append(shard.opened(0.0))
    journals[LEDGER].append(pieces.ledger.opened(0.0))
    journals[AVERAGER].append(pieces.averager.opened(0.0))
    simulation = kind(
        pieces,
        ClusterModel(chosen.model, seed),
        spec.cluster.workers,
        chosen.plan,
        anew,
        call_seconds=chosen.call_seconds,
        restart_seconds=chosen.restart_seconds,
        snapshot_seconds=chosen.snapshot_seconds,
    )

    def look() -> None:
        assert simulation.now < LIMIT_SECONDS, f"not over after {simulation.now:g} s: {simulation.status()}"

    simulation.run(look)
    fired = Counter(
        (record.actor.partition("-")[0], record.do)
        for records in journals.values()
        for record in records
        if isinstance(record, FaultFired)
    )
    return Ran(chosen, simulation, journals, fired)


def check(ran: Ran) -> None:
    """What must hold, whatever went wrong."""
    spec = ran.scheduled.spec
    status = ran.simulation.status()
    ledger, leases = status.ledger, spec.plan.leases
    assert (ledger.ending, ledger.message) == ("completed", ""), "the run ends by itself"
    assert (ledger.finished, ledger.outstanding, ledger.samples) == (leases, 0, leases), "no lease is lost"
    _check_ledger(ran.journals[LEDGER], leases, spec.consistency.in_rounds)
    for shard in status.shards:
        journal = ran.journals[Address(Role.SHARD, shard.shard)]
        applied = _applied(journal)
        assert sorted(lease for each in applied for lease in each) == list(range(leases)), "each lease exactly once"
        assert (shard.version, shard.samples, shard.staged) == (len(applied), leases, 0)
        every = spec.average.every
        samples = {r.version for r in journal if isinstance(r, SampleSent | SampleSkipped)}
        assert samples == set(range(every, shard.version + 1, every)), "each version of the average"
        _check_staleness(shard.shard, journal, shard.staleness)
    averaged = Counter((r.shard, r.version) for r in _averaged(ran.journals[AVERAGER]) if r.counted)
    assert all(count == 1 for count in averaged.values()), "a version counts once"
    _check_replay(ran)


def _applied(journal: Records) -> list[tuple[int, ...]]:
    """The leases of each version, without what was lost again."""
    made: list[tuple[int, ...]] = []
    for record in journal:
        match record:
            case ShardOpened():
                assert record.version <= len(made), "it comes back from what it had"
                del made[record.version :]
            case PushHandled(outcome=Outcome.APPLIED):
                made.append((record.lease,))
                assert record.version == len(made), "versions count up by one"
            case RoundApplied():
                made.append(record.leases)
                assert record.version == len(made), "versions count up by one"
    return made


def _averaged(journal: Records) -> list[SampleAveraged]:
    """What is in the average, without what was lost again."""
    kept: list[SampleAveraged] = []
    saved = {0: 0}
    for record in journal:
        match record:
            case AveragerOpened():
                del kept[saved[record.snapshot] :]
            case AveragerSaved():
                saved[record.snapshot] = len(kept)
            case SampleAveraged():
                kept.append(record)
    return kept


def _check_ledger(journal: Records, leases: int, rounds: bool) -> None:
    finished: set[int] = set()
    held: dict[int, int] = {}  # lease to the attempt that is out
    ended = []
    for record in journal:
        match record:
            case LeaseGranted():
                assert record.lease not in held, "a lease is granted to one worker at a time"
                assert record.lease not in finished
                held[record.lease] = record.attempt
            case LeaseReturned():
                assert held.pop(record.lease, record.attempt) == record.attempt
                finished.discard(record.lease)
            case LeaseFinished():
                # In rounds a shard may make up for one that it lost with gradients that it has kept: none is granted.
                assert rounds or record.lease not in finished, "each lease is finished once, unless a shard lost it"
                finished.add(record.lease)
                held.pop(record.lease, None)
            case LedgerStopped():
                ended.append(record.reason)
    assert finished == set(range(leases))
    assert not held
    assert ended
    assert set(ended) == {"completed"}


def _check_staleness(shard: int, journal: Records, told: dict[int, int]) -> None:
    """A gradient's staleness is the updates since the pull that it was computed from, which this shard answered."""
    pulls: set[tuple[int, int]] = set()  # worker and version
    read: dict[int, int] = {}  # lease to the version under its staged gradient
    saved: dict[int, dict[int, int]] = {0: {}}  # likewise, by snapshot
    found: list[tuple[int, ...]] = []  # by version
    for record in journal:
        match record:
            case ShardOpened():
                del found[record.version :]
                read = read if record.promoted else dict(saved[record.snapshot])
            case ShardSaved():
                saved[record.snapshot] = dict(read)
            case PushHandled(outcome=Outcome.APPLIED):
                under = record.read[shard].version
                assert (record.worker, under) in pulls
                assert record.staleness == record.version - 1 - under
                found.append((record.staleness,))
            case PushHandled(outcome=Outcome.STAGED):
                read[record.lease] = record.read[shard].version
                assert (record.worker, read[record.lease]) in pulls
            case RoundApplied():
                ages = tuple(record.version - 1 - read[lease] for lease in record.leases)
                assert record.staleness == ages
                found.append(ages)
        if isinstance(record, PullHandled) or (isinstance(record, PushHandled) and record.pulled):
            pulls.add((record.worker, record.version))
    assert Counter(age for ages in found for age in ages) == Counter(told)


def _check_replay(ran: Ran) -> None:
    """The journals give the same weights and the same average again, to the bit."""
    spec = ran.scheduled.spec
    journals = {
        "host-0" if address == WORKER else str(address): list(records) for address, records in ran.journals.items()
    }
    steps = spec.program.steps(spec.plan, spec.schedule.build(spec.plan.examples, spec.plan.samples))
    shards = [build_shard(spec, index, INITIAL_N[bound].clone()) for index, bound in enumerate(spec.bounds)]
    computation = Quadratic(noise=0.1, seed=spec.plan.seed)
    pieces = ReplayPieces(shards, build_averager(spec), spec.plan, computation, spec.bounds, steps)
    copies = Copies(1 << 20, ELEMENTS)
    replay = Replay(pieces, Recording.of(journals, Path("run")), copies)
    replay.run()
    copies.close()
    assert replay.differences == [], str(replay.differences[0])
    for average in (False, True):
        recorded_N, replayed_N = torch.empty(ELEMENTS), torch.empty(ELEMENTS)
        ran.simulation.read(average, recorded_N)
        replay.read(average, replayed_N)
        assert torch.equal(recorded_N, replayed_N)
