"""Data sets: which there are, where they are found, and how one is opened by name.

    digits          1,437 + 360 handwritten digits, inside this package; 8x8, enlarged to 16x16
    mnist           60,000 + 10,000 handwritten digits, 28x28
    fashion-mnist   60,000 + 10,000 pieces of clothing, 28x28
    cifar10         50,000 + 10,000 small photographs, 32x32, as published or as JPEGs
    module:factory  one's own (see `workers.own_data`)
    imagefolder     photographs of one's own, decoded when read: class folders, tar files, or Hugging Face's
                    (see `workers.photographs`)

Pixels are 0..255. A network gets (pixel - mean) * scale: `mean_C` per channel, `scale` one over the standard deviation
of all pixels, so about unit range. Both are constants, so that nobody waits for them: those of a known set are its
training set's, folders get ImageNet's published mean 123/117/104 (red, green, blue) and its scale, whatever they hold.

Where: in the root (--data-root, else $DISTBELIEF_DATA) or in a folder of the set's name in it, then in the cache
($XDG_CACHE_HOME or ~/.cache)/distbelief. Fashion-MNIST and CIFAR-10 are downloaded if they are in neither. Nothing else
is ever written.

Shape suffix: N = examples.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ps.errors import BadInput, nearest, require
from workers import formats
from workers.augment import Augmentation, training_augmentation
from workers.decode import BadImage
from workers.download import REMOTES, Progress, fetch, silent
from workers.images import ArrayImages, Dataset, EncodedImages, Example, Traits
from workers.own import is_own, resolve
from workers.own_data import OwnData
from workers.photographs import open_photographs
from workers.tars import find_tars

__all__ = ["KNOWN", "BadImage", "DataSettings", "Dataset", "Example", "Split", "load"]

Split = Literal["train", "test"]

PHOTOGRAPHS = "imagefolder"  # of any size, cut to the network's
_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# digits: after enlarging. mnist: as published (0.1307 and 0.3081 of 255). cifar10: as published for the original
# files; the JPEG version's means are within 0.05 of them.
KNOWN = {
    traits.name: traits
    for traits in (
        Traits("digits", _DIGITS, (1, 16, 16), (77.89,), 1 / 81.04),
        Traits("mnist", _DIGITS, (1, 28, 28), (33.32,), 1 / 78.57),
        Traits("fashion-mnist", _FASHION, (1, 28, 28), (72.94,), 1 / 90.02),
        Traits("cifar10", _CIFAR, (3, 32, 32), (125.31, 122.95, 113.87), 1 / 64.14),
        Traits(PHOTOGRAPHS, (), (3, 224, 224), (123.0, 117.0, 104.0), 1 / 57.0),
    )
}


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Which data a run uses.

    Attributes:
        name: One of `KNOWN`, or package.module:factory for one's own.
        path: Folder that one's own module is found in, after all others.
        classes: Of one's own; 0 to count them.
        root: Folder to look in; empty for $DISTBELIEF_DATA. For imagefolder also a tar file, or a pattern that several
            match.
        bad_images: What an unreadable example does: "skip" leaves it out of its batch and counts it, "fail" ends the
            run.
        image_size: Side in pixels of the patches that photographs are cut to, for the network and its evaluation; 0
            for 224, which GoogLeNet was made for. A smaller one is faster by its square.

    Raises:
        BadInput: `bad_images` is neither, or an image size for data that have their own.
    """

    name: str = "digits"
    root: str = ""
    bad_images: str = "skip"
    image_size: int = 0
    path: str = ""
    classes: int = 0

    def __post_init__(self) -> None:
        expected = "0 (224) or a number of pixels" if self.name == PHOTOGRAPHS else f"0: {self.name} has its own size"
        require(self.image_size == 0 or self.name == PHOTOGRAPHS, "data.image_size", self.image_size, expected)
        require(self.image_size >= 0, "data.image_size", self.image_size, expected)
        require(self.bad_images in ("skip", "fail"), "data.bad_images", self.bad_images, "skip or fail")
        require(self.classes >= 0, "data.classes", self.classes, "0 (to count them) or how many there are")


def load(settings: DataSettings, split: Split, progress: Progress = silent) -> Dataset:
    """Open a data set, downloading it first if it is one of `REMOTES` and is found nowhere.

    Raises:
        BadInput: Unknown name, no data, corrupt data, no network; one line that says what to do.
    """
    if split not in ("train", "test"):
        raise BadInput(f"split: got {split!r}, expected train or test")
    if is_own(settings.name):
        given = resolve("data.name", settings.name, settings.path)
        return OwnData.of(given, settings.name, split, settings.classes)
    match settings.name:
        case "digits":
            return ArrayImages(KNOWN["digits"], *formats.read_digits(split))
        case "mnist" | "fashion-mnist":
            return _open_idx(settings, split, progress)
        case "cifar10":
            return _open_cifar(settings, split, progress)
        case "imagefolder":
            return _open_photographs(settings, split)
    own = "module:factory for your own"
    raise BadInput(
        f"data.name: got {settings.name!r}, expected one of {', '.join(KNOWN)}, or {own}{nearest(settings.name, KNOWN)}"
    )


