"""Agenda: time, then priority, then the order in which events were put down. The same of both that there are."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import suppress

import pytest

from cluster.agenda import LATE, NORMAL, Agenda, PlainAgenda
from ps.streams import numpy_stream

KINDS: list[Callable[[], Agenda]] = [PlainAgenda]
with suppress(ImportError):  # where there was no compiler
    from cluster._agenda import Agenda as CompiledAgenda

    KINDS.append(CompiledAgenda)
of_each_kind = pytest.mark.parametrize("kind", KINDS)


@of_each_kind
def test_events_happen_by_time_then_priority_then_sequence(kind: Callable[[], Agenda]) -> None:
    agenda, seen = kind(), []
    for seconds, priority, name in ((2.0, NORMAL, "e"), (1.0, LATE, "d"), (1.0, NORMAL, "b"), (1.0, NORMAL, "c")):
        agenda.after(seconds, lambda name: seen.append((agenda.now, name)), name, priority)
    agenda.after(0.0, lambda name: seen.append((agenda.now, name)), "a")
    assert not agenda.run(100)
    assert seen == [(0.0, "a"), (1.0, "b"), (1.0, "c"), (1.0, "d"), (2.0, "e")]


@of_each_kind
def test_an_event_may_bring_others_at_its_own_moment(kind: Callable[[], Agenda]) -> None:
    agenda, seen = kind(), []

    def chain(left: int) -> None:
        seen.append((agenda.now, left))
        if left:
            agenda.after(0.0, chain, left - 1)

    agenda.after(3.0, chain, 2)
    agenda.after(3.0, lambda _: seen.append((agenda.now, -1)), None)
    agenda.run(100)
    assert seen == [(3.0, 2), (3.0, -1), (3.0, 1), (3.0, 0)]


@of_each_kind
def test_it_stops_after_so_many_events_or_when_told(kind: Callable[[], Agenda]) -> None:
    agenda, seen = kind(), []
    for number in range(10):
        agenda.after(float(number), seen.append, number)
    assert agenda.run(4)
    assert seen == [0, 1, 2, 3]
    agenda.after(1.5, lambda _: agenda.stop(), None)  # at 4.5
    assert not agenda.run(100)
    assert seen == [*range(5)]


@of_each_kind
def test_thousands_of_events_happen_in_order(kind: Callable[[], Agenda]) -> None:
    agenda, seen = kind(), []
    draw = numpy_stream(1, "test/agenda")
    times, priorities = draw.integers(50, size=3000) / 8.0, draw.integers(2, size=3000)  # many at one time
    for number, (seconds, priority) in enumerate(zip(times.tolist(), priorities.tolist(), strict=True)):
        agenda.after(seconds, seen.append, (seconds, priority, number), priority)
    assert agenda.run(1000)
    agenda.after(0.0, seen.append, (agenda.now, LATE, 3000), LATE)
    while agenda.run(1000):
        pass
    assert len(seen) == 3001
    assert seen == sorted(seen)


@of_each_kind
def test_what_an_event_raises_is_raised_and_the_next_one_still_happens(kind: Callable[[], Agenda]) -> None:
    agenda, seen = kind(), []
    agenda.after(1.0, lambda _: [][0], None)
    agenda.after(2.0, seen.append, "next")
    with pytest.raises(IndexError):
        agenda.run(10)
    assert agenda.now == 1.0
    assert not agenda.run(10)
    assert seen == ["next"]


@of_each_kind
def test_an_agenda_whose_events_hold_it_is_freed(kind: Callable[[], Agenda]) -> None:
    class Driver:
        def __init__(self) -> None:
            self.agenda = kind()
            self.agenda.after(1.0, self.act, self)

        def act(self, _: object) -> None: ...

    driver = Driver()
    gone = weakref.ref(driver)
    del driver
    gc.collect()
    assert gone() is None


@of_each_kind
def test_what_cannot_be_put_down_is_refused(kind: Callable[[], Agenda]) -> None:
    agenda = kind()
    with pytest.raises(TypeError):
        agenda.after("soon", print, None)  # type: ignore[arg-type]
    assert not agenda.run(1)
