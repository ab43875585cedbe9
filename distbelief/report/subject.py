"""Subject: a run as it lies on disk, read for its page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distbelief import rundir
from distbelief.config import Config
from distbelief.histogram import total
from distbelief.report.history import History
from distbelief.summary import VIRTUAL_START


@dataclass(frozen=True, slots=True)
class Subject:
    """A run as it lies on disk.

    Attributes:
        summary: summary.json; None if there is none.
        metrics: The lines of metrics.jsonl.
        began: The run's start, on the journals' clock in seconds.
    """

    folder: Path
    config: Config
    summary: dict[str, Any] | None
    metrics: tuple[dict[str, Any], ...]
    history: History
    began: float

    @classmethod
    def read(cls, folder: Path) -> Subject:
        """Raises BadInput if this is no run directory, JournalDamaged if one of its journals is damaged."""
        config = rundir.config_of(folder)
        history = History.read(folder / rundir.JOURNAL)
        path = folder / rundir.SUMMARY
        summary = json.loads(path.read_bytes()) if path.is_file() else None
        began = rundir.started(folder) or history.opened or 0.0
        return cls(folder.resolve(), config, summary, read_metrics(folder), history, began)

    @property
    def simulated(self) -> bool:
        """Whether its times are virtual: the summary says so, or the journals begin where virtual time does."""
        if self.summary is not None:
            return self.summary.get("clock") == "simulated"
        return self.history.opened == VIRTUAL_START

    @property
    def learned(self) -> bool:
        """Whether there were gradients."""
        return not self.simulated or self.config.simulate.gradients == "real"

    @property
    def clock(self) -> str:
        """What its times are."""
        return "virtual time" if self.simulated else "time since the command"

    @property
    def staleness(self) -> Counter[int]:
        """Of every gradient on every shard."""
        if self.summary:
            return Counter({int(value): n for value, n in self.summary["staleness"]["histogram"].items()})
        return total([dict(counts) for counts in self.history.by_shard.values()])


def read_metrics(folder: Path) -> tuple[dict[str, Any], ...]:
    """The whole lines of a run's metrics.jsonl; none if it has none."""
    path = folder / rundir.METRICS
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    return tuple(json.loads(line) for line in lines if line.endswith("\n"))
