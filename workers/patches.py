"""Patches: what photographs of any size go through in training. A random patch, resized once, mirrored, recoloured.

    patch      area uniform in 8%..100% of the picture, aspect ratio (width by height) within 3/4..4/3, any place
    resized    to size x size, by bilinear, area, nearest or cubic interpolation, equally likely
    colours    contrast, brightness and colour, each by a factor, in random order; then lighting
    mirrored   half of the time

Why a patch is not drawn again until it fits: that would refuse large areas more often than small ones, and the area
would not be uniform. Here the area is drawn once, from those that a permitted aspect ratio can have, then the aspect
ratio from those that this area can have. A picture between 3:4 and 4:3 has a patch for every area up to 100%. One that
is longer (its longer side l, its shorter s) has them up to 4/3 s/l of its area, so its area is uniform in 8%..4/3 s/l;
and one so long that this is below 8% always has its largest patch: its whole shorter side, at 3:4 or 4:3.

All parameters are drawn before a pixel moves, equally many for each image. Positions are then rounded to 1/256 pixel,
which hides the last bit of exp; pixels are uint8, Pillow resizes them with whole-number weights, and the colours are
one affine map with coefficients in units of 1/4096, whose sums are exact in float32 (below 2^24 units): no processor's
vector instructions can round them differently.

Source: Szegedy et al. 2014, section 6 ("random interpolation ... with equal probability" in its first version only);
Howard 2013 (contrast, brightness, colour in random order); Krizhevsky et al. 2012, section 4.1 (lighting). Ours, since
the paper does not say: the logarithm of the aspect ratio is uniform; factors are uniform in 0.5..1.5 (said to be
Howard's too, unverified); pixels are recoloured after the resize and cut to 0..255 once, at the end.
Shape suffixes: B = images of a batch, H = height, W = width, C = channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Generator = np.random.Generator  # noqa: TID251 -- the type; whoever draws was given one
UInt8 = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Affine = list[list[float]]  # one row for each of red, green, blue: its weights of red, green, blue, and its offset

INTERPOLATIONS = (
    Image.Resampling.BILINEAR, Image.Resampling.BOX, Image.Resampling.NEAREST, Image.Resampling.BICUBIC,
)  # fmt: skip
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))  # of brightness, contrast, colour

# A patch more than so many times as large as the result is first averaged over whole blocks (but for nearest), which
# halves the time for a photograph of twelve million pixels and cannot be seen.
REDUCING_GAP = 3.0

POSITION = 256  # parts of a pixel
COEFFICIENT = 4096  # parts of one

# Brightness of a pixel, as Pillow weighs it (ITU-R 601).
GRAY = (0.299, 0.587, 0.114)

# Principal components of the RGB values of ImageNet's training set, in units of 0..255. Per component: its size (as
# published by fb.resnet.torch and used ever since as AlexNet's eigenvalues), and its direction in red, green, blue.
LIGHTING = (
    (0.2175 * 255, (-0.5675, -0.5808, -0.5836)),
    (0.0188 * 255, (0.7192, -0.0045, -0.6948)),
    (0.0045 * 255, (0.4009, -0.8140, 0.4203)),
)


@dataclass(frozen=True, slots=True)
class Draws:
    """Every random number of one image, none of which depends on the image.

    Attributes:
        area, aspect, down, right: Uniform in 0..1; where in what is permitted the patch lies.
        interpolation: Index in INTERPOLATIONS.
        mirrored: Whether it is.
        order: Index in ORDERS.
        factors: Of brightness, contrast and colour.
        lighting: How much of each principal component is added.
    """

    area: float
    aspect: float
    down: float
    right: float
    interpolation: int
    mirrored: bool
    order: int
    factors: tuple[float, float, float]
    lighting: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class RandomPatch:
    """The training recipe for photographs, as said above.

    Attributes:
        size: Side of the result in pixels.
        smallest: Least area, as a fraction of the picture's.
        aspect: The aspect ratio's bounds are 1/aspect and aspect.
        strength: The factors of brightness, contrast and colour are uniform in 1 - strength..1 + strength.
        lighting: Standard deviation of each principal component's share.
    """

    size: int
    smallest: float = 0.08
    aspect: float = 4 / 3
    strength: float = 0.5
    lighting: float = 0.1

    def __call__(self, images: Iterable[UInt8], count: int, generator: Generator) -> UInt8:
        patches = [self.patch(image, draws) for image, draws in zip(images, self.draw(count, generator), strict=False)]
        return np.stack(patches)

    def draw(self, count: int, generator: Generator) -> list[Draws]:
        """The parameters of so many images."""
        places_4B = generator.uniform(0.0, 1.0, (4, count)).tolist()
        interpolation_B = generator.integers(0, len(INTERPOLATIONS), count).tolist()
        mirrored_B = generator.integers(0, 2, count).astype(bool).tolist()
        order_B = generator.integers(0, len(ORDERS), count).tolist()
        factors_B3 = generator.uniform(1.0 - self.strength, 1.0 + self.strength, (count, 3)).tolist()
        lighting_B3 = generator.normal(0.0, self.lighting, (count, 3)).tolist()
        rows = zip(
            *places_4B, interpolation_B, mirrored_B, order_B, map(tuple, factors_B3), map(tuple, lighting_B3),
            strict=True,
        )  # fmt: skip
        return [Draws(*row) for row in rows]

    def box(self, width: int, height: int, draws: Draws) -> Box:
        """Where the patch lies in a picture of this size, in whole 1/256 pixels."""
        shape = width / height
        largest = min(1.0, self.aspect * min(shape, 1 / shape))
        smallest = min(self.smallest, largest)
        area = smallest + draws.area * (largest - smallest)
        narrowest = max(1 / self.aspect, area * shape)  # as high as the picture
        widest = max(narrowest, min(self.aspect, shape / area))  # as wide as the picture
        aspect = narrowest * math.exp(draws.aspect * math.log(widest / narrowest))
        wide = _whole(math.sqrt(area * width * height * aspect), width)
        high = _whole(math.sqrt(area * width * height / aspect), height)
        left = math.floor(draws.right * (width - wide) * POSITION) / POSITION
        top = math.floor(draws.down * (height - high) * POSITION) / POSITION
        return left, top, left + wide, top + high

    def patch(self, image: UInt8, draws: Draws) -> UInt8:
        """One image's patch, size x size x 3."""
        height, width, _ = image.shape
        box = self.box(width, height, draws)
        size, way = (self.size, self.size), INTERPOLATIONS[draws.interpolation]
        picture = Image.fromarray(image).resize(size, way, box=box, reducing_gap=REDUCING_GAP)
        mean = picture.reduce(self.size).getpixel((0, 0))
        assert isinstance(mean, tuple), "a picture of three channels has pixels of three values"
        pixels = np.asarray(picture.convert("RGB", _flat(colours(mean, draws))))
        return pixels[:, ::-1] if draws.mirrored else pixels


