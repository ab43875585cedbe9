"""Gates, rounds and staging as scripts; the ledger closes a round with exactly these messages."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from ps.consistency import CONSISTENCIES, Bounded, ConsistencySettings, Gate, Ramp, WarmStart
from ps.errors import BadInput
from ps.journal import (
    LeaseDiscarded,
    LeaseFinished,
    LeaseReturned,
    PushHandled,
    RoundApplied,
    RoundOrdered,
)
from ps.layout import Segment
from ps.leases import LeasePlan
from ps.ledger import Ledger, LedgerSettings
from ps.messages import (
    JOURNAL,
    LEDGER,
    Address,
    CloseRound,
    Exchange,
    Exchanged,
    Failed,
    Finished,
    Granted,
    Has,
    NextLease,
    NoMoreLeases,
    Outcome,
    Push,
    Reading,
    Role,
    RoundClosed,
    Stop,
    Tick,
    WhoHas,
    WorkerLost,
)
from ps.rounds import RoundRule, Rounds, StagedLease
from ps.rules import Sgd
from ps.schedule import ScheduleSettings
from ps.shard import Outbox, Shard
from ps.staging import Staging, mean

# --- gates ------------------------------------------------------------------------------------------------------------


def entered(gate: Gate, workers: int) -> Gate:
    for worker in range(workers):
        gate.entered(worker)
    return gate


def test_async_lets_everyone_go_on() -> None:
    gate = entered(ConsistencySettings().gate(leases=9), 3)
    for _ in range(9):
        gate.finished(0)
    assert [gate.opens(worker) for worker in range(3)] == [True] * 3


def test_bounded_holds_who_is_too_far_ahead_of_the_slowest() -> None:
    gate = entered(Bounded(2), 3)
    for _ in range(3):
        assert gate.opens(0)
        gate.finished(0)
    assert [gate.opens(worker) for worker in range(3)] == [False, True, True]
    gate.finished(1)
    assert not gate.opens(0), "worker 2 is where it was"
    gate.finished(2)
    assert gate.opens(0)


def test_a_lost_worker_leaves_the_minimum_and_a_joiner_enters_at_it() -> None:
    gate = entered(Bounded(0), 3)
    for worker in (0, 1):
        for _ in range(4):
            gate.finished(worker)
    assert not gate.opens(0)
    gate.left(2)
    gate.left(2)
    assert gate.opens(0)
    gate.finished(0)
    gate.entered(7)
    assert [gate.opens(worker) for worker in (0, 1, 7)] == [False, True, True]
    gate.finished(7)
    gate.finished(1)
    assert all(gate.opens(worker) for worker in (0, 1, 7))


def test_when_all_are_lost_a_joiner_may_go_on() -> None:
    gate = entered(Bounded(0), 2)
    gate.finished(0)
    gate.left(0)
    gate.left(1)
    gate.entered(5)
    assert gate.opens(5)


def admitted(gate: Gate, workers: int) -> set[int]:
    return {worker for worker in range(workers) if gate.opens(worker)}


def test_the_fewer_leases_are_left_the_more_workers_a_ramp_lets_work() -> None:
    gate = entered(Ramp(begin=2, leases=80), 8)
    counts, positions = [], []
    for _ in range(80):
        counts.append(len(admitted(gate, 8)))
        positions.append(gate.position)
        gate.finished(0)
    moved = [number for number in range(1, 80) if counts[number] != counts[number - 1]]
    assert all(positions[number] != positions[number - 1] for number in moved), "who is held up is never asked again"
    assert counts == [min(8, math.ceil(2 * 80 / (80 - finished))) for finished in range(80)]
    for _ in range(9):  # what a shard lost is finished twice
        gate.finished(0)
    assert admitted(gate, 8) == set(range(8))


def test_those_that_begin_are_neighbours_of_none() -> None:
    for begin, first in [(1, {0}), (2, {0, 16}), (4, {0, 8, 16, 24}), (32, set(range(32)))]:
        assert admitted(entered(Ramp(begin, 100), 32), 32) == first


def test_another_takes_the_place_of_who_is_lost_and_joiners_have_places_too() -> None:
    gate = entered(Ramp(begin=2, leases=100), 4)
    assert admitted(gate, 4) == {0, 2}
    stood = gate.position
    gate.left(2)
    gate.left(2)
    assert gate.position != stood
    assert admitted(gate, 4) >= {0, 1}
    assert not gate.opens(3)
    gate.entered(8)
    assert [gate.opens(worker) for worker in (0, 8, 1, 3)] == [True, True, False, False]


def test_a_warm_start_is_for_whoever_asks_first_and_passes_on_if_it_is_lost() -> None:
    gate = entered(WarmStart(3, Bounded(0)), 3)
    assert [gate.opens(worker) for worker in (1, 0, 2)] == [True, False, False]
    gate.finished(1)
    gate.left(1)
    assert [gate.opens(worker) for worker in (2, 0)] == [True, False]
    gate.finished(2)
    gate.finished(2)
    assert gate.opens(0)
    assert gate.opens(2), "the clocks begin after it"
    gate.finished(2)
    assert not gate.opens(2)


# --- rounds -----------------------------------------------------------------------------------------------------------


def staged(lease: int, read: int = 0) -> StagedLease:
    return StagedLease(0, lease, 0, 0.5, 1, 0, read)


def test_a_round_is_due_when_enough_have_come() -> None:
    rounds = Rounds(RoundRule(size=2, in_work=3, limit=0), shards=2)
    assert rounds.due([], last=True) == ()
    rounds.stage(staged(4))
    assert rounds.due([0], last=False) == ()
    assert rounds.due([], last=True) == (4,), "a short one, at the end"
    rounds.stage(staged(1))
    assert rounds.due([0], last=False) == (1, 4)
    assert rounds.close(9, (1, 4), 60.0, keep=False) == CloseRound(9, 1, (1, 4), 2, False)
    assert rounds.due([], last=True) == (), "one at a time"
    assert (1 in rounds, 4 in rounds, 2 in rounds, len(rounds)) == (True, True, False, 2)
    assert rounds.closed(RoundClosed(8, 0)) == []
    assert rounds.closed(RoundClosed(9, 5)) == []
    assert rounds.closed(RoundClosed(9, 0)) == []
    assert rounds.late(59.0, 99.0) == []
    assert rounds.late(60.0, 99.0) == [(Address(Role.SHARD, 1), CloseRound(9, 1, (1, 4), 2, False))]
    assert rounds.closed(RoundClosed(9, 0)) == [], "twice is once"
    assert [done.lease for done in rounds.closed(RoundClosed(9, 1))] == [1, 4]
    assert (rounds.count, len(rounds)) == (1, 0)
    assert rounds.outdated(0)
    assert not rounds.outdated(1)


def test_a_softsync_round_takes_the_oldest_and_waits_for_who_would_be_too_late() -> None:
    rounds = Rounds(RoundRule(size=1, in_work=2, limit=2), shards=1)
    for round, lease in enumerate((5, 6), start=1):
        rounds.stage(staged(lease, read=round - 1))
        assert rounds.due([0], last=False) == (lease,)
        rounds.close(round, (lease,), 0.0, keep=True)
        rounds.closed(RoundClosed(round, 0))
    rounds.stage(staged(7, read=2))
    assert rounds.due([0], last=False) == (), "a gradient at version 0 is still out, and would be 3 late"
    assert not rounds.may_grant(1)
    rounds.stage(staged(8, read=0))
    assert rounds.due([], last=False) == (8,)
    assert rounds.may_grant(0) is False, "a round is due"


def test_the_mean_of_a_round_is_in_the_order_of_the_leases_and_over_its_whole_size() -> None:
    ones = [torch.full((3,), value) for value in (1.0, 2.0, 4.0)]
    assert mean(ones, 4).tolist() == [1.75] * 3
    big = [torch.tensor([value]) for value in (1e8, 1.0, -1e8)]
    assert mean([g_N.clone() for g_N in big], 1).tolist() == [0.0]  # not 1: ((1e8 + 1) - 1e8) in this order
    assert mean([big[0].clone(), big[2].clone(), big[1].clone()], 1).tolist() == [1.0]


def test_staging_keeps_copies_and_hands_out_all_or_nothing() -> None:
    staging = Staging(limit=1)
    g_N = torch.ones(2)
    staging.put(3, Push(5, 0, 4, (Reading(0, 0),), g_N), read=0)
    g_N.fill_(9.0)
    staging.put(4, Push(2, 1, 4, (Reading(0, 0),), g_N), read=0)
    with pytest.raises(ValueError, match=re.escape("round of leases [2, 6]: [6] are not staged here")):
        staging.take((2, 6), keep=False)
    assert len(staging) == 2
    (one,) = staging.take((5,), keep=True)
    assert (one.worker, one.lease, one.gradient_N.tolist()) == (3, 5, [1.0, 1.0])
    assert 2 in staging
    staging.put(3, Push(5, 0, 4, (Reading(0, 0),), g_N), read=0)
    staging.take((2,), keep=False)
    assert len(staging) == 0
    assert [staging.late(tau) for tau in (0, 1, 2)] == [False, False, True]


# --- a shard that stages ----------------------------------------------------------------------------------------------

N = 4


def shard(limit: int = 0) -> Shard:
    schedule = ScheduleSettings(rate=0.5).build(100, 100)
    return Shard(0, 1, torch.zeros(N), (Segment(0, N, 1.0, 1.0),), Sgd(), 0.0, schedule, 0, staging=Staging(limit))


def pushed(machine: Shard, lease: int, read: int = 0, value: float = 1.0) -> tuple[PushHandled, Exchanged]:
    push = Push(lease, 0, 3, (Reading(0, read),), torch.full((N,), value))
    (_, record), (_, answer) = machine.handle(1.0, Exchange(lease, 1, 0, push, None))
    assert isinstance(record, PushHandled)
    assert isinstance(answer, Exchanged)
    return record, answer


def weights(machine: Shard) -> Tensor:
    return machine._w_N


def test_a_staged_push_changes_no_weight_until_its_round_is_closed() -> None:
    machine = shard()
    record, answer = pushed(machine, 7, value=2.0)
    assert (record.outcome, record.staleness, record.version) == (Outcome.STAGED, -1, 0)
    assert answer == Exchanged(1, 0, Outcome.STAGED, Reading(0, 0), 0, None)
    assert pushed(machine, 7)[1].outcome is Outcome.DUPLICATE
    pushed(machine, 3, value=4.0)
    assert machine.handle(1.0, WhoHas(5, (3, 4, 7))) == [(LEDGER, Has(5, 0, (3, 7)))]
    assert machine.status().staged == 2
    assert weights(machine).tolist() == [0.0] * N
    assert machine.handle(2.0, CloseRound(6, 1, (3, 7), 2, False)) == [
        (JOURNAL, RoundApplied(2.0, (3, 7), (0, 0), 6, 2, False, 0.5, 1)),
        (LEDGER, RoundClosed(6, 0)),
    ]
    assert weights(machine).tolist() == [-1.5] * N
    assert (machine.version, machine.samples, 3 in machine.applied, 7 in machine.applied) == (1, 6, True, True)
    assert machine.handle(3.0, CloseRound(8, 1, (3, 7), 2, False)) == [(LEDGER, RoundClosed(8, 0))], "asked again"
    assert weights(machine).tolist() == [-1.5] * N


def test_who_is_late_for_the_round_is_told_so_and_what_is_left_over_is_dropped_or_kept() -> None:
    for keep in (False, True):
        machine = shard(limit=4 if keep else 0)
        pushed(machine, 0)
        pushed(machine, 1)
        machine.handle(2.0, CloseRound(6, 1, (0,), 1, keep))
        assert machine.status().staged == int(keep)
        assert pushed(machine, 2)[1].outcome is (Outcome.STAGED if keep else Outcome.DISCARDED)
        assert machine.discarded == int(not keep)


def test_a_round_that_is_not_the_next_or_not_here_changes_nothing() -> None:
    machine = shard()
    pushed(machine, 0)
    with pytest.raises(ValueError, match="shard 0: got round 2, expected round 1"):
        machine.handle(1.0, CloseRound(6, 2, (0,), 1, False))
    with pytest.raises(ValueError, match=r"\[1\] are not staged here"):
        machine.handle(1.0, CloseRound(6, 1, (0, 1), 1, False))
    for leases, size in (((), 2), ((0, 0), 2), ((0,), 0), ((0,), -1)):
        with pytest.raises(ValueError, match=re.escape(f"shard 0: got a round of leases {leases} divided by {size}")):
            machine.handle(1.0, CloseRound(6, 1, leases, size, False))
    assert (machine.version, machine.status().staged) == (0, 1)


# --- the ledger -------------------------------------------------------------------------------------------------------

PLAN = LeasePlan(examples=10, batch_size=2, epochs=1, seed=7)


def ledger(kind: str, workers: int, shards: int = 1, **values: int) -> Ledger:
    settings = ConsistencySettings(kind, **values)  # type: ignore[arg-type]
    return Ledger(PLAN, shards, LedgerSettings(60.0), workers, settings)


def done(lease: int, attempt: int = 0) -> Finished:
    return Finished(lease, attempt, 0.5, 1, 0)


def granted(out: Outbox) -> list[tuple[int, int, int, bool]]:
    """Worker, lease, attempt and whether to pull, of each grant."""
    return [(to.index, item.lease.id, item.lease.attempt, item.pull) for to, item in out if isinstance(item, Granted)]


def test_a_synchronous_round_in_full() -> None:
    machine = ledger("sync", 2, shards=2)
    assert granted(machine.handle(0.0, NextLease(0, 1, None))) == [(0, 0, 0, False)]
    assert granted(machine.handle(0.0, NextLease(1, 1, None))) == [(1, 1, 0, False)]
    assert machine.handle(1.0, NextLease(1, 2, done(1))) == [], "it is staged; the round is not full"
    assert machine.handle(2.0, NextLease(0, 2, done(0))) == [
        (JOURNAL, RoundOrdered(2.0, 1, (0, 1), False)),
        (Address(Role.SHARD, 0), CloseRound(1, 1, (0, 1), 2, False)),
        (Address(Role.SHARD, 1), CloseRound(1, 1, (0, 1), 2, False)),
    ]
    assert machine.status().outstanding == 2
    assert machine.handle(3.0, RoundClosed(1, 1)) == []
    assert machine.handle(61.0, Tick()) == []
    assert machine.handle(62.0, Tick()) == [(Address(Role.SHARD, 0), CloseRound(1, 1, (0, 1), 2, False))]
    out = machine.handle(63.0, RoundClosed(1, 0))
    assert out[:2] == [
        (JOURNAL, LeaseFinished(63.0, 1, 1, 0, 2, 0.5, 1, 0)),
        (JOURNAL, LeaseFinished(63.0, 0, 0, 0, 2, 0.5, 1, 0)),
    ] or out[:2] == [
        (JOURNAL, LeaseFinished(63.0, 0, 0, 0, 2, 0.5, 1, 0)),
        (JOURNAL, LeaseFinished(63.0, 1, 1, 0, 2, 0.5, 1, 0)),
    ]
    assert granted(out) == [(1, 2, 0, True), (0, 3, 0, True)], "who waited longest first; both pull again"


def test_the_last_round_is_short() -> None:
    machine = ledger("sync", 4)
    for index in range(4):
        machine.handle(0.0, NextLease(index, 1, None))
    for index in range(4):
        machine.handle(1.0, NextLease(index, 2, done(index)))
    assert granted(machine.handle(2.0, RoundClosed(1, 0))) == [(0, 4, 0, True)]
    out = machine.handle(3.0, NextLease(0, 3, done(4), 1))
    assert out[0] == (JOURNAL, RoundOrdered(3.0, 2, (4,), False))
    assert out[1] == (Address(Role.SHARD, 0), CloseRound(2, 2, (4,), 4, False))
    ended = machine.handle(4.0, RoundClosed(2, 0))
    assert {item.reason for _, item in ended if isinstance(item, NoMoreLeases)} == {"completed"}


def test_a_lost_workers_lease_is_granted_within_its_round() -> None:
    machine = ledger("sync", 2)
    for index in range(2):
        machine.handle(0.0, NextLease(index, 1, None))
    machine.handle(1.0, NextLease(1, 2, done(1)))
    assert machine.handle(2.0, WorkerLost(0))[1:] == [(Address(Role.SHARD, 0), WhoHas(1, (0,)))]
    out = machine.handle(3.0, Has(1, 0, ()))
    assert granted(out) == [(1, 0, 1, True)]
    assert machine.handle(4.0, NextLease(1, 3, done(0, 1)))[0] == (JOURNAL, RoundOrdered(4.0, 1, (0, 1), False))


def test_what_a_lost_worker_had_staged_everywhere_is_in_the_round() -> None:
    machine = ledger("sync", 2)
    for index in range(2):
        machine.handle(0.0, NextLease(index, 1, None))
    machine.handle(1.0, NextLease(1, 2, done(1)))
    machine.handle(2.0, WorkerLost(0))
    assert machine.handle(3.0, Has(1, 0, (0,)))[0] == (JOURNAL, RoundOrdered(3.0, 1, (0, 1), False))


def test_who_comes_late_with_backup_workers_is_granted_again_at_once_and_counted() -> None:
    machine = ledger("backup", 3, backups=1)
    for index in range(3):
        machine.handle(0.0, NextLease(index, 1, None))
    machine.handle(1.0, NextLease(2, 2, done(2)))
    assert machine.handle(2.0, NextLease(0, 2, done(0))) == [
        (JOURNAL, RoundOrdered(2.0, 1, (0, 2), False)),
        (JOURNAL, LeaseDiscarded(2.0, 1, 1, 0)),
        (JOURNAL, LeaseReturned(2.0, 1, 0)),
        (Address(Role.SHARD, 0), CloseRound(1, 1, (0, 2), 2, False)),
    ]
    assert granted(machine.handle(3.0, RoundClosed(1, 0))) == [(2, 1, 1, True), (0, 3, 0, True)]
    late = machine.handle(4.0, NextLease(1, 2, done(1)))
    assert granted(late) == [(1, 4, 0, True)], "its word is for a round that is over, and what it pulled before it too"
    assert not any(isinstance(item, LeaseFinished) for _, item in late)


def test_a_stop_closes_what_is_staged() -> None:
    machine = ledger("sync", 3)
    for index in range(3):
        machine.handle(0.0, NextLease(index, 1, None))
    machine.handle(1.0, NextLease(1, 2, done(1)))
    out = machine.handle(2.0, Stop("time"))
    assert (Address(Role.SHARD, 0), CloseRound(1, 1, (1,), 3, True)) in out
    assert (JOURNAL, LeaseFinished(3.0, 1, 1, 0, 2, 0.5, 1, 0)) in machine.handle(3.0, RoundClosed(1, 0))


def test_whom_the_bound_held_is_told_to_pull_again() -> None:
    machine = ledger("bounded", 2, bound=0)
    for index in range(2):
        machine.handle(0.0, NextLease(index, 1, None))
    assert machine.handle(1.0, NextLease(0, 2, done(0)))[1:] == []
    assert granted(machine.handle(2.0, NextLease(1, 2, done(1)))) == [(0, 2, 0, True), (1, 3, 0, False)]


def test_whom_the_bound_held_is_asked_again_when_the_slowest_is_done_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a request does not cost more the more workers wait."""
    asked: list[int] = []
    opens = Bounded.opens
    monkeypatch.setattr(Bounded, "opens", lambda gate, worker: asked.append(worker) or opens(gate, worker))
    machine = Ledger(LeasePlan(80, 2, 1, 7), 1, LedgerSettings(60.0), 20, ConsistencySettings("bounded", bound=0))
    for index in range(20):
        machine.handle(0.0, NextLease(index, 1, None))
    asked.clear()
    for index in range(19, 0, -1):
        assert granted(machine.handle(1.0, NextLease(index, 2, done(index)))) == []
    assert asked == list(range(19, 0, -1))
    machine.handle(1.0, WorkerLost(7))
    out = granted(machine.handle(2.0, NextLease(0, 2, done(0))))
    assert [worker for worker, *_ in out] == [*(index for index in range(19, 0, -1) if index != 7), 0]


