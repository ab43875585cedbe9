"""Shipping: what a run's processes write on machines that do not share the run directory, brought to the driver.

There they write into a folder of their own. What they write only grows (journals, the list of unreadable images), so
the driver asks now and then for what came after what it has, and appends it to its own files. A machine that is lost
takes along what it wrote since it was last asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.lodging import Lodging

PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one file. `name`: below the run directory; `offset`: where they belong."""

    name: str
    offset: int
    data: bytes


class Depot:
    """One machine's end: the run directory, if it is the driver's, else a folder that stands in for it.

    Args:
        folder: The run directory on the driver's machine.
        mark: Name of a file in it; if it is here too, the directory is shared.
    """

    def __init__(self, folder: Path, mark: str) -> None:
        self._lodging = None if (folder / mark).exists() else Lodging()
        self._folder = folder if self._lodging is None else self._lodging.folder

    def folder(self) -> Path:
        """Where this machine's processes write."""
        return self._folder

    def since(self, known: Mapping[str, int]) -> list[Piece]:
        """What the files have beyond these lengths in bytes, up to about PIECE_BYTES in all."""
        found: list[Piece] = []
        room = PIECE_BYTES
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name = path.relative_to(self._folder).as_posix()
            with path.open("rb") as file:
                file.seek(known.get(name, 0))
                if data := file.read(room):
                    found.append(Piece(name, known.get(name, 0), data))
                    room -= len(data)
            if not room:
                break
        return found

    def close(self) -> None:
        """Remove the folder, if it is this machine's own."""
        if self._lodging is not None:
            self._lodging.close()


@dataclass(slots=True)
class Consignment:
    """The driver's end, of one machine.

    Attributes:
        folder: The run directory.
        known: What has been received of each file, in bytes.
    """

    folder: Path
    known: dict[str, int] = field(default_factory=dict)

    def receive(self, pieces: list[Piece]) -> None:
        """Append them. One that is not the next of its file is left out: it is asked for again."""
        for piece in pieces:
            path = self.folder / piece.name
            if piece.offset != self.known.get(piece.name, 0) or not _below(path, self.folder):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(piece.data)
            self.known[piece.name] = piece.offset + len(piece.data)


def _below(path: Path, folder: Path) -> bool:
    with suppress(ValueError):
        path.resolve().relative_to(folder.resolve())
        return True
    return False
