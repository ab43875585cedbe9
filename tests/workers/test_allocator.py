"""Freed memory is kept: the kernel is not asked again for what a thread had before."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """if True:
    import resource, threading
    import torch
    from workers.allocator import keep_freed_memory

    kept = {kept} and keep_freed_memory()
    torch.set_num_threads(1)
    faults = []

    def work():
        for _ in range(24):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            held = [torch.ones(1 << 24) for _ in range(2)]  # 64 MiB each
            del held
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print(int(kept), *faults)
"""


def faults(kept: bool) -> tuple[bool, list[int]]:
    """Whether memory is kept, and the page faults of 24 rounds that take and free the same blocks on a thread."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(kept=kept)], capture_output=True, text=True, timeout=100, check=True
    )
    told, *counts = map(int, done.stdout.split())
    return bool(told), counts


def test_a_thread_gets_back_what_it_freed() -> None:
    told, kept = faults(kept=True)
    if not told:
        pytest.skip("this C library cannot be told to")
    _, afresh = faults(kept=False)
    assert min(kept) < min(afresh) / 10  # the heap settles after some rounds, not always after as many
