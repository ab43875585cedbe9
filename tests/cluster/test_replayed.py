"""Replayed clock: every simulated run comes out again to the last bit, and one changed record is found where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec import structs
from torch import Tensor

from cluster.copies import Copies
from cluster.machines import build_averager, build_shard
from cluster.model import SimulateSettings
from cluster.recording import Recording
from cluster.replayed import Replay, ReplayPieces
from cluster.spec import RunSpec
from cluster.witnesses import CannotGoOn
from ps.errors import RunFailed
from ps.journal import PushHandled, Record, SampleAveraged, SampleSkipped
from ps.ledger import LedgerSettings
from ps.messages import Outcome, Reading, Role
from ps.rules import RuleSettings
from ps.streams import torch_stream
from tests.cluster.simulation import Quadratic, Ran, simulated, specification

ELEMENTS = 70
QUADRATIC = Quadratic(curvature=0.5, noise=0.1)
SKEWED = SimulateSettings(latency_seconds=0.02, service_seconds=0.004)
LOSSY = replace(SKEWED, life_seconds=1.0, detection_seconds=0.3, rejoin_seconds=0.2)

Journals = dict[str, list[Record]]
Again = Callable[..., Replay]


def initial() -> Tensor:
    return torch.randn(ELEMENTS, generator=torch_stream(0, "test/initial"))


def spec_of(workers: int, shards: int, updates: int = 120) -> RunSpec:
    rule = RuleSettings(rule="momentum", momentum=0.5, weight_decay=0.01)
    patient = LedgerSettings(lease_seconds=3.0, max_attempts=100)
    spec = specification(updates, workers, shards, ELEMENTS, rule=rule, rate=0.02, ledger=patient)
    return replace(spec, average=replace(spec.average, every=2))


def run(spec: RunSpec, model: SimulateSettings) -> tuple[Ran, Journals]:
    ran = simulated(spec, model, QUADRATIC, initial())
    return ran, {
        "host-0" if address.role is Role.WORKER else str(address): list(records)
        for address, records in ran.journals.items()
    }


@pytest.fixture
def again() -> Iterator[Again]:
    """Makes replays of journals; what they keep is closed at the end."""
    kept: list[Copies] = []

    def make(spec: RunSpec, journals: Journals, memory_bytes: int = 1 << 20) -> Replay:
        kept.append(Copies(memory_bytes, ELEMENTS))
        return replay_of(spec, journals, kept[-1])

    yield make
    for copies in kept:
        copies.close()


def replay_of(spec: RunSpec, journals: Journals, copies: Copies) -> Replay:
    shards = [build_shard(spec, shard, initial()[bound].clone()) for shard, bound in enumerate(spec.bounds)]
    steps = spec.program.steps(spec.plan, spec.schedule.build(spec.plan.examples, spec.plan.samples))
    pieces = ReplayPieces(shards, build_averager(spec), spec.plan, QUADRATIC, spec.bounds, steps)
    return Replay(pieces, Recording.of(journals, Path("run")), copies)


def weights(of: Callable[[bool, Tensor], int], average: bool) -> Tensor:
    out_N = torch.empty(ELEMENTS)
    of(average, out_N)
    return out_N


@pytest.mark.parametrize("memory_bytes", [1 << 20, 1000])
@pytest.mark.parametrize("model", [SKEWED, LOSSY], ids=["skewed", "lossy"])
@pytest.mark.parametrize(("workers", "shards"), [(1, 1), (8, 1), (8, 4), (32, 2)])
def test_it_comes_out_again(
    workers: int, shards: int, model: SimulateSettings, memory_bytes: int, again: Again
) -> None:
    spec = spec_of(workers, shards)
    ran, journals = run(spec, model)
    replay = again(spec, journals, memory_bytes)
    replay.run()
    assert replay.differences == []
    assert replay.versions() == (120,) * shards
    for average in (False, True):
        assert torch.equal(weights(replay.read, average), weights(ran.simulation.read, average))


def test_lost_workers_left_leases_that_were_granted_again(again: Again) -> None:
    """So the cases above are what they say."""
    _, journals = run(spec_of(8, 4), LOSSY)
    again_granted = [r for r in journals["shard-0"] if isinstance(r, PushHandled) and r.attempt]
    assert len(again_granted) >= 3


def test_versions_that_the_averager_missed_are_missed_again(again: Again) -> None:
    spec = spec_of(8, 2)
    ran, journals = run(spec, replace(SKEWED, compute_seconds=0.01, service_seconds=0.0))
    assert any(isinstance(record, SampleSkipped) for record in journals["shard-0"])
    replay = again(spec, journals)
    replay.run()
    assert replay.differences == []
    assert torch.equal(weights(replay.read, True), weights(ran.simulation.read, True))


def test_no_version_is_kept_beyond_the_last_gradient_computed_from_it() -> None:
    spec = spec_of(8, 2)
    _, journals = run(spec, SKEWED)
    copies = Copies(1 << 20, ELEMENTS)
    replay = replay_of(spec, journals, copies)
    seen: list[int] = []
    replay.run(look=lambda _: seen.append(len(copies)))
    assert max(seen) <= 2 * (8 + 2)
    assert seen[-1] == 0


# --- stopping anywhere -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [0, 1, 57, 120])
def test_it_stops_where_every_shard_has_that_version(until: int, again: Again) -> None:
    spec = spec_of(8, 4)
    _, journals = run(spec, SKEWED)
    stopped = again(spec, journals)
    stopped.run(until)
    fresh = [build_shard(spec, shard, initial()[bound].clone()) for shard, bound in enumerate(spec.bounds)]
    whole = again(spec, journals)
    seen: dict[int, Tensor] = {0: torch.cat([shard._w_N for shard in fresh])}

    def look(_: int) -> None:
        for cursor, bound in zip(whole._cursors, spec.bounds, strict=True):
            seen.setdefault(cursor.shard.version, torch.empty(ELEMENTS))[bound] = cursor.shard._w_N

    whole.run(look=look)
    assert torch.equal(weights(stopped.read, False), seen[until])
    assert min(stopped.versions()) == until


# --- differences -----------------------------------------------------------------------------------------------------


def changed(journals: Journals, actor: str, kind: type[Record], nth: int, **values: object) -> tuple[Journals, int]:
    """The journals with the nth record of a kind changed, and where that record is."""
    records = list(journals[actor])
    at = [i for i, record in enumerate(records) if isinstance(record, kind)][nth]
    records[at] = structs.replace(records[at], **values)  # type: ignore[arg-type]
    return journals | {actor: records}, at


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": 0.03}, "PushHandled of lease"),
        ({"staleness": 40}, "staleness: recorded 40"),
        ({"version": 99}, "version: recorded 99"),
        ({"worker": 77}, "recorded from worker 77, the ledger granted it to worker"),
        ({"attempt": 3}, "the ledger granted it to nobody"),
        ({"samples": 2}, "recorded with 2 examples, it has 1"),
        ({"outcome": Outcome.DUPLICATE}, "outcome: recorded"),
        ({"read": (Reading(0, 30), Reading(0, 29))}, "another shard says versions"),
    ],
    ids=str,
)
def test_a_changed_record_is_found_where_it_is(values: dict[str, object], said: str, again: Again) -> None:
    spec = spec_of(8, 2)
    _, journals = run(spec, SKEWED)
    wrong, at = changed(journals, "shard-1", PushHandled, 40, **values)
    replay = again(spec, wrong)
    with suppress(CannotGoOn):  # as soon as the order makes no sense; the differences are there all the same
        replay.run()
    first = replay.differences[0]
    assert (first.actor, first.record) == ("shard-1", at), replay.differences
    assert any(said in difference.what for difference in replay.differences), replay.differences


def test_another_gradient_is_found_at_its_lease(again: Again) -> None:
    spec = spec_of(8, 2)
    _, journals = run(spec, SKEWED)
    replay = again(spec, journals)
    object.__setattr__(replay._pieces, "computation", replace(QUADRATIC, noise=0.1000001))
    replay.run()
    first = replay.differences[0]
    assert "gradient of lease" in first.what
    assert first.record < 40


def test_other_initial_weights_are_found_before_the_first_update(again: Again) -> None:
    spec = spec_of(8, 2)
    _, journals = run(spec, SKEWED)
    replay = again(spec, journals)
    replay._cursors[1].shard._w_N[3] += 1e-7
    replay.run()
    assert (replay.differences[0].actor, replay.differences[0].record) == ("shard-1", 0)
    assert "weights_sha256" in replay.differences[0].what


def test_a_sample_that_was_never_sent_is_found(again: Again) -> None:
    spec = spec_of(8, 2)
    _, journals = run(spec, SKEWED)
    extra = SampleAveraged(9.0, 0, 0, 1000, True)
    replay = again(spec, journals | {"averager": [*journals["averager"], extra]})
    replay.run()
    assert [str(d) for d in replay.differences] == ["averager: shard 0 at version 1000 was averaged, but never sent it"]


def test_a_version_that_no_journal_has_stops_it_with_its_name(again: Again) -> None:
    spec = spec_of(8, 2)
    _, journals = run(spec, SKEWED)
    replay = again(spec, journals | {"shard-1": journals["shard-1"][:60]})
    with pytest.raises(CannotGoOn, match=r"shard-0, record \d+: lease \d+ read version \d+ of shard 1, whose journal"):
        replay.run()


@pytest.mark.parametrize(("missing", "said"), [("ledger", "no ledger's journal"), ("shard-1", "no journal of shard 1")])
def test_a_missing_journal_is_one_clear_line(missing: str, said: str, again: Again) -> None:
    spec = spec_of(2, 2, updates=4)
    _, journals = run(spec, SKEWED)
    with pytest.raises(RunFailed, match=said):
        again(spec, {actor: records for actor, records in journals.items() if actor != missing})
