"""The ledger as a script: which lease goes to whom, which come back, and how a run ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NoReturn

import numpy as np
import pytest

from ps.book import Outstanding
from ps.consistency import ConsistencySettings
from ps.errors import BadInput
from ps.journal import (
    LeaseDiscarded,
    LeaseFailed,
    LeaseFinished,
    LeaseGranted,
    LeaseReturned,
    LedgerOpened,
    LedgerStopped,
    WorkerLeft,
    WorkerQuarantined,
)
from ps.leases import LeasePlan
from ps.ledger import Ending, Ledger, LedgerSettings
from ps.messages import (
    JOURNAL,
    Address,
    Discarded,
    Failed,
    Finished,
    Granted,
    Has,
    Inventory,
    Lease,
    Message,
    NextLease,
    NoMoreLeases,
    Role,
    SampleTaken,
    Stop,
    TakeInventory,
    Tick,
    WhoHas,
    WorkerLost,
)
from ps.shard import Outbox

PLAN = LeasePlan(examples=10, batch_size=4, epochs=2, seed=7)  # leases of 4, 4 and 2 examples, twice
SECONDS = 60.0
SETTINGS = LedgerSettings(lease_seconds=SECONDS, max_attempts=3)


def check_invariants(ledger: Ledger) -> None:
    book = ledger._book
    finished = [lease for lease in range(PLAN.leases) if lease in book.finished]
    ungranted = range(book.ungranted, ledger._plan.leases)
    everywhere = sorted([*finished, *book.outstanding, *book.returned, *ungranted])
    assert everywhere == list(range(ledger._plan.leases)), "every lease is in exactly one place"
    waiting = [worker for worker, state in ledger._workers.items() if state.waiting]
    assert sorted([*ledger._line, *ledger._held_up]) == sorted(waiting)
    assert all(state.lease is None for state in ledger._workers.values() if state.waiting)
    assert all(state.answer is None for state in ledger._workers.values() if state.waiting)
    assert all(not lease.inquiry or lease.inquiry in ledger._inquiries for lease in book.outstanding.values())
    assert ledger._ending is None or not (ledger._line or ledger._held_up)
    assert all(lease not in book.finished for lease in book.not_finite)


Make = Callable[..., Ledger]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes ledgers, and checks their invariants at the end."""
    made: list[Ledger] = []

    def one(shards: int = 2, plan: LeasePlan = PLAN, settings: LedgerSettings = SETTINGS, workers: int = 4) -> Ledger:
        made.append(Ledger(plan, shards, settings, workers))
        return made[-1]

    yield one
    for ledger in made:
        check_invariants(ledger)


def worker(index: int) -> Address:
    return Address(Role.WORKER, index)


def to_shards(inquiry: int, *leases: int, shards: int = 2) -> Outbox:
    return [(Address(Role.SHARD, shard), WhoHas(inquiry, leases)) for shard in range(shards)]


def left(index: int, now: float) -> tuple[Address, WorkerLeft]:
    return JOURNAL, WorkerLeft(now, index)


def done(
    lease: int,
    attempt: int = 0,
    loss: float = 0.5,
    errors: int = 1,
    skipped: int = 0,
    auxiliary: tuple[float, ...] = (),
    incarnations: tuple[int, ...] = (),
) -> Finished:
    return Finished(lease, attempt, loss, errors, skipped, auxiliary, incarnations)


def granted(now: float, index: int, number: int, lease: int, attempt: int = 0, waited: bool = False) -> Outbox:
    """What goes out when this lease is granted."""
    deadline = now + SECONDS
    return [
        (JOURNAL, LeaseGranted(now, index, number, lease, attempt, deadline)),
        (worker(index), Granted(number, PLAN.lease(lease, attempt, deadline), waited)),
    ]


def grant_all(ledger: Ledger, workers: int) -> None:
    """Workers 0, 1, .. hold leases 0, 1, .. since time 0."""
    for index in range(workers):
        assert ledger.handle(0.0, NextLease(index, 1, None)) == granted(0.0, index, 1, index)


# --- the plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 4), (12, 4), (3, 4), (1, 1), (7, 1)])
def test_the_leases_of_an_epoch_cover_every_example_exactly_once(examples: int, batch_size: int) -> None:
    plan = LeasePlan(examples, batch_size, epochs=3, seed=1)
    leases = [plan.lease(id, attempt=2, deadline=9.0) for id in range(plan.leases)]
    assert [lease.id for lease in leases] == list(range(plan.leases))
    assert plan.samples == 3 * examples == sum(lease.count for lease in leases)
    for epoch in range(3):
        of_epoch = [lease for lease in leases if lease.epoch == epoch]
        assert len(of_epoch) == plan.leases_per_epoch
        order = plan.order(epoch)
        seen = np.concatenate([order[lease.first : lease.first + lease.count] for lease in of_epoch])
        assert sorted(seen.tolist()) == list(range(examples))
        assert math.isclose(sum(lease.weight for lease in of_epoch), examples / batch_size)


