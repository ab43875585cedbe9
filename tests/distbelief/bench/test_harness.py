"""The harness with sides whose rates are written down beforehand: orders, medians and ratios by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from rich.console import Console

from distbelief.bench.harness import Comparison, Side, Spread, compare, repeating, tell
from ps.errors import BadInput


def scripted(name: str, rates: list[float], calls: list[str]) -> Side:
    """A side with these rates, in turn; notes when it is called."""
    left = iter(rates)

    def measure() -> float:
        calls.append(name)
        return next(left)

    return measure


def test_sides_alternate_and_the_first_round_is_thrown_away() -> None:
    calls: list[str] = []
    sides = {"a": scripted("a", [99, 1, 2, 3], calls), "b": scripted("b", [99, 4, 5, 9], calls)}
    steps: list[tuple[int, int]] = []
    found = compare(sides, "a", pairs=3, progress=lambda done, all: steps.append((done, all)))
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert found == Comparison({"a": (1, 2, 3), "b": (4, 5, 9)}, "a")
    assert steps == [(done, 8) for done in range(1, 9)]


def test_ratios_are_those_within_a_round() -> None:
    found = Comparison({"a": (1.0, 2.0, 4.0), "b": (3.0, 2.0, 8.0), "c": (6.0, 6.0, 6.0)}, "a")
    assert (found.rounds, found.rate("b")) == (3, Spread(3.0, 2.0, 8.0))
    assert found.ratio("b") == Spread(2.0, 1.0, 3.0)
    assert found.ratio("b", "c") == Spread(0.5, 1 / 3, 4 / 3)
    assert found.ratio("a") == Spread(1.0, 1.0, 1.0)


def test_no_round_is_refused() -> None:
    with pytest.raises(BadInput, match="pairs: got 0, expected at least 1"):
        compare({"a": lambda: 1.0}, "a", pairs=0)


@pytest.mark.parametrize(("seconds", "times", "rate"), [(0.0, 1, 8.0), (0.5, 1, 8.0), (0.6, 2, 8.0), (2.0, 4, 8.0)])
def test_work_is_repeated_until_the_time_is_over(seconds: float, times: int, rate: float) -> None:
    now, done = 100.0, 0

    def work() -> None:
        nonlocal now, done
        now += 0.5
        done += 1

    assert repeating(work, units=4, seconds=seconds, clock=lambda: now)() == rate
    assert done == times


@pytest.fixture
def found() -> Iterator[Comparison]:
    return Comparison({"plain": (10.0, 11.0, 12.0), "ours": (2345.6, 2345.6, 24.0)}, "plain")


def test_a_person_reads_a_table(found: Comparison) -> None:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(found.table("speed", "images"))
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines[:4] == [
        ["speed"],
        ["images/s", "from", "to", "x", "plain", "from", "to"],
        ["plain", "11.0", "10.0", "12.0"],
        ["ours", "2,346", "24.0", "2,346", "213", "2.00", "235"],
    ]


def test_a_program_reads_json(found: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    tell(found.as_json(), found.table("speed", "images"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "reference": "plain",
        "rounds": 3,
        "sides": {
            "plain": {
                "rate": {"median": 11.0, "min": 10.0, "max": 12.0},
                "ratio": {"median": 1.0, "min": 1.0, "max": 1.0},
            },
            "ours": {
                "rate": {"median": 2346.0, "min": 24.0, "max": 2346.0},
                "ratio": {"median": 213.2, "min": 2.0, "max": 234.6},
            },
        },
    }
    tell(found.as_json(), found.table("speed", "images"), as_json=False)
    assert capsys.readouterr().out.startswith("speed")
