"""Worker programs, shards, ledger and averager together, under every order of events that a seed can draw.

A small cluster in one process: any message in flight may be the next to arrive; calls are lost and made again, answers
come twice, leases run out, workers vanish in mid-exchange and others join, one worker finds gradients not finite that
are. Whatever happens, each lease is applied exactly once on every shard, the ledger says a lease is done only when that
is so, and the run completes. More seeds find more.

The law of staleness (general form, `open` being the pulls whose gradient may still come): per shard,

    sum of tau over the updates + ages of the open pulls + ages of the abandoned pulls
        = sum over the updates of (open pulls besides the one applied)

tau is what the shard journaled; the open pulls are counted here, from what the workers sent and got.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from ps.averager import Averager, AverageSettings
from ps.consistency import ConsistencySettings
from ps.journal import (
    LeaseFinished,
    LeaseGranted,
    LedgerStopped,
    PushHandled,
    Record,
    RoundApplied,
    SampleSent,
    SampleSkipped,
)
from ps.layout import Layout, TensorSpec
from ps.leases import LeasePlan
from ps.ledger import Ledger, LedgerSettings
from ps.messages import (
    AVERAGER,
    JOURNAL,
    LEDGER,
    Address,
    Exchange,
    Exchanged,
    Granted,
    Lease,
    Message,
    NextLease,
    NoMoreLeases,
    Outcome,
    Refused,
    Role,
    Tick,
    WorkerLost,
)
from ps.rules import Momentum
from ps.schedule import ScheduleSettings
from ps.shard import Shard
from ps.streams import numpy_stream, torch_stream
from ps.wire.actor import Machine
from workers.program import Ask, Compute, Gradient, Note, Program, work

PLAN = LeasePlan(examples=42, batch_size=4, epochs=4, seed=3)
EVERY = 3
LEASE_SECONDS = 40.0


@dataclass(slots=True)
class Pull:
    """One pull at one shard. `worker`: whose; `version`: what it read; `weights_N`: what the shard filled."""

    worker: int
    version: int
    weights_N: Tensor


@dataclass(slots=True)
class Sent:
    """A message in flight. `used`: the pull under a push; `pulled`: the pull behind an answer."""

    to: Address
    message: Message
    used: Pull | None = None
    pulled: Pull | None = None


class Laws:
    """One shard's side of the law of staleness."""

    def __init__(self) -> None:
        self.open: list[Pull] = []
        self.abandoned_ages = 0
        self.others = 0

    def close(self, pull: Pull, *, applied: bool, version: int) -> None:
        """This pull's gradient was applied as update `version` + 1, or will never be."""
        at = next(i for i, each in enumerate(self.open) if each is pull)
        del self.open[at]
        if applied:
            self.others += len(self.open)
        else:
            self.abandoned_ages += version - pull.version

    def holds(self, pull: Pull | None) -> bool:
        return any(each is pull for each in self.open)


class Worker:
    """A worker program, what it waits for, and the pulls that its weights come from."""

    def __init__(self, index: int, bounds: tuple[slice, ...], elements: int) -> None:
        self.index = index
        self.weights_N = torch.zeros(elements)
        self.program: Program = work(index, bounds, self.weights_N)
        self.requests: tuple[tuple[Address, Message], ...] = ()
        self.answers: dict[Address, Sent] = {}
        self.pulls: dict[Address, Pull] = {}