def colours(mean: tuple[float, ...], draws: Draws) -> Affine:
    """Brightness, contrast and colour in the order drawn, then lighting, as one affine map.

    With the factor f, each pixel p becomes

        brightness   f p
        contrast     f p + (1 - f) m     m: mean brightness of the picture as it is by then
        colour       f p + (1 - f) b     b: brightness of this pixel as it is by then

    Args:
        mean: Mean red, green and blue of the picture.
        draws: Of the picture.
    """
    rows: Affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    for which in ORDERS[draws.order]:
        f = draws.factors[which]
        gray = [sum(weight * row[k] for weight, row in zip(GRAY, rows, strict=True)) for k in range(4)]
        if which == 1:
            gray = [0.0, 0.0, 0.0, sum(g * m for g, m in zip(gray, (*mean, 1.0), strict=True))]
        rest = 0.0 if which == 0 else 1.0 - f
        rows = [[f * value + rest * g for value, g in zip(row, gray, strict=True)] for row in rows]
    for channel, row in enumerate(rows):
        row[3] += sum(
            share * size * direction[channel] for share, (size, direction) in zip(draws.lighting, LIGHTING, strict=True)
        )
    return rows


def _flat(rows: Affine) -> tuple[float, ...]:
    """As Pillow takes it, in whole units of 1/4096."""
    return tuple(round(value * COEFFICIENT) / COEFFICIENT for row in rows for value in row)


def _whole(length: float, most: int) -> float:
    """A length in whole 1/256 pixels, at least one of them and at most the picture's side."""
    return min(max(1, round(length * POSITION)) / POSITION, float(most))
