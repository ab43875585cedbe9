"""The actor on an event loop of its own: what becomes of calls that arrive together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
import torch

from ps.errors import PeerLost, PeerRefused
from ps.layout import Segment
from ps.messages import AVERAGER, Exchange, Exchanged, Message, Push, Reading, Sample, SampleTaken
from ps.rules import Sgd
from ps.schedule import ScheduleSettings
from ps.shard import Outbox, Shard
from ps.wire.actor import Actor, Machine, Superseded
from ps.wire.client import Peer
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


class Averaging:
    """Where an averager should be. `answers`: for one sample after the other, what becomes of it."""

    target = "averager"

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.versions: list[int] = []

    async def exchange(self, message: Sample, _: float) -> Message:
        self.versions.append(message.version)
        for _ in range(len(self.answers)):  # the more are to come, the slower: side by side they would overtake
            await asyncio.sleep(0)
        if (error := self.answers.pop(0)) is not None:
            raise error
        return SampleTaken(message.shard, message.incarnation, message.version)

    async def close(self) -> None:
        """There is no connection."""


def sampling(tmp_path: Path, averager: Averaging, updates: int) -> Shard:
    """A shard that sampled at each of so many updates, after all its samples were sent."""
    schedule = ScheduleSettings(rate=1.0).build(10, 10)
    shard = Shard(0, 1, torch.zeros(N), (Segment(0, N, 1.0, 1.0),), Sgd(), 0.0, schedule, 1)
    actor = Actor(shard, JournalWriter(tmp_path / "shard-0.journal", "run", "shard-0"), lambda: 0.0)

    async def run() -> None:
        actor.connect({AVERAGER: cast(Peer, averager)})
        await together(actor, *(exchange(worker, worker) for worker in range(updates)))
        while actor._errands:
            await asyncio.wait(actor._errands)
        await actor.close()

    asyncio.run(run())
    actor.close_journal()
    return shard


def test_samples_go_one_after_the_other_so_that_none_overtakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ps.wire.actor.RETRY_SECONDS", 0.0)
    averager = Averaging(PeerLost("once"), None, None)
    shard = sampling(tmp_path, averager, 2)
    assert averager.versions == [1, 1, 2]
    assert shard._samples.sent == {}


def test_a_sample_that_is_refused_gives_its_buffer_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = sampling(tmp_path, Averaging(PeerRefused("wrong length"), None), 2)
    assert shard._samples.sent == {}
    assert [record.message for record in caplog.records] == ["averager refused Sample: wrong length"]


def test_a_tick_that_is_refused_ends_no_deadline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Ticked:
        ticks = 0

        def handle(self, _: float, message: Message) -> Outbox:
            self.ticks += 1
            if self.ticks == 1:
                raise ValueError("not this one")
            done.set()
            return []

    done, machine = asyncio.Event(), Ticked()
    actor = Actor(cast(Machine, machine), JournalWriter(tmp_path / "l.journal", "run", "ledger"), lambda: 0.0)

    async def run() -> None:
        actor.run_errand(actor.tick(0.0))
        await done.wait()
        await actor.close()

    asyncio.run(run())
    actor.close_journal()
    assert [record.message for record in caplog.records] == ["could not handle a Tick: ValueError('not this one')"]
