"""Histograms: sums, means and percentiles against the plain list of values."""

from __future__ import annotations

import math

import pytest

from distbelief.histogram import binned, mean, percentile, total
from ps.streams import numpy_stream


def test_the_sum_of_several() -> None:
    assert total([{0: 2, 3: 1}, {}, {3: 4, 7: 1}]) == {0: 2, 3: 5, 7: 1}
    assert total([]) == {}


def test_summing_changes_none_of_them() -> None:
    histograms = [{0: 2}, {0: 3}]
    assert total(histograms) == {0: 5}
    assert histograms == [{0: 2}, {0: 3}]


def test_nothing_has_no_mean_and_no_percentile() -> None:
    assert math.isnan(mean({}))
    assert math.isnan(percentile({}, 0.5))


@pytest.mark.parametrize("seed", range(5))
def test_as_reckoned_from_the_values_themselves(seed: int) -> None:
    values = sorted(numpy_stream(seed, "staleness").integers(0, 40, 20 * (seed + 1)).tolist())
    histogram = {value: values.count(value) for value in reversed(values)}
    assert mean(histogram) == sum(values) / len(values)
    for share in (0.05, 0.5, 0.95, 1.0):
        assert percentile(histogram, share) == values[round(share * len(values)) - 1]
    assert isinstance(percentile(histogram, 0.5), int)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 1), (0.501, 4), (0.75, 4), (0.76, 9), (1.0, 9)])
def test_a_percentile_is_the_smallest_value_that_covers_the_share(share: float, value: int) -> None:
    assert percentile({9: 1, 1: 2, 4: 1}, share) == value


def test_neighbours_are_put_together_and_none_is_lost() -> None:
    assert binned({3: 1, 4: 2, 5: 4, 9: 8}, least=3, width=2) == {3: 3, 5: 4, 9: 8}
    assert binned({3: 1, 7: 2}, least=0, width=1) == {3: 1, 7: 2}
    assert binned({}, least=0, width=5) == {}
