"""Corrections: each against a reference in float64 that keeps every version, on random schedules of several workers."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from ps.correction_settings import CORRECTIONS, CorrectionSettings
from ps.corrections import Arrival, Correction, Dana, GapAware
from ps.errors import BadInput
from ps.journal import ExchangeRefused, PushHandled
from ps.layout import Layout, TensorSpec
from ps.messages import JOURNAL, Exchange, Exchanged, Outcome, Push, Reading, Refusal, Refused
from ps.pulls import SILENT_ROUNDS, OpenPulls
from ps.rules import Momentum, RuleSettings, Step
from ps.schedule import ScheduleSettings
from ps.shard import Shard
from ps.streams import numpy_stream, torch_stream
from tests.golden import Golden

Vector = npt.NDArray[np.float64]

TENSORS = (TensorSpec("weight", (13, 11)), TensorSpec("bias", (13,), 2.0, 0.0))
N = 13 * 12
WORKERS = 5
RATE, MU = 0.05, 0.8
RULE = RuleSettings(momentum=MU)
CURVATURE_N = np.linspace(0.1, 1.0, N)


def draw(name: str) -> Tensor:
    return torch.randn(N, generator=torch_stream(0, name))


def gradient(lease: int, w_N: Vector) -> Vector:
    """Of a quadratic, with the lease's noise."""
    return np.asarray(CURVATURE_N * w_N + 0.3 * draw(f"lease/{lease}").double().numpy())


def turns(updates: int, seed: int = 0) -> list[int]:
    """Whose gradient is next: memoryless workers."""
    return numpy_stream(seed, "turns").integers(WORKERS, size=updates).tolist()


# --- the reference ----------------------------------------------------------------------------------------------------


@dataclass
class Now:
    """What a correction in the reference may look at, for one update."""

    g: Vector
    w: Vector
    b: Vector  # what this gradient's pull read
    tau: int
    worker: int
    steps: list[Vector]  # what every update so far did to w
    taus: list[int]  # of every update so far, this one included
    gs: list[Vector]  # every raw gradient so far, this one included
    pulled: dict[int, Vector]  # what each worker pulled last


@dataclass
class Made:
    """What a correction in the reference makes of it. The rate is in units of RATE; `mine`: one velocity per worker."""

    g: Vector
    rate: float = 1.0
    mu: float = MU
    applied: bool = True


def reference(correct: Callable[[Now], Made], updates: int, per_worker: bool = False) -> Vector:
    """Momentum SGD with stale gradients, written out; biases at twice the rate."""
    scale_N = np.where(np.arange(N) < 143, 1.0, 2.0)
    w = draw("weights").double().numpy().copy()
    v = {worker: np.zeros(N) for worker in range(WORKERS)}
    look: dict[int, Vector] = dict.fromkeys(range(WORKERS), w.copy())  # what each worker computes at
    version, read = 0, dict.fromkeys(range(WORKERS), 0)
    steps: list[Vector] = []
    taus: list[int] = []
    gs: list[Vector] = []
    for lease, worker in enumerate(turns(updates)):
        g = gradient(lease, look[worker])
        gs.append(g)
        taus.append(version - read[worker])
        made = correct(Now(g, w, look[worker], version - read[worker], worker, steps, taus, gs, look))
        if made.applied:
            velocity = worker if per_worker else 0
            v[velocity] = made.mu * v[velocity] - RATE * made.rate * scale_N * made.g
            w = w + v[velocity]
            steps.append(v[velocity])
            version += 1
        look[worker] = w + MU * np.sum(list(v.values()), axis=0) if per_worker else w
        read[worker] = version
    return w


def moving(values: list[Vector], decay: float) -> Vector:
    """Moving mean from zero."""
    mean = np.zeros(N)
    for value in values:
        mean = decay * mean + (1 - decay) * value
    return mean


def staleness_rate(power: float) -> Callable[[Now], Made]:
    return lambda now: Made(now.g, rate=1.0 if now.tau == 0 else now.tau**-power)


def dc_asgd(now: Now) -> Made:
    return Made(now.g + 0.5 * now.g * now.g * (now.w - now.b))


