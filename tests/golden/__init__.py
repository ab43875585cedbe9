"""Pinned trajectories: numbers that must not change unless somebody means them to.

    pytest --rewrite-golden tests/ps        writes them anew; look at the difference before you keep it

They are compared within a relative 1e-4: instruction sets round differently, and bits are compared by replay.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
Numbers = dict[str, list[float]]


class Golden:
    """One test file's pinned numbers, by name."""

    def __init__(self, name: str, rewrite: bool) -> None:
        self._file = FOLDER / f"{name}.json"
        self._rewrite = rewrite

    def check(self, key: str, numbers: list[float]) -> None:
        """These are the numbers that are pinned under this key; or pin them, if that was asked for."""
        pinned: Numbers = json.loads(self._file.read_text()) if self._file.exists() else {}
        if self._rewrite:
            pinned[key] = numbers
            self._file.write_text(json.dumps(pinned, indent=1, sort_keys=True) + "\n")
        assert key in pinned, f"nothing is pinned for {key}: pytest --rewrite-golden"
        assert numbers == pytest.approx(pinned[key], rel=1e-4, abs=1e-6)
