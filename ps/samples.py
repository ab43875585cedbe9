"""Samples: a shard's copies of its weights for the averager, at exactly the versions that the average is defined over.

At most WAITING_SAMPLES copies wait at once; a version beyond them is skipped and said so.

Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

WAITING_SAMPLES = 2  # copies for the averager that may wait at once; a third is skipped, journaled and counted


@dataclass(slots=True)
class Samples:
    """Buffers for the averager. Invariant: len(free) + len(sent) == WAITING_SAMPLES, or 0 while none was needed.

    Attributes:
        every: The averager gets versions k, 2k, ...; 0 for never.
    """

    every: int
    free: list[Tensor] = field(default_factory=list)
    sent: dict[int, Tensor] = field(default_factory=dict)
    skipped: int = 0

    def state(self) -> dict[int, Tensor]:
        """The copies that wait, copied."""
        return {version: buffer_N.clone() for version, buffer_N in self.sent.items()}

    def recall(self, waiting: Mapping[int, Tensor], skipped: int) -> None:
        """Let these wait, and nothing else."""
        self.free, self.sent, self.skipped = [], {}, skipped
        for version, w_N in waiting.items():
            self.copy(version, w_N)

    def wants(self, version: int) -> bool:
        """Whether the average is defined over this version."""
        return bool(self.every) and version % self.every == 0

    def copy(self, version: int, w_N: Tensor) -> Tensor | None:
        """A copy of these weights, or None if too many are waiting: then the version is skipped."""
        if not self.free and not self.sent:
            self.free = [torch.empty_like(w_N) for _ in range(WAITING_SAMPLES)]
        if not self.free:
            self.skipped += 1
            return None
        buffer_N = self.sent[version] = self.free.pop()
        return buffer_N.copy_(w_N)

    def taken(self, version: int) -> None:
        """The averager has this version; its buffer is free again."""
        if (buffer_N := self.sent.pop(version, None)) is not None:
            self.free.append(buffer_N)