def dc_asgd_adaptive(now: Now) -> Made:
    squares = moving([g * g for g in now.gs], 0.95)
    return Made(now.g + 2.0 / np.sqrt(squares + 1e-7) * now.g * now.g * (now.w - now.b))


def gap_aware(now: Now) -> Made:
    if not now.steps:
        return Made(now.g)
    typical = moving([np.abs(step) for step in now.steps], 0.95) / (1 - 0.95 ** len(now.steps))
    return Made(now.g / (1 + np.abs(now.w - now.b) / typical))


def implicit_momentum(now: Now) -> Made:
    mean = 0.0
    for n, tau in enumerate(now.taus, 1):
        mean += (tau - mean) * max(1 / n, 0.05)
    age = max(0.0, MU / (1 - MU) - mean)
    mu = age / (1 + age)
    return Made(now.g, mu=mu, rate=(1 - mu) / (1 - MU) * min(1.0, 1 / ((1 - MU) * (1 + mean))))


def discard(now: Now) -> Made:
    return Made(now.g, applied=now.tau <= 6)


SETTINGS = {
    "none": CorrectionSettings(),
    "staleness-rate": CorrectionSettings("staleness-rate"),
    "staleness-rate root": CorrectionSettings("staleness-rate", power=0.5),
    "dc-asgd": CorrectionSettings("dc-asgd", strength=0.5),
    "dc-asgd-adaptive": CorrectionSettings("dc-asgd-adaptive"),
    "gap-aware": CorrectionSettings("gap-aware"),
    "discard": CorrectionSettings("discard", limit=6),
    "implicit-momentum": CorrectionSettings("implicit-momentum"),
    "dana": CorrectionSettings("dana"),
}
REFERENCES: dict[str, Callable[[Now], Made]] = {
    "none": lambda now: Made(now.g),
    "staleness-rate": staleness_rate(1.0),
    "staleness-rate root": staleness_rate(0.5),
    "dc-asgd": dc_asgd,
    "dc-asgd-adaptive": dc_asgd_adaptive,
    "gap-aware": gap_aware,
    "discard": discard,
    "implicit-momentum": implicit_momentum,
    "dana": lambda now: Made(now.g),
}


# --- the same through shards ------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """Shards, and workers that push and pull in one exchange."""

    settings: CorrectionSettings
    shards: int = 1
    rule: RuleSettings = RULE
    made: list[Shard] = field(default_factory=list)
    look: dict[int, Tensor] = field(default_factory=dict)
    read: dict[int, tuple[Reading, ...]] = field(default_factory=dict)
    number: int = 0
    records: list[PushHandled] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layout = Layout(TENSORS, self.shards)
        schedule = ScheduleSettings(rate=RATE).build(100, 10_000)
        for index in range(self.shards):
            bound = self.layout.bounds(index)
            correction = self.settings.build(self.rule, WORKERS, bound.stop - bound.start)
            self.made.append(
                Shard(
                    index, self.shards, draw("weights")[bound].clone(), self.layout.segments(index), self.rule.build(),
                    0.0, schedule, 0, correction,
                )
            )  # fmt: skip
        for worker in range(WORKERS):
            self.exchange(worker, None, None)

    def exchange(self, worker: int, lease: int | None, gradient_N: Tensor | None) -> list[Exchanged | Refused]:
        self.number += 1
        weights_N = torch.full((N,), math.nan)
        answers = []
        for index, shard in enumerate(self.made):
            bound = self.layout.bounds(index)
            push = None
            if lease is not None and gradient_N is not None:
                push = Push(lease, 0, 1, self.read[worker], gradient_N[bound].clone())
            sent_N = None if push is None else push.gradient_N.clone()
            *before, (_, answer) = shard.handle(0.0, Exchange(worker, self.number, index, push, weights_N[bound]))
            assert isinstance(answer, Exchanged | Refused)
            assert push is None or sent_N is None or torch.equal(push.gradient_N, sent_N), "a gradient is only read"
            answers.append(answer)
            self.records += [record for to, record in before if to == JOURNAL and isinstance(record, PushHandled)]
        if all(isinstance(answer, Exchanged) for answer in answers):
            self.look[worker] = weights_N
            self.read[worker] = tuple(answer.reading for answer in answers if isinstance(answer, Exchanged))
        return answers

    def update(self, lease: int, worker: int) -> list[Exchanged | Refused]:
        g_N = torch.from_numpy(gradient(lease, self.look[worker].double().numpy())).float()
        return self.exchange(worker, lease, g_N)

    @property
    def weights(self) -> Tensor:
        return torch.cat([shard._w_N for shard in self.made])


