"""Pairs: who goes on without the other, a shard or its standby. The ledger's book of them (see ps.standby).

    the first of a pair that asks      goes on, whenever it asks again
    the other                          never does
    one of an earlier pair             neither, whatever became of that pair

So two that cannot reach each other never both go on. What was ruled is journaled before anybody hears of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ps.journal import PairParted
from ps.messages import JOURNAL, Address, Claim, Role, Ruling

if TYPE_CHECKING:
    from ps.shard import Outbox


class Pairs:
    """The book."""

    def __init__(self) -> None:
        # Shard to incarnation, pair, and whether its leader goes on.
        self._parted: dict[int, tuple[int, int, bool]] = {}

    def ruled(self, now: float, claim: Claim, incarnation: int) -> Outbox:
        """The answer to this claim. `incarnation`: the newest one of this shard that is known."""
        out: Outbox = []
        pair = claim.incarnation, claim.pair
        parted = self._parted.get(claim.shard, (-1, -1, False))
        if pair > parted[:2] and claim.incarnation >= incarnation:
            parted = self._parted[claim.shard] = (*pair, claim.leads)
            out.append((JOURNAL, PairParted(now, claim.shard, *parted)))
        to = Address(Role.SHARD if claim.leads else Role.STANDBY, claim.shard)
        out.append((to, Ruling(claim.shard, *pair, claim.leads, parted == (*pair, claim.leads))))
        return out

    def recall(self, record: PairParted) -> None:
        """What an earlier ledger ruled."""
        self._parted[record.shard] = record.incarnation, record.pair, record.leads
