"""Every consistency mode and correction through the simulated cluster: bounds, bits, laws, and replay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean

import pytest
import torch
from msgspec import structs
from torch import Tensor

from cluster.copies import Copies
from cluster.model import SimulateSettings
from cluster.spec import RunSpec
from ps.consistency import ConsistencySettings
from ps.correction_settings import CORRECTIONS, CorrectionSettings
from ps.journal import LeaseDiscarded, PushHandled, RoundApplied
from ps.ledger import Ledger, LedgerSettings
from ps.messages import LEDGER, Address, Finished, Granted, Message, NextLease, Outcome, Role, WorkerLost
from ps.rules import RuleSettings
from ps.schedule import ScheduleSettings
from ps.shard import Outbox
from ps.streams import torch_stream
from tests.cluster.simulation import Quadratic, Ran, constant, memoryless, simulated, specification
from tests.cluster.test_replayed import LOSSY, SKEWED, replay_of, run, weights
from workers.program_settings import ProgramSettings

ELEMENTS = 70
QUADRATIC = Quadratic(curvature=0.5, noise=0.1)
MODES = {
    "async": ConsistencySettings(),
    "bounded": ConsistencySettings("bounded", bound=1),
    "lockstep": ConsistencySettings("bounded", bound=0),
    "softsync 1": ConsistencySettings("softsync", split=1),
    "softsync 3": ConsistencySettings("softsync", split=3),
    "sync": ConsistencySettings("sync"),
    "backup": ConsistencySettings("backup", backups=2),
    "warm": ConsistencySettings(warm_leases=15),
    "ramp": ConsistencySettings(begin=2),
}
MOMENTUM = RuleSettings(rule="momentum", momentum=0.5, weight_decay=0.01)


def initial() -> Tensor:
    return torch.randn(ELEMENTS, generator=torch_stream(0, "test/initial"))


def spec_of(
    mode: ConsistencySettings, workers: int = 8, shards: int = 2, updates: int = 120, correction: str = "none"
) -> RunSpec:
    patient = LedgerSettings(lease_seconds=3.0, max_attempts=100)
    spec = specification(updates, workers, shards, ELEMENTS, rule=MOMENTUM, rate=0.02, ledger=patient)
    return replace(
        spec,
        average=replace(spec.average, every=2),
        consistency=mode,
        correction=CorrectionSettings(correction, limit=10),
    )


def rounds(ran: Ran, shard: int = 0) -> list[RoundApplied]:
    return [r for r in ran.journals[Address(Role.SHARD, shard)] if isinstance(r, RoundApplied)]


def final(ran: Ran) -> Tensor:
    return weights(ran.simulation.read, average=False)


@pytest.fixture
def copies() -> Iterator[Copies]:
    kept = Copies(1 << 20, ELEMENTS)
    yield kept
    kept.close()


# --- replay -----------------------------------------------------------------------------------------------------------


def same_again(spec: RunSpec, model: SimulateSettings, copies: Copies) -> Ran:
    ran, journals = run(spec, model)
    assert ran.pieces.ledger.status().ending == "completed"
    replay = replay_of(spec, journals, copies)
    replay.run()
    assert replay.differences == []
    for average in (False, True):
        assert torch.equal(weights(replay.read, average), weights(ran.simulation.read, average))
    return ran


@pytest.mark.parametrize("model", [SKEWED, LOSSY], ids=["skewed", "lossy"])
@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_in_every_mode_comes_out_again(mode: str, shards: int, model: SimulateSettings, copies: Copies) -> None:
    ran = same_again(spec_of(MODES[mode], shards=shards), model, copies)
    for shard in ran.pieces.shards:
        assert len(shard.applied) == shard.samples == 120


@pytest.mark.parametrize("kind", CORRECTIONS)
@pytest.mark.parametrize("model", [SKEWED, LOSSY], ids=["skewed", "lossy"])
def test_a_run_with_every_correction_comes_out_again(kind: str, model: SimulateSettings, copies: Copies) -> None:
    same_again(spec_of(MODES["async"], correction=kind), model, copies)


@pytest.mark.parametrize("model", [SKEWED, LOSSY], ids=["skewed", "lossy"])
@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if not mode.in_rounds])
def test_a_run_with_prefetch_comes_out_again(mode: str, model: SimulateSettings, copies: Copies) -> None:
    ran = same_again(replace(spec_of(MODES[mode]), program=ProgramSettings(prefetch=True)), model, copies)
    for shard in ran.pieces.shards:
        assert len(shard.applied) == shard.samples == 120


@pytest.mark.parametrize("kind", CORRECTIONS)
@pytest.mark.parametrize("model", [SKEWED, LOSSY], ids=["skewed", "lossy"])
def test_a_correction_knows_what_was_pulled_ahead(kind: str, model: SimulateSettings, copies: Copies) -> None:
    spec = replace(spec_of(MODES["async"], correction=kind), program=ProgramSettings(prefetch=True))
    if kind == "discard":
        spec = replace(spec, correction=CorrectionSettings(kind, limit=40))
    ran = same_again(spec, model, copies)
    assert all(shard.refused == 0 for shard in ran.pieces.shards), "what its pull read is known at every push"


PROGRAMS = {
    "downpour": (ProgramSettings("downpour", push_every=4), RuleSettings(rule="sgd")),
    "downpour with adagrad": (ProgramSettings("downpour", push_every=4), RuleSettings(rule="adagrad")),
    "local": (ProgramSettings("local", push_every=4, outer_rate=0.3), RuleSettings(rule="nesterov", momentum=0.5)),
    "ahead": (ProgramSettings("downpour", push_every=4, prefetch=True), RuleSettings(rule="sgd")),
}


def stepping(program: ProgramSettings, rule: RuleSettings, mode: str = "async") -> RunSpec:
    spec = spec_of(MODES[mode], updates=301)
    schedule = ScheduleSettings(kind="polynomial", rate=0.05)
    return replace(spec, plan=replace(spec.plan, batches=4), program=program, rule=rule, schedule=schedule)


@pytest.mark.parametrize("model", [SKEWED, LOSSY], ids=["skewed", "lossy"])
@pytest.mark.parametrize("mode", ["async", "bounded", "sync", "softsync 3"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_run_of_local_steps_comes_out_again(program: str, mode: str, model: SimulateSettings, copies: Copies) -> None:
    ran = same_again(stepping(*PROGRAMS[program], mode), model, copies)
    for shard in ran.pieces.shards:
        assert (len(shard.applied), shard.samples) == (76, 301)


@pytest.mark.parametrize("program", ["downpour", "elastic"])
@pytest.mark.parametrize("model", [SKEWED, LOSSY], ids=["skewed", "lossy"])
def test_programs_that_cannot_be_replayed_apply_every_lease_once(program: str, model: SimulateSettings) -> None:
    settings = ProgramSettings(program, push_every=4, fetch_every=2 if program == "downpour" else 0)
    assert not settings.pure
    ran = simulated(stepping(settings, RuleSettings(rule="sgd")), model, QUADRATIC, initial())
    assert ran.pieces.ledger.status().ending == "completed"
    for shard in ran.pieces.shards:
        assert (len(shard.applied), shard.samples) == (76, 301)
    assert float(final(ran).norm()) < 0.7 * float(initial().norm())  # it descends


def test_a_round_that_was_changed_is_found(copies: Copies) -> None:
    spec = spec_of(MODES["sync"], shards=1)
    _, journals = run(spec, SKEWED)
    records = journals["shard-0"]
    at = next(i for i, r in enumerate(records) if isinstance(r, RoundApplied) and r.version == 7)
    changed = records[at]
    assert isinstance(changed, RoundApplied)
    records[at] = structs.replace(changed, rate=0.5)
    replay = replay_of(spec, journals, copies)
    replay.run()
    assert str(replay.differences[0]) == f"shard-0, record {at}: RoundApplied: rate: recorded 0.5, replayed 0.02"


# --- one worker -------------------------------------------------------------------------------------------------------


def alone(rule: str) -> Tensor:
    """Plain sequential training, with torch alone."""
    weights_N = initial().requires_grad_()
    optimizers: dict[str, torch.optim.Optimizer] = {
        "sgd": torch.optim.SGD([weights_N], lr=0.02, weight_decay=0.01, foreach=False, fused=False),
        "adamw": torch.optim.AdamW([weights_N], lr=0.02, weight_decay=0.01, foreach=False, fused=False),
    }
    for lease in range(60):
        noise_N = torch.randn(ELEMENTS, generator=torch_stream(0, f"lease/{lease}/noise"))
        weights_N.grad = (weights_N.detach() * 0.5).add_(noise_N, alpha=0.1)
        optimizers[rule].step()
    return weights_N.detach()


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_one_worker_trains_as_torch_alone_does_to_the_bit(mode: str, shards: int, rule: str) -> None:
    chosen = MODES[mode]
    if chosen.kind == "softsync":
        chosen = replace(chosen, split=1)
    if chosen.kind == "backup":
        chosen = replace(chosen, backups=0)
    spec = replace(spec_of(chosen, 1, shards, 60), rule=RuleSettings(rule=rule, weight_decay=0.01, epsilon=1e-8))
    ran = simulated(spec, SKEWED, QUADRATIC, initial())
    assert torch.equal(final(ran), alone(rule))
    assert all(set(shard.staleness) == {0} for shard in ran.pieces.shards)


# --- synchronous ------------------------------------------------------------------------------------------------------

CLUSTERS = {
    "skewed": SKEWED,
    "lossy": LOSSY,
    "exponential": replace(SKEWED, compute="exponential"),
    "stragglers": replace(SKEWED, compute="pareto", tail=1.5, slow_workers=2, slow_factor=5.0),
    "one core": replace(SKEWED, turns=1),
    "at once": constant(),
}


def test_a_synchronous_run_has_the_same_bits_under_every_timing() -> None:
    results = {name: simulated(spec_of(MODES["sync"]), model, QUADRATIC, initial()) for name, model in CLUSTERS.items()}
    assert len({ran.simulation.now for ran in results.values()}) == len(CLUSTERS)
    first = final(results["skewed"])
    assert all(torch.equal(final(ran), first) for ran in results.values())
    assert torch.equal(final(simulated(spec_of(MODES["sync"], shards=3), SKEWED, QUADRATIC, initial())), first)
    others = final(simulated(spec_of(MODES["backup"]), CLUSTERS["stragglers"], QUADRATIC, initial()))
    assert not torch.equal(others, final(simulated(spec_of(MODES["backup"]), SKEWED, QUADRATIC, initial())))


def test_a_round_is_the_mean_of_one_gradient_per_worker() -> None:
    spec = replace(spec_of(MODES["sync"], 4, 1, 10), rule=RuleSettings(rule="sgd"))
    ran = simulated(spec, SKEWED, QUADRATIC, initial())
    assert [r.leases for r in rounds(ran)] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    w_N = initial().double()
    for leases in ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9)):
        noises = [torch.randn(ELEMENTS, generator=torch_stream(0, f"lease/{lease}/noise")) for lease in leases]
        total_N = sum(0.5 * w_N + 0.1 * noise_N.double() for noise_N in noises)
        w_N = w_N - 0.02 * total_N / 4  # the short round too: every example counts the same
    torch.testing.assert_close(final(ran), w_N.float())


def test_backup_workers_take_the_first_and_lose_no_example() -> None:
    spec = spec_of(ConsistencySettings("backup", backups=2), 8, 2, 200)
    ran = simulated(spec, replace(SKEWED, slow_workers=2, slow_factor=10.0), QUADRATIC, initial())
    assert [len(r.leases) for r in rounds(ran)] == [6] * 33 + [2]
    late = [r for r in ran.journals[LEDGER] if isinstance(r, LeaseDiscarded)]
    assert len(late) >= 30  # two workers are late in nearly every round
    assert ran.pieces.ledger.status().reissued == len(late)
    without = simulated(spec_of(MODES["sync"], 8, 2, 200), replace(SKEWED, slow_workers=2, slow_factor=10.0))
    assert ran.simulation.now < 0.5 * without.simulation.now


# --- softsync ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [memoryless(0.1), SimulateSettings()], ids=["memoryless", "near constant"])
@pytest.mark.parametrize(("workers", "split"), [(30, 1), (32, 4), (32, 32), (30, 7)])
def test_softsync_is_about_n_late_and_at_most_twice_that(workers: int, split: int, model: SimulateSettings) -> None:
    """The mean is below n by what is waited for: who waited pulls again."""
    spec = spec_of(ConsistencySettings("softsync", split=split), workers, 1, 6000)
    ran = simulated(spec, model)
    size = workers // split
    found = rounds(ran)
    assert {len(r.leases) for r in found[:-1]} == {size}
    assert len(found) == -(-6000 // size)
    taus = Counter(tau for r in found for tau in r.staleness)
    mean = sum(tau * count for tau, count in taus.items()) / taus.total()
    assert 0.7 * split <= mean <= 1.05 * split
    assert max(taus) <= 2 * split


# --- bounded ----------------------------------------------------------------------------------------------------------


@dataclass
class Clocks:
    """The workers' clocks, kept from what the ledger is told and tells, and the greatest lead it granted."""

    workers: int
    clocks: dict[int, int] = field(default_factory=dict)
    lead: int = 0
    waits: int = 0
    events: int = 0

    def __post_init__(self) -> None:
        self.clocks = dict.fromkeys(range(self.workers), 0)

    def watch(self, ledger: Ledger, now: float, message: Message) -> Outbox:
        self.events += 1
        match message:
            case WorkerLost(worker):
                self.clocks.pop(worker, None)
            case NextLease(worker=worker, outcome=outcome):
                if worker not in self.clocks:
                    self.clocks[worker] = min(self.clocks.values(), default=0)
                self.clocks[worker] += isinstance(outcome, Finished)
        out = ledger.handle(now, message)
        for to, item in out:
            self.events += 1
            if isinstance(item, Granted):
                self.lead = max(self.lead, self.clocks[to.index] - min(self.clocks.values()))
                self.waits += item.pull
        return out