def trained(settings: CorrectionSettings, updates: int = 120, shards: int = 1, rule: RuleSettings = RULE) -> Cluster:
    cluster = Cluster(settings, shards, rule)
    for lease, worker in enumerate(turns(updates)):
        cluster.update(lease, worker)
    return cluster


@pytest.mark.parametrize("name", SETTINGS)
def test_it_moves_as_the_equations_say(name: str) -> None:
    expected_N = reference(REFERENCES[name], 120, per_worker=name == "dana")
    actual_N = trained(SETTINGS[name]).weights.double().numpy()
    assert actual_N == pytest.approx(expected_N, rel=2e-4, abs=2e-5)
    if name != "none":  # and that is not what happens without it
        assert float(np.abs(reference(REFERENCES["none"], 120) - expected_N).max()) > 1e-3


def test_danas_sum_is_that_of_the_velocities_also_when_they_have_become_small() -> None:
    """What was rounded away while they were large does not stay."""
    dana, rule, w_N = Dana(MU, N), Momentum(MU), torch.zeros(N)
    for version in range(1, 100 * WORKERS + 1):
        plan = dana.plan(version % WORKERS, 0.0, rule, w_N, (torch.zeros(N),))
        rule.apply(Step(1.0 if version < 50 * WORKERS else 1e-9, 0.0, version), w_N, draw(f"g/{version}"), plan.slots)
        dana.stepped(version, w_N)
    state = dana.state()
    total_N = sum((v_N.double() for v_N in state.worker_vectors.values()), torch.zeros(N).double())
    torch.testing.assert_close(state.vectors[0].double(), total_N, rtol=1e-5, atol=1e-14)


def test_dana_leads_rmsprop_whose_typical_gradient_is_that_of_all_workers() -> None:
    rmsprop = RuleSettings(rule="rmsprop", momentum=MU, beta2=0.9)

    def scaled(now: Now) -> Made:
        squares = moving([g * g for g in now.gs], 0.9) / (1 - 0.9 ** len(now.gs))
        return Made(now.g / (np.sqrt(squares) + 1e-8))

    expected_N = reference(scaled, 60, per_worker=True)
    actual = trained(SETTINGS["dana"], 60, rule=rmsprop)
    assert actual.weights.double().numpy() == pytest.approx(expected_N, rel=1e-3, abs=1e-3)
    assert torch.equal(trained(SETTINGS["dana"], 60, shards=3, rule=rmsprop).weights, actual.weights)


def test_every_correction_has_its_reference() -> None:
    assert {settings.kind for settings in SETTINGS.values()} == set(CORRECTIONS)


@pytest.mark.parametrize("shards", [2, 3, 7])
@pytest.mark.parametrize("name", SETTINGS)
def test_how_the_vector_is_cut_changes_no_bit(name: str, shards: int) -> None:
    assert torch.equal(trained(SETTINGS[name], 40, shards).weights, trained(SETTINGS[name], 40).weights)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_exchanges_are_the_same_bits(name: str) -> None:
    first = trained(SETTINGS[name]).weights
    trained(SETTINGS["none"])
    assert torch.equal(trained(SETTINGS[name]).weights, first)


