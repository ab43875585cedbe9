"""Snapshot files: sets of states from which a run can be taken up, and which of them are whole.

    snapshots/000012/shard-0.state ... averager.state      each there whole or not at all
    snapshots/000012/manifest.json                         written last: it makes the files a set

The newest sets are kept. A file that is damaged is named, and the one of the set before is used: shards share no state,
so they need not come back from the same set.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ps.errors import SnapshotDamaged
from ps.snapshot import decode, encode
from ps.states import State
from ps.wire.files import sync_folder, write_whole

MANIFEST = "manifest.json"
SUFFIX = ".state"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a set holds.

    Attributes:
        number: Of the set, from 1.
        layout: Which layout the shards are cut by.
        sha256: Per actor, of its state.
    """

    number: int
    layout: str
    sha256: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """The newest whole state of one actor.

    Attributes:
        number: Of its set; 0 if there is none, then `state` is None.
        damaged: One line for each newer one that could not be used.
    """

    number: int
    state: State | None
    damaged: tuple[str, ...]


def next_number(folder: Path) -> int:
    """A number that no set has had so far, whole or withdrawn."""
    return max((int(path.name) for path in folder.glob("[0-9]*")), default=0) + 1


def write_state(folder: Path, number: int, actor: str, state: State) -> str:
    """Write one actor's state; return its SHA-256, hexadecimal. Raises OSError."""
    path = _of(folder, number)
    path.mkdir(parents=True, exist_ok=True)
    pieces = encode(state)
    write_whole(path / f"{actor}{SUFFIX}", pieces)
    return bytes(pieces[0][-32:]).hex()


def publish(folder: Path, manifest: Manifest, keep: int) -> None:
    """Make written states a set, and remove all but the newest `keep` sets. Raises OSError."""
    path = _of(folder, manifest.number)
    write_whole(path / MANIFEST, json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2).encode())
    sync_folder(folder)
    whole = [int(each.parent.name) for each in folder.glob(f"[0-9]*/{MANIFEST}")]
    oldest = sorted(whole)[-keep:][0]
    for old in sorted(folder.glob("[0-9]*")):
        if int(old.name) < oldest:
            withdraw(folder, int(old.name))
            shutil.rmtree(old, ignore_errors=True)


def withdraw(folder: Path, number: int) -> None:
    """Remove what there is of this set; it stops being one first. Its number stays used: what is still being written
    for it must not get into another set.
    """
    path = _of(folder, number)
    with suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
        (path / MANIFEST).unlink(missing_ok=True)
        for file in path.iterdir():
            file.unlink(missing_ok=True)


def manifests(folder: Path) -> Iterator[Manifest | str]:
    """The sets, newest first; one line in place of one that cannot be read."""
    for path in sorted(folder.glob(f"[0-9]*/{MANIFEST}"), reverse=True):
        try:
            text = json.loads(path.read_bytes())
            if text.pop("format") != FORMAT:
                raise ValueError(f"unknown format, expected {FORMAT}")
            yield Manifest(**text)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield f"{path}: damaged ({error})"


def newest(folder: Path, actor: str, layout: str) -> Found:
    """The newest whole state of this actor, in sets of this layout."""
    damaged: list[str] = []
    for manifest in manifests(folder):
        if isinstance(manifest, str):
            damaged.append(manifest)
        elif manifest.layout == layout:
            try:
                return Found(manifest.number, _read(folder, manifest, actor), tuple(damaged))
            except SnapshotDamaged as error:
                damaged.append(str(error))
    return Found(0, None, tuple(damaged))


def _read(folder: Path, manifest: Manifest, actor: str) -> State:
    path = _of(folder, manifest.number) / f"{actor}{SUFFIX}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SnapshotDamaged(f"{path}: {error.strerror}") from error
    state = decode(data, str(path))
    if data[8:40].hex() != manifest.sha256.get(actor):
        raise SnapshotDamaged(f"{path}: whole, but not the file that the manifest names")
    return state


def _of(folder: Path, number: int) -> Path:
    return folder / f"{number:06}"