def test_a_lease_not_finite_is_looked_at_again_by_the_only_one_that_the_bound_lets_go_on() -> None:
    plan = LeasePlan(examples=4, batch_size=2, epochs=1, seed=7)
    machine = Ledger(plan, 1, LedgerSettings(60.0), 2, ConsistencySettings("bounded", bound=0))
    for index in range(2):
        machine.handle(0.0, NextLease(index, 1, None))
    assert granted(machine.handle(1.0, NextLease(1, 2, done(1)))) == [], "worker 1 is one ahead, and waits"
    machine.handle(1.0, NextLease(0, 2, Failed(0, 0, False, "loss nan")))
    assert granted(machine.handle(2.0, Has(1, 0, ()))) == [(0, 0, 1, True)], "worker 1 must not look at it"
    out = machine.handle(3.0, NextLease(0, 3, done(0, 1)))
    assert {item.reason for _, item in out if isinstance(item, NoMoreLeases)} == {"completed"}


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "workers", "text"),
    [
        (
            ConsistencySettings("softsync", split=5),
            4,
            "consistency.split: got 5, expected at most the number of workers",
        ),
        (ConsistencySettings("backup", backups=4), 4, "consistency.backups: got 4, expected fewer than the number of"),
        (ConsistencySettings("sync", warm_leases=3), 4, "consistency.warm_leases: got 3 with sync, expected 0"),
        (ConsistencySettings("bounded", begin=2), 4, "consistency.begin: got 2 with bounded, expected 0: only async"),
        (ConsistencySettings(begin=2, warm_leases=3), 4, "consistency.begin: got 2 with 3 warm leases, expected 0"),
    ],
)
def test_what_so_many_workers_cannot_keep_to_is_refused(settings: ConsistencySettings, workers: int, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        settings.check(workers)


def test_what_each_mode_comes_to() -> None:
    found = {
        kind: (
            ConsistencySettings(kind, split=2, backups=3).mean_staleness(8),
            ConsistencySettings(kind, split=2, backups=3).gradients(8),
        )
        for kind in CONSISTENCIES
    }
    assert found == {"async": (7, 1), "bounded": (7, 1), "softsync": (2, 4), "sync": (0, 8), "backup": (0, 5)}
    assert ConsistencySettings("softsync").mean_staleness(1) == 0
    assert [ConsistencySettings(begin=begin).staleness_at_first(8) for begin in (0, 3, 8, 20)] == [7, 2, 7, 7]