def test_the_last_lease_of_an_epoch_is_short_and_weighs_less() -> None:
    assert PLAN.leases == 6
    assert PLAN.lease(2, 1, 5.0) == Lease(2, 1, epoch=0, first=8, count=2, weight=0.5, deadline=5.0)
    assert PLAN.lease(3, 0, 5.0) == Lease(3, 0, epoch=1, first=0, count=4, weight=1.0, deadline=5.0)


def test_orders_are_named_by_seed_and_epoch() -> None:
    wide = LeasePlan(100, 10, 2, seed=7)
    assert wide.order(0).tolist() == wide.order(0).tolist()
    assert wide.order(0).tolist() != wide.order(1).tolist()
    assert wide.order(0).tolist() != LeasePlan(100, 10, 2, seed=8).order(0).tolist()


@pytest.mark.parametrize(("name", "value"), [("lease_seconds", 0.0), ("lease_seconds", math.nan), ("max_attempts", 0)])
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(BadInput, match=rf"^ledger\.{name}: got {value}, expected "):
        LedgerSettings(**{name: value})  # type: ignore[arg-type]


# --- grants and answers ----------------------------------------------------------------------------------------------


def test_leases_go_out_in_order_and_are_finished_by_the_next_request(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 2)
    assert ledger.handle(3.0, NextLease(1, 2, done(1, 0, 0.25, 3, 2, (0.5, 0.75)))) == [
        (JOURNAL, LeaseFinished(3.0, 1, 1, 0, 4, 0.25, 3, 2, (0.5, 0.75))),
        *granted(3.0, 1, 2, 2),
    ]


def test_a_retry_with_the_same_number_gets_the_same_answer_and_nothing_else_happens(make: Make) -> None:
    ledger = make()
    first = ledger.handle(0.0, NextLease(0, 1, None))
    status = ledger.status()
    assert ledger.handle(5.0, NextLease(0, 1, None)) == first[1:]
    assert ledger.handle(6.0, NextLease(0, 1, done(0))) == first[1:], "a retry's outcome was taken in the first time"
    assert ledger.status() == status


def test_an_older_number_is_a_zombie_and_gets_no_answer(make: Make) -> None:
    ledger = make()
    ledger.handle(0.0, NextLease(0, 5, None))
    status = ledger.status()
    assert ledger.handle(1.0, NextLease(0, 4, done(0))) == []
    assert ledger.status() == status


class Sealed(dict[int, Outstanding]):
    """Leases that may be looked up, and not looked through."""

    def items(self) -> NoReturn:
        raise AssertionError("a request looked at every lease that is out")

    keys = values = __iter__ = items


def test_a_request_does_not_look_at_every_lease_that_is_out() -> None:
    ledger = Ledger(PLAN, 2, SETTINGS, 4)
    grant_all(ledger, 3)
    ledger._book.outstanding = Sealed(ledger._book.outstanding)
    ledger.handle(1.0, NextLease(0, 2, done(0)))
    assert ledger.handle(1.0, NextLease(1, 2, None))[1:3] == to_shards(1, 1), "it still holds lease 1"


