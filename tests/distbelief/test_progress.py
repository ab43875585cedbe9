"""Views: exactly what a person reads on a terminal and in a log, from made-up moments."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from distbelief.progress import (
    Moment,
    PlainView,
    TerminalView,
    View,
    duration,
    number,
    percent,
    printable,
    view_for,
)

START = Moment(
    seconds=2.0, updates=0, samples=0, total_samples=10_000, epochs=0.0, images_per_second=0.0, updates_per_second=0.0,
    workers_alive=32, workers=32, staleness_mean=math.nan, staleness_p95=math.nan, loss=math.nan, average_error=None,
    eta_seconds=None,
)  # fmt: skip
LATER = Moment(
    seconds=83.0, updates=1_234, samples=6_500, total_samples=10_000, epochs=26.0, images_per_second=1853.4,
    updates_per_second=57.31, workers_alive=31, workers=32, staleness_mean=30.94, staleness_p95=38, loss=0.17081,
    average_error=0.0278, eta_seconds=29.2,
)  # fmt: skip
FACTS = [("run", "runs/digits-1"), ("model", "inception-mini, 101,234 parameters")]

START_LINE = (
    "time 2s  done 0.0 %  epoch 0.00  updates 0  images/s 0.0  updates/s 0.0  workers 32/32  staleness -  p95 -  "
    "loss -  average_error -  eta -"
)
LATER_LINE = (
    "time 1m 23s  done 65.0 %  epoch 26.00  updates 1,234  images/s 1,853  updates/s 57.3  workers 31/32  "
    "staleness 30.9  p95 38  loss 0.1708  average_error 2.78 %  eta 29s"
)


def plain() -> tuple[PlainView, io.StringIO]:
    stream = io.StringIO()
    return PlainView(stream), stream


def terminal(width: int) -> tuple[TerminalView, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system=None, width=width, height=40, legacy_windows=False)
    return TerminalView(console), stream


def screen(stream: io.StringIO) -> list[str]:
    """All lines that were ever drawn, without what moves the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", stream.getvalue()).split("\n")


# --- plain lines ------------------------------------------------------------------------------------------------------


def test_plain_view_says_everything_on_lines_of_its_own() -> None:
    view, stream = plain()
    view.begin(FACTS)
    view.phase("starting Ray")
    view.show(START)
    view.say("average of 400 updates: error 3.67 %")
    view.show(LATER)
    view.end([("ended by", "completed")])
    view.close()
    assert stream.getvalue().splitlines() == [
        "run  runs/digits-1",
        "model  inception-mini, 101,234 parameters",
        "phase  starting Ray",
        START_LINE,
        "average of 400 updates: error 3.67 %",
        LATER_LINE,
        "ended by  completed",
    ]


@pytest.mark.parametrize(
    ("seconds", "samples", "written"), [(11.9, 499, False), (12.0, 499, True), (2.1, 500, True), (2.1, 499, False)]
)
def test_plain_view_waits_for_ten_seconds_or_a_twentieth_of_the_run(
    seconds: float, samples: int, written: bool
) -> None:
    view, stream = plain()
    view.show(START)
    view.show(replace(START, seconds=seconds, samples=samples))
    assert len(stream.getvalue().splitlines()) == 1 + written


def test_plain_view_writes_the_last_moment_once_when_it_closes() -> None:
    view, stream = plain()
    view.show(START)
    view.show(replace(START, seconds=3.0))
    view.close()
    view.close()
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == ["time 2s", "time 3s"]


def test_plain_view_lets_no_control_character_through() -> None:
    view, stream = plain()
    view.begin([("run", "runs/\x1b[2J")])
    view.say("two\r\nlines\a")
    assert stream.getvalue() == "run  runs/?[2J\ntwo lines?\n"


# --- a terminal -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            80,
            """\
╭─ training ───────────────────────────────────────────────────────────────────╮
│ ━━━━━━━━━━━━━━━━━━━━━━━━╸               65.0 %  epoch 26.0  1m 23s  29s left │
│                                                                              │
│ images/s   updates/s   workers    staleness   p95     loss     average error │
│ 1,853      57.3        31/32      30.9        38      0.1708   2.78 %        │
╰──────────────────────────────────────────────────────────────────────────────╯
""",
        ),
        (
            50,
            """\
╭─ training ─────────────────────────────────────╮
│ ━━━━━     65.0 %  epoch 26.0  1m 23s  29s left │
│                                                │
│ images/s        updates/s      workers         │
│ 1,853           57.3           31/32           │
│ staleness       p95            loss            │
│ 30.9            38             0.1708          │
│ average error                                  │
│ 2.78 %                                         │
╰────────────────────────────────────────────────╯
""",
        ),
    ],
)
def test_terminal_view_draws_its_panel(width: int, expected: str) -> None:
    view, stream = terminal(width)
    view.show(LATER)
    view.close()
    lines = [line.rstrip() for line in screen(stream)]
    height = expected.count("\n")
    last = len(lines) - 1 - lines[::-1].index("╰" + "─" * (width - 2) + "╯")
    assert "\n".join(lines[last - height + 1 : last + 1]) + "\n" == expected


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
@pytest.mark.parametrize("moment", [START, LATER, replace(LATER, workers=10_000, workers_alive=9_999, loss=math.inf)])
def test_terminal_view_keeps_to_the_screen(width: int, moment: Moment) -> None:
    view, stream = terminal(width)
    view.begin(FACTS)
    view.phase("starting Ray")
    view.show(moment)
    view.end([("ended by", "completed")])
    assert max(map(len, screen(stream))) <= width


