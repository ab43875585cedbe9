"""Download, from a server on the loopback: what arrives whole appears, anything else leaves no trace."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ps.errors import BadInput
from workers.download import REMOTES, Remote, fetch

CONTENT = bytes(range(256)) * 3000


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def checksum(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_whole_file_appears_with_progress(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    (folder / "set.bin").write_bytes(CONTENT)
    seen: list[tuple[str, int, int]] = []
    remote = Remote(f"{address}/set.bin", len(CONTENT), checksum(CONTENT))
    fetch(remote, tmp_path / "into", lambda *told: seen.append(told))
    assert (tmp_path / "into" / "set.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["set.bin"]
    assert seen[-1] == ("set.bin", len(CONTENT), len(CONTENT))
    assert len(seen) > 1


def test_what_is_there_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "set.bin").write_bytes(b"mine")
    fetch(Remote("http://127.0.0.1:9/set.bin", 4, "md5:0"), tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "size_bytes", "digest", "message"),
    [
        ("set.bin", len(CONTENT) + 1, checksum(CONTENT), r"set\.bin: got 768,000 bytes, expected 768,001; try again"),
        ("set.bin", 1000, checksum(CONTENT), r"bytes, expected 1,000; try again"),
        ("set.bin", len(CONTENT), checksum(b"other"), r"set\.bin: got sha256 .*, expected .*replaced there or damaged"),
        ("none.bin", 1, checksum(b""), r"none\.bin: got HTTP Error 404.*without a network, put the data into a folder"),
    ],
)
def test_anything_else_leaves_no_trace(
    served: tuple[Path, str], tmp_path: Path, name: str, size_bytes: int, digest: str, message: str
) -> None:
    folder, address = served
    (folder / "set.bin").write_bytes(CONTENT)
    with pytest.raises(BadInput, match=message):
        fetch(Remote(f"{address}/{name}", size_bytes, digest), tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_no_server_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(BadInput, match=r"^http://127\.0\.0\.1:9/x: got .*refused.*--data-root or DISTBELIEF_DATA$"):
        fetch(Remote("http://127.0.0.1:9/x", 1, "md5:0"), tmp_path)


def packed(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"data"))
    return buffer.getvalue()


def test_only_named_members_are_unpacked(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    data = packed(["box/a.bin", "../evil.bin", "box/notes.html", "box/b.bin"])
    (folder / "box.tar.gz").write_bytes(data)
    fetch(Remote(f"{address}/box.tar.gz", len(data), checksum(data), ("box/a.bin", "box/b.bin")), tmp_path / "into")
    found = sorted(path.relative_to(tmp_path / "into").as_posix() for path in (tmp_path / "into").rglob("*"))
    assert found == ["box", "box/a.bin", "box/b.bin"]
    assert not (tmp_path / "evil.bin").exists()


def test_an_archive_without_its_members_is_refused(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    data = packed(["box/a.bin"])
    (folder / "box.tar.gz").write_bytes(data)
    with pytest.raises(BadInput, match=r"got an archive without box/b\.bin, expected 2 files"):
        fetch(Remote(f"{address}/box.tar.gz", len(data), checksum(data), ("box/a.bin", "box/b.bin")), tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_the_known_sets_have_checksums() -> None:
    for remotes in REMOTES.values():
        for remote in remotes:
            algorithm, digest = remote.checksum.split(":")
            assert len(digest) == 2 * hashlib.new(algorithm).digest_size
            assert remote.url.startswith("https://")


def test_a_failed_download_leaves_no_folder_either(tmp_path: Path) -> None:
    remote = Remote("http://127.0.0.1:9/nothing", 10, "sha256:" + "0" * 64)
    with pytest.raises(BadInput, match="expected to download 10 bytes"):
        fetch(remote, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
