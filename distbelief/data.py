"""Data: what a person may want of a data set before a run: to look at what training will see, and to fetch it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ps.errors import BadInput, nearest, require
from ps.streams import numpy_stream
from workers import download
from workers.augment import Augmentation, training_augmentation
from workers.datasets import Dataset, DataSettings, destination, load
from workers.decode import BadImage
from workers.images import Example, UInt8

CELL = 160  # pixels at least; smaller images are enlarged by a whole number
GAP = 6
LINE = 20  # pixels, of text above a row
BACKGROUND, INK = (250, 250, 250), (30, 30, 30)


def preview_command(name: str, root: Path | None, output: Path | None, rows: int, columns: int, seed: int) -> int:
    """`distbelief data preview`: writes a contact sheet and says where. Returns the exit code; raises BadInput."""
    require(1 <= rows <= 1000, "--rows", rows, "1 to 1,000")
    require(1 <= columns <= 100, "--columns", columns, "1 to 100")
    require(seed >= 0, "--seed", seed, "0 or more")
    with _fetching() as progress:
        dataset = load(DataSettings(name, str(root or "")), "train", progress)
    output = output or Path(f"{name}-preview.png")
    sheet = contact_sheet(dataset, training_augmentation(name, dataset.image_shape), rows, columns, seed)
    try:
        sheet.save(output, "PNG")
    except OSError as error:
        raise BadInput(f"--output: got {output} ({error.strerror}), expected a file that can be written") from error
    print(f"{output}: {sheet.width}x{sheet.height}, {len(dataset):,} training images, {len(dataset.classes)} classes")
    return 0


def contact_sheet(dataset: Dataset, augmentation: Augmentation, rows: int, columns: int, seed: int) -> Image.Image:
    """A picture of examples, spread evenly over the data set: each row one example, first as it is, then as training
    sees it, `columns` times. Unreadable ones are left out.

    Raises:
        BadInput: None of the examples can be read.
    """
    shown = _examples(dataset, rows)
    _, height, width = dataset.image_shape
    times = max(1, -(-CELL // max(height, width)))
    wide, high = width * times, height * times
    size = (GAP + (columns + 1) * (wide + GAP), GAP + len(shown) * (LINE + high + GAP))
    sheet = Image.new("RGB", size, BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, (index, example) in enumerate(shown):
        top = GAP + row * (LINE + high + GAP)
        there = f"{example.image.shape[1]}x{example.image.shape[0]}"
        draw.text((GAP, top), f"{dataset.classes[example.label]}  -  image {index}, {there}", INK, font)
        cells = [_fitted(example.image, wide, high)]
        patches = augmentation([example.image] * columns, columns, numpy_stream(seed, f"preview/{index}"))
        cells += [_picture(patch).resize((wide, high), Image.Resampling.NEAREST) for patch in patches]
        for column, cell in enumerate(cells):
            left = GAP + column * (wide + GAP) + (wide - cell.width) // 2
            sheet.paste(cell, (left, top + LINE + (high - cell.height) // 2))
    return sheet


def _examples(dataset: Dataset, count: int) -> list[tuple[int, Example]]:
    """So many readable examples, or all, evenly spread; each unreadable one is replaced by the next."""
    found: dict[int, Example] = {}
    count = min(count, len(dataset))
    for number in range(count):
        first, end = number * len(dataset) // count, (number + 1) * len(dataset) // count
        for index in range(first, end):
            try:
                found[index] = dataset.read(index)
                break
            except BadImage:
                continue
    if not found:
        raise BadInput(f"{dataset.name}: got no readable image of {len(dataset):,}, expected some; replace the files")
    return list(found.items())


def _fitted(image: UInt8, wide: int, high: int) -> Image.Image:
    """The whole image within wide x high, its shape kept."""
    picture = _picture(image)
    scale = min(wide / picture.width, high / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)


def _picture(image: UInt8) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)).convert("RGB")


# --- fetch ------------------------------------------------------------------------------------------------------------


def fetch_command(name: str, root: Path | None) -> int:
    """`distbelief data fetch`: downloads a known set, unless it is there. Returns the exit code; raises BadInput."""
    known = download.REMOTES
    if name not in known:
        raise BadInput(f"got {name}, expected a set that can be downloaded: {', '.join(known)}{nearest(name, known)}")
    settings = DataSettings(name, str(root or ""))
    with _fetching() as progress:
        train, test = load(settings, "train", progress), load(settings, "test", progress)
        where = f"downloaded into {destination(settings)}" if progress.files else "nothing to download, it is there"
    print(f"{name}: {len(train):,} training and {len(test):,} test images; {where}")
    return 0


class _Fetching:
    """Progress of downloads: bars on a terminal, one line per file elsewhere."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self.files: dict[str, TaskID] = {}

    def __call__(self, name: str, done_bytes: int, size_bytes: int) -> None:
        if name not in self.files:
            self.files[name] = self._bars.add_task(name, total=size_bytes)
            if not self._bars.console.is_terminal:
                print(f"fetching {name}, {size_bytes / 1e6:,.1f} MB", file=sys.stderr, flush=True)
        self._bars.update(self.files[name], completed=done_bytes)


@contextmanager
def _fetching() -> Iterator[_Fetching]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield _Fetching(bars)
