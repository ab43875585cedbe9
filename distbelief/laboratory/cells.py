"""Cells: one run of a grid, wherever it is computed. Its directory appears whole, or not at all."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from distbelief.config import Config
from distbelief.progress import Fact, Moment
from distbelief.simulate import simulate
from ps.ledger import Ending

UNFINISHED = ".unfinished-"  # how the directories begin in which cells are computed


@dataclass(frozen=True, slots=True)
class Job:
    """A cell to compute.

    Attributes:
        name: Of its directory.
        folder: Where that is to be; "" where the laboratory's directory cannot be reached.
    """

    name: str
    config: Config
    folder: str


class Silent:
    """A view of a run that shows nothing: many run at once."""

    def begin(self, facts: Sequence[Fact]) -> None:
        """Nothing."""

    def phase(self, text: str) -> None:
        """Nothing."""

    def show(self, moment: Moment) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def end(self, facts: Sequence[Fact]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def run_cell(job: Job) -> bytes:
    """Simulate a cell. Returns its directory as an archive, or nothing if it was put where it is to be.

    Raises:
        KeyboardInterrupt: A signal ended it.
        BadInput: It cannot be run.
    """
    with TemporaryDirectory(prefix=UNFINISHED, dir=job.folder or None) as scratch:
        made = Path(scratch) / job.name
        run = replace(job.config.run, folder=str(made))
        summary = simulate(replace(job.config, run=run), Silent())
        if summary["stopped_by"] == Ending.SIGNAL.value:
            raise KeyboardInterrupt
        if job.folder:
            made.rename(Path(job.folder) / job.name)
            return b""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(made, job.name)
        return packed.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Put the directory in an archive from `run_cell` where it is to be."""
    with TemporaryDirectory(prefix=UNFINISHED, dir=folder) as scratch:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
            packed.extractall(scratch, filter="data")
        (made,) = Path(scratch).iterdir()
        made.rename(folder / made.name)
