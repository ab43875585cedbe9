"""Formats: every format is read, every kind of damage is named in one line."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ps.errors import BadInput
from workers import formats


def idx(path: Path, array: np.ndarray, magic: int) -> Path:
    data = struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def encoded(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


PIXELS = np.arange(3 * 28 * 28, dtype=np.int64).reshape(3, 28, 28).astype(np.uint8)
LABELS = np.array([7, 0, 9], np.uint8)
COLOURS = np.stack([np.indices((40, 30))[0] * 6, np.indices((40, 30))[1] * 8, np.full((40, 30), 99)], -1).astype(
    np.uint8
)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_split_where_the_writers_change() -> None:
    train, train_labels = formats.read_digits("train")
    test, test_labels = formats.read_digits("test")
    assert train.shape == (1437, 16, 16, 1)
    assert test.shape == (360, 16, 16, 1)
    assert train.max() == 255
    assert np.bincount(np.concatenate([train_labels, test_labels])).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]


# --- IDX --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_is_read_packed_or_plain(tmp_path: Path, suffix: str) -> None:
    images, labels = formats.read_idx(
        idx(tmp_path / f"images{suffix}", PIXELS, 2051), idx(tmp_path / f"labels{suffix}", LABELS, 2049)
    )
    assert np.array_equal(images[..., 0], PIXELS)
    assert labels.tolist() == [7, 0, 9]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (struct.pack(">4I", 2050, 3, 28, 28) + bytes(2352), None, "images: got magic number 2050, expected 2051"),
        (struct.pack(">4I", 2051, 3, 32, 28) + bytes(2688), None, "images: got images of 32x28, expected 28x28"),
        (struct.pack(">4I", 2051, 3, 28, 28) + bytes(99), None, "images: got 115 bytes, expected 2368 for 3 entries"),
        (struct.pack(">4I", 2051, 0, 28, 28), None, "for 0 entries, and at least one"),
        (b"abc", None, "images: got 3 bytes, expected an IDX header of 16"),
        (None, struct.pack(">2I", 2049, 2) + bytes(2), "labels: got 2 labels, expected 3, one per image"),
        (
            None,
            struct.pack(">2I", 2049, 3) + bytes([1, 2, 10]),
            r"labels: got labels that are not whole numbers 0\.\.9",
        ),
    ],
)
def test_damaged_idx_is_named(tmp_path: Path, images: bytes | None, labels: bytes | None, message: str) -> None:
    image_path, label_path = idx(tmp_path / "images", PIXELS, 2051), idx(tmp_path / "labels", LABELS, 2049)
    if images is not None:
        image_path.write_bytes(images)
    if labels is not None:
        label_path.write_bytes(labels)
    with pytest.raises(BadInput, match=message):
        formats.read_idx(image_path, label_path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"no gzip", lambda data: data[:40] + b"\xff" * 9 + data[49:]]
)
def test_damaged_gzip_is_named(tmp_path: Path, damage: object) -> None:
    path = idx(tmp_path / "images.gz", PIXELS, 2051)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(
        BadInput, match=r"images\.gz: got .*, expected a whole file; remove the file and fetch it again"
    ):
        formats.read_idx(path, tmp_path / "labels")


def test_missing_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"labels\.gz: got no such file"):
        formats.read_idx(idx(tmp_path / "images", PIXELS, 2051), tmp_path / "labels.gz")


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------

PLANES = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3072).astype(np.uint8)


def test_cifar_binary(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(b"".join(bytes([label]) + planes.tobytes() for label, planes in zip((3, 9), PLANES, strict=True)))
    images, labels = formats.read_cifar_binary([path, path])
    assert images.shape == (4, 32, 32, 3)
    assert np.array_equal(images[1].transpose(2, 0, 1).ravel(), PLANES[1])
    assert labels.tolist() == [3, 9, 3, 9]


@pytest.mark.parametrize(
    ("data", "message"),
    [(bytes(3072), "got 3072 bytes, expected records of 3073"), (b"", "got 0 bytes"), (b"\x0b" * 3073, "got labels")],
)
def test_damaged_cifar_binary(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "batch.bin").write_bytes(data)
    with pytest.raises(BadInput, match=message):
        formats.read_cifar_binary([tmp_path / "batch.bin"])


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_pickle(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": PLANES, b"labels": [3, 9], b"batch_label": b"x"}, protocol))
    images, labels = formats.read_cifar_pickle([path])
    assert np.array_equal(images[1].transpose(2, 0, 1).ravel(), PLANES[1])
    assert labels.tolist() == [3, 9]


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('owned', 'w')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Malicious(), r"got a call of builtins\.eval, which no data set needs"),
        ({b"data": PLANES}, "expected a pickled CIFAR-10 batch with data and labels"),
        ([1], "expected a pickled CIFAR-10 batch"),
        ({b"data": PLANES, b"labels": [3]}, r"got data uint8 \(2, 3072\) and labels \(1,\)"),
        ({b"data": PLANES.astype(np.int32), b"labels": [3, 9]}, "got data int32"),
        ({b"data": PLANES, b"labels": [3, -1]}, "got labels that are not whole numbers"),
        (None, "expected a pickled CIFAR-10 batch"),
    ],
)
def test_damaged_cifar_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(b"garbage" if content is None else pickle.dumps(content))
    with pytest.raises(BadInput, match=message):
        formats.read_cifar_pickle([tmp_path / "batch"])
    assert not (tmp_path / "owned").exists()


# --- archives ---------------------------------------------------------------------------------------------------------


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


def test_archive_is_read_by_split_and_sorted(tmp_path: Path) -> None:
    files = {
        "./train/b/2.png": b"2",
        "train/b/1.jpg": b"1",
        "train/a/9.PNG": b"9",
        "train/a/notes.txt": b"",
        "test/a/7.png": b"7",
    }
    path = archive(tmp_path / "set.tar.gz", files)
    assert formats.read_archive(path, "train") == {"a": [("9.PNG", b"9")], "b": [("1.jpg", b"1"), ("2.png", b"2")]}
    assert formats.read_archive(path, "test") == {"a": [("7.png", b"7")]}


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "set.tar.gz", {"train/a/1.png": b"1" * 5000})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInput, match=r"set\.tar\.gz: got .*, expected a whole file"):
        formats.read_archive(path, "train")
    path.write_bytes(gzip.compress(b"no archive" * 200))
    with pytest.raises(BadInput, match=r"set\.tar\.gz: got .*, expected a whole \.tar\.gz of class folders"):
        formats.read_archive(path, "train")