def test_terminal_view_redraws_four_times_a_second_and_ends_on_the_newest_moment() -> None:
    view, stream = terminal(80)
    for tick in range(10):
        view.show(replace(LATER, seconds=100 + tick / 10, updates_per_second=tick))
    drawn = [line.split()[2] for line in screen(stream) if "1,853" in line]
    assert drawn == ["0.0", "3.0", "6.0", "9.0"]
    view.show(replace(LATER, seconds=101.0, updates_per_second=77))
    view.close()
    assert [line.split()[2] for line in screen(stream) if "1,853" in line][-1] == "77.0"


def test_terminal_view_gives_the_cursor_back() -> None:
    for interrupted in ("phase", "show"):
        view, stream = terminal(80)
        view.phase("starting Ray")
        if interrupted == "show":
            view.show(LATER)
        assert stream.getvalue().count("\x1b[?25l") > stream.getvalue().count("\x1b[?25h")
        view.close()
        view.close()
        assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_terminal_view_keeps_what_was_said_and_returns_to_a_phase_after_the_numbers() -> None:
    view, stream = terminal(80)
    view.show(LATER)
    view.say("[not markup] error 3.67 %")
    view.phase("evaluating")
    view.end([("ended by", "completed"), ("top-1 error", "2.78 %")])
    lines = [line.rstrip() for line in screen(stream)]
    assert "[not markup] error 3.67 %" in lines
    assert any(line.endswith("evaluating") for line in lines)
    assert [line[2:-2].rstrip() for line in lines[-4:-2]] == ["ended by     completed", "top-1 error  2.78 %"]


def test_terminal_view_reads_moments_again_after_a_phase() -> None:
    view, stream = terminal(80)
    view.show(LATER)
    view.phase("looking for a lost shard")
    view.show(replace(LATER, updates_per_second=11.5))
    view.close()
    assert any("11.5" in line for line in screen(stream))


# --- which view -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "term", "kind"),
    [(Terminal, "xterm", TerminalView), (Terminal, "dumb", PlainView), (io.StringIO, "xterm", PlainView)],
)
def test_view_suits_the_stream(
    stream: type[io.StringIO], term: str, kind: type[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")  # that some CI systems set: still no terminal
    assert type(view_for(stream())) is kind


def test_a_name_that_the_stream_cannot_write_does_not_end_the_run() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    view_for(stream).begin([("run", "runs/größe")])
    assert raw.getvalue() == b"run  runs/gr\\xf6\\xdfe\n"


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (math.nan, "-"), (math.inf, "-"), (-3.0, "0s"), (0.4, "0s"), (59.4, "59s"), (59.6, "1m 00s"),
        (83.0, "1m 23s"), (3599.6, "1h 00m"), (7620.0, "2h 07m"), (273600.0, "3d 04h"),
    ],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (None, 1, "-"),
        (math.nan, 1, "-"),
        (38.64, 1, "38.6"),
        (0.43214, 4, "0.4321"),
        (1234.5, 1, "1,234"),
        (math.inf, 4, "inf"),
    ],
)
def test_number(value: float | None, decimals: int, text: str) -> None:
    assert number(value, decimals) == text


@pytest.mark.parametrize(("fraction", "text"), [(None, "-"), (math.nan, "-"), (0.0278, "2.78 %"), (1.0, "100.00 %")])
def test_percent(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text


def test_printable_keeps_letters_of_any_language() -> None:
    assert printable("größe 大きさ\t\x1b[0m\x85x") == "größe 大きさ??[0m x"


def test_share_is_never_more_than_all() -> None:
    assert [replace(LATER, samples=n).share for n in (0, 5_000, 10_001)] == [0.0, 0.5, 1.0]
    assert replace(LATER, total_samples=0).share == 1.0
