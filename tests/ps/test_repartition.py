"""Another number of shards: every element and all that is remembered of it is where it belongs, to the bit, and the
shards go on as they would have.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ps.averager import Averager, AverageSettings
from ps.correction_settings import CORRECTIONS, CorrectionSettings
from ps.layout import Layout, TensorSpec
from ps.messages import AVERAGER, Exchange, Exchanged, Push, Reading, Sample, SampleTaken
from ps.repartition import repartition
from ps.rules import RULES, RuleSettings
from ps.schedule import ScheduleSettings
from ps.shard import Shard
from ps.states import AveragerState, Remembered, ShardState, Stretch
from ps.streams import numpy_stream, torch_stream

TENSORS = (TensorSpec("weight", (9, 11)), TensorSpec("bias", (9,), 2.0, 0.0))
N = 108
WORKERS = 3
SCHEDULE = ScheduleSettings(kind="cosine", rate=0.05).build(100, 1000)
AVERAGE = AverageSettings(every=2, decay=0.8)


def draw(name: str) -> Tensor:
    return torch.randn(N, generator=torch_stream(0, name))


class Cluster:
    """Some shards and their averager, driven in one order, so that any two of them can be compared."""

    def __init__(self, shards: int, rule: str, correction: str, average: AverageSettings = AVERAGE) -> None:
        self.rule, self.correction, self.average = rule, correction, average
        self._cut(shards)

    def _cut(self, shards: int) -> None:
        self.layout = Layout(TENSORS, shards)
        self.bounds = [self.layout.bounds(shard) for shard in range(shards)]
        settings = RuleSettings(rule=self.rule, weight_decay=0.01)
        elements = tuple(bound.stop - bound.start for bound in self.bounds)
        self.averager = Averager(elements, self.average, 100)
        self.shards = [
            Shard(
                index, shards, draw("weights")[bound].clone(), self.layout.segments(index), settings.build(), 0.01,
                SCHEDULE, self.average.every,
                CorrectionSettings(self.correction).build(settings, WORKERS, elements[index]),
            )
            for index, bound in enumerate(self.bounds)
        ]  # fmt: skip

    def states(self) -> tuple[list[ShardState], AveragerState]:
        return [shard.state() for shard in self.shards], self.averager.state()

    def recut(self, shards: int) -> None:
        """Into another number of shards."""
        states, average, old = *self.states(), self.bounds
        self._cut(shards)
        states, average = repartition(states, average, old, self.bounds)
        for shard, state in zip(self.shards, states, strict=True):
            shard.recall(state, state.openings)
        self.averager.recall(average)

    def work(self, first: int, leases: int, workers: int, shuffled: bool = False) -> None:
        """Workers from this id on take turns; the shards may meet the last pushes in orders of their own."""
        for index, shard in enumerate(self.shards):
            bound = self.bounds[index]
            read = {}
            for worker in range(WORKERS):
                weights_N = torch.empty(shard.elements)
                shard.handle(0.0, Exchange(workers + worker, first, index, None, weights_N))
                read[worker] = Reading(shard.incarnation, shard.version)
            order = list(range(first, first + leases))
            if shuffled:
                order = [first + int(at) for at in numpy_stream(index, "order").permutation(leases)]
            for lease in order:
                worker = lease % WORKERS
                readings = tuple(read[worker] if at == index else Reading(0, 0) for at in range(len(self.shards)))
                push = Push(lease, 0, 5, readings, draw(f"gradient {lease}")[bound].contiguous())
                message = Exchange(workers + worker, lease + 1, index, push, torch.empty(shard.elements))
                for to, item in shard.handle(0.0, message):
                    if isinstance(item, Exchanged):
                        read[worker] = item.reading
                    if to == AVERAGER and isinstance(item, Sample):
                        self._average(item)

    def _average(self, sample: Sample) -> None:
        for _, answer in self.averager.handle(0.0, sample):
            if isinstance(answer, SampleTaken):
                self.shards[sample.shard].handle(0.0, answer)

    def everything(self) -> dict[str, Tensor]:
        """All that there is one of for each element, as flat vectors."""
        states, average = self.states()
        found = {"weights": torch.cat([state.weights_N for state in states])}
        for at in range(len(states[0].slots)):
            found[f"slot {at}"] = torch.cat([state.slots[at] for state in states])
        for at in range(len(states[0].remembered.vectors)):
            found[f"vector {at}"] = torch.cat([state.remembered.vectors[at] for state in states])
        for worker in states[0].remembered.worker_vectors:
            found[f"worker {worker}"] = torch.cat([state.remembered.worker_vectors[worker] for state in states])
        found["average"] = torch.cat([part.a_N for part in average.slices])
        return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def combinations() -> list[tuple[str, str]]:
    able = [(rule, "none") for rule in RULES] + [("momentum", kind) for kind in CORRECTIONS]
    return [*dict.fromkeys((*able, ("rmsprop", "dana")))]


@pytest.mark.parametrize(("rule", "correction"), combinations())
def test_one_two_three_one_shards_hold_the_same_and_go_on_alike(rule: str, correction: str) -> None:
    """Those that are cut anew and those that never were do the same to the last bit, before and after."""
    cut, whole = Cluster(1, rule, correction), Cluster(1, rule, correction)
    leases, workers = 0, 0
    for shards in (2, 3, 1):
        for cluster in (cut, whole):
            cluster.work(leases, 20, workers)
        before = cut.everything()
        assert same(before, whole.everything())
        leases, workers = leases + 20, workers + WORKERS
        cut.recut(shards)
        assert [state.version for state in cut.states()[0]] == [leases] * shards
        assert all(state.applied == (0, leases) for state in cut.states()[0])
        assert same(before, cut.everything())
    for cluster in (cut, whole):
        cluster.work(leases, 20, workers)
    assert same(cut.everything(), whole.everything())


def test_shards_that_met_the_same_leases_in_other_orders_are_cut_to_the_bit() -> None:
    cluster = Cluster(3, "adamw", "none")
    cluster.work(0, 30, 0, shuffled=True)
    before = cluster.everything()
    cluster.recut(2)
    assert same(before, cluster.everything())
    cluster.recut(5)
    assert same(before, cluster.everything())


def test_counts_go_on_and_staleness_is_of_as_many_updates() -> None:
    cluster = Cluster(3, "momentum", "none")
    cluster.work(0, 12, 0)
    cluster.shards[1].refused, cluster.shards[2].duplicates = 3, 2
    cluster.recut(2)
    statuses = [shard.status() for shard in cluster.shards]
    assert sum(sum(status.staleness.values()) for status in statuses) == 3 * 12
    assert (sum(status.refused for status in statuses), sum(status.duplicates for status in statuses)) == (3, 2)
    assert all(status.incarnation == 0 for status in statuses)


@pytest.mark.parametrize("kind", ["exponential", "uniform"])
def test_an_average_keeps_the_count_of_each_piece(kind: str) -> None:
    """Where one shard skipped a version that the other did not, an element's average is what it was."""
    settings = AverageSettings(kind, every=1, decay=0.5, start=0.0)
    cluster = Cluster(2, "sgd", "none", settings)
    for shard, versions in ((0, (1, 2, 3)), (1, (1, 3))):
        bound = cluster.bounds[shard]
        for version in versions:
            cluster.averager.handle(0.0, Sample(shard, 0, version, draw(f"version {version}")[bound].contiguous()))
    before = cluster.everything()["average"]
    cluster.recut(1)
    assert torch.equal(cluster.everything()["average"], before)
    first = Layout(TENSORS, 2).bounds(0)
    assert cluster.averager.state().slices[0].stretches == (Stretch(0, first.stop, 3), Stretch(first.stop, N, 2))
    cluster.averager.handle(0.0, Sample(0, 0, 4, draw("version 4")))
    alone = Averager((N,), settings, 100)
    for version in (1, 2, 3, 4):
        alone.handle(0.0, Sample(0, 0, version, draw(f"version {version}")))
    assert torch.equal(cluster.averager.state().slices[0].a_N[first], alone.state().slices[0].a_N[first])
    assert cluster.averager.status().counts == (3,)


