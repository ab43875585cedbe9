"""Logs: what all actors of a run wrote, in one place, in the order of time; followed while the run goes on."""

from __future__ import annotations

import json
import logging
import sys
import time  # noqa: TID251 -- waits for more, and shows a person's time of day
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from cluster.logs import FOLDER, LEVELS, SUFFIX
from distbelief.progress import Fact, Moment, View, printable
from distbelief.rundir import CONFIG, CONNECTION
from ps.errors import BadInput, nearest, require

WAIT_SECONDS = 0.3
WARNING = "warning: "
KEYS: dict[str, type | tuple[type, ...]] = {"time": (int, float), "level": str, "actor": str, "message": str}


def logs_command(run: Path, actors: Sequence[str], level: str, follow: bool, as_json: bool) -> int:
    """`distbelief logs`: print what the run's actors wrote; return the exit code.

    Args:
        run: Run directory.
        actors: Whose; all if empty. "shard" means every shard.
        level: The least that is shown.
        follow: Go on while the run does.
        as_json: Lines as they are in the files.

    Raises:
        BadInput: No such run, level or actor.
    """
    require((run / CONFIG).is_file(), "run", str(run), f"a run directory (one with a {CONFIG})")
    require(level in LEVELS, "--level", level, f"one of {', '.join(LEVELS)}{nearest(level, LEVELS)}")
    folder = run / FOLDER
    known = sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))
    wanted = [name for name in known if any(_is(name, actor) for actor in actors)] if actors else known
    unknown = [actor for actor in actors if not any(_is(name, actor) for name in known)]
    if unknown and not follow:
        raise BadInput(
            f"--actor: got {unknown[0]}, expected one of {', '.join(known) or 'none: this run wrote no logs'}"
            f"{nearest(unknown[0], known)}"
        )
    reader = Reader(folder)
    shown = 0
    for line in reader.lines(lambda: follow and (run / CONNECTION).exists()):
        if (not actors or line["actor"] in wanted or any(_is(line["actor"], actor) for actor in actors)) and _loud(
            line, level
        ):
            shown += 1
            click.echo(json.dumps(line, ensure_ascii=False) if as_json else _text(line))
            sys.stdout.flush()
    if not shown and not as_json:
        click.echo(f"nothing to show: no actor wrote a line of level {level} or above", err=True)
    return 0


@dataclass(slots=True)
class Reader:
    """Reads the log files of a folder, again and again, each from where it stopped."""

    folder: Path
    at: dict[Path, int] = field(default_factory=dict)

    def more(self) -> list[dict[str, Any]]:
        """What was written since the last time, by time; half a line is left for the next."""
        found = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            with path.open("rb") as file:
                file.seek(self.at.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self.at[path] = self.at.get(path, 0) + len(whole)
            found += [line for text in whole.splitlines() if (line := _line(text, path)) is not None]
        return sorted(found, key=lambda line: float(line["time"]))

    def lines(self, goes_on: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Everything, and what comes while the run goes on."""
        while True:
            going = goes_on()  # asked before reading: what was written last is not missed
            yield from self.more()
            if not going:
                return
            time.sleep(WAIT_SECONDS)


class LoggedView:
    """A view that writes what it is told to the run's log as well."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._log = logging.getLogger("distbelief.driver")

    def begin(self, facts: Sequence[Fact]) -> None:
        self._log.info("begins: %s", _joined(facts))
        self._view.begin(facts)

    def phase(self, text: str) -> None:
        self._log.info(text)
        self._view.phase(text)

    def show(self, moment: Moment) -> None:
        self._view.show(moment)

    def say(self, line: str) -> None:
        level = logging.WARNING if line.startswith(WARNING) else logging.INFO
        self._log.log(level, "%s", line.removeprefix(WARNING))
        self._view.say(line)

    def end(self, facts: Sequence[Fact]) -> None:
        self._log.info("ends: %s", _joined(facts))
        self._view.end(facts)

    def close(self) -> None:
        self._view.close()


def warnings_of(run: Path) -> list[str]:
    """What a run's driver has warned of so far."""
    found = Reader(run / FOLDER).more()
    return [str(line["message"]) for line in found if (line["actor"], line["level"]) == ("driver", "warning")]


def _joined(facts: Sequence[Fact]) -> str:
    return "; ".join(f"{name} {value}" for name, value in facts)


def _line(text: bytes, path: Path) -> dict[str, Any] | None:
    """One line; a damaged one is shown as it is."""
    try:
        line = json.loads(text)
        if isinstance(line, dict) and all(isinstance(line.get(key), kind) for key, kind in KEYS.items()):
            time.localtime(line["time"])
            return line
    except (ValueError, OverflowError):  # no JSON, or a time that no clock shows
        pass
    words = text.decode("utf-8", "replace")
    return {"time": 0.0, "level": "error", "actor": path.name.removesuffix(SUFFIX), "message": f"damaged: {words}"}


def _is(name: str, actor: str) -> bool:
    return name == actor or name.startswith(f"{actor}-")


def _loud(line: dict[str, Any], level: str) -> bool:
    return line["level"] not in LEVELS or LEVELS.index(line["level"]) >= LEVELS.index(level)


def _text(line: dict[str, Any]) -> str:
    seconds = float(line["time"])
    when = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03d}"
    if not seconds:
        when = "-" * 12
    source = f" ({line['from']})" if "from" in line else ""
    level = "" if line["level"] == "info" else f"{line['level']}: "
    text = f"{when}  {line['actor']:<9} {printable(level + str(line['message']))}{source}"
    return f"{text}\n{line['traceback']}" if "traceback" in line else text