def test_who_asks_when_nothing_is_to_be_had_waits_in_line(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    for index in (8, 6, 7):
        assert ledger.handle(1.0, NextLease(index, 1, None)) == []
    assert ledger.handle(2.0, NextLease(8, 1, None)) == [], "a retry keeps its place"
    assert ledger.handle(2.0, NextLease(8, 2, None)) == [], "a later request too"
    # Two leases come back: those who waited longest get them, the lowest lease first.
    assert ledger.handle(3.0, WorkerLost(4)) == [left(4, 3.0), *to_shards(1, 4)]
    assert ledger.handle(3.0, WorkerLost(2)) == [left(2, 3.0), *to_shards(2, 2)]
    for shard in (0, 1):
        last = ledger.handle(4.0, Has(2, shard, ()))
    assert last == [(JOURNAL, LeaseReturned(4.0, 2, 0)), *granted(4.0, 8, 2, 2, attempt=1, waited=True)]
    ledger.handle(4.0, Has(1, 0, ()))
    assert ledger.handle(5.0, Has(1, 1, ())) == [
        (JOURNAL, LeaseReturned(5.0, 4, 0)),
        *granted(5.0, 6, 1, 4, attempt=1, waited=True),
    ]


def test_of_leases_that_came_back_the_lowest_is_granted_first(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    for inquiry, lease in enumerate((4, 2, 3), start=1):
        ledger.handle(1.0, WorkerLost(lease))
        come_back(ledger, inquiry)
    for number, lease in enumerate((2, 3, 4), start=1):
        assert ledger.handle(6.0, NextLease(9, number, None))[0][1] == LeaseGranted(6.0, 9, number, lease, 1, 66.0)


def test_the_end_answers_everyone_in_line_in_order(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    for index in range(5):
        assert [to for to, _ in ledger.handle(1.0, NextLease(index, 2, done(index)))] == [JOURNAL]
    assert ledger.handle(2.0, NextLease(5, 2, done(5))) == [
        (JOURNAL, LeaseFinished(2.0, 5, 5, 0, 2, 0.5, 1, 0)),
        (JOURNAL, LedgerStopped(2.0, "completed")),
        *[(worker(index), NoMoreLeases(2, "completed")) for index in range(6)],
    ]
    assert ledger.handle(3.0, NextLease(2, 2, done(2))) == [(worker(2), NoMoreLeases(2, "completed"))]
    assert ledger.handle(3.0, NextLease(9, 1, None)) == [(worker(9), NoMoreLeases(1, "completed"))]
    assert ledger.handle(3.0, Tick()) == []


def test_the_status_counts(make: Make) -> None:
    ledger = make()
    empty = ledger.status()
    assert (empty.leases, empty.granted, empty.finished, empty.outstanding, empty.workers) == (6, 0, 0, 0, 0)
    assert all(math.isnan(value) for value in (empty.loss, empty.recent_loss, empty.recent_error))
    assert empty.recent_auxiliary == ()
    grant_all(ledger, 4)
    ledger.handle(1.0, NextLease(0, 2, done(0, loss=1.0, errors=3, skipped=1, auxiliary=(2.0, 8.0))))
    ledger.handle(1.0, NextLease(2, 2, done(2, loss=4.0, errors=0, skipped=1, auxiliary=(6.0, 0.0))))
    ledger.handle(1.0, WorkerLost(1))
    for shard in (0, 1):
        ledger.handle(1.0, Has(1, shard, ()))
    status = ledger.status()
    assert (status.granted, status.finished, status.reissued) == (6, 2, 0)
    assert (status.outstanding, status.workers) == (4, 3), "leases 3, 4, 5 are held, 1 waits for somebody"
    assert (status.samples, status.skipped) == (6, 2)
    assert status.loss == status.recent_loss == (1.0 * 3 + 4.0 * 1) / 4, "means over the examples that could be read"
    assert status.recent_error == 3 / 4
    assert status.recent_auxiliary == (3.0, 6.0)
    assert (status.ending, status.message) == ("", "")
    ledger.handle(2.0, NextLease(0, 3, done(4)))
    status = ledger.status()
    assert (status.granted, status.reissued, status.outstanding) == (7, 1, 3)


def test_the_newest_lease_says_how_many_auxiliary_losses_there_are(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 3)
    for index, auxiliary in enumerate([(2.0, 8.0), (3.0,), ()]):
        ledger.handle(1.0, NextLease(index, 2, done(index, auxiliary=auxiliary)))
    assert ledger.status().recent_auxiliary == (3.0,)


def test_the_loss_is_that_of_an_epochs_last_leases(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    for lease in range(6):
        ledger.handle(1.0, NextLease(lease, 2, done(lease, loss=float(lease))))
    assert ledger.status().loss == (3.0 * 4 + 4.0 * 4 + 5.0 * 2) / 10


# --- late and lost ---------------------------------------------------------------------------------------------------


def test_a_late_lease_is_granted_again_only_after_every_shard_said_that_it_lacks_it(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    ledger.handle(1.0, NextLease(6, 1, None))
    assert ledger.handle(SECONDS - 0.1, Tick()) == []
    ledger.handle(1.0, NextLease(0, 2, done(0)))
    assert ledger.handle(SECONDS, Tick()) == to_shards(1, 1, 2, 3, 4, 5)
    assert ledger.handle(SECONDS, Tick()) == [], "they are being asked"
    assert ledger.handle(61.0, Has(1, 1, (1, 3))) == []
    assert ledger.handle(62.0, Has(1, 1, (1, 3))) == [], "the same shard again counts once"
    assert ledger.handle(63.0, Has(1, 0, (3, 4, 5))) == [
        (JOURNAL, LeaseReturned(63.0, 1, 0)),
        (JOURNAL, LeaseReturned(63.0, 2, 0)),
        (JOURNAL, LeaseFinishedByShards(63.0, 3)),
        (JOURNAL, LeaseReturned(63.0, 4, 0)),
        (JOURNAL, LeaseReturned(63.0, 5, 0)),
        *sorted_grants((63.0, 6, 1, 1), (63.0, 0, 2, 2)),
    ]
    assert ledger.handle(64.0, Has(1, 0, ())) == [], "an answer to a closed inquiry"
    assert ledger.status().finished == 2
    assert ledger.status().samples == 8


class LeaseFinishedByShards:
    """Equals the record of a lease that the shards said to be done: its loss is NaN, which equals nothing."""

    def __init__(self, now: float, lease: int) -> None:
        self.key = (now, -1, lease, 0, PLAN.lease(lease, 0, 0.0).count, 0, 0)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LeaseFinished)
            and math.isnan(other.loss)
            and self.key
            == (other.now, other.worker, other.lease, other.attempt, other.samples, other.errors, other.skipped)
        )

    __hash__ = None  # type: ignore[assignment]


def sorted_grants(*grants: tuple[float, int, int, int]) -> Outbox:
    """Second attempts, the journal's records first."""
    out = [item for grant in grants for item in granted(*grant, attempt=1, waited=True)]
    return sorted(out, key=lambda item: item[0] != JOURNAL)


def test_shards_that_stay_silent_are_asked_again(make: Make) -> None:
    ledger = make(shards=3)
    grant_all(ledger, 1)
    assert ledger.handle(10.0, WorkerLost(0)) == [left(0, 10.0), *to_shards(1, 0, shards=3)]
    ledger.handle(11.0, Has(1, 1, ()))
    assert ledger.handle(69.0, Tick()) == []
    silent = [(to, message) for to, message in to_shards(1, 0, shards=3) if to.index != 1]
    assert ledger.handle(70.0, Tick()) == silent
    assert ledger.handle(71.0, Tick()) == []


def test_an_answer_from_no_shard_of_the_run_does_not_count(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 1)
    ledger.handle(10.0, WorkerLost(0))
    for stranger in (-1, 2, 99):
        assert ledger.handle(11.0, Has(1, stranger, (0,))) == []
    assert ledger.handle(11.0, Has(7, 0, (0,))) == [], "an inquiry that never was"
    ledger.handle(11.0, Has(1, 0, (0,)))
    last: list[object] = [*ledger.handle(12.0, Has(1, 1, (0,)))]
    assert last == [(JOURNAL, LeaseFinishedByShards(12.0, 0))]


def test_a_worker_that_was_lost_leaves_the_line(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    for index in (6, 7):
        ledger.handle(1.0, NextLease(index, 1, None))
    assert ledger.handle(1.0, WorkerLost(6)) == [left(6, 1.0)]
    assert ledger.handle(1.0, WorkerLost(6)) == [], "twice is once"
    ledger.handle(1.0, WorkerLost(0))
    ledger.handle(2.0, Has(1, 0, ()))
    assert ledger.handle(2.0, Has(1, 1, (0,)))[1:] == granted(2.0, 7, 1, 0, attempt=1, waited=True)


def test_a_lost_worker_that_still_speaks_is_sent_away_and_one_under_a_new_id_takes_its_place(make: Make) -> None:
    ledger = make()
    ledger.handle(0.0, NextLease(0, 40, None))
    ledger.handle(1.0, WorkerLost(0))
    assert ledger.handle(2.0, NextLease(0, 41, done(0))) == [(worker(0), NoMoreLeases(41, "failed"))]
    assert (ledger.status().finished, ledger.status().workers) == (0, 0)
    assert ledger.handle(3.0, NextLease(7, 1, None)) == granted(3.0, 7, 1, 1)


def test_a_worker_that_asks_without_a_word_about_its_lease_has_lost_it(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 1)
    assert ledger.handle(1.0, NextLease(0, 2, None)) == [
        granted(1.0, 0, 2, 1)[0],
        *to_shards(1, 0),
        granted(1.0, 0, 2, 1)[1],
    ]
    # Its word about another lease is no word about its own.
    assert ledger.handle(2.0, NextLease(0, 3, done(0))) == [
        (JOURNAL, LeaseFinished(2.0, 0, 0, 0, 4, 0.5, 1, 0)),
        granted(2.0, 0, 3, 2)[0],
        *to_shards(2, 1),
        granted(2.0, 0, 3, 2)[1],
    ]


def test_a_late_word_finishes_a_lease_that_is_being_asked_about(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 2)
    ledger.handle(SECONDS, Tick())
    assert ledger.handle(61.0, NextLease(0, 2, done(0)))[0] == (JOURNAL, LeaseFinished(61.0, 0, 0, 0, 4, 0.5, 1, 0))
    ledger.handle(62.0, Has(1, 0, ()))
    assert ledger.handle(62.0, Has(1, 1, ())) == [(JOURNAL, LeaseReturned(62.0, 1, 0))]


def returned(make: Make) -> Ledger:
    """Worker 0 held lease 0 too long; it came back. All other leases are held."""
    ledger = make()
    grant_all(ledger, 1)
    for index in range(1, 6):
        ledger.handle(50.0, NextLease(index, 1, None))
    assert ledger.handle(SECONDS, Tick()) == to_shards(1, 0)
    ledger.handle(61.0, Has(1, 0, ()))
    assert ledger.handle(61.0, Has(1, 1, ())) == [(JOURNAL, LeaseReturned(61.0, 0, 0))]
    return ledger


def test_a_late_word_finishes_a_lease_that_came_back_and_it_is_not_granted_again(make: Make) -> None:
    ledger = returned(make)
    assert ledger.handle(62.0, NextLease(0, 2, done(0))) == [(JOURNAL, LeaseFinished(62.0, 0, 0, 0, 4, 0.5, 1, 0))]
    assert ledger.status().outstanding == 5


def test_a_late_word_finishes_a_lease_that_was_granted_again_and_the_second_word_is_ignored(make: Make) -> None:
    ledger = returned(make)
    assert ledger.handle(62.0, NextLease(6, 1, None)) == granted(62.0, 6, 1, 0, attempt=1)
    assert ledger.handle(63.0, NextLease(0, 2, done(0))) == [(JOURNAL, LeaseFinished(63.0, 0, 0, 0, 4, 0.5, 1, 0))]
    assert ledger.handle(64.0, NextLease(6, 2, done(0, attempt=1))) == []
    status = ledger.status()
    assert (status.finished, status.samples, status.reissued, status.outstanding) == (1, 4, 1, 5)


def test_who_lost_its_lease_to_another_takes_nothing_from_it_by_asking_anew(make: Make) -> None:
    ledger = returned(make)
    ledger.handle(62.0, NextLease(6, 1, None))
    assert ledger.handle(63.0, NextLease(0, 2, None)) == []
    failed = Failed(0, 0, True, "late and lost")
    assert ledger.handle(64.0, NextLease(0, 3, failed)) == [], "nor by failing"
    assert ledger.handle(65.0, NextLease(6, 2, done(0, 1))) == [(JOURNAL, LeaseFinished(65.0, 6, 0, 1, 4, 0.5, 1, 0))]


@pytest.mark.parametrize("lease", [-1, 2, 5, 6, 1 << 50])
def test_a_word_about_a_lease_that_was_never_granted_is_ignored(make: Make, lease: int) -> None:
    ledger = make()
    grant_all(ledger, 1)
    assert ledger.handle(1.0, NextLease(9, 1, done(lease))) == granted(1.0, 9, 1, 1)
    answer = ledger.handle(1.0, NextLease(9, 2, Failed(lease, 0, False, "?")))
    assert answer[0][1] == LeaseGranted(1.0, 9, 2, 2, 0, 61.0)
    assert (ledger.status().finished, ledger.status().ending) == (0, "")


# --- failures --------------------------------------------------------------------------------------------------------


def come_back(ledger: Ledger, inquiry: int) -> Outbox:
    ledger.handle(5.0, Has(inquiry, 0, ()))
    return ledger.handle(5.0, Has(inquiry, 1, ()))


def test_a_refused_push_is_granted_again_to_anyone(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    failed = Failed(0, 0, True, "read from incarnation 0, this is 1: pull again")
    assert ledger.handle(1.0, NextLease(0, 2, failed)) == [
        (JOURNAL, LeaseFailed(1.0, 0, 0, 0, True, failed.reason)),
        *to_shards(1, 0),
    ]
    assert come_back(ledger, 1) == [(JOURNAL, LeaseReturned(5.0, 0, 0)), *granted(5.0, 0, 2, 0, attempt=1, waited=True)]


def test_a_lease_that_keeps_failing_ends_the_run(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    for attempt in range(3):
        ledger.handle(1.0, NextLease(0, 2 + attempt, Failed(0, attempt, True, "wrong length")))
        back = come_back(ledger, 1 + attempt)
    assert back == [
        (JOURNAL, LeaseReturned(5.0, 0, 2)),
        (JOURNAL, LedgerStopped(5.0, "failed")),
        (worker(0), NoMoreLeases(4, "failed")),
    ]
    assert ledger.status().message == "lease 0 was granted 3 times and never finished: wrong length"


def test_a_discarded_gradient_is_granted_again_as_often_as_it_takes(make: Make) -> None:
    """That it was late is not the lease's fault: it does not count among its attempts."""
    ledger = make()
    grant_all(ledger, 6)
    for attempt in range(2 * SETTINGS.max_attempts):
        out = ledger.handle(1.0, NextLease(0, 2 + attempt, Discarded(0, attempt)))
        assert out == [(JOURNAL, LeaseDiscarded(1.0, 0, 0, attempt)), *to_shards(1 + attempt, 0)]
        returned, (_, record), _ = come_back(ledger, 1 + attempt)
        assert returned == (JOURNAL, LeaseReturned(5.0, 0, attempt))
        assert isinstance(record, LeaseGranted)
        assert (record.lease, record.attempt) == (0, attempt + 1)
    assert ledger.status().ending == ""


def test_who_does_not_hold_a_lease_cannot_discard_it(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 2)
    ledger.handle(1.0, NextLease(1, 2, Discarded(0, 0)))
    out = ledger.handle(1.0, NextLease(0, 2, Discarded(0, 7)))
    assert not any(isinstance(item, LeaseDiscarded) for _, item in out)


def test_a_lease_that_outlasts_all_who_get_it_ends_the_run(make: Make) -> None:
    ledger = make(workers=9)
    grant_all(ledger, 1)
    for attempt in range(3):
        ledger.handle(1.0, WorkerLost(attempt))
        come_back(ledger, 1 + attempt)
        ledger.handle(2.0, NextLease(attempt + 1, 1, None))
    text = "lease 0 was granted 3 times and never finished: late, or its workers were lost"
    assert (ledger.status().ending, ledger.status().message) == ("failed", text)


def test_a_lease_that_is_not_finite_goes_to_another_worker_which_may_find_it_finite(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    ledger.handle(1.0, NextLease(0, 2, Failed(0, 0, False, "loss nan")))
    assert come_back(ledger, 1) == [(JOURNAL, LeaseReturned(5.0, 0, 0))], "worker 0 is in line, and does not get it"
    assert ledger.handle(6.0, NextLease(1, 2, done(1)))[1:] == granted(6.0, 1, 2, 0, attempt=1)
    out = ledger.handle(7.0, NextLease(1, 3, done(0, 1)))
    assert out[:3] == [
        (JOURNAL, WorkerQuarantined(7.0, 0, 0)),
        (JOURNAL, WorkerLeft(7.0, 0)),
        (JOURNAL, LeaseFinished(7.0, 1, 0, 1, 4, 0.5, 1, 0)),
    ]
    assert (worker(0), NoMoreLeases(2, "failed")) in out, "the first one was to blame"
    assert ledger.handle(8.0, NextLease(0, 3, None)) == [(worker(0), NoMoreLeases(3, "failed"))]
    assert (ledger.status().ending, ledger.status().quarantined) == ("", (0,))
    again = make()
    again.recall([record for to, record in out if to == JOURNAL and isinstance(record, WorkerQuarantined | WorkerLeft)])
    assert again.status().quarantined == (0,)


def test_a_lease_that_is_not_finite_for_two_workers_has_diverged(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    ledger.handle(1.0, NextLease(0, 2, Failed(0, 0, False, "loss nan")))
    come_back(ledger, 1)
    ledger.handle(6.0, NextLease(1, 2, done(1)))
    assert ledger.handle(7.0, NextLease(1, 3, Failed(0, 1, False, "loss inf"))) == [
        (JOURNAL, LeaseFailed(7.0, 1, 0, 1, False, "loss inf")),
        (JOURNAL, LedgerStopped(7.0, "diverged")),
        *to_shards(2, 0),
        (worker(0), NoMoreLeases(2, "diverged")),
        (worker(1), NoMoreLeases(3, "diverged")),
    ]
    assert (ledger.status().ending, ledger.status().message) == ("diverged", "loss inf")


def test_with_a_single_worker_not_finite_has_diverged_when_it_looks_again(make: Make) -> None:
    """Once may be damage on the way, while those that would look at it too have not joined yet."""
    ledger = make(workers=1, shards=1)
    grant_all(ledger, 1)
    said = ledger.handle(1.0, NextLease(0, 2, Failed(0, 0, False, "loss nan")))
    (asked,) = [item.number for _, item in said if isinstance(item, WhoHas)]
    assert ledger.status().ending == ""
    ledger.handle(2.0, Has(asked, 0, ()))
    assert ledger.handle(3.0, NextLease(0, 3, done(1)))[1:] == granted(3.0, 0, 3, 0, attempt=1)
    assert ledger.handle(4.0, NextLease(0, 4, Failed(0, 1, False, "loss nan")))[:2] == [
        (JOURNAL, LeaseFailed(4.0, 0, 0, 1, False, "loss nan")),
        (JOURNAL, LedgerStopped(4.0, "diverged")),
    ]


@pytest.mark.parametrize("finite", [True, False])
def test_a_lease_that_only_the_last_worker_is_left_for_is_looked_at_again(make: Make, finite: bool) -> None:
    """Whoever else could have looked at it was lost: without a second look the run would wait for ever."""
    ledger = make(workers=2)
    grant_all(ledger, 2)
    ledger.handle(1.0, NextLease(0, 2, Failed(0, 0, False, "loss nan")))
    come_back(ledger, 1)
    ledger.handle(2.0, WorkerLost(1))
    assert ledger.handle(3.0, NextLease(0, 3, done(2))) == [
        (JOURNAL, LeaseFinished(3.0, 0, 2, 0, 2, 0.5, 1, 0)),
        *granted(3.0, 0, 3, 0, attempt=1),
    ]
    outcome = done(0, 1) if finite else Failed(0, 1, False, "loss nan")
    ledger.handle(4.0, NextLease(0, 4, outcome))
    assert ledger.status().ending == ("" if finite else "diverged")


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [Ending.SIGNAL, Ending.TARGET, Ending.TIME])
def test_stop_answers_the_line_and_grants_no_more_but_still_listens(make: Make, ending: Ending) -> None:
    ledger = make()
    grant_all(ledger, 6)
    ledger.handle(1.0, NextLease(6, 1, None))
    assert ledger.handle(2.0, Stop(ending.value)) == [
        (JOURNAL, LedgerStopped(2.0, ending.value)),
        (worker(6), NoMoreLeases(1, ending.value)),
    ]
    assert ledger.handle(3.0, Stop("failed")) == [], "the first reason stays"
    assert ledger.handle(4.0, NextLease(0, 2, done(0))) == [
        (JOURNAL, LeaseFinished(4.0, 0, 0, 0, 4, 0.5, 1, 0)),
        (worker(0), NoMoreLeases(2, ending.value)),
    ]
    assert ledger.status().ending == ending.value
    assert ledger.status().finished == 1


def test_a_stop_for_no_known_reason_is_an_error_and_changes_nothing(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 1)
    with pytest.raises(ValueError, match="'whim' is not a valid Ending"):
        ledger.handle(1.0, Stop("whim"))
    assert ledger.status().ending == ""


@pytest.mark.parametrize(
    ("message", "got"),
    [
        (NextLease(-1, 1, None), "worker -1"),
        (NextLease(1 << 31, 1, None), "worker 2147483648"),
        (WorkerLost(-1), "worker -1"),
        (WorkerLost((1 << 63) - 1), "worker 9223372036854775807"),
        (NextLease(0, 2, done(0, skipped=5)), "1 errors and 5 skipped examples of lease 0"),
        (NextLease(0, 2, done(0, skipped=-1)), "1 errors and -1 skipped examples of lease 0"),
        (NextLease(0, 2, done(0, errors=5)), "5 errors and 0 skipped examples of lease 0"),
        (NextLease(0, 2, done(0, errors=-1)), "-1 errors and 0 skipped examples of lease 0"),
        (Inventory(0, 0, 7, 1, (5,), ()), "1 bounds"),
        (Inventory(0, 0, 7, 1, (5, 3), ()), "got interval"),
    ],
)
def test_numbers_that_cannot_be_are_refused_and_change_nothing(message: Message, got: str) -> None:
    ledger = Ledger(PLAN, 2, SETTINGS, 4, ConsistencySettings("bounded"))
    grant_all(ledger, 2)
    status, incarnations = ledger.status(), list(ledger._incarnations)
    with pytest.raises(ValueError, match=got):
        ledger.handle(1.0, message)
    assert repr(ledger.status()) == repr(status)
    assert ledger._incarnations == incarnations
    assert ledger.handle(1.0, NextLease(0, 2, done(0)))[0] == (JOURNAL, LeaseFinished(1.0, 0, 0, 0, 4, 0.5, 1, 0))


def test_an_inventory_that_is_none_is_not_taken_for_one(make: Make) -> None:
    """A ledger that came back grants nothing before it has heard."""
    ledger = make(shards=1)
    ledger.recall([])
    ((_, question),) = ledger.rejoin(0.0)
    assert isinstance(question, TakeInventory)
    with pytest.raises(ValueError, match="1 bounds"):
        ledger.handle(1.0, Inventory(question.number, 0, 0, 0, (5,), ()))
    assert ledger.handle(1.0, NextLease(0, 1, None)) == []
    assert ledger.handle(2.0, Inventory(question.number, 0, 0, 0, (), ())) == granted(2.0, 0, 1, 0, waited=True)


def test_a_run_that_a_shard_reopened_is_not_over_for_a_ledger_that_comes_back(make: Make) -> None:
    plan = LeasePlan(4, 4, 1, 7)
    ledger = make(shards=1, plan=plan)
    out = ledger.handle(0.0, NextLease(0, 1, None)) + ledger.handle(1.0, NextLease(0, 2, done(0)))
    assert ledger.status().ending == "completed"
    out += ledger.handle(2.0, Inventory(0, 0, 1, 0, (), ()))
    assert ledger.status().ending == ""
    again = make(shards=1, plan=plan)
    again.recall([item for to, item in out if to == JOURNAL])
    again.rejoin(3.0)
    assert again.status().ending == ""
    assert again.handle(3.0, NextLease(1, 1, None)) == [], "it asks what the shard has, and does not end the run"


@pytest.mark.parametrize("forgotten", [False, True], ids=["as it was", "came back"])
def test_nobody_waits_for_workers_that_were_told_of_an_end_that_was_none(forgotten: bool) -> None:
    """They have gone. With staleness bounded, who does what is left would else wait for them for ever."""
    ledger = Ledger(PLAN, 1, SETTINGS, 2, ConsistencySettings("bounded", bound=1))
    out: Outbox = []
    outcomes: dict[int, Finished | None] = {0: None, 1: None}
    for number in range(1, 5):
        for index in (0, 1):
            out += ledger.handle(1.0, NextLease(index, number, outcomes[index]))
            outcomes[index] = done(2 * (number - 1) + index)
    assert ledger.status().ending == "completed"
    if forgotten:
        ledger = Ledger(PLAN, 1, SETTINGS, 2, ConsistencySettings("bounded", bound=1))
        ledger.recall([item for to, item in out if to == JOURNAL])  # type: ignore[misc]  # they are records
        ledger.rejoin(2.0)
    ledger.handle(3.0, Inventory(0, 0, 1, 2, (0, 2), ()))
    outcome = None
    for number, lease in enumerate(range(2, 6), start=1):
        answers = [item for _, item in ledger.handle(4.0, NextLease(2, number, outcome)) if isinstance(item, Granted)]
        assert [answer.lease.id for answer in answers] == [lease]
        outcome = done(lease, answers[0].lease.attempt, incarnations=(1,))
    assert ledger.handle(5.0, NextLease(2, 5, outcome))[-1] == (worker(2), NoMoreLeases(5, "completed"))


def test_a_message_for_another_machine_is_an_error_and_changes_nothing(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 1)
    status = ledger.status()
    handled = "NextLease, WorkerLost, Tick, Has, RoundClosed, Inventory, Claim and Stop"
    with pytest.raises(TypeError, match=f"ledger got SampleTaken: it handles {handled}"):
        ledger.handle(1.0, SampleTaken(0, 0, 0))
    assert ledger.handle(1.0, NextLease(0, 1, None))[0][0] == worker(0)
    assert repr(ledger.status()) == repr(status)  # NaN equals nothing, but reads the same


def test_a_run_of_one_worker_completes(make: Make) -> None:
    ledger = make()
    outcome = None
    for number in range(1, 7):
        assert ledger.handle(1.0, NextLease(0, number, outcome))[-2:] == granted(1.0, 0, number, number - 1)
        outcome = done(number - 1)
    assert ledger.handle(1.0, NextLease(0, 7, outcome))[-1] == (worker(0), NoMoreLeases(7, "completed"))
    status = ledger.status()
    assert (status.finished, status.samples, status.granted, status.ending) == (6, 20, 6, "completed")


def test_the_last_lease_may_be_finished_by_word_of_the_shards(make: Make) -> None:
    ledger = make()
    grant_all(ledger, 6)
    for index in range(5):
        ledger.handle(1.0, NextLease(index, 2, done(index)))
    ledger.handle(2.0, WorkerLost(5))
    ledger.handle(3.0, Has(1, 0, (5,)))
    assert ledger.handle(3.0, Has(1, 1, (5,))) == [
        (JOURNAL, LeaseFinishedByShards(3.0, 5)),
        (JOURNAL, LedgerStopped(3.0, "completed")),
        *[(worker(index), NoMoreLeases(2, "completed")) for index in range(5)],
    ]


def test_a_run_comes_to_rest_when_every_shard_has_what_some_shard_had() -> None:
    """Lease 0 is on both shards, 1 on one of them; 2 was never granted, and is not while the run comes to rest."""
    ledger = Ledger(PLAN, 2, SETTINGS, 1, resting=True)
    ledger.recall(
        [
            LedgerOpened(0.0, 1, 2, 10, 4, 2, 7),
            LeaseGranted(1.0, 0, 1, 0, 0, 61.0),
            LeaseFinished(2.0, 0, 0, 0, 4, 0.5, 0, 0),
            LeaseGranted(2.0, 0, 2, 1, 0, 62.0),
        ]
    )
    out = ledger.resume(3.0)
    asked = {to.index: message.number for to, message in out if isinstance(message, TakeInventory)}
    (looked,) = {message.number for _, message in out if isinstance(message, WhoHas)}
    assert ledger.handle(4.0, NextLease(9, 1, None)) == []
    for shard, applied in ((0, (0, 2)), (1, (0, 1))):
        ledger.handle(5.0, Inventory(asked[shard], shard, 0, applied[1], applied, ()))
    ledger.handle(5.0, Has(looked, 0, (1,), 0))
    out = ledger.handle(5.0, Has(looked, 1, (), 0))
    assert [record.lease for _, record in out if isinstance(record, LeaseGranted)] == [1]
    out = ledger.handle(6.0, NextLease(9, 2, done(1, 1)))
    assert (JOURNAL, LedgerStopped(6.0, "at rest")) in out
    assert (worker(9), NoMoreLeases(2, "at rest")) in out
    out = ledger.handle(7.0, Inventory(0, 1, 1, 1, (0, 1), ()))  # a shard lost it again
    assert (JOURNAL, LeaseReturned(7.0, 1, 1)) in out
    assert ledger.status().ending == ""


def test_a_lease_that_came_back_twice_in_the_journal_is_granted_once() -> None:
    """In between it waited for its round, on every shard, until one of them lost it: no record says so."""
    ledger = Ledger(PLAN, 1, SETTINGS, 2)
    ledger.recall(
        [
            LedgerOpened(0.0, 2, 1, 10, 4, 2, 7),
            LeaseGranted(1.0, 0, 1, 0, 0, 61.0),
            LeaseReturned(2.0, 0, 0),
            LeaseReturned(3.0, 0, 1),
        ]
    )
    ((_, asked),) = [item for item in ledger.rejoin(4.0) if isinstance(item[1], TakeInventory)]
    assert isinstance(asked, TakeInventory)
    ledger.handle(5.0, Inventory(asked.number, 0, 0, 0, (), ()))
    out = ledger.handle(6.0, NextLease(0, 2, None)) + ledger.handle(6.0, NextLease(1, 1, None))
    made = [(record.lease, record.attempt) for _, record in out if isinstance(record, LeaseGranted)]
    assert made == [(0, 2), (1, 0)]
