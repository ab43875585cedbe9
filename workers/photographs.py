"""Photographs of a user's own, in whichever form they lie at the root: class folders, tar files, or saved by Hugging
Face's `datasets`.

    ROOT/train/CLASS/*.jpg   with ROOT/val/ or ROOT/test/ likewise
    ROOT.tar, ROOT/*.tar     see `workers.tars`
    ROOT/dataset_dict.json   see `workers.huggingface`

Shape suffix: N = examples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ps.errors import BadInput, nearest
from workers import formats, huggingface, tars
from workers.images import Dataset, FolderImages, Traits


def open_photographs(traits: Traits, root: Path, split: str) -> Dataset:
    """One split of the photographs at a root. Its classes are those of the training split.

    Raises:
        BadInput: There are none in any of these forms, or something is wrong with them.
    """
    if root.is_dir() and huggingface.is_saved(root):
        return huggingface.open_saved(traits, root, split)
    if not _has_folders(root / "train") and (found := tars.find_tars(root)):
        return tars.open_tars(traits, root, found, split)
    return _open_folders(traits, root, split)


def _open_folders(traits: Traits, root: Path, split: str) -> FolderImages:
    train = formats.list_classes(root / "train")
    empty = [name for name, files in train.items() if not files]
    if not train or empty:
        raise BadInput(
            f"{root / 'train' / (empty[0] if empty else '')}: got no images, expected one folder per class with "
            f"files of {', '.join(formats.IMAGE_SUFFIXES)} in it"
        )
    folder, listed = root / "train", train
    if split == "test":
        folder = root / "val" if (root / "val").is_dir() else root / "test"
        listed = formats.list_classes(folder)
        unknown = sorted(set(listed) - set(train))
        if unknown:
            raise BadInput(
                f"{folder / unknown[0]}: got a class that {root / 'train'} lacks{nearest(unknown[0], train)}, "
                "expected the same class folders"
            )
        if not any(listed.values()):
            raise BadInput(f"{folder}: got no images, expected one folder per class")
    files = tuple(file for name in train for file in listed.get(name, []))
    labels_N = np.repeat(np.arange(len(train)), [len(listed.get(name, [])) for name in train])
    return FolderImages(replace(traits, classes=tuple(train)), folder, files, labels_N)


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir())
