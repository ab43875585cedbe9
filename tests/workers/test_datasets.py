"""Data sets: each is found where a user may put it, and whatever is wrong is one clear line. Small files made here."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ps.errors import BadInput
from workers import datasets, download
from workers.datasets import KNOWN, BadImage, Dataset, DataSettings, load
from workers.decode import decode
from workers.images import FolderImages

REAL = os.environ.get("DISTBELIEF_TEST_DATA", "")
on_real_data = pytest.mark.skipif(
    not REAL, reason="DISTBELIEF_TEST_DATA does not name the folder of the real data sets"
)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data of whoever runs the tests, and no network."""
    monkeypatch.delenv("DISTBELIEF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "REMOTES", {})


def write_idx(folder: Path, images: int = 5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k"):
        pixels = struct.pack(">4I", 2051, images, 28, 28) + bytes(range(images)) * 784
        labels = struct.pack(">2I", 2049, images) + bytes(range(images))
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return folder


def jpeg(width: int, height: int, brightness: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (brightness, 50, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_classes(folder: Path, classes: tuple[str, ...], size: tuple[int, int] = (32, 32)) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for file in ("b.jpg", "a.JPEG"):
            (folder / name / file).write_bytes(jpeg(*size, brightness=20 * number))
    return folder


# --- what every one shares --------------------------------------------------------------------------------------------


def test_digits_need_nothing() -> None:
    train, test = load(DataSettings(), "train"), load(DataSettings(), "test")
    assert (len(train), len(test)) == (1437, 360)
    example = test.read(0)
    assert example.image.shape == (16, 16, 1)
    assert example.image.dtype == np.uint8
    assert 0 <= example.label <= 9
    assert train.fingerprint() == load(DataSettings(), "train").fingerprint() != test.fingerprint()


def pixels_of(dataset: Dataset) -> np.ndarray:
    return np.stack([dataset.read(index).image for index in range(len(dataset))]).astype(np.float64)


def test_constants_are_those_of_the_digits() -> None:
    pixels = pixels_of(load(DataSettings(), "train"))
    assert pixels.mean() == pytest.approx(KNOWN["digits"].mean[0], abs=0.01)
    assert 1 / pixels.std() == pytest.approx(KNOWN["digits"].scale, rel=1e-3)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(
        BadInput, match=r"data.name: got 'fashion_mnist', expected one of digits, .*did you mean \"fashion-mnist\""
    ):
        load(DataSettings("fashion_mnist"), "train")
    with pytest.raises(BadInput, match="split: got 'val', expected train or test"):
        load(DataSettings(), "val")  # type: ignore[arg-type]


def test_a_root_that_is_no_folder_is_never_downloaded_into(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"data root: got .*/typo, which is no folder"):
        load(DataSettings("fashion-mnist", str(tmp_path / "typo")), "train")
    assert not (tmp_path / "typo").exists()


# --- MNIST and Fashion-MNIST ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["data", "data/fashion-mnist", "cache/distbelief/fashion-mnist"])
def test_idx_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    write_idx(tmp_path / place)
    (tmp_path / "data").mkdir(exist_ok=True)
    monkeypatch.setenv("DISTBELIEF_DATA", str(tmp_path / "data"))
    dataset = load(DataSettings("fashion-mnist"), "test")
    assert len(dataset) == 5
    assert dataset.read(3).label == 3
    assert dataset.classes[9] == "Ankle boot"


def test_the_set_s_own_folder_is_a_root_too(tmp_path: Path) -> None:
    assert len(load(DataSettings("mnist", str(write_idx(tmp_path / "mnist"))), "train")) == 5


def test_fashion_is_not_taken_for_mnist(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mnist: got nothing of it in .*fetch it yourself and name its folder"):
        load(DataSettings("mnist", str(write_idx(tmp_path / "fashion-mnist"))), "train")


def test_fingerprints_follow_the_data(tmp_path: Path) -> None:
    def fingerprint(folder: str, images: int) -> str:
        return load(DataSettings("mnist", str(write_idx(tmp_path / folder, images))), "train").fingerprint()

    assert fingerprint("a", 5) == fingerprint("b", 5) != fingerprint("c", 6)


def test_what_is_nowhere_is_downloaded_into_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = download.Remote("https://example.org/set", 1, "md5:0")
    fetched: list[Path] = []

    def fetch(_: download.Remote, into: Path, __: object) -> None:
        fetched.append(into)
        write_idx(into)

    monkeypatch.setattr(datasets, "REMOTES", {"fashion-mnist": (remote,)})
    monkeypatch.setattr(datasets, "fetch", fetch)
    assert len(load(DataSettings("fashion-mnist"), "train")) == 5
    (tmp_path / "root").mkdir()
    for _ in range(2):  # the cache is looked into before anything is fetched, so the root stays empty
        assert len(load(DataSettings("fashion-mnist", str(tmp_path / "root")), "train")) == 5
    assert fetched == [tmp_path / "cache" / "distbelief" / "fashion-mnist"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    load(DataSettings("fashion-mnist", str(tmp_path / "root")), "train")
    assert fetched[1:] == [tmp_path / "root" / "fashion-mnist"]


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------


def test_original_binary_before_jpegs(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(bytes([number]) * 3073)
    (folder / "test_batch.bin").write_bytes(bytes(3073))
    write_classes(tmp_path / "train", KNOWN["cifar10"].classes)
    train = load(DataSettings("cifar10", str(tmp_path)), "train")
    assert [train.read(index).label for index in range(5)] == [1, 2, 3, 4, 5]
    assert len(load(DataSettings("cifar10", str(folder)), "test")) == 1
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(BadInput, match=r"data_batch_3\.bin: got no such file"):
        load(DataSettings("cifar10", str(tmp_path)), "train")


def test_python_version(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batch = {b"data": np.full((2, 3072), 9, np.uint8), b"labels": [4, 5]}
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    assert load(DataSettings("cifar10", str(tmp_path)), "test").read(1).label == 5


def test_archive_before_a_plain_subset(tmp_path: Path) -> None:
    classes = KNOWN["cifar10"].classes
    place = tmp_path / "cifar10-jpeg"
    write_classes(place / "subset" / "train", classes)
    settings = DataSettings("cifar10", str(tmp_path))
    subset = load(settings, "train")
    assert len(subset) == 20
    assert subset.read(3).label == 1
    assert subset.read(3).image.shape == (32, 32, 3)
    with tarfile.open(place / "cifar10_all.tar.gz", "w:gz") as archive:
        for name in classes:
            for number in range(3):
                member = tarfile.TarInfo(f"train/{name}/{number}.jpg")
                content = jpeg(32, 32) if number < 2 else jpeg(31, 32)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    full = load(settings, "train")
    assert len(full) == 30
    assert full.fingerprint() == load(settings, "train").fingerprint() != subset.fingerprint()
    with pytest.raises(BadImage, match=r"cifar10_all\.tar\.gz: airplane/2\.jpg: got 31x32 pixels, expected 32x32"):
        full.read(2)
    with pytest.raises(BadInput, match=r"cifar10_all\.tar\.gz: got the classes \[\], expected \['airplane'"):
        load(settings, "test")


def test_cifar_that_is_nowhere_or_not_what_it_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="cifar10: got nothing of it in no folder"):
        load(DataSettings("cifar10"), "train")
    monkeypatch.setattr(datasets, "REMOTES", {"cifar10": ()})
    with pytest.raises(BadInput, match="cifar10: got a download without the expected files"):
        load(DataSettings("cifar10", str(tmp_path)), "train")


# --- folders ----------------------------------------------------------------------------------------------------------


def test_image_folder(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("cat", "ant", "bee"), size=(50, 40))
    write_classes(tmp_path / "val", ("bee", "ant"), size=(30, 20))
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    settings = DataSettings("imagefolder", str(tmp_path))
    train, test = load(settings, "train"), load(settings, "test")
    assert isinstance(train, FolderImages)
    assert train.classes == test.classes == ("ant", "bee", "cat")
    assert [train.path(index).name for index in (0, 1)] == ["a.JPEG", "b.jpg"]
    assert [test.read(index).label for index in range(len(test))] == [0, 0, 1, 1]
    assert train.read(5).image.shape == (40, 50, 3)
    before = train.fingerprint()
    assert load(settings, "train").fingerprint() == before
    (tmp_path / "train" / "cat" / "b.jpg").write_bytes(jpeg(9, 9) + b"more")
    assert train.fingerprint() != before


def test_photographs_are_cut_to_the_size_asked_for(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("cat", "ant"), size=(50, 40))
    sizes = {0: 224, 128: 128, 1: 1}
    for size, side in sizes.items():
        dataset = load(DataSettings("imagefolder", str(tmp_path), image_size=size), "train")
        assert dataset.image_shape == (3, side, side)
    with pytest.raises(BadInput, match=r"data.image_size: got -1, expected 0 \(224\) or a number of pixels"):
        DataSettings("imagefolder", image_size=-1)
    with pytest.raises(BadInput, match=r"data.image_size: got 64, expected 0: digits has its own size"):
        DataSettings("digits", image_size=64)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("ant",))
    train = load(DataSettings("imagefolder", str(tmp_path)), "train")
    (tmp_path / "train" / "ant" / "a.JPEG").write_bytes(jpeg(32, 32)[:200])
    (tmp_path / "train" / "ant" / "b.jpg").unlink()
    with pytest.raises(BadImage, match=r"train/ant/a\.JPEG: got 200 bytes that do not decode"):
        train.read(0)
    with pytest.raises(
        BadImage, match=r"train/ant/b\.jpg: got No such file or directory, expected a readable image file"
    ):
        train.read(1)
    assert len(train.fingerprint()) == 64


def test_folders_that_are_none(tmp_path: Path) -> None:
    settings = DataSettings("imagefolder", str(tmp_path))
    with pytest.raises(BadInput, match="imagefolder: got no folder, expected one with train/ and val/ or test/"):
        load(DataSettings("imagefolder"), "train")
    with pytest.raises(
        BadInput, match=r"/train: got No such file or directory, expected a folder with one folder of images per"
    ):
        load(settings, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(BadInput, match=r"/train: got no images, expected one folder per class"):
        load(settings, "train")
    write_classes(tmp_path / "train", ("leopard",))
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(BadInput, match=r"/train/empty: got no images"):
        load(settings, "train")
    (tmp_path / "train" / "empty").rmdir()
    with pytest.raises(BadInput, match=r"/test: got No such file"):
        load(settings, "test")
    (tmp_path / "test").mkdir()
    with pytest.raises(BadInput, match=r"/test: got no images"):
        load(settings, "test")
    write_classes(tmp_path / "test", ("leopards",))
    with pytest.raises(
        BadInput, match=r'leopards: got a class that .*/train lacks \(did you mean "leopard"\?\), expected the same'
    ):
        load(settings, "test")


# --- the real data ----------------------------------------------------------------------------------------------------


@on_real_data
def test_constants_of_fashion_mnist() -> None:
    pixels = pixels_of(load(DataSettings("fashion-mnist", REAL), "train"))
    assert pixels.mean() == pytest.approx(KNOWN["fashion-mnist"].mean[0], abs=0.01)
    assert 1 / pixels.std() == pytest.approx(KNOWN["fashion-mnist"].scale, rel=1e-3)


@on_real_data
def test_constants_of_cifar() -> None:
    dataset = load(DataSettings("cifar10", REAL), "train")
    assert len(dataset) == 50000
    pixels = np.stack([dataset.read(index).image for index in range(0, 50000, 10)]).astype(np.float64)
    assert pixels.mean((0, 1, 2)) == pytest.approx(KNOWN["cifar10"].mean, abs=1.0)
    assert 1 / pixels.std() == pytest.approx(KNOWN["cifar10"].scale, rel=0.02)


@on_real_data
def test_real_folder_and_oddities() -> None:
    dataset = load(DataSettings("imagefolder", f"{REAL}/caltech101-10"), "test")
    assert (len(dataset), len(dataset.classes)) == (1015, 10)
    unreadable = []
    for path in sorted(Path(REAL, "image-oddities").glob("*.[Jp][Pn][Eg]*")):
        try:
            assert decode(path.read_bytes(), path.name).shape[2] == 3
        except BadImage:
            unreadable.append(path.name)
    assert unreadable == ["empty.JPEG", "not_an_image.JPEG", "truncated_60pct.JPEG"]
