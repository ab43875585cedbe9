"""Arithmetic: what decides the bits that this process computes, beside its inputs.

Bitwise equality was checked to hold across processes, threads and memory offsets for one torch build; it breaks with
the number of threads per gradient and with the instructions that kernels are chosen by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import PIL
import torch
from PIL import features

from ps.journal import Arithmetic

if TYPE_CHECKING:
    from workers.images import Dataset

# oneDNN and MKL choose kernels by these, beyond what torch calls its capability.
_CHOSEN_BY = ("amx_bf16", "amx_fp16", "amx_int8", "avx512_bf16", "avx512_fp16", "avx512_vnni", "cpu_name")


def arithmetic(now: float, threads: int, dataset: Dataset | None = None) -> Arithmetic:
    """The record of this process. `threads`: per gradient. `dataset`: what it reads, if it reads any."""
    reads = dataset is not None
    return Arithmetic(
        now,
        str(torch.__version__),
        PIL.__version__ if reads else "",
        str(features.version("jpg")) if reads else "",
        _processor(),
        threads,
        dataset.fingerprint() if dataset is not None else "",
    )


def _processor() -> str:
    found: Any = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.11 or so
    chosen_by = [name if found[name] is True else found[name] for name in _CHOSEN_BY if found.get(name)]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *chosen_by])
