"""Finite: what JSON has no number for is null, wherever it stands."""

from __future__ import annotations

import json
import math

from distbelief.finite import without_nan


def test_what_is_not_finite_is_null_and_all_else_stays() -> None:
    given = {"a": math.nan, "b": [1, -math.inf, (2.5, math.inf)], "c": {"d": "nan", "e": None, "f": True}}
    found = without_nan(given)
    assert found == {"a": None, "b": [1, None, [2.5, None]], "c": {"d": "nan", "e": None, "f": True}}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