def leads(bound: int, model: SimulateSettings, updates: int, workers: int = 20) -> tuple[Clocks, Ran]:
    spec = spec_of(ConsistencySettings("bounded", bound=bound), workers, 1, updates)
    clocks = Clocks(workers)

    def watched(ledger: Ledger) -> None:
        handle = ledger.handle
        plain = type("Plain", (), {"handle": staticmethod(handle)})()
        ledger.handle = lambda now, message: clocks.watch(plain, now, message)  # type: ignore[method-assign]

    return clocks, simulated(spec, model, prepare=watched)


@pytest.mark.parametrize("bound", [0, 1, 5])
@pytest.mark.parametrize("model", [memoryless(0.1), LOSSY], ids=["memoryless", "lossy"])
def test_no_worker_is_ever_further_ahead_than_the_bound(bound: int, model: SimulateSettings) -> None:
    clocks, ran = leads(bound, model, 6000)
    assert ran.pieces.ledger.status().ending == "completed"
    assert clocks.lead == bound  # reached, and never exceeded
    assert clocks.waits > 100


@pytest.mark.slow
def test_the_bound_holds_for_a_million_events() -> None:
    clocks, _ = leads(3, replace(memoryless(0.1), life_seconds=200.0, rejoin_seconds=1.0), 260_000)
    assert clocks.events > 1_000_000
    assert clocks.lead == 3