class Cluster:
    """The whole run. `faults` is how often anything but an arrival happens."""

    def __init__(
        self, seed: int, workers: int, shards: int, faults: float, consistency: ConsistencySettings | None = None
    ) -> None:
        self.consistency = consistency = consistency or ConsistencySettings()
        self.draws = numpy_stream(seed, "schedule")
        self.faults = faults
        self.planned = workers
        layout = Layout((TensorSpec("weight", (9, 10)), TensorSpec("bias", (7,), 2.0, 0.0)), shards)
        self.layout = layout
        self.bounds = tuple(layout.bounds(shard) for shard in range(shards))
        schedule = ScheduleSettings(rate=0.01).build(PLAN.examples, PLAN.samples)
        self.schedule = schedule
        self.weights_N = torch.randn(layout.size, generator=torch_stream(0, "weights"))
        self.shards = [self.new_shard(i) for i in range(shards)]
        self.ledger = self.new_ledger()
        self.averager = self.new_averager()
        self.now = 0.0
        self.flying: list[Sent] = []
        self.journals: dict[Address, list[Record]] = {}
        self.laws = [Laws() for _ in self.shards]
        self.happened: Counter[str] = Counter()
        self.not_finite: set[int] = set()  # leases
        self.workers: dict[int, Worker] = {}
        self.joined = 0
        for _ in range(workers):
            self.join()

    def new_shard(self, index: int) -> Shard:
        weights_N = self.weights_N[self.bounds[index]].clone()
        staging = self.consistency.staging(self.planned)
        return Shard(
            index, len(self.bounds), weights_N, self.layout.segments(index), Momentum(0.5), 0.0, self.schedule, EVERY,
            staging=staging,
        )  # fmt: skip

    def new_ledger(self) -> Ledger:
        settings = LedgerSettings(LEASE_SECONDS, max_attempts=1000)
        return Ledger(PLAN, len(self.bounds), settings, self.planned, self.consistency)

    def new_averager(self) -> Averager:
        elements = tuple(b.stop - b.start for b in self.bounds)
        return Averager(elements, AverageSettings(kind="uniform", start=0.0), PLAN.leases)

    # --- workers -----------------------------------------------------------------------------------------------------

    def join(self) -> None:
        worker = self.workers[self.joined] = Worker(self.joined, self.bounds, self.layout.size)
        self.joined += 1
        self.go_on(worker, None)

    def go_on(self, worker: Worker, answer: tuple[Message, ...] | None) -> None:
        """Run a worker's program until it asks for something, or ends."""
        effect_answer: tuple[Message, ...] | Gradient | None = answer
        while True:
            try:
                effect = worker.program.send(effect_answer)
            except StopIteration:
                del self.workers[worker.index]
                return
            match effect:
                case Ask(requests):
                    worker.requests, worker.answers = requests, {}
                    for to, message in requests:
                        self.send(worker, to, message)
                    return
                case Compute(lease, weights_N):
                    effect_answer = self.compute(worker, lease, weights_N)
                case Note():
                    effect_answer = None

    def compute(self, worker: Worker, lease: Lease, weights_N: Tensor) -> Gradient:
        """A pure function of weights and lease, unless this is worker 0 on a bad day; none has two such days."""
        bad = worker.index == 0 and len(self.workers) > 1 and self.draws.random() < self.faults
        if bad and lease.id not in self.not_finite:
            self.not_finite.add(lease.id)
            self.happened["not finite"] += 1
            return Gradient(float("nan"), 0, 0, False, weights_N)
        noise_N = torch.randn(self.layout.size, generator=torch_stream(PLAN.seed, f"lease/{lease.id}"))
        return Gradient(0.5, 1, 0, True, noise_N.add_(weights_N, alpha=0.1))

    def send(self, worker: Worker, to: Address, message: Message) -> None:
        """Put a request on its way, in a mailbox of its own."""
        used = None
        if isinstance(message, Exchange):
            assert message.weights_N is not None
            mailbox_N = torch.zeros_like(message.weights_N)
            push = message.push
            if push is not None:
                used = worker.pulls[to]
                push = replace(push, gradient_N=push.gradient_N.clone())
            message = replace(message, push=push, weights_N=mailbox_N)
        self.flying.append(Sent(to, message, used))

    def answered(self, sent: Sent) -> None:
        """An answer reaches a worker: it goes on when it has all that it waits for."""
        worker = self.workers.get(sent.to.index)
        if worker is None:
            return
        number = getattr(sent.message, "number", None)
        of_shard = isinstance(sent.message, Exchanged | Refused)
        source = Address(Role.SHARD, sent.message.shard) if isinstance(sent.message, Exchanged | Refused) else LEDGER
        waits = {to: message for to, message in worker.requests if to not in worker.answers}
        if getattr(waits.get(source), "number", None) != number:
            self.happened["answered twice"] += 1
            return
        worker.answers[source] = sent
        if of_shard and sent.pulled is not None:
            worker.weights_N[self.bounds[source.index]] = sent.pulled.weights_N
            worker.pulls[source] = sent.pulled
            law = self.laws[source.index]
            for old in [pull for pull in law.open if pull.worker == worker.index and pull is not sent.pulled]:
                law.close(old, applied=False, version=self.shards[source.index].version)
        if len(worker.answers) == len(worker.requests):
            self.go_on(worker, tuple(worker.answers[to].message for to, _ in worker.requests))

    # --- machines ----------------------------------------------------------------------------------------------------

    def handle(self, sent: Sent) -> None:
        others: dict[Address, Machine] = {LEDGER: self.ledger, AVERAGER: self.averager}
        machine = others.get(sent.to) or self.shards[sent.to.index]
        pulled = None
        version = self.shards[sent.to.index].version
        for to, item in machine.handle(self.now, sent.message):
            if to == JOURNAL:
                self.journals.setdefault(sent.to, []).append(cast(Record, item))
                if isinstance(item, LeaseFinished):
                    self.finished(item.lease)
                continue
            if isinstance(item, Exchanged | Refused):
                pulled = self.counted(sent, item, version)
            self.flying.append(Sent(to, cast(Message, item), pulled=pulled))

    def finished(self, lease: int) -> None:
        assert all(lease in shard.applied for shard in self.shards), "done means done everywhere"

    def counted(self, sent: Sent, answer: Exchanged | Refused, version: int) -> Pull | None:
        """Keep the law's accounts of one exchange; return the pull that it made."""
        law = self.laws[answer.shard]
        message = sent.message
        assert isinstance(message, Exchange)
        applied = isinstance(answer, Exchanged) and answer.outcome is Outcome.APPLIED
        if sent.used is not None and (applied or law.holds(sent.used)):
            law.close(sent.used, applied=applied, version=version)
        if isinstance(answer, Refused) or message.weights_N is None:
            return None
        law.open.append(Pull(message.worker, answer.reading.version, message.weights_N))
        return law.open[-1]

    # --- what happens ------------------------------------------------------------------------------------------------

    def run(self, steps: int = 40_000) -> None:
        """Until nothing is left to happen."""
        for _ in range(steps):
            if not self.workers and not self.flying:
                return
            self.now += float(self.draws.random())
            if self.draws.random() < self.faults:
                self.mishap()
            elif self.flying:
                sent = self.flying.pop(int(self.draws.integers(len(self.flying))))
                (self.answered if sent.to.role is Role.WORKER else self.handle)(sent)
            else:
                self.handle(Sent(LEDGER, Tick()))
        raise AssertionError(f"not over after {steps} steps: {self.ledger.status()}")

    def mishap(self) -> None:
        kind = ("tick", "retry", "loss", "join")[int(self.draws.choice(4, p=[0.35, 0.45, 0.1, 0.1]))]
        worker = (
            self.workers[sorted(self.workers)[int(self.draws.integers(len(self.workers)))]] if self.workers else None
        )
        if kind == "tick":
            self.handle(Sent(LEDGER, Tick()))
        elif kind == "join" and self.ledger.status().ending == "":
            self.join()
        elif kind == "retry" and worker is not None:
            open_requests = [request for request in worker.requests if request[0] not in worker.answers]
            self.send(worker, *open_requests[int(self.draws.integers(len(open_requests)))])
        elif kind == "loss" and worker is not None and len(self.workers) > 2:
            self.lose(worker)
        else:
            return
        self.happened[kind] += 1

    def lose(self, worker: Worker) -> None:
        """A worker is killed: what it sent is still on its way, its pulls without a push on its way come to nothing."""
        del self.workers[worker.index]
        for shard, law in zip(self.shards, self.laws, strict=True):
            for pull in [pull for pull in law.open if pull.worker == worker.index]:
                if not any(sent.used is pull for sent in self.flying):
                    law.close(pull, applied=False, version=shard.version)
        self.handle(Sent(LEDGER, WorkerLost(worker.index)))


