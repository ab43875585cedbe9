"""Interrupts: real signals to this process. The second one is asked of a process of its own, which it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from distbelief.interrupts import AT_ONCE, Interrupts

ROOT = Path(__file__).parents[2]
BOTH = [signal.SIGINT, signal.SIGTERM]


def handlers() -> list[object]:
    return [signal.getsignal(name) for name in BOTH]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = handlers()
    yield
    assert handlers() == before


@pytest.mark.parametrize("name", BOTH)
def test_before_a_run_can_end_in_order_a_signal_is_keyboard_interrupt(name: signal.Signals) -> None:
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(name)
        assert interrupts.seen


@pytest.mark.parametrize("name", BOTH)
def test_afterwards_it_is_seen_and_nothing_else(name: signal.Signals) -> None:
    with Interrupts() as interrupts:
        interrupts.orderly = True
        assert not interrupts.seen
        signal.raise_signal(name)
        assert interrupts.seen


@pytest.mark.parametrize("name", BOTH)
def test_a_second_signal_ends_the_process_at_once(name: signal.Signals) -> None:
    code = f"""if True:
        import signal
        from distbelief.interrupts import Interrupts
        with Interrupts() as interrupts:
            interrupts.orderly = True
            try:
                signal.raise_signal({int(name)})
                print("seen", interrupts.seen, flush=True)
                signal.raise_signal({int(name)})
            finally:
                print("in order", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (AT_ONCE, "seen True\n", "")


def test_the_signals_can_be_taken_back_from_somebody_else() -> None:
    with Interrupts() as interrupts:
        ours = handlers()
        for name in BOTH:
            signal.signal(name, signal.SIG_IGN)
        interrupts.reinstall()
        assert handlers() == ours
        interrupts.orderly = True
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.seen


def test_handlers_are_restored_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), Interrupts():
        _ = 1 / 0  # the fixture compares


def test_a_handler_that_python_did_not_install_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = handlers()
    with monkeypatch.context() as patched:
        install = signal.signal
        patched.setattr(signal, "signal", lambda name, handler: (install(name, handler), None)[1])
        interrupts = Interrupts().__enter__()
    interrupts.__exit__(None, None, None)
    for name, handler in zip(BOTH, before, strict=True):
        assert signal.signal(name, handler) == interrupts._notice


def test_outside_the_main_thread_nothing_happens() -> None:
    inside: list[list[object]] = []

    def use() -> None:
        with Interrupts() as interrupts:
            interrupts.reinstall()
            inside.append(handlers())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert inside == [handlers()]
