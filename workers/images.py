"""Images: what a data set is, and the plain ways to hold one: decoded, encoded, or as files on disk.

A data set maps an index to an image and its label, and does nothing else. It knows no order, draws no random number and
makes no tensors: those belong to the lease. Reading is a pure function of the index, safe from many threads at once.

Shape suffixes: N = examples, H = height, W = width, C = channels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workers.decode import BadImage, decode

UInt8 = npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]  # uint8 HxWxC, or float32 as the network is fed
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Example:
    """One example. `image`: uint8 HxWxC, or float32 just as the network is fed; read-only to whoever gets it. `label`:
    0 .. number of classes - 1.
    """

    image: Pixels
    label: int


class Dataset(Protocol):
    """What batches are made of. A user's own may be any class of this shape."""

    @property
    def name(self) -> str:
        """Decides the augmentation."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in them."""
        ...

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width) that the network is fed; images read may be larger, see `workers.augment`. Images
        that are float32 already may have any shape.
        """
        ...

    @property
    def mean_C(self) -> npt.NDArray[np.float32]:
        """Per-channel mean to subtract, in pixel units 0..255."""
        ...

    @property
    def scale(self) -> float:
        """Factor after the subtraction."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Example:
        """The example at an index.

        Raises:
            BadImage: It cannot be read; the others can.
        """
        ...

    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the data, or for folders of the sorted names and sizes."""
        ...


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of a data set before it is opened."""

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    scale: float

    @classmethod
    def of(cls, dataset: Dataset) -> Traits:
        """What an open data set, a user's own perhaps, says of itself."""
        mean = tuple(float(value) for value in dataset.mean_C)
        return cls(dataset.name, tuple(dataset.classes), dataset.image_shape, mean, float(dataset.scale))


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """The traits, as a data set shows them."""

    traits: Traits

    @property
    def name(self) -> str:
        return self.traits.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.traits.classes

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.traits.image_shape

    @property
    def mean_C(self) -> npt.NDArray[np.float32]:
        return np.array(self.traits.mean, np.float32)

    @property
    def scale(self) -> float:
        return self.traits.scale


@dataclass(frozen=True, slots=True, eq=False)
class ArrayImages(Described):
    """Images in memory, decoded."""

    images_NHWC: UInt8
    labels_N: Labels

    def __len__(self) -> int:
        return len(self.labels_N)

    def read(self, index: int) -> Example:
        return Example(self.images_NHWC[index], int(self.labels_N[index]))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.images_NHWC.shape).encode())
        digest.update(np.ascontiguousarray(self.images_NHWC).data)
        digest.update(np.ascontiguousarray(self.labels_N).data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImages(Described):
    """Small image files in memory, decoded when read: a CIFAR-10 JPEG takes 0.1 ms when needed, all of them 5 s."""

    where: str
    names: tuple[str, ...]
    files: tuple[bytes, ...]
    labels_N: Labels

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Example:
        where = f"{self.where}: {self.names[index]}"
        image = decode(self.files[index], where)
        _, height, width = self.image_shape
        if image.shape[:2] != (height, width):
            raise BadImage(
                f"{where}: got {image.shape[1]}x{image.shape[0]} pixels, expected {width}x{height}; resize or remove it"
            )
        return Example(image, int(self.labels_N[index]))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, file in zip(self.names, self.files, strict=True):
            digest.update(f"{name}\0{len(file)}\n".encode())
            digest.update(file)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class FolderImages(Described):
    """Image files in class folders, read and decoded one by one. `files[i]` lies in the folder of its class."""

    folder: Path
    files: tuple[str, ...]
    labels_N: Labels

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        return self.folder / self.classes[int(self.labels_N[index])] / self.files[index]

    def read(self, index: int) -> Example:
        path = self.path(index)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadImage(
                f"{path}: got {error.strerror}, expected a readable image file; restore or remove it"
            ) from error
        return Example(decode(data, str(path)), int(self.labels_N[index]))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for index, label in enumerate(self.labels_N):
            path = self.path(index)
            size_bytes = path.stat().st_size if path.exists() else -1
            digest.update(f"{self.classes[label]}/{path.name}\0{size_bytes}\n".encode())
        return digest.hexdigest()
