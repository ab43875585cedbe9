"""Data: the contact sheet shows what training sees, and a known set is fetched once; from a server on the loopback."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distbelief import cli, data
from ps.errors import BadInput
from ps.streams import numpy_stream
from workers import datasets, download
from workers.augment import Identity, ShiftAndMirror, training_augmentation
from workers.datasets import KNOWN, BadImage, DataSettings, Example, load
from workers.download import Progress, Remote
from workers.images import ArrayImages


def numbered(count: int) -> ArrayImages:
    """Images of one brightness each, their own index."""
    pixels = np.repeat(np.arange(count, dtype=np.uint8), 256).reshape(count, 16, 16, 1)
    return ArrayImages(replace(KNOWN["digits"], name="numbered"), pixels, np.arange(count) % 10)


class Damaged(ArrayImages):
    """Only images whose brightness is a multiple of five can be read."""

    def read(self, index: int) -> Example:
        if self.images_NHWC[index].flat[0] % 5:
            raise BadImage(f"{index}: got nothing")
        return super().read(index)


def damaged(count: int) -> Damaged:
    whole = numbered(count)
    return Damaged(whole.traits, whole.images_NHWC, whole.labels_N)


def brightness(sheet: Image.Image, row: int, column: int) -> int:
    """At the middle of a cell; images of 16 pixels are shown ten times as large."""
    x, y = 6 + column * 166 + 80, 6 + row * 186 + 20 + 80
    pixel = sheet.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


# --- preview ----------------------------------------------------------------------------------------------------------


def test_rows_are_spread_over_the_set_and_begin_with_the_image_itself() -> None:
    sheet = data.contact_sheet(numbered(100), Identity(), rows=4, columns=2, seed=0)
    assert sheet.size == (6 + 3 * 166, 6 + 4 * 186)
    assert [[brightness(sheet, row, column) for column in range(3)] for row in range(4)] == [
        [0, 0, 0], [25, 25, 25], [50, 50, 50], [75, 75, 75],
    ]  # fmt: skip


def test_cells_are_what_the_augmentation_makes_of_the_image() -> None:
    digits = load(DataSettings(), "train")
    augmentation = training_augmentation(digits.name, digits.image_shape)
    sheet = np.asarray(data.contact_sheet(digits, augmentation, rows=2, columns=3, seed=4))
    index = len(digits) // 2
    patches = augmentation([digits.read(index).image] * 3, 3, numpy_stream(4, f"preview/{index}"))
    top = 6 + 186 + 20
    for column, patch in enumerate(patches, 1):
        left = 6 + column * 166
        cell = sheet[top : top + 160, left : left + 160]
        assert np.array_equal(cell[5::10, 5::10, 0], patch[..., 0])


def test_unreadable_images_are_replaced_by_the_next() -> None:
    sheet = data.contact_sheet(damaged(40), ShiftAndMirror(0), rows=3, columns=1, seed=0)
    assert [brightness(sheet, row, 0) for row in range(3)] == [0, 15, 30]


def test_a_set_of_nothing_readable_has_no_sheet() -> None:
    whole = numbered(5)
    unreadable = Damaged(whole.traits, whole.images_NHWC[1:], whole.labels_N[1:])
    with pytest.raises(BadInput, match="numbered: got no readable image of 4, expected some; replace the files"):
        data.contact_sheet(unreadable, Identity(), 1, 1, 0)


def test_a_set_smaller_than_the_sheet_is_shown_whole() -> None:
    assert data.contact_sheet(numbered(3), Identity(), rows=8, columns=1, seed=0).height == 6 + 3 * 186


def test_the_command_writes_a_png_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["data", "preview", "--rows", "2"]) == 0
    assert capsys.readouterr().out == "digits-preview.png: 1334x378, 1,437 training images, 10 classes\n"
    with Image.open("digits-preview.png") as sheet:
        assert (sheet.format, sheet.size) == ("PNG", (1334, 378))
    assert cli.run(["data", "preview", "--output", "no/such/folder.png"]) == 2
    assert "got no/such/folder.png (No such file or directory), expected a file" in capsys.readouterr().err
    for option in ("--rows 0", "--columns 101", "--seed -1"):
        assert cli.run(f"data preview {option}".split()) == 2


def test_real_photographs(real_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "sheet.png"
    root = str(real_data / "caltech101-10")
    assert cli.run(["data", "preview", "imagefolder", "--data-root", root, "--output", str(output), "--rows", "3"]) == 0
    with Image.open(output) as sheet:
        assert sheet.size == (6 + 8 * 230, 6 + 3 * 250)


# --- fetch ------------------------------------------------------------------------------------------------------------


def test_a_known_set_is_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = Remote("https://example.org/train-images-idx3-ubyte.gz", 26_000_000, "md5:0")

    def fetch(remote: Remote, into: Path, progress: Progress) -> None:
        into.mkdir(parents=True, exist_ok=True)
        for prefix in ("train", "t10k"):
            images = struct.pack(">4I", 2051, 5, 28, 28) + bytes(5 * 784)
            (into / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
            (into / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 5) + bytes(5))
        for done in (1000, 26_000_000):
            progress(remote.name, done, remote.size_bytes)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DISTBELIEF_DATA", raising=False)
    monkeypatch.setattr(datasets, "fetch", fetch)
    monkeypatch.setattr(download, "REMOTES", {"fashion-mnist": (remote,)})
    monkeypatch.setattr(datasets, "REMOTES", {"fashion-mnist": (remote,)})
    root = tmp_path / "data"
    root.mkdir()
    typed = ["data", "fetch", "fashion-mnist", "--data-root", str(root)]
    assert cli.run(typed) == 0
    out, err = capsys.readouterr()
    assert out == f"fashion-mnist: 5 training and 5 test images; downloaded into {root}/fashion-mnist\n"
    assert err == "fetching train-images-idx3-ubyte.gz, 26.0 MB\n"
    assert cli.run(typed) == 0
    out, err = capsys.readouterr()
    assert out == "fashion-mnist: 5 training and 5 test images; nothing to download, it is there\n"
    assert err == ""


def test_a_set_that_cannot_be_downloaded_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", "fetch", "cifar-10"]) == 2
    expected = 'got cifar-10, expected a set that can be downloaded: fashion-mnist, cifar10 (did you mean "cifar10"?)'
    assert capsys.readouterr().err == f"distbelief: error: {expected}\n"
