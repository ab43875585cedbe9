"""Named random streams: the only place where randomness begins.

A stream is named by what it is for ("lease/812/augment", "epoch/3/order"), never by who draws from it or when. So a
gradient can be computed again anywhere, at any time, from the run's root seed and a name. Streams share no state:
drawing from one moves no other.

numpy guarantees the bits of its bit generators for good, but not what its distributions make of them; what must last
across numpy versions (the order of the examples) is therefore made from raw bits.

Source: ours; the generator is Philox (Salmon et al. 2011), whose key is a stream's identity.
"""

# ruff: noqa: TID251 -- this is the module that everything else must draw from

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


def derive(seed: int, name: str) -> int:
    """The stream's own seed, 0 <= derived < 2**63, from the run's root seed and the stream's name."""
    digest = blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes a signed 64-bit seed


def numpy_stream(seed: int, name: str) -> np.random.Generator:
    """A fresh numpy generator at the beginning of the named stream."""
    return np.random.Generator(_bits(seed, name))


def torch_stream(seed: int, name: str, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh torch generator at the beginning of the named stream. The bits differ between kinds of device."""
    import torch  # not at the head: the ledger's process draws permutations and must not pay for torch

    return torch.Generator(device=device).manual_seed(derive(seed, name))


def permutation(seed: int, name: str, n: int) -> npt.NDArray[np.int64]:
    """The named stream's permutation of 0 .. n - 1, the same under every numpy version.

    The order in which n raw 64-bit draws sort; the sort is stable, so that equal draws would not make it ambiguous.

    Returns:
        int64 array of shape (n,), owned by the caller.
    """
    return _bits(seed, name).random_raw(n).argsort(kind="stable").astype(np.int64, copy=False)


def _bits(seed: int, name: str) -> np.random.Philox:
    return np.random.Philox(key=derive(seed, name))
