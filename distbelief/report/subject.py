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
from ps.errors import BadInput
from ps.wire.files import SUFFIX

SUMMED = (
    "parameters", "updates", "seconds", "images_per_second", "staleness", "leases", "skipped_examples",
    "skipped_average_versions", "train_loss", "evaluation", "journal_sha256", "replayable", "stopped_by", "message",
)  # fmt: skip
MEASURED = {"kind", "seconds", "samples"}


@dataclass(frozen=True, slots=True)
class Subject:
    """A run as it lies on disk.

    Attributes:
        summary: summary.json; None if there is none.
        metrics: The lines of metrics.jsonl.
        began: The run's start, on the journals' clock in seconds.
        lacking: Actors that a run has, ledger and shards, and whose journal is not there.
        damaged: Whole lines of metrics.jsonl that say nothing.
    """

    folder: Path
    config: Config
    summary: dict[str, Any] | None
    metrics: tuple[dict[str, Any], ...]
    history: History
    began: float
    lacking: tuple[str, ...] = ()
    damaged: int = 0

    @classmethod
    def read(cls, folder: Path) -> Subject:
        """Raises BadInput if this is no run directory or its summary is damaged, JournalDamaged if a journal is."""
        config = rundir.config_of(folder)
        history = History.read(folder / rundir.JOURNAL)
        path = folder / rundir.SUMMARY
        summary = rundir.json_object(path)
        if summary is not None and (missing := [key for key in SUMMED if key not in summary]):
            raise BadInput(f"{path}: got no {missing[0]}, expected one; the file is damaged")
        shards = config.cluster.shards if summary is None else summary.get("shards", config.cluster.shards)
        actors = ["ledger", *(f"shard-{shard}" for shard in range(shards))]
        lacking = tuple(name for name in actors if not (folder / rundir.JOURNAL / f"{name}{SUFFIX}").is_file())
        metrics, damaged = read_metrics(folder)
        began = rundir.started(folder) or history.opened or 0.0
        return cls(folder.resolve(), config, summary, metrics, history, began, lacking, damaged)

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


def read_metrics(folder: Path) -> tuple[tuple[dict[str, Any], ...], int]:
    """The whole lines of a run's metrics.jsonl, none if it has none, and how many of them are damaged and left out."""
    path = folder / rundir.METRICS
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    whole = [_line(line) for line in lines if line.endswith(b"\n")]
    return tuple(line for line in whole if line), whole.count(None)


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and line.keys() >= MEASURED else None
