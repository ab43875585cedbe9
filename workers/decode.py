"""Decoding: the bytes of an image file to pixels.

JPEG, PNG, WebP and BMP through Pillow, always to 8 bits, upright (EXIF orientation applied), one meaning per file:

    gray, 1 bit, 16 bits   one brightness, in all three channels; 16 bits keep their upper 8
    CMYK                   Pillow's conversion, Adobe's inverted form included
    transparency           dropped: the colour beneath is kept, as torchvision's loader does

Memory: what Pillow allows, 179 million pixels, before a JPEG is reduced; a larger picture counts as unreadable.

Shape suffixes: H = height, W = width, C = channels (red, green, blue).
"""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ps.errors import DistbeliefError

UInt8 = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # tried in this order; Pillow may lack the last

# What a JPEG may be reduced to while decoding (by 2, 4 or 8, in its cosine transform): the smallest patch, 8% of the
# area at 3:4, must still be 224 pixels wide, and the shorter side must serve the largest evaluation scale, 352.
ENOUGH_PIXELS = round(224 * 224 / (0.08 * 3 / 4))
ENOUGH_SHORTER = 352

# Everything that Pillow is known to raise for damaged files. ValueError includes UnicodeDecodeError.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, ArithmeticError, LookupError, EOFError, TypeError, AttributeError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class BadImage(DistbeliefError):  # noqa: N818 -- like BadInput, it says what happened
    """One example cannot be read. The batch decides whether that ends the run; the message names the file."""


def decode(data: bytes, where: str) -> UInt8:
    """Pixels of one image file.

    Args:
        data: The whole file; its content decides the format, not its name.
        where: Name for messages.

    Returns:
        uint8 HxWx3. Large JPEGs come smaller by 2, 4 or 8, but never with fewer than `ENOUGH_PIXELS`.

    Raises:
        BadImage: Not an image, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format == "JPEG":
                _reduce(image)
            image.load()
            with suppress(*DECODE_ERRORS):  # a damaged EXIF block says nothing, and the picture is whole
                ImageOps.exif_transpose(image, in_place=True)
            pixels = np.asarray(_rgb(image))
    except DECODE_ERRORS as error:
        # Pillow names the buffer's address in the first case, so that the same file would never read the same twice.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no known image format" if unknown else f"{type(error).__name__}: {error}"
        raise BadImage(
            f"{where}: got {len(data):,} bytes that do not decode ({reason}), "
            "expected a JPEG, PNG, WebP or BMP image; replace or remove the file"
        ) from error
    return pixels


def _reduce(image: Image.Image) -> None:
    width, height = image.size
    for by in (8, 4, 2):
        if width * height >= by * by * ENOUGH_PIXELS and min(width, height) >= by * ENOUGH_SHORTER:
            image.draft(None, (width // by, height // by))
            return


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow's own conversion would cut everything above 255 off
        brightness_HW = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(np.clip(brightness_HW, 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")