def test_who_waited_reads_what_it_waited_for() -> None:
    """With the bound 0 a gradient is taken at weights that have every worker's last round in them."""
    spec = spec_of(MODES["lockstep"], 5, 1, 100)
    ran = simulated(spec, memoryless(0.1), QUADRATIC, initial())
    pushes = ran.pushes(0)
    for update, push in enumerate(pushes):
        assert push.read[0].version >= 5 * (update // 5)


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("bound", [0, 2])
def test_weights_have_all_steps_but_those_of_the_last_few_clocks(bound: int, prefetch: bool) -> None:
    """At clock c, of every worker those up to c - bound; where they were pulled ahead, that was one clock earlier."""
    spec = spec_of(ConsistencySettings("bounded", bound=bound), 5, 1, 600)
    ran = simulated(replace(spec, program=ProgramSettings(prefetch=prefetch)), memoryless(0.1))
    pushes = ran.pushes(0)
    clocks = [Counter(push.worker for push in pushes[:version]) for version in range(len(pushes))]  # by version
    lags = [
        clocks[update][push.worker] - min(clocks[push.read[0].version][worker] for worker in range(5))
        for update, push in enumerate(pushes)
    ]
    assert max(lags) == bound + prefetch


def test_a_warm_start_is_one_worker_alone() -> None:
    spec = spec_of(ConsistencySettings(warm_leases=40), 8, 1, 400)
    ran = simulated(spec, memoryless(0.1), QUADRATIC, initial())
    pushes = ran.pushes(0)
    assert len({push.worker for push in pushes[:40]}) == 1
    assert {push.staleness for push in pushes[:40]} == {0}
    assert len({push.worker for push in pushes[40:80]}) > 5
    assert all(push.read[0].version >= 40 for push in pushes[40:])  # the others pulled again
    assert len({push.worker for push in pushes if push.outcome is Outcome.APPLIED}) == 8


def test_a_ramp_keeps_staleness_times_what_is_left_of_the_run_where_those_put_it_that_began() -> None:
    ran = simulated(spec_of(ConsistencySettings(begin=2), 8, 1, 4000), memoryless(0.1), QUADRATIC, initial())
    pushes = [push for push in ran.pushes(0) if push.outcome is Outcome.APPLIED]
    assert {push.worker for push in pushes[:1000]} <= {0, 4, 2}
    assert len({push.worker for push in pushes[3000:]}) == 8
    for begin in range(0, 3000, 500):
        part = pushes[begin : begin + 500]
        workers = fmean(math.ceil(2 * 4000 / (4000 - update)) for update in range(begin, begin + 500))
        assert fmean(push.staleness for push in part) == pytest.approx(workers - 1, abs=0.35)


def test_without_rounds_there_are_none() -> None:
    ran = simulated(spec_of(MODES["async"]), SKEWED, QUADRATIC, initial())
    assert rounds(ran) == []
    assert any(isinstance(r, PushHandled) for r in ran.journals[Address(Role.SHARD, 0)])
