"""Conservation of staleness: it holds on every schedule, says so where it cannot tell, and a miscount breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from cluster.model import SimulateSettings
from distbelief.conservation import Conservation, complaint
from ps.consistency import ConsistencySettings
from ps.correction_settings import CorrectionSettings
from ps.journal import PushHandled, Record, ShardOpened, WorkerExchanged
from ps.ledger import LedgerSettings
from ps.messages import Address, Outcome, Role
from tests.cluster.simulation import Ran, constant, memoryless, simulated, specification
from workers.program_settings import ProgramSettings

WORKERS, UPDATES = 7, 300
PATIENT = LedgerSettings(lease_seconds=20.0, max_attempts=100)
RUNS: dict[str, tuple[SimulateSettings, dict[str, Any]]] = {
    "constant": (constant(), {}),
    "memoryless": (memoryless(), {}),
    "stragglers": (SimulateSettings(compute="pareto", slow_workers=1, slow_factor=5.0), {}),
    "lossy": (SimulateSettings(life_seconds=2.0, detection_seconds=0.5, rejoin_seconds=0.2), {}),
    "bounded": (memoryless(), {"consistency": ConsistencySettings("bounded", bound=1)}),
    "discard": (memoryless(), {"correction": CorrectionSettings("discard", limit=9)}),
}
AHEAD = {
    f"{name}, ahead": (model, {**changes, "program": ProgramSettings(prefetch=True)})
    for name, (model, changes) in RUNS.items()
}
AHEAD["discard, ahead"][1]["correction"] = CorrectionSettings("discard", limit=18)
RUNS |= AHEAD


def ran(name: str, shards: int = 2) -> Ran:
    model, changes = RUNS[name]
    return simulated(replace(specification(UPDATES, WORKERS, shards, ledger=PATIENT), **changes), model)


def checked(run: Ran, change: Callable[[Record], Record | None] = lambda record: record) -> dict[str, Any]:
    """The verdict on a run's journals; `change` may alter or drop records."""
    conservation = Conservation(run.pulls)

    def add(shard: int, records: Iterable[Record]) -> None:
        for record in records:
            if (changed := change(record)) is not None:
                conservation.add(shard, changed)

    add(-1, run.journals[Address(Role.WORKER)])
    for machine in run.pieces.shards:
        add(machine.index, run.journals[Address(Role.SHARD, machine.index)])
    return conservation.verdict()


@pytest.mark.parametrize("name", RUNS)
def test_it_holds_on_every_schedule(name: str) -> None:
    verdict = checked(ran(name))
    assert verdict["holds"] is True
    assert verdict["staleness_and_ages"] == verdict["others_open"]
    assert complaint(verdict) == ""
    if name in ("constant", "memoryless", "stragglers"):  # every worker has exactly one pull open, always
        assert verdict["others_open"] == 2 * (WORKERS - 1) * UPDATES
    if name == "memoryless, ahead":  # two, but for the moment between a push and the next pull
        assert 0.98 < verdict["others_open"] / (2 * (2 * WORKERS - 1) * UPDATES) < 1


def once(change: Callable[[PushHandled], PushHandled]) -> Callable[[Record], Record]:
    """Alters one applied push in the middle of the run, on one shard."""
    done = []

    def changed(record: Record) -> Record:
        applied = isinstance(record, PushHandled) and record.outcome is Outcome.APPLIED
        if applied and record.lease == UPDATES // 2 and not done:
            done.append(record)
            return change(record)
        return record

    return changed


@pytest.mark.parametrize("name", RUNS)
def test_a_miscount_of_one_update_breaks_it(name: str) -> None:
    verdict = checked(ran(name), once(lambda push: structs.replace(push, staleness=push.staleness + 1)))
    assert verdict["holds"] is False
    assert verdict["staleness_and_ages"] == verdict["others_open"] + 1
    assert "staleness is not conserved" in complaint(verdict)


@pytest.mark.parametrize("name", ["constant", "constant, ahead"])
def test_an_update_whose_answer_the_worker_never_heard_counts_all_the_same(name: str) -> None:
    run = ran(name)
    unheard = next(r for r in reversed(run.exchanges()) if r.outcome is Outcome.APPLIED and r.worker == 3)

    def deaf(record: Record) -> Record | None:
        is_it = isinstance(record, WorkerExchanged) and (record.worker, record.number) == (3, unheard.number)
        return None if is_it else record

    assert checked(run, deaf)["holds"] is True


@pytest.mark.parametrize("name", ["memoryless", "memoryless, ahead"])
def test_an_update_that_the_worker_took_for_a_duplicate_counts_once(name: str) -> None:
    run = ran(name)

    def doubted(record: Record) -> Record:
        if isinstance(record, WorkerExchanged) and record.lease == UPDATES // 2:
            return structs.replace(record, outcome=Outcome.DUPLICATE)
        return record

    assert checked(run, doubted)["holds"] is True


@pytest.mark.parametrize("name", ["constant", "constant, ahead"])
def test_a_worker_s_journal_that_lost_its_end_decides_nothing(name: str) -> None:
    run = ran(name)
    verdict = checked(run, lambda r: None if isinstance(r, WorkerExchanged) and r.number > 5 else r)
    assert verdict["holds"] is None
    assert complaint(verdict) == ""


def test_a_shard_that_went_back_decides_nothing() -> None:
    conservation = Conservation()
    run = ran("constant", shards=1)
    for record in run.exchanges():
        conservation.add(-1, record)
    opened = run.journals[Address(Role.SHARD, 0)][0]
    assert isinstance(opened, ShardOpened)
    for record in [*run.journals[Address(Role.SHARD, 0)], structs.replace(opened, incarnation=1)]:
        conservation.add(0, record)
    assert conservation.verdict()["holds"] is None


def test_rounds_and_older_pulls_decide_nothing() -> None:
    spec = replace(specification(60, 4), consistency=ConsistencySettings("sync"))
    assert checked(simulated(spec, constant()))["holds"] is None
    assert Conservation().verdict(oldest=False)["holds"] is None
    assert Conservation().verdict()["holds"] is None
