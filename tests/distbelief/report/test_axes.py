"""Axes: round numbers, places, and how values are written."""

from __future__ import annotations

import math

import pytest

from distbelief.report.axes import Axis, Scale, share, short


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.025, "0.025"), (1234.0, "1.23k"), (5e6, "5M"), (-2000.0, "-2k"), (2e-5, "2e-05"), (3e9, "3G")],
)
def test_values_are_written_short(value: float, text: str) -> None:
    assert short(value) == text
    assert share(0.0667) == "6.67 %"


@pytest.mark.parametrize(
    ("values", "axis", "texts"),
    [
        ([0.3, 9.7], Axis("x"), ["0", "2", "4", "6", "8", "10"]),
        ([7.0, 9.0], Axis("x", from_zero=True), ["0", "2", "4", "6", "8", "10"]),
        ([1.0, 1000.0], Axis("x", log=True), ["1", "10", "100", "1k"]),
        ([0.01, 0.2], Axis("x", log=True), ["0.01", "0.02", "0.05", "0.1", "0.2"]),
        ([], Axis("x"), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([math.nan, math.inf, 0.0, 4.0], Axis("x"), ["0", "1", "2", "3", "4"]),
    ],
)
def test_numbers_beside_a_drawing_are_round(values: list[float], axis: Axis, texts: list[str]) -> None:
    assert [text for _, text in Scale(axis, values, 0, 100).ticks] == texts


def test_places_are_in_proportion() -> None:
    scale = Scale(Axis("x"), [0.0, 10.0], 100.0, 0.0)
    assert [scale(value) for value in (0.0, 5.0, 10.0)] == [100.0, 50.0, 0.0]
    scale = Scale(Axis("x", log=True), [1.0, 100.0], 0.0, 100.0)
    assert scale(10.0) == pytest.approx(50.0)


def test_tight_edges_are_the_values_themselves() -> None:
    scale = Scale(Axis("x"), [0.3, 9.7], 0.0, 100.0, tight=True)
    assert (scale(0.3), scale(9.7)) == (0.0, 100.0)
    assert [text for _, text in scale.ticks] == ["2", "4", "6", "8"]


@pytest.mark.parametrize("log", [False, True])
def test_one_value_alone_has_a_place(log: bool) -> None:
    assert 0.0 < Scale(Axis("x", log=log), [3.0], 0.0, 100.0)(3.0) < 100.0
