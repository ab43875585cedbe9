"""A process that serves a shard, or exchanges with one without end, until it is killed: for test_kills.

python -m tests.cluster.exchanging_process shard FOLDER        prints where it listens
python -m tests.cluster.exchanging_process worker TARGET       prints a line when it has begun
"""

from __future__ import annotations

import itertools
import sys
import threading
from pathlib import Path

import torch

from ps.layout import Segment
from ps.messages import Exchange, Exchanged, Push, Reading
from ps.rules import Sgd
from ps.schedule import ScheduleSettings
from ps.shard import Shard
from ps.wire.client import Loop, Peer
from ps.wire.files import JournalWriter
from ps.wire.mailbox import SharedVectors
from ps.wire.server import Gate, MachineServer

N = 4 << 20  # an exchange takes milliseconds: most kills fall within one
TOKEN = "a token of this test"
CALL_SECONDS = 30.0


def serve(folder: Path) -> None:
    """Every gradient is of ones and the rate is 1: an element counts, downwards, the updates that reached it."""
    torch.set_num_threads(1)
    schedule = ScheduleSettings(rate=1.0).build(1, 1)
    shard = Shard(0, 1, torch.zeros(N), (Segment(0, N, 1.0, 1.0),), Sgd(), 0.0, schedule, 0)
    journal = JournalWriter(folder / "shard-0.journal", "run", "shard-0")
    server = MachineServer(shard, Gate(TOKEN, {0: N}), journal, lambda: 0.0)
    print(server.start("127.0.0.1"), flush=True)
    threading.Event().wait()


def work(target: str, worker: int) -> None:
    torch.set_num_threads(1)
    loop, vectors = Loop("worker"), SharedVectors()
    peer = loop.call(lambda: Peer(target, TOKEN, vectors))
    gradient_N, weights_N = vectors.vector(N).fill_(1.0), vectors.vector(N)
    version = 0
    for number in itertools.count(1):
        push = Push(worker << 20 | number, 0, 1, (Reading(0, version),), gradient_N)
        answer = loop.run(peer.exchange(Exchange(worker, number, 0, push, weights_N), CALL_SECONDS))
        assert isinstance(answer, Exchanged)
        version = answer.reading.version
        print(number, flush=True)


if __name__ == "__main__":
    role, argument, *rest = sys.argv[1:]
    if role == "shard":
        serve(Path(argument))
    else:
        work(argument, int(rest[0]))
