"""Logs: one line of JSON per event, all actors in one place, in the order of time, followed while the run goes on."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.logs import FOLDER, LogFile, logging_to
from distbelief import logs
from distbelief.logs import LoggedView, Reader, logs_command, warnings_of
from distbelief.progress import Fact, Moment
from ps.errors import BadInput


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with three actors' logs, not in the order of time."""
    (tmp_path / "config.toml").touch()
    (tmp_path / FOLDER).mkdir()
    write(tmp_path, "driver", (10.25, "info", "begins"), (13.0, "warning", "something is wrong"))
    write(tmp_path, "shard-0", (11.0, "info", "listening"), (14.0, "error", "lost"))
    write(tmp_path, "shard-1", (12.0, "info", "listening too"))
    return tmp_path


def write(run: Path, actor: str, *lines: tuple[float, str, str]) -> None:
    with (run / FOLDER / f"{actor}.jsonl").open("a") as file:
        for time, level, message in lines:
            file.write(json.dumps({"time": time, "level": level, "actor": actor, "message": message}) + "\n")


def shown(
    capsys: pytest.CaptureFixture[str], run: Path, actors: Sequence[str] = (), level: str = "info", follow: bool = False
) -> list[str]:
    assert logs_command(run, actors, level, follow, False) == 0
    return [line[14:] for line in capsys.readouterr().out.splitlines()]  # behind the time of day


# --- what is written --------------------------------------------------------------------------------------------------


def test_what_an_actor_logs_is_a_line_of_json(tmp_path: Path) -> None:
    with logging_to(tmp_path, "shard-0"):
        logging.getLogger("distbelief.x").info("took %d", 3)
        logging.getLogger("elsewhere").warning("not ours, and this process is not the run's alone")
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("distbelief.x").exception("failed")
    logging.getLogger("distbelief.x").info("after the end")
    first, second = (json.loads(line) for line in (tmp_path / FOLDER / "shard-0.jsonl").read_text().splitlines())
    assert first.pop("time") > 1e9
    assert first == {"level": "info", "actor": "shard-0", "message": "took 3"}
    assert second["level"] == "error"
    assert second["traceback"].endswith("ValueError: why")


def test_others_lines_name_their_source_and_an_unwritable_folder_costs_nothing(tmp_path: Path) -> None:
    record = logging.LogRecord("grpc", logging.CRITICAL, "", 0, "bad", (), None)
    for folder in (tmp_path, tmp_path / "gone"):
        handler = LogFile(folder, "host-0")
        handler.emit(record)
        handler.close()
    line = json.loads((tmp_path / FOLDER / "host-0.jsonl").read_text())
    assert (line["level"], line["from"]) == ("error", "grpc")


def test_a_name_that_is_not_utf_8_can_be_logged(tmp_path: Path) -> None:
    handler = LogFile(tmp_path, "host-0")
    handler.emit(logging.LogRecord("distbelief", logging.WARNING, "", 0, "skipped: caf\udce9.jpg", (), None))
    handler.close()
    assert json.loads((tmp_path / FOLDER / "host-0.jsonl").read_text())["message"].startswith("skipped: caf")


class Screen:
    """A view that notes what it is told."""

    def __init__(self) -> None:
        self.noted: list[object] = []

    def begin(self, facts: Sequence[Fact]) -> None:
        self.noted.append(facts)

    phase: Callable[[str], None]
    say: Callable[[str], None]

    def show(self, moment: Moment) -> None:
        self.noted.append(moment)

    def end(self, facts: Sequence[Fact]) -> None:
        self.noted.append(facts)

    def close(self) -> None:
        self.noted.append("close")


def test_what_a_person_sees_is_in_the_driver_s_log(tmp_path: Path) -> None:
    screen = Screen()
    screen.phase = screen.say = screen.noted.append  # type: ignore[assignment]
    view: Any = LoggedView(screen)
    with logging_to(tmp_path, "driver"):
        view.begin([("run", "here"), ("data", "digits")])
        view.phase("starting Ray")
        view.say("warning: worker 3 is 100% slow")
        view.say("note: all is well")
        view.end([("ended by", "completed")])
        view.close()
    assert len(screen.noted) == 6
    assert warnings_of(tmp_path) == ["worker 3 is 100% slow"]
    told = [line["message"] for line in Reader(tmp_path / FOLDER).more()]
    assert told == [
        "begins: run here; data digits", "starting Ray", "worker 3 is 100% slow", "note: all is well",
        "ends: ended by completed",
    ]  # fmt: skip


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_all_actors_in_the_order_of_time(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, run) == [
        "driver    begins", "shard-0   listening", "shard-1   listening too",
        "driver    warning: something is wrong", "shard-0   error: lost",
    ]  # fmt: skip


def test_actors_and_levels(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(shown(capsys, run, ["shard"])) == 3
    assert shown(capsys, run, ["shard-1"]) == ["shard-1   listening too"]
    assert shown(capsys, run, ["shard-1", "driver"], "warning") == ["driver    warning: something is wrong"]
    assert len(shown(capsys, run, level="warning")) == 2


def test_nothing_to_show_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs_command(run, ["shard-1"], "error", False, False) == 0
    assert capsys.readouterr().err == "nothing to show: no actor wrote a line of level error or above\n"


def test_json_is_what_is_in_the_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs_command(run, ["driver"], "info", False, True) == 0
    out = capsys.readouterr().out
    assert out == (run / FOLDER / "driver.jsonl").read_text()


def test_a_damaged_line_is_shown_and_half_a_line_waits(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (run / FOLDER / "shard-1.jsonl").open("ab") as file:
        file.write(b"\xffjunk\x1b\n")
        for time, actor in (('"noon"', '"shard-1"'), ("1e300", '"shard-1"'), ("NaN", '"shard-1"'), ("1.0", "[1]")):
            file.write(f'{{"time": {time}, "level": "info", "actor": {actor}, "message": "m"}}\n'.encode())
        file.write(b'{"time": 15.0, "level": "info",')
    first, *others, last = shown(capsys, run)
    assert first.startswith("shard-1   error: damaged: ")
    assert all(line.startswith('shard-1   error: damaged: {"time"') for line in others[:4])
    assert "\x1b" not in first
    assert last == "shard-0   error: lost"


def test_a_run_is_followed_to_its_end(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "connection.json").touch()
    waits = iter(range(10))

    def sleep(_: float) -> None:
        if next(waits) == 1:
            (run / "connection.json").unlink()
        write(run, "ledger", (20.0, "info", "more"))

    monkeypatch.setattr(logs.time, "sleep", sleep)
    assert shown(capsys, run, ["ledger"], follow=True) == ["ledger    more", "ledger    more"]


def test_mistakes(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--actor: got shrd-1, expected one of driver, shard-0, shard-1 \(did you mean"):
        logs_command(run, ["shrd-1"], "info", False, False)
    with pytest.raises(BadInput, match="--level: got 'loud', expected one of debug, info, warning, error"):
        logs_command(run, [], "loud", False, False)
    with pytest.raises(BadInput, match=r"run: got '.*', expected a run directory \(one with a config.toml\)"):
        logs_command(tmp_path / "gone", [], "info", False, False)


def test_many_threads_mix_no_lines(tmp_path: Path) -> None:
    def much() -> None:
        for number in range(200):
            logging.getLogger("distbelief.x").info("%d %s", number, "x" * 200)

    with logging_to(tmp_path, "host-0"):
        threads = [threading.Thread(target=much) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(len(line["message"]) > 200 for line in Reader(tmp_path / FOLDER).more()) == 800
