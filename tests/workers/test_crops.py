"""Crops: those of a slow, obvious reference written with Pillow alone, pixel by pixel; and what comes of odd shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling, Transpose

from ps.errors import BadInput
from ps.streams import numpy_stream
from workers import crops
from workers.crops import Crop, Crops
from workers.datasets import KNOWN
from workers.images import UInt8

LANDSCAPE, PORTRAIT, SQUARE = (375, 500), (500, 375), (300, 300)
SHAPES = pytest.mark.parametrize("shape", [LANDSCAPE, PORTRAIT, SQUARE, (256, 257), (224, 224), (60, 250)])


def picture(height: int, width: int, channels: int = 3) -> UInt8:
    return numpy_stream(0, f"{height}/{width}").integers(0, 256, (height, width, channels), np.uint8)


def reference(image: UInt8, shorter_sides: Sequence[int], thirds: Sequence[int], whole: bool) -> list[Image.Image]:
    """Every crop at 224, one after the other. `thirds`: 0 the left or top square, 1 the central, 2 the right or bottom
    one."""
    picture, found = Image.fromarray(image), []
    for shorter in shorter_sides:
        if picture.width >= picture.height:
            size = (round(picture.width * shorter / picture.height), shorter)
        else:
            size = (shorter, round(picture.height * shorter / picture.width))
        resized = picture.resize(size, Resampling.BILINEAR)
        for third in thirds:
            left = [0, (resized.width - shorter) // 2, resized.width - shorter][third]
            top = [0, (resized.height - shorter) // 2, resized.height - shorter][third]
            square = resized.crop((left, top, left + shorter, top + shorter))
            far, middle = shorter - 224, (shorter - 224) // 2
            for x, y in ((0, 0), (far, 0), (0, far), (far, far), (middle, middle)):
                found.append(square.crop((x, y, x + 224, y + 224)))
            if whole:
                found.append(square.resize((224, 224), Resampling.BILINEAR))
    return found + [crop.transpose(Transpose.FLIP_LEFT_RIGHT) for crop in found]


def counted(images: Iterable[Image.Image]) -> Counter[bytes]:
    return Counter(image.tobytes() for image in images)


def weighed(cut: Iterable[Crop]) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    for crop in cut:
        assert crop.pixels.shape == (224, 224, 3)
        found[crop.pixels.tobytes()] += crop.weight
    return found


@SHAPES
def test_144_crops_are_the_reference_s(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    expected = reference(image, (256, 288, 320, 352), (0, 1, 2), whole=True)
    assert len(expected) == 144
    assert weighed(Crops(144, 224).cut(image)) == counted(expected)


@SHAPES
def test_10_crops_are_the_reference_s(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    expected = reference(image, (256,), (1,), whole=False)
    assert len(expected) == 10
    assert weighed(Crops(10, 224).cut(image)) == counted(expected)


@SHAPES
def test_one_crop_is_the_centre_among_them(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    (crop,) = Crops(1, 224).cut(image)
    assert crop.pixels.tobytes() == reference(image, (256,), (1,), whole=False)[4].tobytes()


@pytest.mark.parametrize(("shape", "computed"), [(LANDSCAPE, 144), (PORTRAIT, 144), (SQUARE, 48)])
def test_equal_squares_come_once(shape: tuple[int, int], computed: int) -> None:
    weights = [crop.weight for crop in Crops(144, 224).cut(picture(*shape))]
    assert len(weights) == computed
    assert weights == [144 // computed] * computed


def test_sizes_are_in_proportion_to_the_input() -> None:
    bright = np.full((100, 100, 3), 7, np.uint8)
    assert [crop.pixels.shape for crop in Crops(144, 32).cut(bright)] == [(32, 32, 3)] * 48
    half = np.zeros((512, 512, 3), np.uint8)
    half[:, 256:] = 255
    columns = [int((crop.pixels[0, :, 0] > 127).sum()) for crop in Crops(10, 112).cut(half)]
    assert sorted(columns) == [48, 48, 48, 48, 56, 56, 64, 64, 64, 64]  # 128 wide: its middle is 64 - 16, 64 or 64 - 8


@pytest.mark.parametrize("count", [1, 10, 144])
@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_no_image_has_more_distinct_crops(count: int, framed: bool, mirrored: bool) -> None:
    shown = Crops(count, 32, framed, mirrored)
    assert len(list(shown.cut(picture(60, 80)))) == shown.distinct
    assert len(list(shown.cut(picture(60, 60)))) <= shown.distinct


@pytest.mark.parametrize("shape", [(1, 1), (300, 2), (40, 3000), (10, 10), (223, 224), (1, 70_000)])
@pytest.mark.parametrize("count", [1, 10, 144])
def test_every_shape_has_crops(shape: tuple[int, int], count: int) -> None:
    sizes = [(crop.pixels.shape, crop.weight) for crop in Crops(count, 32).cut(picture(*shape))]
    assert sum(weight for _, weight in sizes) == count
    assert {size for size, _ in sizes} == {(32, 32, 3)}


@pytest.mark.parametrize("shape", [(40, 400), (400, 40), (11, 1000)])
def test_a_long_image_is_resized_in_parts(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(*shape)
    parts = [crop.pixels.astype(int) for crop in Crops(144, 32).cut(image)]
    monkeypatch.setattr(crops, "LONGEST", 1000)
    wholes = [crop.pixels.astype(int) for crop in Crops(144, 32).cut(image)]
    assert len(parts) == len(wholes) == 144
    assert max(int(np.abs(part - whole).max()) for part, whole in zip(parts, wholes, strict=True)) <= 1


# --- images that fill the network's input -----------------------------------------------------------------------------


def framed(channels: int, mirrored: bool, count: int) -> tuple[UInt8, list[Crop]]:
    image = picture(32, 32, channels)
    return image, list(Crops(count, 32, framed=True, mirrored=mirrored).cut(image))


@pytest.mark.parametrize("channels", [1, 3])
def test_one_crop_is_such_an_image_itself(channels: int) -> None:
    image, (crop,) = framed(channels, False, 1)
    assert np.array_equal(crop.pixels, image)


def test_ten_crops_are_its_shifts_over_black() -> None:
    image, found = framed(1, False, 10)
    wide = np.pad(image, ((2, 3), (2, 3), (0, 0)))  # 37 = 32 * 256 / 224
    expected = [wide[top : top + 32, left : left + 32] for top, left in ((0, 0), (0, 5), (5, 0), (5, 5), (2, 2))]
    assert all(np.array_equal(crop.pixels, shift) for crop, shift in zip(found, expected, strict=True))
    assert np.array_equal(found[-1].pixels, image)


def test_144_crops_are_24_or_with_mirror_images_48() -> None:
    assert len(framed(1, False, 144)[1]) == 24
    crops = framed(3, True, 144)[1]
    assert len(crops) == 48
    assert all(
        np.array_equal(crop.pixels, mirror.pixels[:, ::-1])
        for crop, mirror in zip(crops[::2], crops[1::2], strict=True)
    )


def test_a_picture_of_another_size_is_made_one() -> None:
    picture_of_one_brightness = np.full((50, 70, 1), 9, np.uint8)
    (crop,) = Crops(1, 16, framed=True, mirrored=False).cut(picture_of_one_brightness)
    assert np.array_equal(crop.pixels, np.full((16, 16, 1), 9))


# --- by data set ------------------------------------------------------------------------------------------------------


def test_each_data_set_has_its_own() -> None:
    assert Crops.of(KNOWN["imagefolder"], 144) == Crops(144, 224, framed=False, mirrored=True)
    assert Crops.of(KNOWN["cifar10"], 10) == Crops(10, 32, framed=True, mirrored=True)
    assert Crops.of(KNOWN["digits"], 10) == Crops(10, 16, framed=True, mirrored=False)
    assert Crops.of(replace(KNOWN["cifar10"], name="a user's own"), 1) == Crops(1, 32, framed=True, mirrored=False)


@pytest.mark.parametrize("count", [0, 2, 143])
def test_there_are_no_other_counts(count: int) -> None:
    with pytest.raises(BadInput, match=f"^crops: got {count}, expected 1, 10 or 144$"):
        Crops(count, 224)
