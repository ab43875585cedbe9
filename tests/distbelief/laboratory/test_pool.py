"""Pool: results of processes, and what becomes of them."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from distbelief.laboratory.pool import _serve, in_processes
from ps.errors import BadInput, RunFailed


def doubled(number: int) -> int:
    if number < 0:
        raise BadInput("number: got one below 0, expected another")
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def test_every_item_has_its_result() -> None:
    assert sorted(in_processes(doubled, [1, 2, 3])) == [2, 4, 6]
    assert multiprocessing.active_children() == []


def test_what_is_raised_there_is_raised_here() -> None:
    with pytest.raises(BadInput, match="got one below 0"):
        list(in_processes(doubled, [-1]))
    assert multiprocessing.active_children() == []


def test_a_lost_process_is_said() -> None:
    with pytest.raises(RunFailed, match="the same command again goes on"):
        list(in_processes(doubled, [0]))


def test_who_stops_asking_ends_the_processes() -> None:
    results = in_processes(doubled, [1, 2, 3])
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_a_process_whose_result_nobody_takes_ends_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    near, far = multiprocessing.Pipe()
    near.send(21)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(doubled, far))
    process.start()
    far.close()
    near.close()
    process.join(60)
    assert process.exitcode == 0
    assert capfd.readouterr() == ("", "")