@pytest.mark.parametrize("name", SETTINGS)
def test_exchanges_that_come_together_are_those_one_after_the_other(name: str) -> None:
    """All workers at once, a retry and a pull among them: what they are told, what they pull, what the shard holds."""
    outcomes = []
    for together in (True, False):
        cluster = Cluster(SETTINGS[name])
        (shard,) = cluster.made
        told, pulled = [], []
        for turn in range(8):
            messages = []
            for worker in (*range(WORKERS), 0):
                lease = turn * WORKERS + worker
                push = Push(lease, 0, 1, cluster.read[worker], draw(f"gradient/{lease}"))
                messages.append(Exchange(worker, 100 + turn, 0, push, torch.full((N,), math.nan)))
            messages.insert(3, Exchange(9, 100 + turn, 0, None, torch.full((N,), math.nan)))
            with shard.together() if together else nullcontext():
                told += [shard.handle(0.0, message) for message in messages]
            for outbox in told[-len(messages) :]:
                (_, answer) = outbox[-1]
                assert isinstance(answer, Exchanged)
            cluster.read |= {worker: (Reading(0, shard.version),) for worker in range(WORKERS)}
            pulled += [message.weights_N for message in messages]
            for worker in range(WORKERS):  # so that the versions just said are those of its newest pull
                shard.handle(0.0, Exchange(worker, 200 + turn, 0, None, torch.empty(N)))
        outcomes.append((told, pulled, cluster.weights))
    (told, pulled, held_N), (told_apart, pulled_apart, held_apart_N) = outcomes
    assert told == told_apart
    assert all(torch.equal(a_N, b_N) for a_N, b_N in zip(pulled, pulled_apart, strict=True))
    assert torch.equal(held_N, held_apart_N)
    assert not torch.equal(held_N, draw("weights"))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_trajectory_is_the_pinned_one(name: str, golden: Golden) -> None:
    cluster = Cluster(SETTINGS[name])
    seen: list[float] = []
    for lease, worker in enumerate(turns(60)):
        cluster.update(lease, worker)
        if lease % 20 == 19:
            seen += cluster.weights[::31].tolist()
    golden.check(name, seen)


@pytest.mark.parametrize("name", SETTINGS)
def test_one_worker_needs_no_correction(name: str) -> None:
    """A gradient that is not stale counts as it is; DANA reads one momentum ahead, which is Nesterov's way."""
    plain, corrected = Cluster(SETTINGS["none"]), Cluster(SETTINGS[name])
    for lease in range(30):
        plain.update(lease, 0)
        corrected.update(lease, 0)
    if name == "dana":
        assert not torch.equal(corrected.weights, plain.weights)
        ahead_N = corrected.weights + MU * (corrected.weights - trained_alone(29))
        torch.testing.assert_close(corrected.look[0], ahead_N)
    else:
        torch.testing.assert_close(corrected.weights, plain.weights, rtol=1e-6, atol=1e-6)


def trained_alone(updates: int) -> Tensor:
    cluster = Cluster(SETTINGS["dana"])
    for lease in range(updates):
        cluster.update(lease, 0)
    return cluster.weights


# --- the weights of open pulls ----------------------------------------------------------------------------------------


def test_a_backup_is_that_of_the_pull_and_not_the_newest_one() -> None:
    """Two workers pull at 0; the second one's gradient is compared with version 0, though version 1 is newer."""
    cluster = Cluster(CorrectionSettings("dc-asgd", strength=1.0))
    start_N = cluster.weights.clone()
    cluster.exchange(0, 0, draw("first"))
    before_N = cluster.weights.clone()
    velocity_N = before_N - start_N
    g_N = draw("second")
    cluster.exchange(1, 1, g_N)
    scale_N = torch.where(torch.arange(N) < 143, 1.0, 2.0)
    compensated_N = g_N + g_N * g_N * (before_N - start_N)
    torch.testing.assert_close(cluster.weights, before_N + MU * velocity_N - RATE * scale_N * compensated_N)


def test_workers_that_read_one_version_share_its_copy() -> None:
    pulls = OpenPulls()
    for worker in range(3):
        pulls.keep(worker, 1, 0, torch.zeros(4))
    assert len(pulls) == 1
    pulls.keep(0, 2, 1, torch.ones(4))
    assert len(pulls) == 2
    for worker in (1, 2):
        pulls.keep(worker, 2, 1, torch.ones(4))
    assert len(pulls) == 1
    assert pulls.find(0, 0) is None


def test_a_copy_does_not_follow_the_weights() -> None:
    pulls, w_N = OpenPulls(), torch.zeros(4)
    pulls.keep(0, 1, 0, w_N)
    w_N.fill_(7.0)
    kept_N = pulls.find(0, 0)
    assert kept_N is not None
    assert kept_N.tolist() == [0.0] * 4


