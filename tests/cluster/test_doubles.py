"""Shards with standbys in virtual time: a planned loss costs half a second and nothing else, and whatever else goes
wrong beside it, each lease counts once. A seed that fails comes out again alone, as in test_fault_schedules.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import pytest

from cluster.doubles import SUCCESSION_SECONDS, DoubledSimulation
from cluster.faults import Fault, FaultPlan
from cluster.simulated import TICK_SECONDS
from ps.journal import FaultFired, PairParted, PullHandled, PushHandled, ShardOpened
from ps.messages import LEDGER, Address, Outcome, Role
from ps.snapshot import encode
from ps.standby import SILENT_SECONDS, Standing
from ps.streams import numpy_stream
from tests.cluster.schedules import MODES, Ran, Scheduled, carried_out, check, drawn

FAST_SEEDS = 25
FIRST_SEED = int(os.environ.get("DISTBELIEF_FIRST_SEED", "1000"))
SEEDS = int(os.environ.get("DISTBELIEF_SEEDS", "1000"))
FIRST = Address(Role.SHARD, 0)


def doubled(ran: Ran) -> DoubledSimulation:
    assert isinstance(ran.simulation, DoubledSimulation)
    return ran.simulation


def openings(ran: Ran) -> list[ShardOpened]:
    records = [record for address, journal in ran.journals.items() if address.role is Role.SHARD for record in journal]
    return [record for record in records if isinstance(record, ShardOpened)]


def assert_alike(ran: Ran) -> None:
    """Standbys hold what their shards hold, if nothing was on its way to them when the run was over."""
    simulation = doubled(ran)
    for address, standby in simulation._standbys.items():
        leader = simulation._leaders[address]
        if standby.standing is Standing.IN_STEP and standby.number == leader.number:
            assert b"".join(encode(standby.state())) == b"".join(encode(leader.state()))


def with_standbys(seed: int) -> Scheduled:
    """The schedule of this seed, with what goes wrong at standbys."""
    chosen, draws = drawn(seed), numpy_stream(seed, "schedule/standbys")
    faults = [
        Fault(
            "standby",
            do,
            every=float(draws.uniform(20.0, 200.0)),
            times=3,
            when=str(draws.choice(["before", "after"])) if do in ("kill", "drop") else "before",
            seconds=float(draws.uniform(0.01, 3 * SILENT_SECONDS)) if do in ("stop", "delay") else 0.0,
        )
        for do in ("kill", "stop", "delay", "drop", "duplicate")
        if draws.random() < 0.5
    ]
    return replace(chosen, plan=FaultPlan((*chosen.plan.faults, *faults), seed))


def parted(ran: Ran) -> list[PairParted]:
    return [record for record in ran.journals[LEDGER] if isinstance(record, PairParted)]


def survived(seeds: range) -> Counter[str]:
    """Check the schedules of these seeds; return how often a killed shard came back as its standby or without, one went
    on alone, and each kind of fault struck a standby.
    """
    found: Counter[str] = Counter()
    for seed in seeds:
        try:
            ran = carried_out(with_standbys(seed), DoubledSimulation)
            check(ran)
            assert_alike(ran)
        except Exception as error:
            raise AssertionError(
                f"seed {seed} fails: {error!r}; alone: DISTBELIEF_FIRST_SEED={seed} DISTBELIEF_SEEDS=1 "
                "pytest -m soak tests/cluster/test_doubles.py"
            ) from error
        found.update("promoted" if each.promoted else "restored" for each in openings(ran) if each.incarnation)
        found.update("alone" for each in parted(ran) if each.leads)
        found.update({do: count for (role, do), count in ran.fired.items() if role == "standby"})
    return found


def test_whatever_goes_wrong_nothing_is_lost_with_standbys_either() -> None:
    found = survived(range(FAST_SEEDS))
    assert found["promoted"] > 10
    assert found["restored"] > 0, "one that has no standby in step comes back as without"
    assert found["alone"] > 10
    assert {"kill", "stop", "delay", "drop", "duplicate"} <= found.keys()


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + SEEDS, 50))
def test_more_seeds_find_more(first: int) -> None:
    survived(range(first, min(first + 50, FIRST_SEED + SEEDS)))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_shard_that_is_lost_goes_on_at_the_very_version_half_a_second_later(when: str) -> None:
    chosen = drawn(7)
    plan = FaultPlan((Fault("shard-0", "kill", event=15, when=when),), 7)
    chosen = replace(chosen, spec=replace(chosen.spec, consistency=MODES[0]), plan=plan)
    ran = carried_out(chosen, DoubledSimulation)
    check(ran)
    version, killed = 0, 0.0
    for record in ran.journals[FIRST]:
        match record:
            case PushHandled():
                version += record.outcome is Outcome.APPLIED
                assert record.version == version
            case PullHandled():
                assert record.version == version
            case ShardOpened(incarnation=1):
                assert (record.promoted, record.version) == (True, version)
                assert record.now == pytest.approx(killed + SUCCESSION_SECONDS + 2 * chosen.model.latency_seconds)
            case FaultFired():
                killed = record.now
    assert [opening.promoted for opening in openings(ran) if opening.shard == 0] == [False, True]
    assert_alike(ran)
    assert doubled(ran)._standbys[FIRST].standing is Standing.IN_STEP, "another is there"


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (Fault("standby-0", "kill", event=15), SUCCESSION_SECONDS),
        (Fault("standby-0", "kill", event=15, when="after"), SUCCESSION_SECONDS),
        (Fault("standby-0", "stop", event=15, seconds=1000.0), SILENT_SECONDS + TICK_SECONDS),
    ],
    ids=["killed before", "killed after", "stands still"],
)
def test_a_standby_that_is_lost_holds_its_shard_up_for_so_long_and_another_is_brought_up(
    fault: Fault, seconds: float
) -> None:
    chosen = drawn(7)
    spec = replace(chosen.spec, consistency=MODES[0])
    ran = carried_out(replace(chosen, spec=spec, plan=FaultPlan((fault,), 7)), DoubledSimulation)
    check(ran)
    (fired,) = [record for record in ran.journals[Address(Role.STANDBY, 0)] if isinstance(record, FaultFired)]
    (ruling,) = parted(ran)
    assert (ruling.shard, ruling.leads) == (0, True)
    assert 0.0 < ruling.now - fired.now <= seconds + 3 * chosen.model.latency_seconds
    assert_alike(ran)
    assert doubled(ran)._standbys[FIRST].standing is Standing.IN_STEP
    assert all(opening.incarnation == 0 for opening in openings(ran)), "nothing is undone"


def test_a_shard_that_is_lost_with_its_ledger_goes_on_when_that_is_back() -> None:
    chosen = drawn(7)
    faults = (Fault("shard-0", "kill", event=15), Fault("ledger", "kill", event=15), Fault("ledger", "drop", every=2.0))
    spec = replace(chosen.spec, consistency=MODES[0])
    ran = carried_out(replace(chosen, spec=spec, plan=FaultPlan(faults, 7)), DoubledSimulation)
    check(ran)
    assert [opening.promoted for opening in openings(ran) if opening.shard == 0] == [False, True]
    assert [(each.shard, each.leads) for each in parted(ran)] == [(0, False)]


def test_a_shard_that_went_on_alone_and_is_lost_then_comes_back_as_one_without_a_standby() -> None:
    """Its standby stood still and was given up; what was acknowledged since is made up for, exactly once."""
    chosen = replace(drawn(7), restart_seconds=30.0)
    faults = (Fault("standby-0", "stop", event=10, seconds=12.0), Fault("shard-0", "kill", event=30))
    spec = replace(chosen.spec, consistency=MODES[0])
    ran = carried_out(replace(chosen, spec=spec, plan=FaultPlan(faults, 7)), DoubledSimulation)
    check(ran)
    assert [opening.promoted for opening in openings(ran) if opening.shard == 0] == [False, False]


def test_without_faults_a_run_with_standbys_is_the_same_but_later() -> None:
    chosen = replace(drawn(7), plan=FaultPlan((), 7))
    ran = carried_out(replace(chosen, spec=replace(chosen.spec, consistency=MODES[3])), DoubledSimulation)
    plain = carried_out(replace(chosen, spec=replace(chosen.spec, consistency=MODES[3])))
    states = [b"".join(encode(shard.state())) for shard in ran.simulation._pieces.shards]
    assert_alike(ran)
    assert len(states) == len(plain.simulation._pieces.shards)
    versions = [[shard.version for shard in each.simulation._pieces.shards] for each in (ran, plain)]
    assert versions[0] == versions[1]
    assert doubled(ran).now > plain.simulation.now
