"""Progress: what a person sees while a run goes on. On a terminal a live panel, elsewhere plain lines.

A view shows what it is given and reads no clock: time enters with each Moment, so that a view can be tested and a
recorded run be shown again. Errors are fractions in a Moment and percentages on the screen; what is not known (None,
NaN) is shown as "-".
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.status import Status
from rich.table import Table
from rich.text import Text

REFRESH_SECONDS = 0.25  # a terminal is drawn at most this often
LINE_SECONDS = 10.0  # a plain line appears after this long ...
LINE_SHARE = 0.05  # ... or after this share of the run's samples
WIDE_COLUMNS = 80  # from here on all numbers stand side by side, below in rows of `NARROW_TILES`
NARROW_TILES = 3

Fact = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Moment:
    """A run at one moment.

    Attributes:
        seconds: Since training began.
        updates: Leases finished.
        samples: Examples in them, of `total_samples` in the whole run.
        epochs: Passes over the training set done, with fraction.
        images_per_second: Throughput of the last seconds.
        updates_per_second: Likewise.
        workers_alive: Logical workers at work, of `workers`.
        staleness_mean: Updates between a pull and the application of its gradient; NaN before the first.
        staleness_p95: 95 % of the updates were at most this stale.
        loss: Mean main loss of the last leases, in nats; NaN before the first.
        average_error: Top-1 error of the averaged model, a fraction; None before its first evaluation.
        eta_seconds: Time left; None while nothing can be said.
    """

    seconds: float
    updates: int
    samples: int
    total_samples: int
    epochs: float
    images_per_second: float
    updates_per_second: float
    workers_alive: int
    workers: int
    staleness_mean: float
    staleness_p95: float
    loss: float
    average_error: float | None
    eta_seconds: float | None

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        return min(self.samples / self.total_samples, 1.0) if self.total_samples else 1.0


class View(Protocol):
    """Shows one run: `begin`; `phase`, `show` and `say` in any order; `end` if there is a result; always `close`."""

    def begin(self, facts: Sequence[Fact]) -> None:
        """Show what is known before the run starts, as (name, value)."""

    def phase(self, text: str) -> None:
        """Show what goes on while nothing can be measured, until the next phase or moment."""

    def show(self, moment: Moment) -> None:
        """Show the run's numbers. Cheap: call it as often as there are new ones."""

    def say(self, line: str) -> None:
        """Show one line that stays on the screen: an evaluation's result, a warning."""

    def end(self, facts: Sequence[Fact]) -> None:
        """Show what the run came to, as (name, value)."""

    def close(self) -> None:
        """Leave the screen as a shell expects it. A second call does nothing."""


def view_for(stream: TextIO) -> View:
    """The view that suits a stream: live on a terminal that can move its cursor, plain lines elsewhere."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a name that the stream cannot write must not end a run
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    live = stream.isatty() and console.is_terminal and not console.is_dumb_terminal
    return TerminalView(console) if live else PlainView(stream)


class PlainView:
    """A line per 10 seconds or 5 % of the run, whichever comes first: names and values, no control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._written: Moment | None = None
        self._moment: Moment | None = None

    def begin(self, facts: Sequence[Fact]) -> None:
        for name, value in facts:
            self._write(f"{name}  {value}")

    def phase(self, text: str) -> None:
        self._catch_up()
        self._write(f"phase  {text}")

    def show(self, moment: Moment) -> None:
        self._moment = moment
        last = self._written
        if (
            last is None
            or moment.seconds - last.seconds >= LINE_SECONDS
            or moment.samples - last.samples >= LINE_SHARE * moment.total_samples
        ):
            self._catch_up()

    def say(self, line: str) -> None:
        self._write(line)

    def end(self, facts: Sequence[Fact]) -> None:
        self._catch_up()
        self.begin(facts)

    def close(self) -> None:
        self._catch_up()

    def _catch_up(self) -> None:
        """Write the newest moment if it is not written yet."""
        if self._moment is not None and self._moment is not self._written:
            self._written = self._moment
            self._write("  ".join(f"{name} {value}" for name, value in _pairs(self._moment)))

    def _write(self, line: str) -> None:
        self._stream.write(printable(line) + "\n")
        self._stream.flush()


