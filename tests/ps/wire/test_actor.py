"""The actor on an event loop of its own: what becomes of calls that arrive together."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch

from ps.layout import Segment
from ps.messages import Exchange, Exchanged, Message, Push, Reading
from ps.rules import Sgd
from ps.schedule import ScheduleSettings
from ps.shard import Shard
from ps.wire.actor import Actor, Superseded
from ps.wire.files import JournalWriter

N = 32


def exchange(worker: int, lease: int) -> Exchange:
    """Every update raises every weight by 1."""
    return Exchange(worker, 1, 0, Push(lease, 0, 1, (Reading(0, 0),), torch.full((N,), -1.0)), torch.zeros(N))


async def together(actor: Actor, *exchanges: Exchange) -> list[Message | BaseException | None]:
    return await asyncio.gather(*map(actor.answer, exchanges), return_exceptions=True)


def test_a_retry_that_meets_its_first_call_reads_what_its_answer_says(tmp_path: Path) -> None:
    schedule = ScheduleSettings(rate=1.0).build(10, 10)
    shard = Shard(0, 1, torch.zeros(N), (Segment(0, N, 1.0, 1.0),), Sgd(), 0.0, schedule, 0)
    actor = Actor(shard, JournalWriter(tmp_path / "shard-0.journal", "run", "shard-0"), lambda: 0.0)
    first, other, again = exchange(1, 0), exchange(2, 1), exchange(1, 0)
    lost, _, answer = asyncio.run(together(actor, first, other, again))
    assert isinstance(lost, Superseded)
    assert isinstance(answer, Exchanged)
    assert again.weights_N is not None
    assert answer.reading is not None
    assert torch.equal(again.weights_N, torch.full((N,), float(answer.reading.version)))
    assert torch.equal(first.weights_N, torch.zeros(N)), "what the first call gave up is not written to"
    actor.close_journal()
