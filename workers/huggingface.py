"""Hugging Face `datasets`, as `save_to_disk` leaves them: an optional way to hold images.

The package is imported when such a data set is opened, and only then. Pictures stay encoded in its memory-mapped
tables and are decoded by us, so that they come out as from any other place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ps.errors import BadInput
from workers.decode import BadImage, decode
from workers.images import Described, Example, Labels, Traits

SPLITS = {"train": ("train",), "test": ("validation", "val", "valid", "test")}  # the first found is taken


@dataclass(frozen=True, slots=True, eq=False)
class HuggingFaceImages(Described):
    """One split. `table`: a `datasets.Dataset` whose column `column` holds {"bytes": ..., "path": ...}."""

    where: str
    table: Any
    column: str
    labels_N: Labels

    def __len__(self) -> int:
        return len(self.labels_N)

    def read(self, index: int) -> Example:
        where = f"{self.where}: example {index}"
        cell = self.table[index][self.column]
        try:
            data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise BadImage(f"{where}: got {error}, expected the bytes of an image or the path of one") from error
        return Example(decode(data, where), int(self.labels_N[index]))

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.table._fingerprint}/{len(self)}".encode()).hexdigest()


def is_saved(root: Path) -> bool:
    """Whether a folder is what `save_to_disk` leaves."""
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def open_saved(traits: Traits, root: Path, split: str) -> HuggingFaceImages:
    """One split of a saved `DatasetDict`.

    Raises:
        BadInput: The package is not installed, the folder is damaged, or it lacks the split, its images or its labels.
    """
    try:
        import datasets
    except ImportError as error:
        raise BadInput(
            f"{root}: got a Hugging Face data set without the package datasets, expected it installed; "
            "pip install 'distbelief[hf]'"
        ) from error
    try:
        saved: Any = datasets.load_from_disk(str(root))
    except Exception as error:  # the package raises what it likes
        raise BadInput(f"{root}: got {error}, expected what datasets' save_to_disk leaves; save it again") from error
    if not isinstance(saved, dict):
        raise BadInput(
            f"{root}: got one split, expected a DatasetDict with {SPLITS['train'][0]} and validation or test"
        )
    chosen = [name for name in SPLITS[split] if name in saved]
    if "train" not in saved or not chosen:
        raise BadInput(f"{root}: got the splits {', '.join(saved)}, expected {' or '.join(SPLITS[split])}")
    train, table = saved["train"], saved[chosen[0]]
    image, label = _columns(train, datasets, root)
    classes = _classes(train, label)
    names = _names(table, label)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise BadInput(f"{root}: got the class {unknown[0]!r} in {chosen[0]}, expected one of the training images")
    numbers = {name: number for number, name in enumerate(classes)}
    labels_N = np.array([numbers[name] for name in names], np.int64)
    encoded = table.cast_column(image, datasets.Image(decode=False))
    return HuggingFaceImages(replace(traits, classes=classes), f"{root}/{chosen[0]}", encoded, image, labels_N)


def _columns(table: Any, datasets: Any, root: Path) -> tuple[str, str]:
    """The column of images and the one of classes."""
    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels += [name for name in ("label", "labels", "class") if name in features and name not in labels]
    if not images or not labels:
        raise BadInput(
            f"{root}: got the columns {', '.join(features)}, expected one of images and one of classes, named label"
        )
    return images[0], labels[0]


def _classes(table: Any, label: str) -> tuple[str, ...]:
    """Names of the classes, as the feature gives them, else those that occur in their own order."""
    feature = table.features[label]
    return tuple(feature.names if hasattr(feature, "names") else map(str, sorted(set(table[label][:]))))


def _names(table: Any, label: str) -> list[str]:
    """Each example's class by its name."""
    feature, values = table.features[label], table[label][:]
    return [feature.int2str(value) for value in values] if hasattr(feature, "names") else list(map(str, values))
