"""Download: the files of a known data set, checked, into a folder. Nothing else in this package uses the network.

A file appears under its name only when it is whole and its checksum is right, by one rename; until then it has a
temporary name beside it. So whoever finds a file may trust it, and two processes that fetch it at once do no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ps.errors import BadInput

Progress = Callable[[str, int, int], None]
"""Told (file name, bytes so far, bytes in all) after every chunk."""

CHUNK_BYTES = 1 << 18
CONNECT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Remote:
    """One file on the network.

    Attributes:
        url: Its address; the last part is the name that it gets.
        size_bytes: Its length.
        checksum: "sha256:..." or "md5:...", in hexadecimal.
        unpack: If it is a .tar.gz: names of the members to keep, all in one folder there, which is what is kept.
    """

    url: str
    size_bytes: int
    checksum: str
    unpack: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


_FASHION = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
REMOTES: dict[str, tuple[Remote, ...]] = {
    "fashion-mnist": (
        Remote(
            _FASHION + "train-images-idx3-ubyte.gz",
            26_421_880,
            "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        Remote(
            _FASHION + "train-labels-idx1-ubyte.gz",
            29_515,
            "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        Remote(
            _FASHION + "t10k-images-idx3-ubyte.gz",
            4_422_102,
            "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        Remote(
            _FASHION + "t10k-labels-idx1-ubyte.gz",
            5_148,
            "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar10": (
        Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170_052_171,
            "md5:c32a1d4ab5d03f1284b67883e8d87530",
            unpack=(
                *(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
                "cifar-10-batches-bin/test_batch.bin",
            ),
        ),
    ),
}


def silent(name: str, done_bytes: int, size_bytes: int) -> None:
    """A progress that tells nobody."""


def fetch(remote: Remote, into: Path, progress: Progress = silent) -> None:
    """Download one file, unless it is there already, check it and put it into a folder (created if missing).

    Raises:
        BadInput: No network, no such address, wrong length or checksum, folder not writable. Nothing is left behind.
    """
    wanted = into / (remote.unpack[0].split("/")[0] if remote.unpack else remote.name)
    if wanted.exists():
        return
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=into) as scratch:
            partial = Path(scratch) / remote.name
            _receive(remote, partial, progress)
            ready = _unpack(remote, partial) if remote.unpack else partial
            try:
                ready.rename(wanted)
            except OSError:
                if not wanted.exists():  # else another process was faster with the same content
                    raise
    except (OSError, http.client.HTTPException, tarfile.TarError, EOFError, zlib.error) as error:
        raise BadInput(
            f"{remote.url}: got {error}, expected to download {remote.size_bytes:,} bytes into {into}; "
            "without a network, put the data into a folder and name it with --data-root or DISTBELIEF_DATA"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it holds something, as it should
            into.rmdir()


def _receive(remote: Remote, partial: Path, progress: Progress) -> None:
    algorithm, expected = remote.checksum.split(":")
    digest, done_bytes = hashlib.new(algorithm, usedforsecurity=False), 0
    with urllib.request.urlopen(remote.url, timeout=CONNECT_SECONDS) as response, partial.open("wb") as file:
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            done_bytes += len(chunk)
            progress(remote.name, done_bytes, remote.size_bytes)
            if done_bytes > remote.size_bytes:
                break
        file.flush()
        os.fsync(file.fileno())
    if done_bytes != remote.size_bytes:
        raise BadInput(f"{remote.url}: got {done_bytes:,} bytes, expected {remote.size_bytes:,}; try again")
    if digest.hexdigest() != expected:
        raise BadInput(
            f"{remote.url}: got {algorithm} {digest.hexdigest()}, expected {expected}; "
            "it was replaced there or damaged on its way, try again"
        )


def _unpack(remote: Remote, archive: Path) -> Path:
    """Only the named members, read as plain files: nothing that an archive says decides where something is written."""
    folder = archive.parent / "unpacked"
    folder.mkdir()
    missing = set(remote.unpack)
    with tarfile.open(archive, "r|gz") as members:
        for member in members:
            if member.name in missing and (source := members.extractfile(member)):
                with (folder / member.name.rsplit("/", 1)[-1]).open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
                missing.discard(member.name)
    if missing:
        raise BadInput(
            f"{remote.url}: got an archive without {sorted(missing)[0]}, expected {len(remote.unpack)} files"
        )
    return folder
