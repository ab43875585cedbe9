"""SIGKILL in the middle of exchanges through memory: nothing is left behind, and nothing is torn.

Every update takes 1 from every element, so weights are whole if they are all the same number.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ps.errors import PeerLost
from ps.journal import PushHandled
from ps.messages import LEDGER, Exchange, Exchanged, Push, Read, ReadDone, Reading
from ps.streams import numpy_stream
from ps.wire.client import Loop, Peer
from ps.wire.files import read_journal
from ps.wire.mailbox import SharedVectors
from tests.cluster.exchanging_process import TOKEN, N

ROOT = Path(__file__).parents[2]
SECONDS = 30.0
EXCHANGE_SECONDS = 0.02  # about; kills are spread over one and a half
KILLS = 25  # in each of the two tests

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes; kills what is left of them."""
    started: list[subprocess.Popen[str]] = []

    def one(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.cluster.exchanging_process", *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield one
    for process in started:
        process.kill()
        process.communicate(timeout=SECONDS)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Neither in /dev/shm nor a socket."""

    def ours() -> set[str]:
        names = {name for name in os.listdir("/dev/shm") if "distbelief" in name}
        return names | {
            line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "distbelief" in line
        }

    before = ours()
    yield
    assert ours() <= before


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_workers_leave_whole_weights(tmp_path: Path, start: Start) -> None:
    target = line(start("shard", tmp_path))
    loop = Loop("test")
    peer = loop.call(lambda: Peer(target, TOKEN))
    bits = numpy_stream(0, "kills")
    told = []
    for worker in range(KILLS):
        process = start("worker", target, worker)
        assert line(process) == "1"
        loop.run(asyncio.sleep(float(bits.uniform(0, 1.5 * EXCHANGE_SECONDS))))
        process.kill()
        rest, _ = process.communicate(timeout=SECONDS)
        told.append(1 + len(rest.split()))
    weights_N = torch.empty(N)
    done = loop.run(peer.exchange(Read(LEDGER, 1, 0, weights_N), SECONDS))
    loop.run(peer.close())
    loop.close()
    assert isinstance(done, ReadDone)
    assert torch.equal(weights_N, torch.full((N,), -float(done.version)))
    pushes = [record for record in read_journal(tmp_path / "shard-0.journal") if isinstance(record, PushHandled)]
    handled = [sum(push.worker == worker for push in pushes) for worker in range(KILLS)]
    within = sum(there > here for there, here in zip(handled, told, strict=True))
    assert done.version == len(pushes)
    assert within >= KILLS // 2, "killed between push and answer, says the journal"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_shards_leave_the_worker_with_what_it_had(tmp_path: Path, start: Start) -> None:
    """A gradient is as it was, and so are weights once renewed, however late a hand would come."""
    vectors = SharedVectors()
    gradient_N, weights_N = vectors.vector(N), vectors.vector(N)
    loop = Loop("test")
    bits = numpy_stream(1, "kills")
    within = 0
    for kill in range(KILLS):
        folder = tmp_path / str(kill)
        shard = start("shard", folder)
        target = line(shard)
        peer = loop.call(lambda target=target: Peer(target, TOKEN, vectors))  # type: ignore[misc]
        gradient_N.fill_(1.0)
        pull = loop.run(peer.exchange(Exchange(0, 1, 0, None, weights_N), SECONDS))
        assert isinstance(pull, Exchanged)
        first, message = (
            Exchange(0, 2 + lease, 0, Push(lease, 0, 1, (Reading(0, 0),), gradient_N), weights_N) for lease in (0, 1)
        )

        async def killed(
            peer: Peer = peer, shard: subprocess.Popen[str] = shard, first: Exchange = first, last: Exchange = message
        ) -> bool:
            now = asyncio.get_running_loop().time
            began = now()
            await peer.exchange(first, SECONDS)
            seconds = now() - began  # so that the kill falls within the next one, which is faster, on any machine
            call = asyncio.ensure_future(peer.exchange(last, SECONDS))
            await asyncio.sleep(float(bits.uniform(0, 0.4)) * seconds)
            shard.kill()
            try:
                await call
            except PeerLost:
                return True
            return False

        lost = loop.run(killed())
        loop.run(peer.close())
        within += lost
        vectors.renew([message])
        assert torch.equal(gradient_N, torch.ones(N))
        weights_N.fill_(7.0)
        if not lost:
            assert [type(record) for record in read_journal(folder / "shard-0.journal")][-1] is PushHandled
    loop.close()
    assert within >= KILLS // 2, "the call was under way"
    assert torch.equal(weights_N, torch.full((N,), 7.0))
