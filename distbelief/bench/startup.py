"""Bench: from the command to the first update, in seconds, and the memory of all processes of the run together.

Measured from outside, on the command that a person types: each round launches a run of one epoch in a process of its
own and reads its summary. Memory is each process's share (PSS), so that pages that several hold count once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from distbelief.bench.harness import Spread, bar, tell
from distbelief.rundir import SUMMARY
from ps.errors import RunFailed, require

LOOK_SECONDS = 0.5  # between two looks at the memory
PROGRAM = "from distbelief.cli import main; main()"


def startup_command(preset: str, workers: int, runs: int, as_json: bool) -> int:
    """`distbelief bench startup`: prints a table, or one JSON object. Returns the exit code.

    Raises:
        BadInput: Fewer than one run or worker.
        RunFailed: A run did not end as it should.
    """
    require(workers >= 1, "--workers", workers, "at least 1")
    require(runs >= 1, "--runs", runs, "at least 1")
    found: list[tuple[float, float]] = []
    with bar(f"launches of {preset}") as progress:
        for number in range(runs):
            found.append(_launched(["--preset", preset, "--workers", str(workers), "--epochs", "1"]))
            progress(number + 1, runs)
    seconds, memory = (Spread.of(values) for values in zip(*found, strict=True))
    facts: dict[str, Any] = {"preset": preset, "workers": workers, "runs": runs}
    facts |= {"first_update_seconds": seconds.median, "peak_memory_bytes": memory.median}
    facts["spread"] = {"first_update_seconds": seconds.as_json(), "peak_memory_bytes": memory.as_json()}
    tell(facts, _table(f"{preset}, {workers} workers, {runs} runs", seconds, memory), as_json)
    return 0


def _launched(options: Sequence[str]) -> tuple[float, float]:
    """Seconds to the first update of one run, and the most memory that it took, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PROGRAM, "launch", *options, "--run", f"{folder}/run"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, _memory(process.pid))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_SECONDS)
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
        if process.returncode:
            raise RunFailed(f"launch: exit code {process.returncode}: {said[-1] if said else 'it said nothing'}")
        summary = json.loads((Path(folder) / "run" / SUMMARY).read_bytes())
        return float(summary["first_update_seconds"]), float(peak)


def _memory(process: int) -> int:
    """Bytes that a process and all below it take now."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(process)
        for each in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += each.memory_full_info().pss
    return total


def _table(title: str, seconds: Spread, memory: Spread) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="cyan")
    for head in ("", "median", "from", "to"):
        table.add_column(head, justify="right" if head else "left")
    for name, spread, scale in (("first update, s", seconds, 1.0), ("peak memory, GiB", memory, 2.0**30)):
        table.add_row(name, *(f"{value / scale:.2f}" for value in (spread.median, spread.lowest, spread.highest)))
    return table
