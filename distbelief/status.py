"""Status: what a run is doing now, asked of its actors while it goes on; how it ended, from its summary afterwards.

Nothing is written, and the run does not notice. An actor that does not answer is named, and the others are shown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
from msgspec import to_builtins

from distbelief import rendezvous
from distbelief.conservation import complaint
from distbelief.finite import without_nan
from distbelief.histogram import mean, percentile
from distbelief.logs import warnings_of
from distbelief.progress import duration, number, percent, printable
from distbelief.rundir import CONFIG, CONNECTION, JOURNAL, SUMMARY, json_object
from ps.averager import AveragerStatus
from ps.errors import BadInput, PeerLost, PeerRefused
from ps.ledger import LedgerStatus
from ps.shard import ShardStatus
from ps.wire.client import Loop, Peer
from ps.wire.codec import Status, Traffic
from ps.wire.tls import Identity

ASK_SECONDS = 5.0
RUNS = Path("runs")
LEGEND = "(averaged: newest version in the average; skipped: versions that it missed)"

T = TypeVar("T")


def status_command(run: Path | None, as_json: bool) -> int:
    """Print what a run is doing or how it ended; return the exit code, 1 if it neither goes on nor left a summary.

    Args:
        run: Run directory, or elsewhere a copy of its connection.json; None for the newest run under ./runs.
        as_json: Print one JSON object instead of text; what is not known is null.

    Raises:
        BadInput: Not a run directory, or a file in it is damaged.
    """
    folder = newest(RUNS) if run is None else run
    if folder.is_file():
        report: Running | Ended | Lost = running(folder, folder) or Lost(str(folder))
    elif _is_run(folder):
        report = running(folder) or _ended(folder) or Lost(str(folder))
    else:
        raise BadInput(
            f"run: got {folder}, expected a run directory (one with a {CONFIG}) or a copy of its {CONNECTION}; "
            "see distbelief status --help"
        )
    click.echo(json.dumps(without_nan(to_builtins(report)), allow_nan=False) if as_json else report.text())
    return 1 if isinstance(report, Lost) else 0


def newest(runs: Path) -> Path:
    """The run directory under `runs` whose run was started last. Raises BadInput if there is none."""
    found = [folder for folder in runs.iterdir() if _is_run(folder)] if runs.is_dir() else []
    if not found:
        raise BadInput(f"run: got none, expected a run directory under ./{runs}; name one: distbelief status RUN")
    return max(found, key=lambda folder: (_begun(folder), folder.name))


def _marks(folder: Path) -> list[Path]:
    return [mark for mark in (folder / name for name in (CONFIG, CONNECTION, SUMMARY, JOURNAL)) if mark.exists()]


def _is_run(folder: Path) -> bool:
    return bool(_marks(folder))


def _begun(folder: Path) -> float:
    """Seconds; a run writes its config.toml when it starts and never again."""
    return _marks(folder)[0].stat().st_mtime


# --- what there is to report ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShardReport:
    """One shard. Staleness in updates; `averaged`: newest version in the average, None if that is not known;
    `by_memory`, `by_network`: exchanges, by the way that their vectors took; `kernel`: what makes its updates;
    `standby`: how its standby is, empty in a run without.
    """

    shard: int
    version: int
    samples: int
    staleness_mean: float
    staleness_p95: float
    rate: float
    duplicates: int
    refused: int
    skipped_samples: int
    averaged: int | None
    by_memory: int
    by_network: int
    kernel: str
    standby: str = ""

    @classmethod
    def of(cls, status: ShardStatus, traffic: Traffic, averager: AveragerStatus | None) -> ShardReport:
        averaged = averager.versions[status.shard] if averager and status.shard < len(averager.versions) else None
        return cls(
            status.shard, status.version, status.samples, mean(status.staleness), percentile(status.staleness, 0.95),
            status.rate, status.duplicates, status.refused, status.skipped_samples, averaged,
            traffic.by_memory, traffic.by_network, status.kernel, status.standby,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Running:
    """A run that goes on. The actors are asked at once: their numbers may be a few updates apart.

    Attributes:
        pid: Process that drives the run.
        progress: Share of the run's samples that are done; None if the ledger did not answer, as is `ledger`.
        silent: Actors that did not answer.
        strangers: Calls that the actors refused because they came without the run's token.
        join: Where processes outside the cluster may join.
        policy: What the policy made of one worker's settings; empty if nothing.
        prefetch: Whether workers pull ahead.
        warnings: What the run's driver has warned of; read from the run directory, and empty where that is not.
    """

    run: str
    pid: int
    workers: int
    total_samples: int
    progress: float | None
    ledger: LedgerStatus | None
    shards: tuple[ShardReport, ...]
    averager: AveragerStatus | None
    silent: tuple[str, ...]
    strangers: int
    join: str = field(default="", kw_only=True)
    policy: str = field(default="", kw_only=True)
    prefetch: bool = field(default=False, kw_only=True)
    warnings: tuple[str, ...] = field(default=(), kw_only=True)
    state: str = field(default="running", kw_only=True)

    def text(self) -> str:
        lines = [("run", self.run), ("state", f"{self.state} (process {self.pid})")]
        if self.silent:
            lines.append(("no answer", ", ".join(self.silent)))
        if ledger := self.ledger:
            lines += [
                ("progress", f"{percent(self.progress, 1)}, {ledger.samples:,} of {self.total_samples:,} samples"),
                ("workers", f"{ledger.workers:,} of {self.workers:,}"),
                ("leases", f"{ledger.finished:,} of {ledger.leases:,} finished, {ledger.outstanding:,} outstanding, "
                           f"{ledger.granted:,} granted, {ledger.reissued:,} of them again"),
                ("loss", f"{number(ledger.recent_loss, 4)}, training error {percent(ledger.recent_error)}"),
                ("skipped", f"{ledger.skipped:,} unreadable examples"),
            ]  # fmt: skip
            if ledger.quarantined:
                named = ", ".join(map(str, ledger.quarantined))
                lines.append(("quarantined", f"workers {named}: gradients not finite where others' were"))
        if self.policy:
            lines.append(("policy", self.policy))
        if self.shards:
            memory = sum(shard.by_memory for shard in self.shards)
            network = sum(shard.by_network for shard in self.shards)
            ahead = ", weights pulled ahead" if self.prefetch else ""
            told = f"{memory:,} exchanges through shared memory, {network:,} over the network{ahead}"
            lines.append(("vectors", told))
            lines.append(("kernel", ", ".join(sorted({shard.kernel for shard in self.shards}))))
        if self.join:
            lines.append(("to join", rendezvous.command(self.join, Path(self.run))))
        if self.strangers:
            lines.append(("no token", f"{self.strangers:,} calls refused"))
        lines += [("warning", warning) for warning in self.warnings]
        text = _facts(lines)
        return f"{text}\n\n{_table(self._shard_rows())}\n{LEGEND}" if self.shards else text

    def _shard_rows(self) -> list[list[str]]:
        names = ["shard", "version", "staleness", "p95", "rate", "duplicate", "refused", "averaged", "skipped"]
        rows = [names] + [
            [
                str(shard.shard), f"{shard.version:,}", number(shard.staleness_mean), number(shard.staleness_p95, 0),
                f"{shard.rate:.4g}", f"{shard.duplicates:,}", f"{shard.refused:,}",
                "-" if shard.averaged is None else f"{shard.averaged:,}", f"{shard.skipped_samples:,}",
            ]
            for shard in self.shards
        ]  # fmt: skip
        if any(shard.standby for shard in self.shards):
            column = ["standby", *(shard.standby for shard in self.shards)]
            rows = [[*row, cell] for row, cell in zip(rows, column, strict=True)]
        return rows


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that ended and was summed up. Errors are fractions; None: not evaluated. `broken`: which law its
    journals break, if any.
    """

    run: str
    stopped_by: str
    message: str
    updates: int
    samples: int
    epochs: float
    seconds: float
    average_error: float | None
    broken: str = ""
    warnings: tuple[str, ...] = field(default=(), kw_only=True)
    state: str = field(default="ended", kw_only=True)

    def text(self) -> str:
        how = f"{self.state} ({self.stopped_by})" + (f": {self.message}" if self.message else "")
        return _facts(
            [
                ("run", self.run),
                ("state", how),
                ("updates", f"{self.updates:,}"),
                ("samples", f"{self.samples:,} in {self.epochs:.2f} epochs"),
                ("time", duration(self.seconds)),
                ("average error", percent(self.average_error)),
                *([("accounting", self.broken)] if self.broken else []),
                *(("warning", warning) for warning in self.warnings),
            ]
        )