def test_after_a_retry_either_answer_may_have_been_taken() -> None:
    pulls = OpenPulls()
    pulls.keep(0, 1, 0, torch.zeros(4))
    pulls.keep(0, 1, 3, torch.ones(4))
    pulls.keep(0, 0, 2, torch.ones(4))  # an exchange that came late: its worker is past it
    assert [pulls.find(0, version) is not None for version in (0, 2, 3)] == [True, False, True]
    pulls.keep(0, 2, 4, torch.ones(4))
    assert [pulls.find(0, version) is not None for version in (0, 3, 4)] == [False, False, True]
    assert len(pulls) == 1


def test_where_workers_pull_ahead_the_pull_before_the_last_is_kept_too() -> None:
    pulls = OpenPulls(2)
    for number in (1, 2):
        pulls.keep(0, number, 10 * number, torch.full((4,), float(number)))
    pulls.keep(0, 2, 25, torch.zeros(4))  # asked again
    recalled = OpenPulls(2)
    recalled.recall(*pulls.state())
    for each in (pulls, recalled):
        assert [each.find(0, version) is not None for version in (10, 20, 25)] == [True, True, True]
        each.keep(0, 3, 30, torch.zeros(4))
        assert [each.find(0, version) is not None for version in (10, 20, 25, 30)] == [False, True, True, True]
        each.keep(0, 4, 40, torch.zeros(4))
        assert len(each) == 2


def test_no_more_vectors_are_kept_than_there_are_workers() -> None:
    cluster = Cluster(SETTINGS["dc-asgd"])
    most = 0
    for lease, worker in enumerate(turns(200)):
        cluster.update(lease, worker)
        most = max(most, len(cluster.made[0]._correction._pulls))  # type: ignore[attr-defined]
    assert most == WORKERS
    assert CorrectionSettings("dc-asgd").vectors(WORKERS) == WORKERS + 1  # and a work space


def test_a_silent_worker_is_forgotten_and_told_to_pull_again() -> None:
    cluster = Cluster(SETTINGS["dc-asgd"])
    for lease in range(WORKERS * (SILENT_ROUNDS + 2)):
        cluster.update(lease, lease % (WORKERS - 1))
    before_N = cluster.weights.clone()
    stale = WORKERS - 1
    (answer,) = cluster.exchange(stale, 9999, draw("late"))
    assert isinstance(answer, Refused)
    assert answer.refusal is Refusal.FORGOTTEN
    assert "read version 0, whose weights are not kept any more: pull again" in answer.message
    assert torch.equal(cluster.weights, before_N)
    cluster.exchange(stale, None, None)
    (answer,) = cluster.exchange(stale, 9999, draw("late"))
    assert isinstance(answer, Exchanged)
    assert answer.outcome is Outcome.APPLIED


def test_the_refusal_is_journaled() -> None:
    cluster = Cluster(SETTINGS["gap-aware"])
    push = Push(0, 0, 1, (Reading(0, 0),), draw("late"))
    (_, record), _ = cluster.made[0].handle(0.0, Exchange(77, 1, 0, push, None))
    assert record == ExchangeRefused(0.0, 77, 1, 0, Refusal.FORGOTTEN)


def test_a_lost_workers_velocity_leaves_the_sum() -> None:
    cluster = Cluster(SETTINGS["dana"])
    cluster.exchange(WORKERS - 1, 0, 100.0 * draw("its last"))
    for lease in range(1, WORKERS * (SILENT_ROUNDS + 2)):
        cluster.update(lease, lease % (WORKERS - 1))
    dana = cluster.made[0]._correction
    assert sorted(dana._velocities) == list(range(WORKERS - 1))  # type: ignore[attr-defined]
    total_N = sum(dana._velocities.values())  # type: ignore[attr-defined]
    torch.testing.assert_close(dana._sum_N, total_N, rtol=1e-3, atol=1e-4)  # type: ignore[attr-defined]


# --- discarding -------------------------------------------------------------------------------------------------------


