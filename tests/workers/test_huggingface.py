"""Hugging Face data sets, where the package is installed; and what is said where it is not."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from ps.errors import BadInput
from workers.datasets import DataSettings, Split, load
from workers.decode import BadImage


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package, kept from asking for anything over the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        return pytest.importorskip("datasets")


def picture(brightness: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("L", (12, 8), brightness).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def split(datasets: ModuleType, pictures: list[Any], labels: list[Any], label: Any, image: str = "image") -> Any:
    features = datasets.Features({image: datasets.Image(), "label": label})
    return datasets.Dataset.from_dict({image: pictures, "label": labels}, features=features)


def save(datasets: ModuleType, folder: Path, **splits: Any) -> Path:
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return folder


def opened(root: Path, split: Split = "train") -> Any:
    return load(DataSettings("imagefolder", str(root)), split)


def test_named_classes(datasets: ModuleType, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["zebra", "ant"])
    on_disk = tmp_path / "3.png"
    on_disk.write_bytes(picture(30)["bytes"])
    train = split(datasets, [picture(10), picture(20), {"bytes": None, "path": str(on_disk)}], [0, 1, 1], label)
    root = save(datasets, tmp_path / "set", train=train, validation=split(datasets, [picture(40)], [0], label))
    found = opened(root)
    assert found.classes == ("zebra", "ant")
    assert [(int(found.read(i).image[0, 0, 0]), found.read(i).label) for i in range(3)] == [(10, 0), (20, 1), (30, 1)]
    assert found.read(0).image.shape == (8, 12, 3)
    test = opened(root, "test")
    assert (len(test), test.classes) == (1, found.classes)
    assert found.fingerprint() == opened(root).fingerprint() != test.fingerprint()


def test_plain_numbers_as_classes(datasets: ModuleType, tmp_path: Path) -> None:
    label = datasets.Value("int64")
    train = split(datasets, [picture(1)] * 3, [10, 2, 10], label, image="img")
    root = save(datasets, tmp_path / "set", train=train, test=split(datasets, [picture(2)], [10], label, image="img"))
    assert opened(root).classes == ("2", "10")
    assert opened(root, "test").read(0).label == 1
    wrong = save(datasets, tmp_path / "x", train=train, test=split(datasets, [picture(2)], [3], label, image="img"))
    with pytest.raises(BadInput, match=r"got the class '3' in test, expected one of the training images"):
        opened(wrong, "test")


def test_what_cannot_be_read_is_named(datasets: ModuleType, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["a"])
    train = split(datasets, [{"bytes": b"none", "path": None}, None], [0, 0], label)
    found = opened(save(datasets, tmp_path / "set", train=train))
    with pytest.raises(BadImage, match="set/train: example 0: got 4 bytes that do not decode"):
        found.read(0)
    with pytest.raises(BadImage, match=r"set/train: example 1: got .*expected the bytes of an image or the path"):
        found.read(1)


def test_sets_that_lack_something_are_refused(datasets: ModuleType, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["a"])
    train = split(datasets, [picture(1)], [0], label)
    with pytest.raises(BadInput, match="got the splits train, expected validation or val or valid or test"):
        opened(save(datasets, tmp_path / "a", train=train), "test")
    with pytest.raises(BadInput, match="got the columns label, expected one of images and one of classes"):
        opened(save(datasets, tmp_path / "b", train=train.remove_columns("image")))
    train.save_to_disk(str(tmp_path / "c"))
    with pytest.raises(BadInput, match="got one split, expected a DatasetDict"):
        opened(tmp_path / "c")


def test_a_damaged_one_is_one_line(datasets: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{")
    with pytest.raises(BadInput, match=r"got .*, expected what datasets' save_to_disk leaves"):
        opened(tmp_path)


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        BadInput, match=r"without the package datasets, expected it installed; pip install 'distbelief\[hf\]'"
    ):
        opened(tmp_path)
