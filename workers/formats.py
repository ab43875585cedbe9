"""Formats: how the known data sets lie on disk. Each function reads one of them whole and believes nothing unchecked.

Pixels are uint8, images NxHxWxC. What is wrong with a file is said in one line: file, got, expected, what to do.

Shape suffixes: N = examples, H = height, W = width, C = channels.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zlib
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ps.errors import BadInput

UInt8 = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CIFAR_RECORD_BYTES = 1 + 3 * 32 * 32
DIGITS_TRAIN = 1437
RETRY = "remove the file and fetch it again"


def read_digits(split: str) -> tuple[UInt8, Labels]:
    """The digits inside this package, 8x8 with counts 0..16, enlarged to 16x16 (bilinear) and scaled to 0..255."""
    packed = resources.files("workers").joinpath("digits.csv.gz").read_bytes()
    rows_N65 = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",").astype(np.int64)
    rows_N65 = rows_N65[:DIGITS_TRAIN] if split == "train" else rows_N65[DIGITS_TRAIN:]
    small_NHW = np.rint(rows_N65[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    large_NHW = np.stack(
        [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)) for image in small_NHW]
    )
    return large_NHW[..., None], rows_N65[:, 64].copy()


# --- MNIST and Fashion-MNIST ------------------------------------------------------------------------------------------


def read_idx(images: Path, labels: Path) -> tuple[UInt8, Labels]:
    """A pair of IDX files, gzipped or not: gray 28x28 images and their labels 0..9.

    Raises:
        BadInput: Unreadable, corrupt, wrong magic number, dimensions or length, or the two do not belong together.
    """
    images_NHW = _idx(images, 2051, (28, 28))
    labels_N = _idx(labels, 2049, ())
    if len(images_NHW) != len(labels_N):
        raise BadInput(
            f"{labels}: got {len(labels_N)} labels, expected {len(images_NHW)}, one per image in {images.name}; {RETRY}"
        )
    _check_labels(labels_N, labels)
    return images_NHW[..., None], labels_N.astype(np.int64)


def _idx(path: Path, magic: int, item_shape: tuple[int, ...]) -> UInt8:
    data = _unpacked(path)
    header_bytes = 8 + 4 * len(item_shape)
    if len(data) < header_bytes:
        raise BadInput(f"{path}: got {len(data)} bytes, expected an IDX header of {header_bytes}; {RETRY}")
    got_magic, count, *got_shape = struct.unpack_from(f">{header_bytes // 4}I", data)
    if got_magic != magic:
        raise BadInput(
            f"{path}: got magic number {got_magic}, expected {magic} (IDX, bytes, {len(item_shape) + 1} dimensions); "
            f"{RETRY}"
        )
    if tuple(got_shape) != item_shape:
        raise BadInput(f"{path}: got images of {got_shape[0]}x{got_shape[1]}, expected 28x28; {RETRY}")
    expected = header_bytes + count * int(np.prod(item_shape, dtype=np.int64))
    if len(data) != expected or count == 0:
        raise BadInput(
            f"{path}: got {len(data)} bytes, expected {expected} for {count} entries, and at least one; {RETRY}"
        )
    return np.frombuffer(data, np.uint8, offset=header_bytes).reshape(count, *item_shape)


# --- CIFAR-10, as its author published it -----------------------------------------------------------------------------


def read_cifar_binary(paths: list[Path]) -> tuple[UInt8, Labels]:
    """Batches of the binary version: one label byte and 3,072 pixel bytes (planes red, green, blue) per example."""
    batches = []
    for path in paths:
        data = _unpacked(path)
        if not data or len(data) % CIFAR_RECORD_BYTES:
            raise BadInput(
                f"{path}: got {len(data)} bytes, expected records of {CIFAR_RECORD_BYTES} (10,000 in the original); "
                f"{RETRY}"
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD_BYTES)
        _check_labels(records[:, 0], path)
        batches.append(records)
    records = np.concatenate(batches)
    return _from_planes(records[:, 1:]), records[:, 0].astype(np.int64)


def read_cifar_pickle(paths: list[Path]) -> tuple[UInt8, Labels]:
    """Batches of the Python version. They are pickles: only plain values and one kind of array are let in."""
    images, labels = [], []
    for path in paths:
        try:
            batch = _OnlyArrays(io.BytesIO(_unpacked(path)), encoding="bytes").load()
            planes = np.asarray(batch[b"data"] if b"data" in batch else batch["data"])
            batch_labels = np.asarray(batch[b"labels"] if b"labels" in batch else batch["labels"])
        except (
            pickle.UnpicklingError,
            EOFError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            ImportError,
        ) as error:
            raise BadInput(
                f"{path}: got {error}, expected a pickled CIFAR-10 batch with data and labels; {RETRY}"
            ) from error
        if (
            planes.dtype != np.uint8
            or planes.ndim != 2
            or planes.shape[1] != 3072
            or batch_labels.shape != planes.shape[:1]
        ):
            raise BadInput(
                f"{path}: got data {planes.dtype} {planes.shape} and labels {batch_labels.shape}, "
                f"expected uint8 (n, 3072) and (n,); {RETRY}"
            )
        _check_labels(batch_labels, path)
        images.append(planes)
        labels.append(batch_labels.astype(np.int64))
    return _from_planes(np.concatenate(images)), np.concatenate(labels)


class _OnlyArrays(pickle.Unpickler):
    """Refuses to call anything that an array of numbers does not need."""

    # numpy has moved its constructor; a pickle names the place it had when it was written.
    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("_codecs", "encode"): lambda text, _encoding: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"a call of {module}.{name}, which no data set needs")
        return self.allowed[module, name]


def _from_planes(planes_N3072: UInt8) -> UInt8:
    return np.ascontiguousarray(planes_N3072.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


# --- folders of classes, plain or in an archive -----------------------------------------------------------------------


def list_classes(folder: Path) -> dict[str, list[str]]:
    """Class name to file names of its images, both sorted. Hidden files and folders are left out.

    Raises:
        BadInput: The folder is missing or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        return {name: _image_names(folder / name) for name in classes}
    except OSError as error:
        raise BadInput(
            f"{folder}: got {error.strerror}, expected a folder with one folder of images per class"
        ) from error


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_image(entry.name))