@dataclass(frozen=True, slots=True)
class Lost:
    """A run of which nobody answers and that left no summary."""

    run: str
    state: str = field(default="ended without a summary", kw_only=True)

    def text(self) -> str:
        hint = "nobody answers: it was killed, or it is only starting"
        return _facts([("run", self.run), ("state", f"{self.state} ({hint})")])


# --- a run that goes on -----------------------------------------------------------------------------------------------


def running(folder: Path, path: Path | None = None) -> Running | None:
    """What the run's actors say; None if there are none. `path`: the file that says where they are, by default the
    run directory's own.
    """
    path = path or folder / CONNECTION
    if (content := json_object(path)) is None:
        return None
    targets = _field(content, "targets", dict, path)
    identity = None
    if certificate := content.get("certificate"):
        identity = Identity(str(certificate).encode(), name=str(content.get("name", "")))
    answers = _ask_all(targets, _field(content, "token", str, path), identity)
    said = [answer for answer in answers.values() if answer is not None]
    if not said:
        return None
    ledger = next((status for status, _ in said if isinstance(status, LedgerStatus)), None)
    averager = next((status for status, _ in said if isinstance(status, AveragerStatus)), None)
    shards = [ShardReport.of(status, traffic, averager) for status, traffic in said if isinstance(status, ShardStatus)]
    total = _field(content, "total_samples", int, path)
    return Running(
        str(folder),
        _field(content, "pid", int, path),
        _field(content, "workers", int, path),
        total,
        min(ledger.samples / max(total, 1), 1.0) if ledger else None,
        ledger,
        tuple(sorted(shards, key=lambda report: report.shard)),
        averager,
        tuple(name for name, answer in answers.items() if answer is None),
        sum(traffic.unauthenticated for _, traffic in said),
        join=str(content.get("join", "")),
        policy=str(content.get("policy", "")),
        prefetch=bool(content.get("prefetch", False)),
        warnings=tuple(warnings_of(folder)),
        state=f"ending: {ledger.ending}" if ledger and ledger.ending else "running",
    )


