"""Compute turns: first come, first served; closing wakes everyone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from cluster.turns import Turns, TurnsClosed

PATIENCE_SECONDS = 20.0


@pytest.fixture
def spawn() -> Iterator[Callable[[Callable[[], None]], threading.Thread]]:
    """Starts threads; at the end all of them have ended."""
    threads: list[threading.Thread] = []

    def start(target: Callable[[], None]) -> threading.Thread:
        threads.append(threading.Thread(target=target, daemon=True))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


Spawn = Callable[[Callable[[], None]], threading.Thread]


def wait_for_line(turns: Turns[str], length: int) -> None:
    """Until so many threads stand in line."""
    woken = threading.Event()
    while len(turns._line) < length:
        assert not woken.wait(0.0005)


def test_things_are_taken_and_given_back() -> None:
    turns = Turns(["a", "b"])
    assert {turns.take(), turns.take()} == {"a", "b"}
    turns.give_back("b")
    assert turns.take() == "b"


def test_the_thread_that_waited_longest_is_served_first(spawn: Spawn) -> None:
    turns = Turns(["a"])
    thing = turns.take()
    served: list[int] = []

    def worker(index: int) -> None:
        mine = turns.take()
        served.append(index)
        turns.give_back(mine)

    for index in range(40):
        spawn(lambda index=index: worker(index))  # type: ignore[misc]
        wait_for_line(turns, index + 1)
    turns.give_back(thing)
    assert turns.take() == "a", "who asks now stands behind all of them"
    assert served == list(range(40))


def test_never_more_at_once_than_there_are_things(spawn: Spawn) -> None:
    turns = Turns(["a", "b", "c"])
    lock = threading.Lock()
    taken: set[str] = set()
    counts: list[int] = []

    def worker() -> None:
        for _ in range(50):
            mine = turns.take()
            with lock:
                assert mine not in taken
                taken.add(mine)
                counts.append(len(taken))
            with lock:
                taken.remove(mine)
            turns.give_back(mine)

    for thread in [spawn(worker) for _ in range(12)]:
        thread.join(PATIENCE_SECONDS)
    assert len(counts) == 12 * 50, "a failed assertion in a thread ends it early"
    assert max(counts) <= 3
    assert {turns.take() for _ in range(3)} == {"a", "b", "c"}


def test_closing_wakes_everyone_in_line_and_gives_no_more_turns(spawn: Spawn) -> None:
    turns = Turns(["a"])
    thing = turns.take()
    ended: list[int] = []

    def worker(index: int) -> None:
        with pytest.raises(TurnsClosed):
            turns.take()
        ended.append(index)

    threads = [spawn(lambda index=index: worker(index)) for index in range(20)]  # type: ignore[misc]
    wait_for_line(turns, 20)
    turns.close()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sorted(ended) == list(range(20))
    turns.give_back(thing)
    with pytest.raises(TurnsClosed):
        turns.take()


def test_who_was_handed_a_thing_before_the_closing_has_it(spawn: Spawn) -> None:
    """Between the handing over and the thread's waking up, the turns may close: the thing must not be lost."""
    turns = Turns(["a"])
    thing = turns.take()
    got: list[str] = []
    thread = spawn(lambda: got.append(turns.take()))
    wait_for_line(turns, 1)
    turns.give_back(thing)
    turns.close()
    thread.join(PATIENCE_SECONDS)
    assert got == ["a"]