def augmentation_of(dataset: Dataset) -> Augmentation:
    """What the training images of a data set go through."""
    if isinstance(dataset, OwnData):
        return dataset.augmentation
    return training_augmentation(dataset.name, dataset.image_shape)


# --- where things are -------------------------------------------------------------------------------------------------


def _root(settings: DataSettings) -> Path | None:
    """The folder that the user named, if any."""
    named = _named(settings)
    if not named:
        return None
    root = Path(named).expanduser().absolute()
    if not root.is_dir():
        raise BadInput(
            f"data root: got {root}, which is no folder; expected one that exists (--data-root or DISTBELIEF_DATA)"
        )
    return root


def _named(settings: DataSettings) -> str:
    return settings.root or os.environ.get("DISTBELIEF_DATA", "")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distbelief"


def _places(settings: DataSettings) -> list[Path]:
    """Folders that may hold the set, best first."""
    root, name = _root(settings), settings.name
    places = []
    if root is not None:
        places += [root / name, root / f"{name}-jpeg"]
        if root.name == name or root.name not in KNOWN:  # mnist and fashion-mnist call their files the same
            places.append(root)
    return [place for place in [*places, _cache() / name] if place.is_dir()]


def destination(settings: DataSettings) -> Path:
    """Where a set that is found nowhere is downloaded to: the root, if there is one that can be written, else the
    cache.
    """
    root, name = _root(settings), settings.name
    if root is None or not os.access(root, os.W_OK):
        return _cache() / name
    return root if root.name == name else root / name


def _download(settings: DataSettings, progress: Progress) -> Path:
    """Fetch what was found nowhere."""
    name, into = settings.name, destination(settings)
    if name not in REMOTES:
        raise BadInput(
            f"{name}: got nothing of it in {_root(settings) or 'no folder'}, expected its files there; we cannot "
            "download it: fetch it yourself and name its folder with --data-root or DISTBELIEF_DATA"
        )
    for remote in REMOTES[name]:
        fetch(remote, into, progress)
    return into


# --- how each is opened -----------------------------------------------------------------------------------------------


def _open_idx(settings: DataSettings, split: Split, progress: Progress) -> Dataset:
    prefix = "train" if split == "train" else "t10k"
    images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    places = [place for place in _places(settings) if _plain_or_packed(place / images).exists()]
    place = places[0] if places else _download(settings, progress)
    arrays = formats.read_idx(_plain_or_packed(place / images), _plain_or_packed(place / labels))
    return ArrayImages(KNOWN[settings.name], *arrays)


def _plain_or_packed(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".gz")


def _open_cifar(settings: DataSettings, split: Split, progress: Progress) -> Dataset:
    for place in _places(settings):
        if found := _cifar_in(place, split):
            return found
    if found := _cifar_in(_download(settings, progress), split):
        return found
    raise BadInput("cifar10: got a download without the expected files; remove its folder and try again")


def _cifar_in(place: Path, split: Split) -> Dataset | None:
    """CIFAR-10 in whichever form a folder holds it: original before JPEG, all before a part."""
    traits = KNOWN["cifar10"]
    batches = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    for folder in (place, place / "cifar-10-batches-bin"):
        if (folder / f"{batches[0]}.bin").exists():
            return ArrayImages(traits, *formats.read_cifar_binary([folder / f"{batch}.bin" for batch in batches]))
    for folder in (place, place / "cifar-10-batches-py"):
        if (folder / batches[0]).exists():
            return ArrayImages(traits, *formats.read_cifar_pickle([folder / batch for batch in batches]))
    if archives := sorted(place.glob("cifar10*.tar.gz")):
        return _encoded(traits, archives[0], formats.read_archive(archives[0], split))
    for folder in (place, place / "subset"):
        if all((folder / split / name).is_dir() for name in traits.classes):
            return _encoded(traits, folder / split, formats.read_classes(folder / split))
    return None


def _encoded(traits: Traits, where: Path, classes: dict[str, list[tuple[str, bytes]]]) -> Dataset:
    if set(classes) != set(traits.classes):
        raise BadInput(f"{where}: got the classes {sorted(classes)}, expected {sorted(traits.classes)}")
    names = tuple(f"{name}/{file}" for name in traits.classes for file, _ in classes[name])
    files = tuple(content for name in traits.classes for _, content in classes[name])
    return EncodedImages(traits, str(where), names, files, _labels([len(classes[name]) for name in traits.classes]))


def _open_photographs(settings: DataSettings, split: Split) -> Dataset:
    named = _named(settings)
    if not named:
        raise BadInput(
            "imagefolder: got no folder, expected one with train/ and val/ or test/, or tar files; "
            "name it with --data-root or DISTBELIEF_DATA"
        )
    root = Path(named).expanduser().absolute()
    if not root.exists() and not find_tars(root):
        raise BadInput(
            f"data root: got {root}, which does not exist; expected a folder, a tar file or a pattern of tar files "
            "(--data-root or DISTBELIEF_DATA)"
        )
    traits = KNOWN[PHOTOGRAPHS]
    side = settings.image_size or traits.image_shape[1]
    return open_photographs(replace(traits, image_shape=(3, side, side)), root, split)


def _labels(counts: list[int]) -> formats.Labels:
    """Labels of examples that lie class by class."""
    return np.repeat(np.arange(len(counts)), counts)
