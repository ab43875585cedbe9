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
from ps.journal import FaultFired, PullHandled, PushHandled, ShardOpened
from ps.messages import Address, Outcome, Role
from ps.snapshot import encode
from ps.standby import Standing
from tests.cluster.schedules import MODES, Ran, carried_out, check, drawn, run

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


def survived(seeds: range) -> Counter[bool]:
    """Check the schedules of these seeds; return how often a killed shard came back, and whether as its standby."""
    found: Counter[bool] = Counter()
    for seed in seeds:
        try:
            ran = run(seed, DoubledSimulation)
            check(ran)
            assert_alike(ran)
        except Exception as error:
            raise AssertionError(
                f"seed {seed} fails: {error!r}; alone: DISTBELIEF_FIRST_SEED={seed} DISTBELIEF_SEEDS=1 "
                "pytest -m soak tests/cluster/test_doubles.py"
            ) from error
        found.update(opening.promoted for opening in openings(ran) if opening.incarnation)
    return found


def test_whatever_goes_wrong_nothing_is_lost_with_standbys_either() -> None:
    found = survived(range(FAST_SEEDS))
    assert found[True] > 10
    assert found[False] > 0, "one that has no standby in step comes back as without"


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
                assert record.now == pytest.approx(killed + SUCCESSION_SECONDS)
            case FaultFired():
                killed = record.now
    assert [opening.promoted for opening in openings(ran) if opening.shard == 0] == [False, True]
    assert_alike(ran)
    assert doubled(ran)._standbys[FIRST].standing is Standing.IN_STEP, "another is there"


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
