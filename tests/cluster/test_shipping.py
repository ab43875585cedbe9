"""Files that grow on another machine grow here too, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import shipping
from cluster.shipping import Consignment, Depot, Piece


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_a_shared_directory_is_known_by_its_mark_and_left_alone(run: Path) -> None:
    (run / "mark").touch()
    depot = Depot(run, "mark")
    assert depot.folder() == run
    depot.close()
    assert run.exists()


def test_without_the_mark_a_folder_stands_in_for_it_and_is_removed(run: Path) -> None:
    depot = Depot(run, "mark")
    assert depot.folder() != run
    assert depot.folder().is_dir()
    depot.close()
    assert not depot.folder().exists()


@pytest.mark.parametrize("piece_bytes", [1, 3, 1 << 20])
def test_what_is_written_there_arrives_here(run: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(shipping, "PIECE_BYTES", piece_bytes)
    depot, here = Depot(run, "mark"), Consignment(run)
    (depot.folder() / "journal").mkdir()
    files = {"journal/shard-0.journal": b"", "unreadable.txt": b""}
    for words in (b"one", b"", b"two three"):
        for name in files:
            with (depot.folder() / name).open("ab") as file:
                file.write(words)
            files[name] += words
        while pieces := depot.since(here.known):
            assert sum(len(piece.data) for piece in pieces) <= piece_bytes
            here.receive(pieces)
        assert {name: (run / name).read_bytes() for name in files} == files
    depot.close()


def test_a_piece_that_comes_twice_or_too_early_is_left_out(run: Path) -> None:
    here = Consignment(run)
    here.receive([Piece("a", 0, b"one"), Piece("a", 0, b"one"), Piece("a", 9, b"nine"), Piece("a", 3, b"two")])
    assert (run / "a").read_bytes() == b"onetwo"


@pytest.mark.parametrize("name", ["../a", "/tmp/a-file-of-somebody"])
def test_nothing_is_written_outside_the_run_directory(run: Path, name: str) -> None:
    Consignment(run).receive([Piece(name, 0, b"one")])
    assert not (run / name).exists()
