"""The interval set beside a plain set, and its written form."""

from __future__ import annotations

import pytest

from ps.intervals import Interval, IntervalSet
from ps.streams import numpy_stream


def check_invariants(intervals: IntervalSet) -> None:
    flat = [edge for interval in intervals.intervals() for edge in interval]
    assert flat == sorted(set(flat)), "intervals must be ascending, and neither empty, overlapping nor touching"
    assert len(intervals) == sum(interval.stop - interval.start for interval in intervals.intervals())


def sequence(seed: int, width: int) -> list[int]:
    """Integers 0 .. 119 nearly in order (each moved by less than `width`), a quarter of them twice."""
    draws = numpy_stream(seed, f"intervals/{width}")
    nearly = sorted(range(120), key=lambda x: x + width * draws.random())
    return [x for one in nearly for x in (one, *draws.integers(0, 120, int(draws.random() < 0.25)).tolist())]


@pytest.mark.parametrize("width", [1, 8, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_a_plain_set(seed: int, width: int) -> None:
    ours, plain = IntervalSet(), set[int]()
    for x in sequence(seed, width):
        assert ours.add(x) is (x not in plain)
        plain.add(x)
        check_invariants(ours)
        assert len(ours) == len(plain)
        assert [y for y in range(125) if y in ours] == sorted(plain)
        for stop in (0, 60, 130):
            assert ours.missing(stop) == [y for y in range(stop) if y not in plain]
        assert IntervalSet.of(ours.intervals()).intervals() == ours.intervals()
    assert ours.intervals() == ((0, 120),)


def test_neighbours_join_on_the_left_on_the_right_and_on_both_sides() -> None:
    ours = IntervalSet()
    for x, expected in [
        (5, [(5, 6)]),
        (6, [(5, 7)]),
        (3, [(3, 4), (5, 7)]),
        (4, [(3, 7)]),
        (9, [(3, 7), (9, 10)]),
        (8, [(3, 7), (8, 10)]),
    ]:
        assert ours.add(x)
        assert list(ours.intervals()) == expected


def test_what_was_written_down_is_the_same_set_again() -> None:
    ours = IntervalSet.of([(0, 3), (5, 6), (8, 12)])
    assert ours.intervals() == (Interval(0, 3), Interval(5, 6), Interval(8, 12))
    assert len(ours) == 8
    assert ours.missing(9) == [3, 4, 6, 7]
    assert not ours.add(11)
    assert ours.add(12)
    check_invariants(ours)


@pytest.mark.parametrize(
    "damaged", [[(3, 3)], [(4, 3)], [(-2, 3)], [(5, 6), (0, 3)], [(0, 5), (4, 6)], [(0, 3), (3, 6)]]
)
def test_damaged_intervals_are_refused(damaged: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        IntervalSet.of(damaged)


def test_a_negative_integer_is_refused_and_changes_nothing() -> None:
    ours = IntervalSet.of([(0, 3)])
    with pytest.raises(ValueError, match="got -1, expected a non-negative integer"):
        ours.add(-1)
    assert -1 not in ours
    assert ours.intervals() == ((0, 3),)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_discarded_is_gone_and_the_rest_is_not(seed: int) -> None:
    ours, plain = IntervalSet.of([(0, 40), (50, 80)]), {*range(40), *range(50, 80)}
    for x in numpy_stream(seed, "discards").integers(0, 90, 200).tolist():
        assert ours.discard(x) is (x in plain)
        plain.discard(x)
        check_invariants(ours)
        assert [y for y in range(95) if y in ours] == sorted(plain)


def test_bounds_are_the_set_again_and_half_an_interval_is_none() -> None:
    ours = IntervalSet.of([(0, 3), (5, 6)])
    assert ours.bounds() == (0, 3, 5, 6)
    assert IntervalSet.of_bounds(ours.bounds()).intervals() == ours.intervals()
    with pytest.raises(ValueError, match="got 3 bounds"):
        IntervalSet.of_bounds((0, 3, 5))
