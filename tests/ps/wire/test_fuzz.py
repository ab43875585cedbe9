"""Random, mutated and hostile calls against a live shard: a clear status for each, and nothing else happens.

Every gradient that is sent here is NaN from end to end, so no mutation turns it into a push that is to be applied.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import torch

from ps.layout import Segment
from ps.messages import (
    LEDGER,
    Exchange,
    Exchanged,
    NextLease,
    Outcome,
    Push,
    Read,
    Reading,
    Sample,
    SampleTaken,
    Tick,
    WhoHas,
)
from ps.rules import Momentum
from ps.schedule import ScheduleSettings
from ps.shard import Shard
from ps.streams import numpy_stream
from ps.wire import parameter_server_pb2 as pb
from ps.wire.client import SERVICE, TOKEN
from ps.wire.codec import pack, to_envelope
from ps.wire.mailbox import SharedVectors
from tests.ps.wire.test_server import SECONDS, SHARD, TOKEN_HERE, World, world

__all__ = ["world"]  # a fixture

N = 4096
CLEAR = {
    grpc.StatusCode.OK,  # an answer, which may be a refusal
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,  # the same question on another call
    grpc.StatusCode.CANCELLED,  # by ourselves
}
AT_ONCE = 32
GROWTH_BYTES = 16 << 20
PASSES = 4

Code = grpc.StatusCode
Bits = np.random.Generator  # noqa: TID251 -- the type; every one is a named stream


class Attacker:
    """A client that sends bytes as they are."""

    def __init__(self, world: World) -> None:
        self._channel = grpc.aio.insecure_channel(world.targets[SHARD])
        self.vectors = SharedVectors()
        self.nan_N = self.vectors.vector(N).fill_(torch.nan)
        self.out_N = self.vectors.vector(N)

    async def unary(self, method: str, data: bytes, token: str | None = TOKEN_HERE) -> Code:
        made: Any = self._channel.unary_unary(f"/{SERVICE}/{method}", None, None)
        return await _code(made(data, metadata=_metadata(token), timeout=SECONDS))

    async def stream(
        self, method: str, frames: list[bytes], token: str | None = TOKEN_HERE, hang_up: bool = False
    ) -> Code:
        async def requests() -> AsyncIterator[bytes]:
            for frame in frames:
                yield frame

        made: Any = self._channel.stream_stream(f"/{SERVICE}/{method}", None, None)
        call = made(requests(), metadata=_metadata(token), timeout=SECONDS)
        if hang_up:
            await asyncio.sleep(0)
            call.cancel()

        async def heard() -> None:
            async for _ in call:
                pass

        return await _code(heard())

    def push(self, lease: int, shard: int = 0) -> Exchange:
        return Exchange(3, lease, shard, Push(lease, 0, 2, (Reading(0, 0),), self.nan_N), self.out_N)

    async def close(self) -> None:
        await self._channel.close(None)


def _metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else ((TOKEN, token),)


async def _code(call: Awaitable[object]) -> Code:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    except asyncio.CancelledError:
        return Code.CANCELLED
    return Code.OK


@pytest.fixture
def attacked(world: World) -> Iterator[tuple[World, Attacker]]:
    """A shard that has applied lease 0; afterwards every bit of it is as it was, and nothing has piled up."""
    schedule = ScheduleSettings(rate=0.1).build(8, 8)
    weights_N = torch.from_numpy(numpy_stream(0, "weights").standard_normal(N, np.float32))
    machine = Shard(0, 1, weights_N, (Segment(0, N, 1.0, 1.0),), Momentum(0.9), 0.0, schedule, 0)
    world.serve(SHARD, machine, {0: N})
    first = world.exchange(Exchange(3, 0, 0, Push(0, 0, 2, (Reading(0, 0),), torch.ones(N)), None))
    assert isinstance(first, Exchanged)
    assert first.outcome is Outcome.APPLIED
    attacker = world.loop.call(lambda: Attacker(world))
    world.loop.run(attacker.unary("Status", b""))
    held_N, descriptors = machine._w_N.clone(), _descriptors()
    yield world, attacker
    world.loop.run(attacker.close())
    assert torch.equal(machine._w_N, held_N)
    assert world.status(SHARD).version == 1
    assert _descriptors() <= descriptors + 2
    last = world.exchange(Exchange(4, 1, 0, Push(1, 0, 2, (Reading(0, 1),), torch.ones(N)), torch.empty(N)))
    assert isinstance(last, Exchanged)
    assert last.outcome is Outcome.APPLIED


def _descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def _memory() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


async def _attack(calls: list[Callable[[], Awaitable[Code]]]) -> Counter[Code]:
    """Make the calls until memory stays flat over all of them: a heap settles when it will, a leak never does."""
    growths = []
    for _ in range(PASSES):
        before = _memory()
        codes: Counter[Code] = Counter()
        for start in range(0, len(calls), AT_ONCE):
            codes.update(await asyncio.gather(*(call() for call in calls[start : start + AT_ONCE])))
        growths.append(_memory() - before)
        if growths[-1] < GROWTH_BYTES:
            return codes
    pytest.fail(f"memory grew in every pass, by {growths} bytes")


# --- frames ----------------------------------------------------------------------------------------------------------


def _valid(attacker: Attacker) -> list[bytes]:
    """Whole messages of every kind that a shard hears of."""
    push = attacker.push(7)
    mail = attacker.vectors.mail(push)
    assert mail is not None
    sample = Sample(0, 0, 2, torch.empty(N))
    others = (WhoHas(1, (0, 5)), SampleTaken(0, 0, 2), NextLease(1, 1, None), Tick(), sample)
    return [
        pack(to_envelope(push), attacker.nan_N),
        pack(to_envelope(Read(LEDGER, 1, 0, attacker.out_N)), None),
        mail,
        *(to_envelope(message).SerializeToString() for message in (push, *others)),
    ]


def _mutated(bits: Bits, data: bytes) -> bytes:
    """Some bytes changed, cut out or put in, mostly near the beginning, where the envelope is."""
    changed = bytearray(data)
    for _ in range(int(bits.integers(1, 6))):
        at = int(bits.integers(0, max(1, min(len(changed), 1 << int(bits.integers(3, 15))))))
        match int(bits.integers(0, 4)):
            case 0 if changed:
                changed[at % len(changed)] = int(bits.integers(0, 256))
            case 1 if changed:
                changed[at % len(changed)] ^= 1 << int(bits.integers(0, 8))
            case 2:
                del changed[at : at + int(bits.integers(1, 9))]
            case _:
                changed[at:at] = bits.bytes(int(bits.integers(1, 9)))
    return bytes(changed)


def _frame_calls(attacker: Attacker, bits: Bits, count: int) -> list[Callable[[], Awaitable[Code]]]:
    valid = _valid(attacker)
    calls: list[Callable[[], Awaitable[Code]]] = []
    for _ in range(count):
        data = bits.bytes(int(bits.integers(0, 200)))
        if bits.random() < 0.8:
            data = _mutated(bits, valid[int(bits.integers(0, len(valid)))])
        method = ("Ask", "Whole", "Exchange", "Mailbox", "Status")[int(bits.integers(0, 5))]
        if method in ("Exchange", "Mailbox"):
            calls.append(lambda method=method, data=data: attacker.stream(method, [data]))  # type: ignore[misc]
        else:
            calls.append(lambda method=method, data=data: attacker.unary(method, data))  # type: ignore[misc]
    return calls


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 400), *(pytest.param(seed, 1000, marks=pytest.mark.slow) for seed in range(1, 11))]
)
def test_random_and_mutated_frames(attacked: tuple[World, Attacker], seed: int, count: int) -> None:
    world, attacker = attacked
    codes = world.loop.run(_attack(_frame_calls(attacker, numpy_stream(seed, "frames"), count)))
    assert set(codes) <= CLEAR, codes
    assert codes[Code.INVALID_ARGUMENT] > count // 5, codes


# --- sequences -------------------------------------------------------------------------------------------------------


def _sequence(attacker: Attacker, bits: Bits) -> tuple[Callable[[], Awaitable[Code]], set[Code]]:
    """One hostile call, and the statuses that may come of it."""
    number = int(bits.integers(1, 1 << 40))
    envelope = to_envelope(attacker.push(number)).SerializeToString()
    old = to_envelope(attacker.push(0)).SerializeToString()
    body = attacker.nan_N.numpy().tobytes()
    half = body[: int(bits.integers(0, len(body)))]
    mail = attacker.vectors.mail(attacker.push(number)) or b""
    bad = {Code.INVALID_ARGUMENT}
    strange = {Code.UNAUTHENTICATED}
    length = int(bits.choice([0, 1, N - 1, N + 1, 1 << 31, 1 << 62, -1]))
    huge = pb.Envelope.FromString(envelope)
    huge.exchange.elements = length
    type_ = pb.Envelope.FromString(envelope)
    type_.exchange.wire = int(bits.integers(3, 1 << 20))  # type: ignore[assignment]
    token = bits.bytes(8).hex()
    method = ("Ask", "Whole", "Status")[int(bits.integers(0, 3))]
    streamed = ("Exchange", "Mailbox")[int(bits.integers(0, 2))]
    choices: list[tuple[Callable[[], Awaitable[Code]], set[Code]]] = [
        (lambda: attacker.stream("Exchange", [envelope, half]), bad),
        (lambda: attacker.stream("Exchange", [envelope, body, half + b"x"]), bad),
        (lambda: attacker.stream("Exchange", [to_envelope(attacker.push(number, 5)).SerializeToString(), body]), bad),
        (lambda: attacker.stream("Exchange", [huge.SerializeToString(), body]), bad),
        (lambda: attacker.unary("Whole", pack(huge, attacker.nan_N)), bad),
        (lambda: attacker.stream("Exchange", [type_.SerializeToString(), body]), bad),
        (lambda: attacker.stream("Exchange", [old, body]), {Code.OK, Code.ABORTED}),  # aborted: asked twice at once
        (lambda: attacker.stream("Exchange", [envelope, body]), {Code.OK}),  # refused by the machine: not finite
        (lambda: attacker.stream("Mailbox", [mail, mail]), {Code.OK}),  # likewise
        (lambda: attacker.stream("Mailbox", [mail, half]), bad | {Code.OK}),
        (lambda: attacker.stream("Exchange", [envelope, half], hang_up=True), bad | {Code.CANCELLED}),
        (lambda: attacker.unary(method, envelope, None), strange),
        (lambda: attacker.unary(method, envelope, token), strange),
        (lambda: attacker.stream(streamed, [envelope, body], token), strange),
        (lambda: attacker.unary("Ask", bytes(5 << 20)), {Code.RESOURCE_EXHAUSTED}),
    ]
    return choices[int(bits.integers(0, len(choices)))]


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 60), *(pytest.param(seed, 250, marks=pytest.mark.slow) for seed in range(1, 5))]
)
def test_hostile_sequences(attacked: tuple[World, Attacker], seed: int, count: int) -> None:
    world, attacker = attacked
    bits = numpy_stream(seed, "sequences")
    chosen = [_sequence(attacker, bits) for _ in range(count)]

    def checked(call: Callable[[], Awaitable[Code]], expected: set[Code]) -> Callable[[], Awaitable[Code]]:
        async def run() -> Code:
            code = await call()
            assert code in expected, (code, expected)
            return code

        return run

    codes = world.loop.run(_attack([checked(call, expected) for call, expected in chosen]))
    assert len(codes) >= 3, codes