def test_a_gradient_beyond_the_limit_changes_nothing_and_is_journaled() -> None:
    cluster = Cluster(CorrectionSettings("discard", limit=4))
    for lease in range(5):
        cluster.update(lease, 0)
    before_N = cluster.weights.clone()
    (answer,) = cluster.update(5, 1)
    assert isinstance(answer, Exchanged)
    assert (answer.outcome, answer.staleness, answer.reading) == (Outcome.DISCARDED, 5, Reading(0, 5))
    assert torch.equal(cluster.weights, before_N)
    shard = cluster.made[0]
    assert 5 not in shard.applied
    assert (shard.discarded, shard.version, shard.status().discarded) == (1, 5, 1)
    record = cluster.records[-1]
    assert (record.lease, record.outcome, record.rate, record.staleness) == (5, Outcome.DISCARDED, 0.0, 5)
    (answer,) = cluster.update(5, 2)  # at the limit still: its pull is as old
    assert isinstance(answer, Exchanged)
    assert answer.outcome is Outcome.DISCARDED
    (answer,) = cluster.update(5, 1)  # granted again, at fresh weights
    assert isinstance(answer, Exchanged)
    assert answer.outcome is Outcome.APPLIED


def test_the_rate_in_the_journal_is_the_one_that_was_used() -> None:
    cluster = trained(SETTINGS["staleness-rate"], 40)
    assert [r.rate for r in cluster.records] == pytest.approx([RATE / max(1, r.staleness) for r in cluster.records])
    assert len({r.staleness for r in cluster.records}) > 4


# --- settings ---------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, object], str]] = [
    ({"kind": "danna"}, r'correction.kind: got "danna", expected one of none, .*\(did you mean "dana"\?\)'),
    ({"power": 0.0}, "correction.power: got 0.0, expected a finite number above 0"),
    ({"power": math.inf}, "correction.power"),
    ({"strength": -1.0}, "correction.strength: got -1.0, expected a finite number, at least 0"),
    ({"adaptive_strength": math.nan}, "correction.adaptive_strength"),
    ({"decay": 1.0}, "correction.decay: got 1.0, expected at least 0 and below 1"),
    ({"epsilon": 0.0}, "correction.epsilon"),
    ({"limit": -1}, "correction.limit: got -1"),
]


@pytest.mark.parametrize(("values", "text"), REFUSED)
def test_a_setting_out_of_its_range_is_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        CorrectionSettings(**values)  # type: ignore[arg-type]


def test_a_limit_below_the_mean_staleness_is_refused() -> None:
    settings = CorrectionSettings("discard", limit=30)
    settings.check(RULE, 30)
    with pytest.raises(BadInput, match=r"correction.limit: got 30, expected at least 31, the mean staleness"):
        settings.check(RULE, 31)
    replace(settings, kind="none").check(RULE, 31)
    CorrectionSettings("discard").check(RULE, 31)


@pytest.mark.parametrize(("kind", "rule"), [("dana", "nesterov"), ("dana", "adamw"), ("implicit-momentum", "sgd")])
def test_a_rule_without_its_momentum_is_refused(kind: str, rule: str) -> None:
    with pytest.raises(BadInput, match=f'rule.rule: got "{rule}" with the correction {kind}, expected momentum'):
        CorrectionSettings(kind).check(RuleSettings(rule), 7)
    CorrectionSettings(kind).check(RULE, 7)


def test_slots_are_counted() -> None:
    counts = {kind: CorrectionSettings(kind).vectors(8) for kind in CORRECTIONS}
    assert counts == {
        "none": 0, "staleness-rate": 0, "discard": 0, "implicit-momentum": 0,
        "dc-asgd": 9, "dc-asgd-adaptive": 10, "gap-aware": 11, "dana": 9,
    }  # fmt: skip


def test_where_nothing_is_known_a_gradient_is_left_alone() -> None:
    gap = GapAware(0.9, 4)
    gap.pulled(0, 1, 0, torch.ones(4))
    g_N = torch.tensor([1.0, -2.0, 0.5, 1e-20])
    worth = gap.weigh(Arrival(0, 0, 0), torch.ones(4), g_N)
    assert worth.factor == 1.0
    torch.testing.assert_close(worth.gradient_N, g_N)


def test_without_a_correction_a_pull_reads_the_weights() -> None:
    out_N = torch.zeros(4)
    Correction().publish(torch.ones(4), out_N)
    assert torch.equal(out_N, torch.ones(4))
