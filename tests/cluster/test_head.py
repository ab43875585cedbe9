"""Head: a run that lets go of a cluster without one, soon if it wants something of it, late if it does not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cluster import head
from cluster.head import Head, HeadLost


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def silent(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Head:
    """One that answered once, and does not any more; it is looked at whenever it is asked for."""
    found = Head(address(listener), 3)
    assert found.answers()
    listener.close()
    monkeypatch.setattr(head, "LOOK_SECONDS", 0.0)
    return found


def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_one_that_answers_is_no_trouble(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "NEEDED_SECONDS", "SPARED_SECONDS"):
        monkeypatch.setattr(head, name, 0.0)
    found = Head(address(listener), 3)
    found.look()
    found.needed()
    assert found.returns(0.0, lambda: False)


def test_one_that_is_silent_is_lost_as_soon_as_it_is_needed(silent: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    silent.look()  # nothing is wanted of it: it may be back before Ray gives up
    monkeypatch.setattr(head, "NEEDED_SECONDS", 0.0)
    with pytest.raises(HeadLost, match=r"^the head of the Ray cluster, 127\.0\.0\.1:\d+, does not answer$") as caught:
        silent.needed()
    assert caught.value.head is silent


def test_one_that_stays_silent_is_lost_though_nothing_is_wanted(silent: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "SPARED_SECONDS", 0.0)
    with pytest.raises(HeadLost):
        silent.look()


def test_nobody_waits_for_ever(silent: Head) -> None:
    assert not silent.returns(0.0, lambda: True)
    assert not silent.returns(1e9, lambda: False)
