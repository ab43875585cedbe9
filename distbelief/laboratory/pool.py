"""Pool: a function of many items on this machine's cores, in processes that do not outlive this one.

Each process gets one item at a time, so that an end is the end: nothing waits in a queue that would still be begun. The
processes are in sessions of their own: Ctrl-C on a terminal reaches this one, which tells them once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

from ps.errors import RunFailed

END_SECONDS = 10.0  # that a process gets to leave what it does in order

T = TypeVar("T")
R = TypeVar("R")


def in_processes(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Results in the order in which they come. Ends its processes when it is closed or something is raised.

    Args:
        function: At the top of a module. KeyboardInterrupt tells it to end.

    Raises:
        RunFailed: A process was lost.
        Exception: What the function raised.
    """
    fresh = multiprocessing.get_context("spawn")  # a copy of this process would have torch's threads in no known state
    waiting = deque(items)
    crew: dict[Connection, Any] = {}
    try:
        for _ in range(min(len(os.sched_getaffinity(0)), len(items))):
            near, far = fresh.Pipe()
            crew[near] = fresh.Process(target=_serve, args=(function, far))
            crew[near].start()
            far.close()
            near.send(waiting.popleft())
        while crew:
            for near in cast("list[Connection]", wait(list(crew))):
                yield _received(near)
                if waiting:
                    near.send(waiting.popleft())
                else:
                    near.close()
                    crew.pop(near).join()
    finally:
        for process in crew.values():
            process.terminate()
        for process in crew.values():
            process.join(END_SECONDS)
            process.kill()
            process.join()


def _received(near: Connection) -> Any:
    try:
        result = near.recv()
    except EOFError:
        raise RunFailed(
            "a process was killed (out of memory?); the same command again goes on where this one was ended"
        ) from None
    if isinstance(result, Exception):
        raise result
    return result


def _serve(function: Callable[[Any], Any], far: Connection) -> None:
    """One process: items in, results out, until there are no more, it is told to end, or its parent is gone."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            item = far.recv()
            try:
                result = function(item)
            except Exception as error:  # noqa: BLE001 -- it is raised again by whoever wants the result
                result = error
            far.send(result)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
