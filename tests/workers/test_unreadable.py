"""The list of unreadable examples: each once, whoever names it; and never a reason to stop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from workers.unreadable import UnreadableList


def test_each_is_named_once_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "unreadable.txt"
    named = UnreadableList(path)
    assert not path.exists()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: named.add(f"{i % 10}.jpg: got\nnothing"), range(100)))
    assert sorted(path.read_text().splitlines()) == [f"{i}.jpg: got nothing" for i in range(10)]


def test_several_lists_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "unreadable.txt"
    for message in ("a", "b"):
        UnreadableList(path).add(message)
    assert path.read_text() == "a\nb\n"


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    UnreadableList(tmp_path / "unreadable.txt").add("caf\udce9.jpg: got nothing")
    assert (tmp_path / "unreadable.txt").read_text() == "caf\\udce9.jpg: got nothing\n"


def test_a_list_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    UnreadableList(tmp_path / "missing" / "unreadable.txt").add("a.jpg: got nothing")
    assert list(tmp_path.iterdir()) == []
