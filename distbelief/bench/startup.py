"""Bench: from the command to the first update, in seconds, and the memory of all processes of the run together.

Measured from outside, on the command that a person types: each round launches a run of one epoch in a process of its
own and reads its summary. Memory is each process's share (PSS), so that pages that several hold count once.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table

from distbelief.bench.harness import Spread, bar, tell
from distbelief.bench.launching import launched
from ps.errors import require


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
            summary, peak = launched(["--preset", preset, "--workers", str(workers), "--epochs", "1"], weighed=True)
            found.append((float(summary["first_update_seconds"]), float(peak)))
            progress(number + 1, runs)
    seconds, memory = (Spread.of(values) for values in zip(*found, strict=True))
    facts: dict[str, Any] = {"preset": preset, "workers": workers, "runs": runs}
    facts |= {"first_update_seconds": seconds.median, "peak_memory_bytes": memory.median}
    facts["spread"] = {"first_update_seconds": seconds.as_json(), "peak_memory_bytes": memory.as_json()}
    tell(facts, _table(f"{preset}, {workers} workers, {runs} runs", seconds, memory), as_json)
    return 0


def _table(title: str, seconds: Spread, memory: Spread) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="cyan")
    for head in ("", "median", "from", "to"):
        table.add_column(head, justify="right" if head else "left")
    for name, spread, scale in (("first update, s", seconds, 1.0), ("peak memory, GiB", memory, 2.0**30)):
        table.add_row(name, *(f"{value / scale:.2f}" for value in (spread.median, spread.lowest, spread.highest)))
    return table
