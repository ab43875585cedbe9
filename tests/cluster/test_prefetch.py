"""Prefetch on the live clock: the weights for the next lease are on their way while the present one is computed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from torch import Tensor

from cluster import serving
from cluster.machines import Computation, LeaseComputation
from ps.journal import PullHandled, PushHandled, WorkerTimed
from ps.ledger import LedgerStatus
from ps.messages import LEDGER, Exchange, Lease, Message, Wire
from ps.wire import client
from ps.wire.files import read_journal
from ps.wire.server import Carry
from ps.wire.stream_pool import StreamClient
from tests.cluster.world import served
from workers.program import Gradient

PATIENCE_SECONDS = 60.0


class Held:
    """Lets a pull ahead pass only once the gradient that it is to be hidden behind has begun."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.passed = 0

    async def passes(self, message: Message, carry: Carry) -> Message | None:
        if isinstance(message, Exchange) and message.push is None and message.number > 1:
            if not await asyncio.to_thread(self.begun.acquire, timeout=PATIENCE_SECONDS):
                raise AssertionError("the gradient waits for the pull")
            self.passed += 1
        return await carry(message)

    def telling(self, computation: LeaseComputation) -> Computation:
        def compute(lease: Lease, weights_N: Tensor, gradient_N: Tensor) -> tuple[Gradient, float]:
            self.begun.release()
            return computation(lease, weights_N, gradient_N)

        return compute


@pytest.mark.parametrize("path", ["memory", "pieces", "streams"])
def test_a_pull_comes_in_while_the_gradient_is_computed(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "WHOLE_BYTES", 0 if path == "streams" else client.WHOLE_BYTES)
    carried: list[Message] = []  # on streams
    exchange = StreamClient.exchange

    def noted(stream: StreamClient, message: Exchange, wire: Wire) -> Message:
        carried.append(message)
        return exchange(stream, message, wire)

    monkeypatch.setattr(StreamClient, "exchange", noted)
    held, build, injection = Held(), serving.build_computation, serving._injection
    monkeypatch.setattr(serving, "build_computation", lambda *given: held.telling(build(*given)))
    monkeypatch.setattr(
        serving, "_injection", lambda spec, actor, write: held if actor == "host-0" else injection(spec, actor, write)
    )
    values: dict[str, object] = {"cluster__workers": 1, "cluster__shards": 1, "run__batch_size": 96}
    values["cluster__path"] = "auto" if path == "memory" else "network"
    with served(tmp_path, program__prefetch=True, **values) as world:
        world.host(turns=1).run()
        status = world.status(LEDGER)
    assert isinstance(status, LedgerStatus)
    leases = world.spec.plan.leases
    assert (status.ending, held.passed) == ("completed", leases)
    assert len(carried) == (2 * leases + 1 if path == "streams" else 0)
    timed = [r for r in read_journal(world.spec.journal / "host-0.journal") if isinstance(r, WorkerTimed)]
    assert [r.lease for r in timed] == list(range(leases))
    assert all(r.hidden_seconds > 0 for r in timed)
    shard = list(read_journal(world.spec.journal / "shard-0.journal"))
    pulled = [r.version for r in shard if isinstance(r, PullHandled)]
    read = [r.read[0].version for r in shard if isinstance(r, PushHandled)]
    assert read == [*pulled[:1], *pulled[1:leases]] == [0, *range(leases - 1)]  # one update late, and said so