def test_a_worker_that_one_shard_took_for_lost_counts_as_still_there() -> None:
    """With nothing of its own on that shard's elements. A number of the whole shard becomes the mean over elements."""
    cluster = Cluster(2, "momentum", "none")
    states, average = cluster.states()
    sizes = [bound.stop - bound.start for bound in cluster.bounds]
    ones = [Remembered((4.0, 2.0 * at), (torch.ones(n),), {7: torch.ones(n)}, {7: 5}) for at, n in enumerate(sizes)]
    ones[1] = replace(ones[1], worker_vectors={}, heard={})
    (made,), _ = repartition(
        [replace(state, remembered=one) for state, one in zip(states, ones, strict=True)],
        average, cluster.bounds, [slice(0, N)],
    )  # fmt: skip
    assert made.remembered.numbers == (4.0, 2.0 * sizes[1] / N)
    assert made.remembered.heard == {7: 5}
    expected_N = torch.zeros(N)
    expected_N[: sizes[0]] = 1.0
    assert torch.equal(made.remembered.worker_vectors[7], expected_N)


def test_a_run_that_is_not_at_rest_is_not_cut() -> None:
    cluster = Cluster(2, "momentum", "none")
    cluster.work(0, 6, 0)
    states, average = cluster.states()
    for other in (replace(states[1], version=5), replace(states[1], applied=(0, 5, 6, 7))):
        with pytest.raises(ValueError, match="the run is not at rest"):
            repartition([states[0], other], average, cluster.bounds, cluster.bounds)
    waiting = replace(states[1], waiting={6: torch.zeros(states[1].weights_N.numel())})
    with pytest.raises(ValueError, match=r"shard 1: versions \[6\] wait for the averager"):
        repartition([states[0], waiting], average, cluster.bounds, cluster.bounds)