def check(cluster: Cluster) -> None:
    """What must hold of every run that is over."""
    status = cluster.ledger.status()
    assert (status.ending, status.finished, status.outstanding) == ("completed", PLAN.leases, 0)
    assert status.samples == PLAN.samples
    records = cluster.journals[LEDGER]
    assert sorted(r.lease for r in records if isinstance(r, LeaseFinished)) == list(range(PLAN.leases))
    assert [r.reason for r in records if isinstance(r, LedgerStopped)] == ["completed"]
    for shard, law in zip(cluster.shards, cluster.laws, strict=True):
        journal = cluster.journals[Address(Role.SHARD, shard.index)]
        updates = [r for r in journal if isinstance(r, PushHandled) and r.outcome is Outcome.APPLIED]
        assert sorted(r.lease for r in updates) == list(range(PLAN.leases))
        assert sum(r.samples for r in updates) == shard.samples == PLAN.samples
        assert [r.version for r in updates] == list(range(1, PLAN.leases + 1))
        assert shard.staleness == Counter(r.staleness for r in updates)
        ages = sum(shard.version - pull.version for pull in law.open)
        assert sum(r.staleness for r in updates) + ages + law.abandoned_ages == law.others
        sent = [r.version for r in journal if isinstance(r, SampleSent)]
        skipped = [r.version for r in journal if isinstance(r, SampleSkipped)]
        assert sorted(sent + skipped) == list(range(EVERY, PLAN.leases + 1, EVERY))
        assert shard.status().waiting_samples == 0
        assert cluster.averager.status().counts[shard.index] <= len(sent)  # an older one that arrives later is left out


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_without_faults_the_staleness_is_that_of_w_workers_exactly(seed: int, shards: int) -> None:
    workers = 6
    cluster = Cluster(seed, workers, shards, faults=0.0)
    first = {sent.to: sent for sent in cluster.flying}
    assert len(first) == shards
    pulls, cluster.flying = cluster.flying, []
    for sent in pulls:  # every worker's first pull comes before any update
        cluster.handle(sent)
        cluster.answered(cluster.flying.pop())
    cluster.run()
    check(cluster)
    for shard, law in zip(cluster.shards, cluster.laws, strict=True):
        ages = sum(shard.version - pull.version for pull in law.open)
        taus = sum(tau * count for tau, count in shard.staleness.items())
        assert (len(law.open), law.abandoned_ages) == (workers, 0)
        assert taus + ages == (workers - 1) * PLAN.leases


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_every_lease_is_applied_exactly_once_on_every_shard_whatever_happens(seed: int, shards: int) -> None:
    cluster = Cluster(seed, 5, shards, faults=0.15)
    cluster.run()
    check(cluster)
    assert {"retry", "tick", "loss", "join", "answered twice"} <= set(cluster.happened)


