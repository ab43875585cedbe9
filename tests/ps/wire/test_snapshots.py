"""Snapshot files: a set is there whole or not at all, the newest are kept, and a damaged file costs one set."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch

from ps.states import AveragerState, SliceState, Stretch
from ps.streams import numpy_stream
from ps.wire.files import write_whole
from ps.wire.snapshots import Manifest, manifests, newest, next_number, publish, withdraw, write_state

ACTORS = ("averager", "other")


def state(number: int) -> AveragerState:
    return AveragerState((SliceState(torch.full((20,), float(number)), number, (Stretch(0, 20, number),)),))


def write(folder: Path, number: int, keep: int = 2, layout: str = "cut") -> None:
    sha256 = {actor: write_state(folder, number, actor, state(number)) for actor in ACTORS}
    publish(folder, Manifest(number, layout, sha256), keep)


def found(folder: Path, layout: str = "cut") -> tuple[int, tuple[str, ...]]:
    got = newest(folder, "averager", layout)
    if isinstance(got.state, AveragerState):
        assert got.state.slices[0].version == got.number
    return got.number, got.damaged


def test_the_newest_sets_are_kept_and_the_newest_is_used(tmp_path: Path) -> None:
    assert found(tmp_path) == (0, ())
    for number in (1, 2, 3):
        assert next_number(tmp_path) == number
        write(tmp_path, number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000003"]
    assert found(tmp_path) == (3, ())
    assert [m.number for m in manifests(tmp_path) if isinstance(m, Manifest)] == [3, 2]


def test_files_without_a_manifest_are_no_set_and_their_number_is_not_used_again(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write_state(tmp_path, 2, "averager", state(2))
    assert found(tmp_path) == (1, ())
    assert next_number(tmp_path) == 3
    write(tmp_path, 3)
    write(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000003", "000004"]


def test_a_set_of_another_layout_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2, layout="another")
    assert found(tmp_path) == (1, ())
    assert found(tmp_path, "another") == (2, ())


def test_a_set_that_was_withdrawn_is_gone(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    withdraw(tmp_path, 2)
    withdraw(tmp_path, 7)
    assert found(tmp_path) == (1, ())
    assert sorted(path.name for path in tmp_path.rglob("*.state")) == ["averager.state", "other.state"]


def test_what_is_written_late_for_a_set_that_was_withdrawn_harms_no_other(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write_state(tmp_path, 2, "averager", state(2))
    withdraw(tmp_path, 2)
    withdraw(tmp_path, 3)  # nothing of it was there yet
    number = next_number(tmp_path)
    write(tmp_path, number)
    for late in (2, 3):
        write_state(tmp_path, late, "averager", state(0))
    assert found(tmp_path) == (number, ())
    write(tmp_path, number + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number:06}", f"{number + 1:06}"]


def test_two_that_write_one_file_at_once_do_not_mix(tmp_path: Path) -> None:
    """Each has a file of its own until it is whole: here the second begins and ends in the middle of the first."""
    path = tmp_path / "averager.state"

    def pieces() -> Iterator[memoryview]:
        yield memoryview(b"first ")
        other = threading.Thread(target=write_whole, args=(path, b"the other"))
        other.start()
        other.join()
        assert path.read_bytes() == b"the other"
        yield memoryview(b"second")

    write_whole(path, cast(Sequence[memoryview], pieces()))
    assert path.read_bytes() == b"first second"


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 39, 40, 47, 48, 60, *numpy_stream(0, "cuts").integers(60, 190, 20)])
def test_a_damaged_file_is_named_and_the_set_before_is_used(tmp_path: Path, cut: int) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    path = tmp_path / "000002" / "averager.state"
    path.write_bytes(path.read_bytes()[:cut])
    number, damaged = found(tmp_path)
    assert number == 1
    assert len(damaged) == 1
    assert str(path) in damaged[0]
    assert newest(tmp_path, "other", "cut").number == 2


def test_a_missing_file_and_one_of_another_set_are_named(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(tmp_path, number, keep=3)
    (tmp_path / "000002" / "averager.state").rename(tmp_path / "000003" / "averager.state")
    number, damaged = found(tmp_path)
    assert number == 1
    assert "whole, but not the file that the manifest names" in damaged[0]
    assert "No such file" in damaged[1]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1, "number": 2}', b"\xff"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    (tmp_path / "000002" / "manifest.json").write_bytes(content)
    number, damaged = found(tmp_path)
    assert number == 1
    assert "manifest.json: damaged" in damaged[0]
