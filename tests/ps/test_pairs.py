"""Who goes on without the other, as the ledger rules: the first that asks, and whoever asks again hears the same."""

from __future__ import annotations

import pytest

from ps.journal import PairParted, ShardRejoined
from ps.leases import LeasePlan
from ps.ledger import Ledger, LedgerSettings
from ps.messages import JOURNAL, Address, Claim, Inventory, Role, Ruling
from ps.shard import Outbox

SHARD, STANDBY = Address(Role.SHARD, 1), Address(Role.STANDBY, 1)


def ledger() -> Ledger:
    return Ledger(LeasePlan(8, 1, 1, 0), 2, LedgerSettings(), 1)


def ruling(leads: bool, granted: bool, incarnation: int = 0, pair: int = 3) -> tuple[Address, Ruling]:
    return SHARD if leads else STANDBY, Ruling(1, incarnation, pair, leads, granted)


def claimed(ledger: Ledger, leads: bool, incarnation: int = 0, pair: int = 3) -> Outbox:
    return ledger.handle(5.0, Claim(1, incarnation, pair, leads))


@pytest.mark.parametrize("first", [True, False])
def test_the_first_that_asks_goes_on_and_the_other_never_does(first: bool) -> None:
    made = ledger()
    assert claimed(made, first) == [(JOURNAL, PairParted(5.0, 1, 0, 3, first)), ruling(first, True)]
    assert claimed(made, not first) == [ruling(not first, False)]
    assert claimed(made, first) == [ruling(first, True)], "nothing more is to be written"


def test_a_ledger_that_lost_its_memory_rules_as_before() -> None:
    again = ledger()
    again.recall([PairParted(5.0, 1, 0, 3, True)])
    assert claimed(again, False) == [ruling(False, False)]
    assert claimed(again, True) == [ruling(True, True)]


def test_later_pairs_are_others_and_nobody_of_an_earlier_one_goes_on() -> None:
    made = ledger()
    claimed(made, True, pair=3)
    assert claimed(made, False, pair=7)[-1] == ruling(False, True, pair=7)
    for leads in (True, False):
        assert claimed(made, leads, pair=3) == [ruling(leads, False, pair=3)]
    assert claimed(made, True, incarnation=1, pair=0)[-1] == ruling(True, True, 1, 0)
    assert claimed(made, False, pair=9) == [ruling(False, False, pair=9)]


def test_of_a_shard_that_came_back_nobody_goes_on_as_what_it_was() -> None:
    made = ledger()
    (*_, (to, record)) = made.handle(1.0, Inventory(0, 1, 2, 0, (), ()))[:1]
    assert (to, record) == (JOURNAL, ShardRejoined(1.0, 1, 2, 0))
    assert claimed(made, False, incarnation=1) == [ruling(False, False, 1)]
    assert claimed(made, False, incarnation=2)[-1] == ruling(False, True, 2)


@pytest.mark.parametrize("shard", [-1, 2])
def test_a_claim_of_a_shard_that_is_not_there_is_refused(shard: int) -> None:
    with pytest.raises(ValueError, match=f"got a claim of shard {shard}, expected 0 to 1"):
        ledger().handle(1.0, Claim(shard, 0, 0, True))