MODES = {
    "bounded 0": ConsistencySettings("bounded", bound=0),
    "bounded 2": ConsistencySettings("bounded", bound=2),
    "softsync 1": ConsistencySettings("softsync", split=1),
    "softsync 2": ConsistencySettings("softsync", split=2),
    "softsync 5": ConsistencySettings("softsync", split=5),
    "sync": ConsistencySettings("sync"),
    "backup 1": ConsistencySettings("backup", backups=1),
    "backup 3": ConsistencySettings("backup", backups=3),
    "warm": ConsistencySettings(warm_leases=20),
    "ramp": ConsistencySettings(begin=1),
    "warm and bounded": ConsistencySettings("bounded", bound=1, warm_leases=20),
}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", MODES)
def test_exactly_once_in_every_mode_whatever_happens(mode: str, seed: int, shards: int) -> None:
    cluster = Cluster(seed, 5, shards, faults=0.15, consistency=MODES[mode])
    cluster.run()
    status = cluster.ledger.status()
    assert (status.ending, status.finished, status.outstanding) == ("completed", PLAN.leases, 0)
    assert status.samples == PLAN.samples
    for shard in cluster.shards:
        journal = cluster.journals[Address(Role.SHARD, shard.index)]
        applied = [(r.lease,) for r in journal if isinstance(r, PushHandled) and r.outcome is Outcome.APPLIED]
        rounds = [r for r in journal if isinstance(r, RoundApplied)]
        assert bool(rounds) == MODES[mode].in_rounds != bool(applied)
        applied += [r.leases for r in rounds]
        assert sorted(lease for leases in applied for lease in leases) == list(range(PLAN.leases))
        assert shard.version == len(applied)
        assert shard.samples == PLAN.samples
        assert [r.version for r in rounds] == list(range(1, len(rounds) + 1))
        assert shard.staleness.total() == PLAN.leases
        assert shard.status().staged == 0
        assert [r.leases for r in rounds] == [
            r.leases for r in cluster.journals[Address(Role.SHARD)] if isinstance(r, RoundApplied)
        ]
        assert all(r.leases == tuple(sorted(r.leases)) for r in rounds)
    if mode in ("sync", "backup 1", "backup 3"):
        assert all(set(shard.staleness) == {0} for shard in cluster.shards)
    if mode.startswith("softsync"):  # but a lease granted again may be pushed by whoever had it first
        grants = Counter(r.lease for r in cluster.journals[LEDGER] if isinstance(r, LeaseGranted))
        for shard in cluster.shards:
            rounds = [r for r in cluster.journals[Address(Role.SHARD, shard.index)] if isinstance(r, RoundApplied)]
            taus = [pair for r in rounds for pair in zip(r.leases, r.staleness, strict=True)]
            assert all(grants[lease] > 1 for lease, tau in taus if tau > 2 * MODES[mode].split)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_synchronous_run_has_the_same_bits_whatever_happens(shards: int) -> None:
    """Other orders of events, lost workers, retries; 5 workers and rounds of 5 leases in all of them."""
    weights = []
    for seed, faults in [(0, 0.0), (1, 0.0), (2, 0.15), (3, 0.15), (4, 0.3)]:
        cluster = Cluster(seed, 5, shards, faults, ConsistencySettings("sync"))
        cluster.run()
        weights.append(torch.cat([shard._w_N for shard in cluster.shards]))
    assert all(torch.equal(weights[0], other_N) for other_N in weights[1:])


