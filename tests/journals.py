"""What tests ask of a run's journals."""

from __future__ import annotations

from pathlib import Path

from ps.journal import PushHandled, WorkerExchanged
from ps.messages import Outcome
from ps.wire.files import journals, read_journal


def pushes(journal: Path, shard: int) -> list[PushHandled]:
    """The pushes that a shard handled, in its order."""
    records = read_journal(journal / f"shard-{shard}.journal")
    return [record for record in records if isinstance(record, PushHandled)]


def both_sides_of_conservation(journal: Path, shard: int) -> tuple[int, int]:
    """Facts A in its general form: sum of tau over the applied updates + ages of the pulls never pushed = sum over the
    updates of the other pulls then open.

    The left side's tau is from the shard's journal; the right side from the workers': when each of their pulls was
    opened and closed.
    """
    applied = [push for push in pushes(journal, shard) if push.outcome is Outcome.APPLIED]
    updates = len(applied)
    opened: list[tuple[int, int]] = []  # version read, and version that its gradient made
    pulls: dict[int, int] = {}  # worker to the version that its open pull read
    for path in journals(journal):
        if path.name.startswith("host-"):
            for record in read_journal(path):
                if isinstance(record, WorkerExchanged) and record.shard == shard:
                    if record.lease >= 0:
                        opened.append((pulls.pop(record.worker), record.reading.version))
                    pulls[record.worker] = record.reading.version
    assert len(opened) == updates
    left_over = [(read, updates) for read in pulls.values()]
    starts, ends = [0] * (updates + 2), [0] * (updates + 2)
    for read, closed in opened + left_over:  # open for the updates read + 1 .. closed
        starts[read + 1] += 1
        ends[closed + 1] += 1
    others_open = now_open = 0
    for update in range(1, updates + 1):
        now_open += starts[update] - ends[update]
        others_open += now_open - 1
    ages = sum(updates - read for read, _ in left_over)
    return sum(push.staleness for push in applied) + ages, others_open
