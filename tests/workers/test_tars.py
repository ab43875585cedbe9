"""Tar files: classes and splits are found as they are named, examples are read at random, damage is one clear line."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ps.errors import BadInput
from workers.datasets import Dataset, DataSettings, Split, load
from workers.decode import BadImage
from workers.tars import TarImages


def picture(brightness: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (brightness, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, members: Mapping[str, bytes | str], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def opened(root: Path, split: Split = "train") -> Dataset:
    return load(DataSettings("imagefolder", str(root)), split)


def contents(dataset: Dataset) -> list[tuple[int, str]]:
    """Every example: its brightness, and the name of its class."""
    examples = [dataset.read(index) for index in range(len(dataset))]
    return [(int(example.image[0, 0, 0]), dataset.classes[example.label]) for example in examples]


def test_one_tar_of_class_folders_is_like_the_folders_themselves(tmp_path: Path) -> None:
    members = {
        "./set/train/bee/1.png": picture(1),
        "./set/train/ant/2.v2.png": picture(2),
        "./set/train/ant/2.v3.png": picture(3),
        "./set/train/ant/._2.png": "what another system leaves",
        "./set/val/bee/3.png": picture(4),
        "./set/readme.txt": "nothing",
    }
    root = write(tmp_path / "set.tar", members)
    assert contents(opened(root)) == [(1, "bee"), (2, "ant"), (3, "ant")]
    assert contents(opened(root, "test")) == [(4, "bee")]
    assert opened(root).classes == opened(root, "test").classes == ("ant", "bee")


def test_shards_with_classes_beside_the_pictures(tmp_path: Path) -> None:
    """Numbers are sorted as numbers; .cls beats .json; the order is that of the shards."""
    write(tmp_path / "photos-train-001.tar", {"b.jpg": picture(3), "b.json": json.dumps({"label": 10}), "b.cls": "2"})
    write(tmp_path / "photos-train-000.tar", {"a.cls": "10\n", "a.png": picture(1), "c.png": picture(2), "c.cls": "0"})
    write(tmp_path / "photos-validation-000.tar", {"d.json": json.dumps({"cls": 2, "x": 1}), "d.png": picture(4)})
    train = opened(tmp_path)
    assert train.classes == ("0", "2", "10")
    assert contents(train) == [(1, "10"), (2, "0"), (3, "2")]
    assert contents(opened(tmp_path, "test")) == [(4, "2")]
    assert contents(opened(tmp_path / "photos-*-000.tar")) == [(1, "10"), (2, "0")]


def test_shards_in_folders_of_their_split(tmp_path: Path) -> None:
    write(tmp_path / "train" / "0.tar", {"x.png": picture(1), "x.cls": "cat"})
    write(tmp_path / "test" / "0.tar", {"y.png": picture(2), "y.cls": "cat"})
    assert contents(opened(tmp_path)) == [(1, "cat")]
    assert contents(opened(tmp_path, "test")) == [(2, "cat")]


def test_long_names_are_read_whatever_the_dialect(tmp_path: Path) -> None:
    name = f"train/{'deep' * 30}/{'long' * 40}.png"
    for number, dialect in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=dialect) as archive:
            member = tarfile.TarInfo(name)
            member.size = len(picture(7))
            archive.addfile(member, io.BytesIO(picture(7)))
        assert contents(opened(path)) == [(7, "deep" * 30)]


def test_many_threads_read_at_random(tmp_path: Path) -> None:
    root = write(tmp_path / "set.tar", {f"train/c{i % 5}/{i}.png": picture(i) for i in range(200)})
    train = opened(root)
    order = np.random.Generator(np.random.Philox(key=1)).permutation(200).tolist() * 3  # noqa: TID251 -- a test's own
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda index: int(train.read(index).image[0, 0, 0]), order))
    assert found == order


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    members = {"train/a/1.png": picture(1)}
    one, same = write(tmp_path / "1.tar", members), write(tmp_path / "2.tar", members)
    other = write(tmp_path / "3.tar", {"train/a/1.png": picture(1) + b"more"})
    assert opened(one).fingerprint() == opened(same).fingerprint() != opened(other).fingerprint()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set.tar", {"train/a/1.png": "no picture", "train/a/2.png": picture(5)})
    train = opened(root)
    with pytest.raises(BadImage, match=r"set\.tar: train/a/1\.png: got 10 bytes that do not decode"):
        train.read(0)
    assert train.read(1).image.shape == (8, 12, 3)
    root.unlink()
    with pytest.raises(BadImage, match=r"set\.tar: train/a/2\.png: got No such file or directory"):
        train.read(1)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"train/1.png": b"x"}, r"train/1\.png: got no class, expected a \.cls or \.json beside it, or a folder"),
        ({"a/1.png": b"x"}, r"set\.tar: got no image of the train split, expected tar files with one of train"),
        ({"train/a/1.png": b"x"}, r"set\.tar: got no image of the test split, expected .*val, valid, validation"),
        ({"train/a/1.png": b"x", "val/b/1.png": b"x"}, r"val/b/1\.png: got the class 'b', expected one of the 1 of"),
        ({"train/1.png": b"x", "train/1.json": "{"}, r"set\.tar: train/1\.json: got .*, expected the class"),
        ({"train/1.png": b"x", "train/1.json": "{}"}, r"train/1\.png: got no class"),
        ({"notes.txt": b"x"}, r"set\.tar: got no image of the train split"),
    ],
)
def test_mistakes_in_a_tar_are_one_line(tmp_path: Path, members: dict[str, bytes | str], message: str) -> None:
    root = write(tmp_path / "set.tar", members)
    with pytest.raises(BadInput, match=message):
        opened(root, "test")


def test_a_tar_that_is_none_or_cut_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "set.tar", {"train/a/1.png": picture(1), "train/a/2.png": bytes(5000)})
    root.write_bytes(root.read_bytes()[:3000])
    with pytest.raises(BadInput, match=r"set\.tar: got .*, expected a whole tar file, not compressed"):
        opened(root)
    write(root, {"train/a/1.png": picture(1)}, "w:gz")
    with pytest.raises(BadInput, match=r"set\.tar: got .*, expected a whole tar file, not compressed"):
        opened(root)
    with pytest.raises(BadInput, match=r"data root: got .*/none\.tar, which does not exist; expected a folder, a tar"):
        opened(tmp_path / "none.tar")


def test_class_folders_come_before_tars_that_lie_about(tmp_path: Path) -> None:
    write(tmp_path / "old-train.tar", {"train/x/1.png": picture(1)})
    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant" / "1.png").write_bytes(picture(9))
    train = opened(tmp_path)
    assert not isinstance(train, TarImages)
    assert contents(train) == [(9, "ant")]
