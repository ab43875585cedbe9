"""Counter: a bar that leaves nothing on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io

import pytest

from distbelief.counter import Counter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_over_at_once_says_nothing() -> None:
    stream = io.StringIO()
    with Counter("evaluating", "images", stream, iter([0.0, 4.0, 9.9]).__next__) as counter:
        counter.show(50, 100)
        counter.show(100, 100)
    assert stream.getvalue() == ""


def test_a_line_every_ten_seconds() -> None:
    stream = io.StringIO()
    with Counter("evaluating", "images", stream, iter([100.0, 110.0, 115.0, 120.0]).__next__) as counter:
        for done in (500, 700, 1000):
            counter.show(done, 2000)
    assert stream.getvalue() == (
        "evaluating  500/2,000 images  25.0 %  eta 30s\nevaluating  1,000/2,000 images  50.0 %  eta 20s\n"
    )


def test_nothing_done_yet_has_no_end_in_sight() -> None:
    stream = io.StringIO()
    with Counter("evaluating", "images", stream, iter([0.0, 10.0]).__next__) as counter:
        counter.show(0, 5)
    assert stream.getvalue() == "evaluating  0/5 images  0.0 %  eta -\n"


def test_a_bar_on_a_terminal_that_is_gone_afterwards() -> None:
    stream = Terminal()
    with Counter("evaluating", "images", stream, iter([0.0, 20.0]).__next__) as counter:
        counter.show(500, 2000)
    shown = stream.getvalue()
    assert "evaluating" in shown
    assert "500/2000" in shown
    assert "eta" not in shown
    assert shown.endswith("\r\x1b[1A\x1b[2K")  # up one line, and that line erased
