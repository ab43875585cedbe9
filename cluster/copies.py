"""Copies: vectors that somebody will still need, each kept once, on disk beyond a limit of memory.

Many workers compute at few distinct versions of the weights. A version is kept while a gradient is still to be computed
from it, and no longer.

Shape suffix: N = elements of one vector; vectors of different lengths may be kept together.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable
from dataclasses import dataclass
from typing import IO, Any

from torch import Tensor

FLOAT_BYTES = 4
_BLOCK_BYTES = 4096
_SPARE = 2  # vectors of one length, beside the limit: fresh memory costs as much again as the copy


@dataclass(slots=True)
class _Kept:
    """One vector. Invariant: exactly one of vector_N (in memory) and offset (in the file) is set; uses > 0."""

    uses: int
    vector_N: Tensor | None
    offset: int | None


class Copies:
    """A store of float32 vectors by key.

    Args:
        memory_bytes: What may be kept in memory; what comes when it is full goes to a file without a name, which is
            gone with this process.
        largest: Elements of the longest vector.
    """

    def __init__(self, memory_bytes: int, largest: int) -> None:
        self._limit = memory_bytes
        self._slot_bytes = -(-max(1, largest) * FLOAT_BYTES // _BLOCK_BYTES) * _BLOCK_BYTES
        self._kept: dict[Hashable, _Kept] = {}
        self._file: IO[bytes] | None = None
        self._free: list[int] = []
        self._spare: dict[int, list[Tensor]] = {}  # by length: memory that was used and is at hand
        self._end = 0
        self.memory_bytes = 0
        self.spilled_bytes = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: Hashable, vector_N: Tensor, uses: int = 1) -> None:
        """Copy a vector under a new key, or count more uses of the one that is there (which is then the same)."""
        if key in self._kept:
            self._kept[key].uses += uses
            return
        size = vector_N.numel() * FLOAT_BYTES
        if self.memory_bytes + size <= self._limit:
            self._kept[key] = _Kept(uses, self._copied(vector_N), None)
            self.memory_bytes += size
        else:
            self._kept[key] = _Kept(uses, None, self._spill(vector_N))

    def load(self, key: Hashable, out_N: Tensor) -> None:
        """Copy what is kept under this key into `out_N`, of its length."""
        if (vector_N := self.view(key, out_N)) is not out_N:
            out_N.copy_(vector_N)

    def view(self, key: Hashable, room_N: Tensor) -> Tensor:
        """What is kept under this key: itself, to be read until the next `keep`, or read from disk into `room_N`."""
        kept = self._kept[key]
        if kept.vector_N is not None:
            return kept.vector_N
        assert self._file is not None
        assert kept.offset is not None
        view, offset = _bytes(room_N), kept.offset
        while view:
            got = os.preadv(self._file.fileno(), [view], offset)
            view, offset = view[got:], offset + got
        return room_N

    def release(self, key: Hashable) -> None:
        """One use less; after the last one the vector is forgotten."""
        kept = self._kept[key]
        kept.uses -= 1
        if kept.uses:
            return
        del self._kept[key]
        if kept.vector_N is not None:
            self.memory_bytes -= kept.vector_N.numel() * FLOAT_BYTES
            spare = self._spare.setdefault(kept.vector_N.numel(), [])
            if len(spare) < _SPARE:
                spare.append(kept.vector_N)
        elif kept.offset is not None:
            self._free.append(kept.offset)
            self.spilled_bytes -= self._slot_bytes

    def _copied(self, vector_N: Tensor) -> Tensor:
        spare = self._spare.get(vector_N.numel())
        return spare.pop().copy_(vector_N) if spare else vector_N.clone()

    def _spill(self, vector_N: Tensor) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- closed in close
        if self._free:
            start = self._free.pop()
        else:
            start, self._end = self._end, self._end + self._slot_bytes
        self.spilled_bytes += self._slot_bytes
        view, offset = _bytes(vector_N), start
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[written:], offset + written
        return start

    def close(self) -> None:
        """Forget everything."""
        self._kept.clear()
        if self._file is not None:
            self._file.close()


def _bytes(vector_N: Tensor) -> memoryview:
    array: Any = vector_N.numpy()
    return memoryview(array).cast("B")
