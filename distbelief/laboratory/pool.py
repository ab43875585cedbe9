"""Pool: a function of many items on this machine's cores, in processes that do not outlive this one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from ps.errors import RunFailed

T = TypeVar("T")
R = TypeVar("R")


def in_processes(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Results in the order in which they come. Ends its processes when it is closed or something is raised.

    Args:
        function: At the top of a module.

    Raises:
        RunFailed: A process was lost.
    """
    cores = len(os.sched_getaffinity(0))
    fresh = multiprocessing.get_context("spawn")  # a copy of this process would have torch's threads in no known state
    pool = ProcessPoolExecutor(min(cores, len(items)), mp_context=fresh, initializer=_end_with_parent)
    ended = False
    try:
        for future in as_completed([pool.submit(function, item) for item in items]):
            yield future.result()
        ended = True
    except BrokenProcessPool as error:
        raise RunFailed(
            "a cell's process was killed (out of memory?); the same command again goes on with the others"
        ) from error
    finally:
        if not ended:
            for child in multiprocessing.active_children():
                child.terminate()
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process as soon as the one that started it has, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
