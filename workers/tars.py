"""Tar files of images: indexed once by their headers, then read at random, one example at a time.

The naming is WebDataset's. Members of one example share a key, which is their path up to the first dot of the file
name:

    key.jpg (.jpeg, .png, .webp, .bmp)   the picture; each is one example
    key.cls                              its class, as text: a number or a name
    key.json                             likewise, under "cls", "label" or "class"

A picture with neither has the class of the folder that it lies in. Its split is said by the first folder on its path
that is called train, val, ..., else by the name of its tar file or of the folder that this lies in. So one archive may
hold all of a data set, or each split may be cut into shards (pictures-train-0000.tar, pictures-val-0000.tar).

A tar file that is compressed as a whole cannot be read at random and is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from ps.errors import BadInput
from workers.decode import BadImage, decode
from workers.formats import is_image
from workers.images import Described, Example, Labels, Traits

SPLITS = {"train": ("train", "training"), "test": ("val", "valid", "validation", "test")}  # the first found is taken
WORDS = tuple(word for words in SPLITS.values() for word in words)
JSON_KEYS = ("cls", "label", "class")
LARGEST_LABEL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One picture in a tar file.

    Attributes:
        tar: The file.
        name: Path of the picture in it.
        offset, size_bytes: Where its bytes are.
        label: Its class, as text.
        split: The word among SPLITS that its place is named by, or "".
    """

    tar: Path
    name: str
    offset: int
    size_bytes: int
    label: str
    split: str


@dataclass(frozen=True, slots=True, eq=False)
class TarImages(Described):
    """Pictures in tar files, which are opened for each example anew: threads share nothing, and nothing stays open."""

    members: tuple[Member, ...]
    labels_N: Labels

    def __len__(self) -> int:
        return len(self.members)

    def read(self, index: int) -> Example:
        member = self.members[index]
        where = f"{member.tar}: {member.name}"
        try:
            with member.tar.open("rb", buffering=0) as file:
                file.seek(member.offset)
                data = file.read(member.size_bytes)
        except OSError as error:
            raise BadImage(f"{where}: got {error.strerror}, expected a readable tar file; restore it") from error
        return Example(decode(data, where), int(self.labels_N[index]))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for member in self.members:
            digest.update(f"{member.label}/{member.name}\0{member.size_bytes}\n".encode())
        return digest.hexdigest()


def find_tars(root: Path) -> list[Path]:
    """The tar files that a root stands for, sorted: itself, those that match it as a pattern, or those in a folder and
    in its folders.
    """
    if root.is_dir():
        return sorted([*root.glob("*.tar"), *root.glob("*/*.tar")])
    return sorted(path for path in root.parent.glob(root.name) if path.is_file())


def open_tars(traits: Traits, root: Path, tars: Sequence[Path], split: str) -> TarImages:
    """One split of what some tar files hold. Its classes are those of the training split, in order.

    Raises:
        BadInput: A file is not a whole, uncompressed tar, or the split is not in them, or has a class of its own.
    """
    members = [member for path in tars for member in _indexed(path)]
    train = _of_split(members, "train", root)
    names = _sorted_classes({member.label for member in train})
    chosen = train if split == "train" else _of_split(members, split, root)
    numbers = {name: number for number, name in enumerate(names)}
    for member in chosen:
        if member.label not in numbers:
            raise BadInput(
                f"{member.tar}: {member.name}: got the class {member.label!r}, expected one of the {len(names)} of the "
                "training images"
            )
    labels_N = np.array([numbers[member.label] for member in chosen], np.int64)
    return TarImages(Traits(traits.name, names, traits.image_shape, traits.mean, traits.scale), tuple(chosen), labels_N)


def _of_split(members: Iterable[Member], split: str, root: Path) -> list[Member]:
    by_word: dict[str, list[Member]] = {}
    for member in members:
        by_word.setdefault(member.split, []).append(member)
    for word in SPLITS[split]:
        if word in by_word:
            return by_word[word]
    words = ", ".join(SPLITS[split])
    raise BadInput(
        f"{root}: got no image of the {split} split, expected tar files with one of {words} in their name or as the "
        "first folder in them"
    )


def _sorted_classes(labels: set[str]) -> tuple[str, ...]:
    """By number if all are numbers, so that class 2 comes before class 10."""
    return tuple(sorted(labels, key=int if all(label.isdecimal() for label in labels) else None))


# --- the index --------------------------------------------------------------------------------------------------------


def _indexed(path: Path) -> tuple[Member, ...]:
    try:
        status = path.stat()
        return _index(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise BadInput(f"{path}: got {error.strerror}, expected a readable tar file") from error
    except tarfile.TarError as error:
        raise BadInput(
            f"{path}: got {error}, expected a whole tar file, not compressed; unpack it, or make it again"
        ) from error


@lru_cache(maxsize=4096)
def _index(path: Path, changed_ns: int, size_bytes: int) -> tuple[Member, ...]:
    """The pictures in a tar file, in their order. Kept, since each split of a file asks for it."""
    found: list[tuple[str, int, int]] = []
    classes: dict[str, str] = {}
    with tarfile.open(path, "r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
            key, suffix = _key(member.name)
            if not member.isfile():
                continue
            if is_image(member.name):
                found.append((member.name, member.offset_data, member.size))
            elif suffix in ("cls", "json") and member.size <= LARGEST_LABEL_BYTES:
                source = archive.extractfile(member)
                content = source.read() if source else b""
                label = _label(content, suffix, f"{path}: {member.name}")
                if label and (suffix == "cls" or key not in classes):
                    classes[key] = label
    return tuple(_member(path, *place, classes) for place in found)


def _member(path: Path, name: str, offset: int, size_bytes: int, classes: dict[str, str]) -> Member:
    folders = PurePosixPath(name).parts[:-1]
    split = next((folder for folder in folders if folder in WORDS), "")
    if split:
        folders = folders[folders.index(split) + 1 :]
    label = classes.get(_key(name)[0]) or (folders[-1] if folders else "")
    if not label:
        raise BadInput(
            f"{path}: {name}: got no class, expected a .cls or .json beside it, or a folder of its class around it"
        )
    return Member(path, name, offset, size_bytes, label, split or _word(path))


def _key(name: str) -> tuple[str, str]:
    """Path up to the first dot of the file name, and what follows it."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _word(path: Path) -> str:
    """The word for a split in the name of a tar file or of its folder; "" if there is none."""
    parts = [*re.split(r"[^a-z]+", path.stem.lower()), path.parent.name]
    return next((part for part in parts if part in WORDS), "")


def _label(content: bytes, suffix: str, where: str) -> str:
    """A class from a label file; "" if a JSON file says none."""
    try:
        text = content.decode()
        if suffix == "json":
            said = json.loads(text)
            value = next((said[key] for key in JSON_KEYS if key in said), "") if isinstance(said, dict) else said
            text = str(value) if isinstance(value, int | str) else ""
        return text.strip()
    except ValueError as error:
        raise BadInput(f"{where}: got {error}, expected the class of an example; repair it") from error