def is_image(name: str) -> bool:
    """Whether a file of this name (or path) is taken for a picture; hidden ones are not."""
    name = name.rpartition("/")[2]
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def read_classes(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Class name to (file name, content) of <class>/<file> in a folder, sorted."""
    return {
        name: [(file, _unpacked(folder / name / file)) for file in files]
        for name, files in list_classes(folder).items()
    }


def read_archive(path: Path, split: str) -> dict[str, list[tuple[str, bytes]]]:
    """Class name to (file name, content) of `split`/<class>/<file> in a .tar.gz, sorted. Nothing is written to disk."""
    classes: dict[str, list[tuple[str, bytes]]] = {}
    try:
        data = _unpacked(path)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                match member.name.removeprefix("./").split("/"):
                    case [folder, name, file] if folder == split and member.isfile() and is_image(file):
                        content = data[member.offset_data : member.offset_data + member.size]
                        classes.setdefault(name, []).append((file, content))
    except tarfile.TarError as error:
        raise BadInput(f"{path}: got {error}, expected a whole .tar.gz of class folders; {RETRY}") from error
    return {name: sorted(classes[name]) for name in sorted(classes)}


# --- shared -----------------------------------------------------------------------------------------------------------


def _unpacked(path: Path) -> bytes:
    """The content of a file, decompressed if its name ends in .gz."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except FileNotFoundError as error:
        raise BadInput(f"{path}: got no such file, expected it beside the others of its data set; {RETRY}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: got {error}, expected a whole file; {RETRY}") from error


def _check_labels(labels_N: npt.NDArray[Any], path: Path) -> None:
    if labels_N.dtype.kind not in "iu" or labels_N.size == 0 or labels_N.min() < 0 or labels_N.max() > 9:
        raise BadInput(f"{path}: got labels that are not whole numbers 0..9, expected one of 10 classes each; {RETRY}")
