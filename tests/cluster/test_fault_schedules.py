"""Thousands of random fault schedules. A seed that fails is named, and comes out again alone:

DISTBELIEF_FIRST_SEED=N DISTBELIEF_SEEDS=1 pytest -m soak tests/cluster/test_fault_schedules.py
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.cluster.schedules import check, drawn, run

FAST_SEEDS, CHUNK = 180, 50
FIRST_SEED = int(os.environ.get("DISTBELIEF_FIRST_SEED", "1000"))
SEEDS = int(os.environ.get("DISTBELIEF_SEEDS", "10000"))


def survived(seeds: range) -> Counter[tuple[str, str]]:
    """Let the schedules of these seeds take place, and check each; return what struck, over all."""
    fired: Counter[tuple[str, str]] = Counter()
    for seed in seeds:
        try:
            ran = run(seed)
            check(ran)
        except Exception as error:
            raise AssertionError(
                f"seed {seed} fails: {error!r}; alone: DISTBELIEF_FIRST_SEED={seed} DISTBELIEF_SEEDS=1 "
                "pytest -m soak tests/cluster/test_fault_schedules.py"
            ) from error
        fired += ran.fired
    return fired


def test_whatever_goes_wrong_nothing_is_lost() -> None:
    fired = survived(range(FAST_SEEDS))
    every = {(role, do) for role in ("shard", "worker", "ledger", "averager")
             for do in ("kill", "stop", "delay", "drop", "duplicate")}  # fmt: skip
    every |= {("worker", "corrupt"), ("shard", "corrupt")}
    assert fired.keys() == every, "the schedules bring about all that is to be survived"
    specs = [drawn(seed).spec for seed in range(FAST_SEEDS)]
    kinds = {(spec.consistency.kind, spec.program.prefetch, spec.correction.kind) for spec in specs}
    ahead = {(kind, True, correction) for kind in ("async", "bounded") for correction in ("none", "dc-asgd")}
    assert ahead <= kinds, "also to weights that are pulled ahead"


@pytest.mark.parametrize("seed", [6109, 9870, 10260])
def test_a_schedule_that_once_never_ended(seed: int) -> None:
    """Workers that a shard's loss made unfinished work for had gone home, and the gate waited for them."""
    assert survived(range(seed, seed + 1)).total() > 0


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + SEEDS, CHUNK))
def test_more_seeds_find_more(first: int) -> None:
    survived(range(first, min(first + CHUNK, FIRST_SEED + SEEDS)))


def test_the_same_seed_is_the_same_run_and_another_seed_is_not() -> None:
    first, other, again = run(3), run(4), run(3)
    assert repr(first.journals) == repr(again.journals)
    assert repr(first.journals) != repr(other.journals)
