"""Crops: which squares of an image a trained network is shown; their probabilities are averaged.

    144  shorter side resized to 256, 288, 320, 352; of each size the left, centre and right square (top, centre, bottom
         of a tall image); of each square its four corners and its centre at 224, and the whole square resized to 224;
         and the mirror image of each
    10   shorter side resized to 256; of the central square the four corners and the centre at 224, and their mirror
         images
    1    shorter side resized to 256; of the central square the centre at 224

These sizes are for an input of 224; for another they are in proportion. All resizing is bilinear and averages what it
shrinks. Squares that coincide, as all three of a square image do, come once and weigh for all of them: 48 crops instead
of 144, of weight 3.

Images that fill the network's input as they are (digits, clothes, CIFAR-10) have nothing around them to cut off. They
are framed in black up to those sizes, not enlarged, so that the crops are shifts, as in training; one crop is the image
itself. Where mirror images mean something else (digits) there are none. So 10 means 10 or 5 distinct crops, and 144
means 48 or 24. Measured: of 360 digits a model got 4 wrong with 1 crop, 4 with 10, 3 with 144; enlarged 5 and 9.

Source: Szegedy et al. 2014, section 7 (144); Krizhevsky et al. 2012, section 4.1 (10).
Shape suffixes: H = height, W = width, C = channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ps.errors import require
from workers.images import Pixels, Traits, UInt8
from workers.patches import Box

COUNTS = (1, 10, 144)
PUBLISHED_INPUT, PUBLISHED_SIDES = 224, (256, 288, 320, 352)

# Sets that a network sees patches of, and those whose mirror images mean the same. Others are shown as they are, as in
# training (workers.augment).
PATCHED = ("imagefolder",)
MIRRORED = ("imagefolder", "cifar10")

# Beyond this many times its width an image is resized square by square and not whole, which would take memory without
# limit. The two may differ by one level of brightness, since Pillow keeps a part's edges in single precision.
LONGEST = 8


@dataclass(frozen=True, slots=True)
class Crop:
    """One crop, uint8 size x size x C, possibly a view of others' memory, and how often it counts."""

    pixels: Pixels
    weight: int


@dataclass(frozen=True, slots=True)
class Crops:
    """A way to look at images.

    Attributes:
        count: One of `COUNTS`.
        size: Side in pixels of what the network is fed.
        framed: The central square, as large as the input, is framed in black instead of enlarged.
        mirrored: Whether mirror images are shown.
        whole: Images are float32 arrays of any shape, which nothing can be cut from.

    Raises:
        BadInput: No such count, or more than one crop of a whole image.
    """

    count: int
    size: int
    framed: bool = False
    mirrored: bool = True
    whole: bool = False

    def __post_init__(self) -> None:
        require(self.count in COUNTS, "crops", self.count, "1, 10 or 144")
        expected = "1: a data set of one's own is shown as it is"
        require(self.count == 1 or not self.whole, "crops", self.count, expected)

    @classmethod
    def of(cls, traits: Traits, count: int) -> Crops:
        """So many crops, as suits a data set."""
        if not traits.mean:
            return cls(count, 0, whole=True)
        return cls(count, traits.image_shape[1], traits.name not in PATCHED, traits.name in MIRRORED)

    @property
    def distinct(self) -> int:
        """Crops of an image at most, whatever each weighs."""
        upright = {1: 1, 10: 5, 144: 24 if self.framed else 72}[self.count]
        return 2 * upright if self.mirrored and self.count > 1 else upright

    def cut(self, image: Pixels) -> Iterator[Crop]:
        """The crops of an image, uint8 HxWxC of any size. The image at one size is in memory at a time."""
        if self.whole:
            yield Crop(image, 1)
            return
        for crop in self._upright(image):
            yield crop
            if self.mirrored and self.count > 1:
                yield Crop(crop.pixels[:, ::-1], crop.weight)

    def _upright(self, image: UInt8) -> Iterator[Crop]:
        for published in PUBLISHED_SIDES if self.count == 144 else PUBLISHED_SIDES[:1]:
            for square, weight in self._squares(image, round(published * self.size / PUBLISHED_INPUT)):
                *corners, centre = _five(square, self.size)
                if self.count > 1:
                    yield from (Crop(corner, weight) for corner in corners)
                yield Crop(centre, weight)
                if self.count == 144:
                    yield Crop(_resized(square, self.size, self.size), weight)

    def _squares(self, image: UInt8, side: int) -> Iterable[tuple[UInt8, int]]:
        if self.framed:
            ((square, _),) = _squares(image, self.size, _middle)
            return [(_framed(square, side), 1)]
        return _squares(image, side, _ends_and_middle if self.count == 144 else _middle)


Places = Callable[[int], tuple[int, ...]]  # offsets of a square from the pixels that it may move by


def _middle(room: int) -> tuple[int, ...]:
    return (room // 2,)


def _ends_and_middle(room: int) -> tuple[int, ...]:
    return (0, room // 2, room)


def _squares(image: UInt8, side: int, places: Places) -> Iterator[tuple[UInt8, int]]:
    """The distinct ones of the squares at these places, the shorter side being `side`; and how many each stands for."""
    height, width, _ = image.shape
    tall, wide = (max(side, round(extent * side / min(height, width))) for extent in (height, width))
    corners = Counter(zip(places(tall - side), places(wide - side), strict=True))  # one of the two has no room
    if max(tall, wide) <= LONGEST * side:
        scaled = _resized(image, tall, wide)
        for (top, left), weight in corners.items():
            yield scaled[top : top + side, left : left + side], weight
    else:
        for (top, left), weight in corners.items():
            box = (left * width / wide, top * height / tall, (left + side) * width / wide, (top + side) * height / tall)
            yield _resized(image, side, side, box), weight


def _framed(square: UInt8, side: int) -> UInt8:
    before = (side - len(square)) // 2
    after = side - len(square) - before
    framed: UInt8 = np.pad(square, ((before, after), (before, after), (0, 0)))
    return framed


def _five(square: UInt8, size: int) -> list[UInt8]:
    """Four corners and the centre of a square."""
    room = len(square) - size
    corners = [(0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)]
    return [square[top : top + size, left : left + size] for top, left in corners]


def _resized(image: UInt8, height: int, width: int, box: Box | None = None) -> UInt8:
    """The image, or a box of it (left, top, right, bottom), at another size."""
    source = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    pixels = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR, box=box))
    return pixels.reshape(height, width, image.shape[2])
