"""Agenda: time, then priority, then the order in which events were put down."""

from __future__ import annotations

from cluster.agenda import LATE, NORMAL, Agenda


def test_events_happen_by_time_then_priority_then_sequence() -> None:
    agenda, seen = Agenda(), []
    for seconds, priority, name in ((2.0, NORMAL, "e"), (1.0, LATE, "d"), (1.0, NORMAL, "b"), (1.0, NORMAL, "c")):
        agenda.after(seconds, lambda name: seen.append((agenda.now, name)), name, priority)
    agenda.after(0.0, lambda name: seen.append((agenda.now, name)), "a")
    assert not agenda.run(100)
    assert seen == [(0.0, "a"), (1.0, "b"), (1.0, "c"), (1.0, "d"), (2.0, "e")]


def test_an_event_may_bring_others_at_its_own_moment() -> None:
    agenda, seen = Agenda(), []

    def chain(left: int) -> None:
        seen.append((agenda.now, left))
        if left:
            agenda.after(0.0, chain, left - 1)

    agenda.after(3.0, chain, 2)
    agenda.after(3.0, lambda _: seen.append((agenda.now, -1)), None)
    agenda.run(100)
    assert seen == [(3.0, 2), (3.0, -1), (3.0, 1), (3.0, 0)]


def test_it_stops_after_so_many_events_or_when_told() -> None:
    agenda, seen = Agenda(), []
    for number in range(10):
        agenda.after(float(number), seen.append, number)
    assert agenda.run(4)
    assert seen == [0, 1, 2, 3]
    agenda.after(1.5, lambda _: agenda.stop(), None)  # at 4.5
    assert not agenda.run(100)
    assert seen == [*range(5)]
