"""One's own data: anything with a length whose `[index]` gives (image, label), as a data set of ours.

An image becomes the float32 array that the network is fed, in the shape that the network takes:

    float array or tensor, any shape        as it is
    integers                                as they are
    uint8 array, H x W or H x W x C         a picture: channels first, over 255
    uint8 tensor, C x H x W                 likewise: torch's pictures have their channels first
    PIL image                               a picture: gray or RGB

Attributes of the data set that count, if it has them: `classes` (their names), `augment(image, generator)` (the array
above to another of its shape; the generator, numpy's, is the lease's: draw from it and from nothing else), and `labels`
or `targets` (so that nobody has to read all examples to count the classes).

Reads are one at a time in every process: a user's file handle need not be safe from many threads.

Shape suffix: N = examples.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ps.errors import BadInput, DistbeliefError
from workers.augment import Augmentation, Identity
from workers.decode import BadImage
from workers.images import Described, Example, Pixels, Traits
from workers.patches import Generator

Float32 = npt.NDArray[np.float32]

FINGERPRINTED = 256  # examples, evenly spread


@dataclass(frozen=True, slots=True)
class PerImage:
    """A user's augmentation, of one image at a time; all draw from the lease's stream, in order."""

    augment: Callable[[Any, Generator], Any]

    def __call__(self, images: Iterable[Pixels], count: int, generator: Generator) -> Pixels:
        try:
            return np.stack([np.asarray(self.augment(image, generator), np.float32) for image in images])
        except DistbeliefError:  # of the images, which are read on the way
            raise
        except Exception as error:
            raise BadInput(
                f"data.name: augment raised {type(error).__name__}: {error}; expected it to give images of one shape"
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class OwnData(Described):
    """A user's data set.

    Attributes:
        source: What the user gave.
        stands_in: Whether it stands in for a test set that there is none of.
    """

    source: Any
    stands_in: bool
    lock: Any

    @classmethod
    def of(cls, given: Any, name: str, split: str, classes: int) -> OwnData:
        """Look at a data set.

        Args:
            given: A data set; {"train": ..., "test": ...}; or a function that makes either, told the split if it takes
                an argument.
            name: For messages, and the data set's name.
            split: "train" or "test".
            classes: How many there are; 0 to find out, which may take reading every example.

        Raises:
            BadInput: It is no data set, or is empty.
        """
        source, stands_in = _chosen(given, name, split)
        length = _length(source, name)
        first = cls(Traits(name, (), (), (), 1.0), source, stands_in, threading.Lock())
        example = first.look(0)
        names = getattr(source, "classes", None)
        if not isinstance(names, list | tuple):
            names = range(classes or first.count(length))
        traits = Traits(name, tuple(map(str, names)), example.image.shape, (), 1.0)
        return cls(traits, source, stands_in, first.lock)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def augmentation(self) -> Augmentation:
        augment = getattr(self.source, "augment", None)
        return PerImage(augment) if callable(augment) else Identity()

    def read(self, index: int) -> Example:
        try:
            example = self.look(index)
        except BadInput as error:
            raise BadImage(str(error)) from error
        if example.image.shape != self.traits.image_shape:
            raise BadImage(
                f"{self.name}[{index}]: got an image of shape {example.image.shape}, expected {self.traits.image_shape}"
            )
        if not 0 <= example.label < len(self.traits.classes):
            raise BadImage(
                f"{self.name}[{index}]: got the label {example.label}, expected 0 to {len(self.traits.classes) - 1}"
            )
        return example

    def look(self, index: int) -> Example:
        """An example, whatever its shape and label. Raises BadInput if it cannot be read or is none."""
        where = f"{self.name}[{index}]"
        try:
            with self.lock:
                given = self.source[index]
        except Exception as error:
            raise BadInput(
                f"{where}: got {type(error).__name__}: {error}; expected (image, label) for every index below "
                f"{len(self.source)}"
            ) from error
        if not isinstance(given, list | tuple) or len(given) != 2:
            raise BadInput(f"{where}: got {type(given).__name__}, expected a pair (image, label)")
        return Example(as_fed(given[0], where), _label(given[1], where))

    def count(self, length: int) -> int:
        """Classes: one more than the largest label."""
        labels = getattr(self.source, "labels", getattr(self.source, "targets", None))
        if labels is None or len(labels) != length:
            labels = [self.look(index).label for index in range(length)]
        return 1 + max(_label(label, f"{self.name}, label of example {index}") for index, label in enumerate(labels))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((len(self), self.traits.image_shape)).encode())
        shown = min(len(self), FINGERPRINTED)
        for number in range(shown):
            try:
                example = self.look(number * len(self) // shown)
            except BadInput as error:
                digest.update(str(error).encode())
                continue
            digest.update(example.image.tobytes())
            digest.update(example.label.to_bytes(8, "little", signed=True))
        return digest.hexdigest()


def _chosen(given: Any, name: str, split: str) -> tuple[Any, bool]:
    """The data set of this split, and whether another stands in for it."""
    if callable(given) and (isinstance(given, type) or not hasattr(given, "__getitem__")):
        asked = _takes_one(given)
        try:
            given = given(split) if asked else given()
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(f"data.name: got {name}, which raised {type(error).__name__}: {error}") from error
        if asked and not isinstance(given, Mapping):
            return given, False
    if not isinstance(given, Mapping) or "train" not in given:
        return given, split == "test"
    return (given[split], False) if split in given else (given["train"], True)


def _takes_one(function: Any) -> bool:
    try:
        return bool(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False


def _length(source: Any, name: str) -> int:
    """Examples. Raises BadInput unless they can be read by index."""
    if not hasattr(source, "__getitem__") or not hasattr(source, "__len__"):
        kind = "iterates only" if hasattr(source, "__iter__") else "has no length and no [index]"
        raise BadInput(
            f"data.name: got {name}, a {type(source).__name__} that {kind}; expected len(data) and data[index] -> "
            "(image, label): a lease names its examples by index, so that any worker can read them again"
        )
    if len(source) == 0:
        raise BadInput(f"data.name: got {name}, which is empty, expected at least one example")
    return len(source)


def as_fed(image: Any, where: str) -> Float32:
    """What a network is fed for an image, as said at the head of this file. Raises BadInput if it is none."""
    if isinstance(image, torch.Tensor):
        array = image.detach().cpu().numpy()
        picture = array.dtype == np.uint8
    else:
        if isinstance(image, Image.Image) and image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        array = np.asarray(image)
        picture = array.dtype == np.uint8 and array.ndim in (2, 3)
        if picture:
            array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if array.dtype.kind not in "buif" or array.ndim == 0:
        raise BadInput(
            f"{where}: got an image of type {array.dtype}, expected numbers: an array, a tensor or a picture"
        )
    found: Float32 = np.ascontiguousarray(array, np.float32)
    return found / np.float32(255) if picture else found


def _label(label: Any, where: str) -> int:
    try:
        number = int(label)
        whole = number == float(label)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{where}: got the label {label!r}, expected a whole number from 0") from error
    if not whole or number < 0:
        raise BadInput(f"{where}: got the label {label!r}, expected a whole number from 0")
    return number