def test_the_schedules_do_bring_about_what_is_to_be_survived() -> None:
    reissued = duplicates = 0
    for seed in range(4):
        cluster = Cluster(seed, 5, 2, faults=0.15)
        cluster.run()
        reissued += cluster.ledger.status().reissued
        duplicates += sum(shard.duplicates for shard in cluster.shards)
    assert reissued > 4
    assert duplicates > 4


def journal_of(seed: int) -> tuple[dict[Address, list[Record]], list[Tensor]]:
    cluster = Cluster(seed, 5, 2, faults=0.1)
    cluster.run()
    return cluster.journals, [shard._w_N for shard in cluster.shards]


def test_the_same_seed_is_the_same_run_to_the_bit_and_another_seed_is_not() -> None:
    journals, weights = journal_of(1)
    journal_of(2)
    again, weights_again = journal_of(1)
    assert repr(again) == repr(journals)
    assert all(torch.equal(a_N, b_N) for a_N, b_N in zip(weights, weights_again, strict=True))
    assert repr(journal_of(2)[0]) != repr(journals)


def test_a_worker_is_told_of_the_end() -> None:
    cluster = Cluster(0, 3, 1, faults=0.0)
    told: list[Message] = []
    answered = cluster.answered

    def listen(sent: Sent) -> None:
        told.append(sent.message)
        answered(sent)

    cluster.answered = listen  # type: ignore[method-assign]
    cluster.run()
    assert Counter(type(message) for message in told) == {
        Exchanged: 3 + PLAN.leases,
        Granted: PLAN.leases,
        NoMoreLeases: 3,
    }
    assert NextLease not in map(type, told)