class TerminalView:
    """A panel that is redrawn in place; whatever else is printed meanwhile scrolls by above it.

    Args:
        console: Where to draw; the view hides its cursor until `close`.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._live: Live | None = None
        self._drawn_seconds = -math.inf
        self._moment: Moment | None = None

    def begin(self, facts: Sequence[Fact]) -> None:
        self._console.print(_grid(facts))
        self._console.print()

    def phase(self, text: str) -> None:
        self._stop_live()
        line = Text(printable(text))
        if self._status is None:
            spinner = "line" if self._console.options.ascii_only else "dots"
            self._status = self._console.status(line, spinner=spinner, refresh_per_second=1 / REFRESH_SECONDS)
            self._status.start()
        else:
            self._status.update(line)

    def show(self, moment: Moment) -> None:
        self._stop_status()
        self._moment = moment
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        elif moment.seconds - self._drawn_seconds < REFRESH_SECONDS:
            return
        self._draw(self._live, moment)

    def say(self, line: str) -> None:
        self._console.print(Text(printable(line)))

    def end(self, facts: Sequence[Fact]) -> None:
        self.close()
        self._console.print(_panel("result", _grid(facts)))

    def close(self) -> None:
        self._stop_status()
        self._stop_live()

    def _draw(self, live: Live, moment: Moment) -> None:
        self._drawn_seconds = moment.seconds
        live.update(_dashboard(moment, self._console.width), refresh=True)

    def _stop_status(self) -> None:
        if self._status is not None:
            status, self._status = self._status, None
            status.stop()

    def _stop_live(self) -> None:
        """Leave the newest moment on the screen and give the cursor back."""
        if self._live is None:
            return
        live, self._live = self._live, None
        try:
            if self._moment is not None:
                self._draw(live, self._moment)
        finally:
            self._drawn_seconds = -math.inf
            live.stop()


# --- the terminal's pieces --------------------------------------------------------------------------------------------


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=Text(title, "bold"), title_align="left", border_style="dim", padding=(0, 1))


def _grid(facts: Sequence[Fact]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(printable(name)), Text(printable(value)))
    return grid


def _dashboard(moment: Moment, width_columns: int) -> Group:
    """Everything that moves, in a panel of the screen's width, and below it a free line for the terminal's "^C"."""
    tiles = _tiles(moment)
    across = len(tiles) if width_columns >= WIDE_COLUMNS else NARROW_TILES
    rows = [tiles[first : first + across] for first in range(0, len(tiles), across)]
    panel = _panel("training", Group(_bar(moment), Text(), *[_row(row, across) for row in rows]))
    return Group(panel, Text())


def _bar(moment: Moment) -> Table:
    left = duration(moment.eta_seconds)
    line = Table.grid(expand=True, padding=(0, 2))
    line.add_column(ratio=1)
    for style in ("bold", "", "", "cyan"):
        line.add_column(style=style, no_wrap=True, justify="right")
    line.add_row(
        ProgressBar(total=1.0, completed=moment.share),
        percent(moment.share, 1),
        f"epoch {moment.epochs:.1f}",
        duration(moment.seconds),
        left if left == "-" else f"{left} left",
    )
    return line


@dataclass(frozen=True, slots=True)
class _Tile:
    """One number under its name; `columns` weighs its width against its neighbours'."""

    name: str
    value: str
    columns: int
    style: str = "bold"


def _tiles(moment: Moment) -> list[_Tile]:
    lost = moment.workers_alive < moment.workers
    return [
        _Tile("images/s", number(moment.images_per_second), 9),
        _Tile("updates/s", number(moment.updates_per_second), 10),
        _Tile("workers", f"{moment.workers_alive}/{moment.workers}", 9, "bold yellow" if lost else "bold"),
        _Tile("staleness", number(moment.staleness_mean), 10),
        _Tile("p95", number(moment.staleness_p95, 0), 7),
        _Tile("loss", number(moment.loss, 4), 8),
        _Tile("average error", percent(moment.average_error), 13),
    ]


def _row(tiles: Sequence[_Tile], across: int) -> Table:
    """Tiles side by side, on the places of `across`: those of a last, shorter row stand below the others."""
    grid = Table.grid(expand=True, padding=(0, 1))
    wide = len(tiles) == across > NARROW_TILES
    for place in range(across):
        grid.add_column(ratio=tiles[place].columns if wide else 1, no_wrap=True)
    grid.add_row(*[Text(tile.name, "dim") for tile in tiles])
    grid.add_row(*[Text(tile.value, tile.style) for tile in tiles])
    return grid


# --- numbers as a person reads them -----------------------------------------------------------------------------------


def _pairs(moment: Moment) -> list[Fact]:
    """A plain line's names and values."""
    return [
        ("time", duration(moment.seconds)),
        ("done", percent(moment.share, 1)),
        ("epoch", f"{moment.epochs:.2f}"),
        ("updates", f"{moment.updates:,}"),
        ("images/s", number(moment.images_per_second)),
        ("updates/s", number(moment.updates_per_second)),
        ("workers", f"{moment.workers_alive:,}/{moment.workers:,}"),
        ("staleness", number(moment.staleness_mean)),
        ("p95", number(moment.staleness_p95, 0)),
        ("loss", number(moment.loss, 4)),
        ("average_error", percent(moment.average_error)),
        ("eta", duration(moment.eta_seconds)),
    ]


def duration(seconds: float | None) -> str:
    """For example "42s", "1m 05s", "2h 07m", "3d 04h"; "-" for what is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def number(value: float | None, decimals: int = 1) -> str:
    """For example "38.6", with 4 decimals "0.4321"; without decimals from 1,000 on; "-" for what is not known."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.{decimals if abs(value) < 1000 else 0}f}"


def percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction such as 0.0278 as "2.78 %"; "-" for what is not known."""
    return "-" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{decimals}f} %"


def printable(line: str) -> str:
    """The text on one line, with "?" for every character that could move a cursor."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(line.splitlines()))