def _ask_all(
    targets: Mapping[str, object], token: str, identity: Identity | None
) -> dict[str, tuple[Status, Traffic] | None]:
    """Every actor's answer by its name, None from those that gave none."""

    async def ask(target: str) -> tuple[Status, Traffic] | None:
        peer = Peer(target, token, identity=identity)
        try:
            return await peer.report(ASK_SECONDS)
        except (PeerLost, PeerRefused):
            return None  # gone, or another run's actor that got its port
        finally:
            await peer.close()

    async def ask_all() -> list[tuple[Status, Traffic] | None]:
        return await asyncio.gather(*[ask(str(target)) for target in targets.values()])

    loop = Loop("distbelief-status")
    try:
        return dict(zip(targets, loop.run(ask_all()), strict=True))
    finally:
        loop.close()


# --- a run that ended -------------------------------------------------------------------------------------------------


def _ended(folder: Path) -> Ended | None:
    """How the run ended; None if it left no summary."""
    path = folder / SUMMARY
    if (content := json_object(path)) is None:
        return None
    average = _field(_field(content, "evaluation", dict, path), "average", dict, path)
    error = average.get("top1_error")
    return Ended(
        str(folder),
        _field(content, "stopped_by", str, path),
        str(content.get("message", "")),
        _field(content, "updates", int, path),
        _field(content, "samples", int, path),
        float(_field(content, "epochs", (int, float), path)),
        float(_field(content, "seconds", (int, float), path)),
        float(error) if isinstance(error, int | float) else None,
        complaint(content.get("conservation")),
        warnings=tuple(map(str, content.get("warnings") or ())),
    )


# --- files and text ---------------------------------------------------------------------------------------------------


def _field(content: Mapping[str, Any], name: str, kind: type[T] | tuple[type[T], ...], path: Path) -> T:
    """One value of a JSON object. Raises BadInput if it is missing or of another kind."""
    value = content.get(name)
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(each.__name__ for each in kinds)
        raise BadInput(f"{path}: got {value!r} for {name}, expected {expected}; the file is damaged")
    return value


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:{width}}  {printable(value)}" for name, value in facts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, two spaces apart, flush right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
